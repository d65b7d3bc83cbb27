//! `mcloud ps`.

use clap::Args;
use serde_json::json;

use super::context::{self, Context};
use super::{show, when};
use crate::model::Result;

/// List what the daemon is at: starts, updates, syncs, commands
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud ps")]
pub struct Ps {}

pub fn run(context: &Context) -> Result<u8> {
    let tasks = context::block_on(async { context.connect().await?.tasks().await })?;
    if tasks.is_empty() {
        context.out.say("the daemon is at nothing");
    } else {
        let row = |task: &crate::model::running::Task| {
            let since = when::shown(task.since_unix);
            vec![task.number.to_string(), show::text(&task.what), show::text(&task.on), show::text(&task.label), since]
        };
        let rows: Vec<Vec<String>> = tasks.iter().map(row).collect();
        context.out.line(show::table(&["TASK", "WHAT", "ON", "WHO", "SINCE"], &rows));
    }
    for task in &tasks {
        context.out.event(&json!({
            "event": "task",
            "task": task.number,
            "what": task.what,
            "on": task.on,
            "label": task.label,
            "since_unix": task.since_unix,
        }));
    }
    context.out.done(json!({"tasks": tasks.len()}));
    Ok(0)
}
