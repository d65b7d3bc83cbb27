//! `mcloud snapshot list` and `mcloud snapshot show`.

use clap::Args;
use serde_json::json;

use super::{fields, how, short, taken};
use crate::cli::context::{self, Context};
use crate::cli::show as shown;
use crate::model::Result;

/// List the snapshots of the host, the oldest first
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud snapshot list
  mcloud snapshot list shop --tag before-upgrade
  mcloud -h 203.0.113.5 snapshot list --json")]
pub struct List {
    /// Only those of this tenant, service or volume
    #[arg(value_name = "REF")]
    of: Option<String>,
    /// Only those with this tag
    #[arg(long)]
    tag: Option<String>,
}

pub fn run(arguments: &List, context: &Context) -> Result<u8> {
    let mut all = context::block_on(async { context.connect().await?.snapshot_list().await })?;
    all.retain(|(_, record)| {
        let of = arguments.of.as_ref().is_none_or(|of| record.of == *of || record.tenant.as_str() == of);
        of && arguments.tag.as_ref().is_none_or(|tag| record.tags.contains(tag))
    });
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|(id, record)| {
            vec![
                short(*id),
                taken(record),
                record.of.clone(),
                how(record),
                shown::count(record.entries()),
                shown::size(record.bytes()),
                shown::text(&record.tags.join(" ")),
            ]
        })
        .collect();
    context.out.line(shown::table(&["ID", "TAKEN", "OF", "HOW", "ENTRIES", "SIZE", "TAGS"], &rows));
    for (id, record) in &all {
        let mut event = fields(*id, record);
        event["event"] = json!("snapshot");
        context.out.event(&event);
    }
    context.out.done(json!({"snapshots": all.len()}));
    Ok(0)
}

/// Say all there is to know of one snapshot
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud snapshot show 3f9a2c
  mcloud snapshot show latest:shop --json")]
pub struct Show {
    /// Its id, or latest:REF
    #[arg(value_name = "ID")]
    snapshot: String,
}

pub fn show(arguments: &Show, context: &Context) -> Result<u8> {
    let words = [arguments.snapshot.clone()];
    let found = context::block_on(async { context.connect().await?.snapshot_find(&words).await })?;
    for (id, record) in found {
        let mut rows = vec![
            vec!["id".to_owned(), id.to_string()],
            vec!["of".to_owned(), record.of.clone()],
            vec!["taken".to_owned(), format!("{} by {}", taken(&record), shown::text(&record.by))],
            vec!["how".to_owned(), how(&record)],
        ];
        if !record.tags.is_empty() {
            rows.push(vec!["tags".to_owned(), shown::text(&record.tags.join(" "))]);
        }
        for volume in &record.volumes {
            let left_out = match volume.left_out {
                0 => String::new(),
                count => format!(", {} left out", shown::counted(count, "entry", "entries")),
            };
            let (entries, bytes) = (shown::counted(volume.entries, "entry", "entries"), shown::size(volume.bytes));
            rows.push(vec![volume.label(), format!("{entries}, {bytes}{left_out}")]);
        }
        context.out.line(shown::table(&["", ""], &rows).trim_start());
        context.out.done(fields(id, &record));
    }
    Ok(0)
}
