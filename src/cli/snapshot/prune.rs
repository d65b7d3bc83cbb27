//! `mcloud snapshot prune`.

use clap::Args;
use serde_json::{Value, json};

use super::{fields, short, taken};
use crate::cli::context::{self, Context};
use crate::cli::show;
use crate::daemon::client::snapshot_in;
use crate::model::{Error, Kind, Result};
use crate::wire::proto::{Pruned, SnapshotPrune};

/// Remove the snapshots that no rule keeps, and give back what nothing needs any more
///
/// The rules go by each tenant, service or volume that snapshots are of, on its own: from the newest back, each keeps the newest one of every
/// hour, day, week or month (UTC) that has any. Without a rule no snapshot is removed, and the store is only cleared up.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud snapshot prune --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run
  mcloud snapshot prune --keep-last 3 --of shop --keep-tag before-upgrade
  mcloud snapshot prune                     only give back what removed snapshots held")]
pub struct Prune {
    /// The newest N
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_last: u32,
    /// One of each of the last N hours that have any
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_hourly: u32,
    /// Of each of N days
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_daily: u32,
    /// Of each of N weeks
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_weekly: u32,
    /// Of each of N months
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_monthly: u32,
    /// Those with this tag; may be given again
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
    /// Only snapshots of this
    #[arg(long, value_name = "REF")]
    of: Option<String>,
    /// Only show what would be removed
    #[arg(long)]
    dry_run: bool,
    /// No question
    #[arg(long)]
    yes: bool,
}

pub fn run(arguments: &Prune, context: &Context) -> Result<u8> {
    let out = &context.out;
    let prune = |dry_run| SnapshotPrune {
        keep_last: arguments.keep_last,
        keep_hourly: arguments.keep_hourly,
        keep_daily: arguments.keep_daily,
        keep_weekly: arguments.keep_weekly,
        keep_monthly: arguments.keep_monthly,
        keep_tags: arguments.keep_tag.clone(),
        of: arguments.of.clone().unwrap_or_default(),
        dry_run,
    };
    let pruned = context::block_on(async {
        let client = context.connect().await?;
        if !arguments.dry_run && !arguments.yes && out.is_interactive() {
            let plan = client.snapshot_prune(prune(true)).await?;
            let count = plan.removed.len() as u64;
            tell(plan, context)?;
            let count = show::counted(count, "snapshot", "snapshots");
            if out.ask(&format!("Remove {count} for good?")) == Some(false) {
                return Err(Error::new(Kind::Refused, "you said no; nothing was done"));
            }
        }
        client.snapshot_prune(prune(arguments.dry_run)).await
    })?;
    let (freed, kept) = (pruned.bytes_freed, pruned.bytes_kept);
    let packs = (pruned.packs_removed, pruned.packs_rewritten);
    let mut done = tell(pruned, context)?;
    if !arguments.dry_run {
        out.say(format!("{} given back; the store holds {}", show::size(freed), show::size(kept)));
        done["bytes_freed"] = json!(freed);
        done["bytes_kept"] = json!(kept);
        done["packs_removed"] = json!(packs.0);
        done["packs_rewritten"] = json!(packs.1);
    }
    out.done(done);
    Ok(0)
}

/// Shows what is kept and what is not.
fn tell(pruned: Pruned, context: &Context) -> Result<Value> {
    let (mut rows, mut removed, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for (entry, why) in pruned.kept.into_iter().zip(pruned.reasons) {
        let (id, record) = snapshot_in(entry)?;
        rows.push(vec!["keep".to_owned(), short(id), taken(&record), record.of.clone(), show::text(&why)]);
        let mut event = fields(id, &record);
        event["event"] = json!("kept");
        event["why"] = json!(why);
        context.out.event(&event);
        kept.push(id.to_string());
    }
    for entry in pruned.removed {
        let (id, record) = snapshot_in(entry)?;
        rows.push(vec!["remove".to_owned(), short(id), taken(&record), record.of.clone(), String::new()]);
        let mut event = fields(id, &record);
        event["event"] = json!("removed");
        context.out.event(&event);
        removed.push(id.to_string());
    }
    context.out.line(show::table(&["", "ID", "TAKEN", "OF", "WHY"], &rows));
    Ok(json!({"removed": removed, "kept": kept}))
}
