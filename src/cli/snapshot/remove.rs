//! `mcloud snapshot remove`.

use clap::Args;
use serde_json::json;

use super::{short, taken};
use crate::cli::context::{self, Context};
use crate::cli::show;
use crate::model::{Error, Kind, Result};

/// Remove snapshots; what only they held is removed from the store when it is collected
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud snapshot remove 3f9a2c
  mcloud snapshot remove 3f9a2c 77b01e --yes")]
pub struct Remove {
    /// Their ids, or latest:REF
    #[arg(value_name = "ID", required = true)]
    snapshots: Vec<String>,
    /// No question
    #[arg(long)]
    yes: bool,
}

pub fn run(arguments: &Remove, context: &Context) -> Result<u8> {
    let out = &context.out;
    let gone = context::block_on(async {
        let client = context.connect().await?;
        if !arguments.yes && out.is_interactive() {
            for (id, record) in client.snapshot_find(&arguments.snapshots).await? {
                out.say(format!("{} of {}, taken {}", short(id), record.of, taken(&record)));
            }
            let count = show::counted(arguments.snapshots.len() as u64, "snapshot", "snapshots");
            if out.ask(&format!("Remove {count} for good?")) == Some(false) {
                return Err(Error::new(Kind::Refused, "you said no; nothing was done"));
            }
        }
        client.snapshot_remove(&arguments.snapshots).await
    })?;
    for (id, record) in &gone {
        out.line(format!("removed {} of {}, taken {}", short(*id), record.of, taken(record)));
    }
    let ids: Vec<String> = gone.iter().map(|(id, _)| id.to_string()).collect();
    out.done(json!({"removed": ids}));
    Ok(0)
}
