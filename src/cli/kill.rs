//! `mcloud kill`.

use clap::Args;
use serde_json::json;

use super::context::{self, Context};
use super::show;
use crate::model::Result;

/// End something that the daemon is at
///
/// A sync leaves its target as it was; a start, stop or update stays as far as it came, and the same command goes on from there.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud ps
  mcloud kill 7")]
pub struct Kill {
    /// Its number, as `mcloud ps` shows it
    task: u64,
}

pub fn run(arguments: &Kill, context: &Context) -> Result<u8> {
    let task = context::block_on(async { context.connect().await?.kill_task(arguments.task).await })?;
    context.out.line(format!("killed {} {}", show::text(&task.what), show::text(&task.on)));
    context.out.done(json!({"task": task.number, "what": task.what, "on": task.on}));
    Ok(0)
}
