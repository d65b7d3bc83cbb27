//! `mcloud snapshot diff`.

use clap::Args;
use serde_json::json;

use super::{short, taken};
use crate::cli::context::{self, Context};
use crate::cli::show;
use crate::daemon::client::snapshot_in;
use crate::model::Result;
use crate::store::diff::ChangeKind;

/// Say what makes one snapshot of another: added, removed, changed, moved, other metadata
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud snapshot diff 3f9a2c 77b01e
  mcloud snapshot diff 3f9a2c latest:shop --json

+ added   - removed   M changed   R moved   m other metadata")]
pub struct Diff {
    /// The one before: its id, or latest:REF
    #[arg(value_name = "A")]
    a: String,
    /// The one after
    #[arg(value_name = "B")]
    b: String,
}

pub fn run(arguments: &Diff, context: &Context) -> Result<u8> {
    let out = &context.out;
    let found = context::block_on(async { context.connect().await?.snapshot_diff(&arguments.a, &arguments.b).await })?;
    let mut several = false;
    for entry in [found.a, found.b].into_iter().flatten() {
        let (id, record) = snapshot_in(entry)?;
        several |= record.volumes.len() > 1;
        out.say(format!("{} of {}, taken {}", short(id), record.of, taken(&record)));
    }
    let mut counts = [0u64; 6];
    for change in &found.changes {
        let kind = ChangeKind::ALL.iter().find(|(kind, _)| *kind as u32 == change.kind).map(|(kind, _)| *kind);
        let Some(kind) = kind else { continue };
        counts[kind as usize] += 1;
        let place = |path: &[u8]| {
            let path = if path.is_empty() { ".".to_owned() } else { show::path(path) };
            if several { format!("{} {path}", change.volume) } else { path }
        };
        let path = place(&change.path);
        out.line(match kind {
            ChangeKind::Added => format!("+ {path}"),
            ChangeKind::Removed => format!("- {path}"),
            ChangeKind::Changed => format!("M {path}"),
            ChangeKind::Moved => format!("R {} → {path}", place(&change.from)),
            ChangeKind::Metadata => format!("m {path}"),
        });
        out.event(&json!({
            "event": "change",
            "change": kind.word(),
            "volume": change.volume,
            "path": show::path(&change.path),
            "from": (kind == ChangeKind::Moved).then(|| show::path(&change.from)),
        }));
    }
    let mut fields = json!({});
    for (kind, word) in ChangeKind::ALL {
        fields[word] = json!(counts[kind as usize]);
    }
    out.done(fields);
    Ok(0)
}
