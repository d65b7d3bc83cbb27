//! `mcloud snapshot create`.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use clap::Args;
use serde_json::json;

use crate::cli::context::{self, Context};
use crate::cli::show;
use crate::model::sync::Event;
use crate::model::{Host, Reference, Result};
use crate::sync::Cancel;

/// Keep a tenant, a service's volumes or one volume as they are now; prints the snapshot's id last
///
/// A tenant means its root volume and all its data volumes, together in one snapshot. What has not changed since the last
/// snapshot costs nothing, and what is equal anywhere at the host is kept once.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud snapshot create shop
  mcloud snapshot create redis.shop:/data --tag before-upgrade
  mcloud snapshot create shop --force             of one moment: the tenant stands still as briefly as can be
  mcloud snapshot create shop@203.0.113.5 --json")]
pub struct Create {
    /// [SERVICE.]TENANT[@HOST][:/VOLUME]; default: the tenant called as this folder
    #[arg(value_name = "REF")]
    of: Option<String>,
    /// A word to find it by, and to keep it by when others are pruned; may be given again
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Freeze the tenant meanwhile, so that all of it is of one moment; a snapshot without is live, and says so
    #[arg(long)]
    force: bool,
}

pub fn run(arguments: &Create, context: &Context) -> Result<u8> {
    let (of, host) = reference(arguments.of.as_deref(), context)?;
    let out = context.out.clone();
    let left_out = RefCell::new(Vec::new());
    let cancel = Cancel::default();
    let created = context::block_on(async {
        let client = context::connect(&host).await?;
        let stop = cancel.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.store(true, Ordering::SeqCst);
            }
            // The second one does not wait for the daemon.
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        });
        let hear = |event: Event| match event {
            Event::LeftOut(entry) => left_out.borrow_mut().push(entry),
            Event::Note(note) if out.json => out.event(&json!({"event": "note", "text": note})),
            Event::Note(note) => out.say(show::text(&note)),
            Event::Scanning { files, bytes_read } => {
                out.event(&json!({"event": "scanning", "files": files, "bytes_read": bytes_read}));
            }
            Event::Moving { files_done, files_total, bytes_done, bytes_total } => {
                out.event(&json!({
                    "event": "moving", "files_done": files_done, "files_total": files_total,
                    "bytes_done": bytes_done, "bytes_total": bytes_total,
                }));
            }
            Event::Planned(_) | Event::Committing => {}
        };
        client.snapshot_create(&of, arguments.force, &arguments.tag, hear, cancel.clone()).await
    })?;
    let record = &created.snapshot;
    let left_out = left_out.into_inner();
    for entry in &left_out {
        let (path, reason) = (show::path(&entry.path), show::text(&entry.reason));
        out.event(&json!({"event": "left_out", "path": path, "reason": reason}));
        out.say(format!("left out: {path}: {reason}"));
    }
    out.say(format!(
        "{} of {} ({}): {}, {}; {} new, {} stored, in {}",
        super::how(record),
        record.of,
        super::taken(record),
        show::counted(record.entries(), "entry", "entries"),
        show::size(record.bytes()),
        show::size(created.bytes_new),
        show::size(created.bytes_stored),
        show::seconds(created.seconds),
    ));
    out.line(created.id.to_string());
    let mut fields = super::fields(created.id, record);
    fields["bytes_new"] = json!(created.bytes_new);
    fields["bytes_stored"] = json!(created.bytes_stored);
    fields["bytes_read"] = json!(created.bytes_read);
    fields["seconds"] = json!(created.seconds);
    out.done(fields);
    Ok(if left_out.is_empty() { 0 } else { 5 })
}

/// What a snapshot is to be of, and where.
pub fn reference(typed: Option<&str>, context: &Context) -> Result<(Reference, Host)> {
    let parsed = typed.map(str::parse::<Reference>).transpose()?;
    let Some(parsed) = parsed else {
        let (tenant, host) = context.tenant(None)?;
        return Ok((Reference { service: None, tenant, host: None, volume: None }, host));
    };
    let Reference { service, tenant, host, volume } = parsed;
    // The one place that weighs `@HOST` against `-h`.
    let bare = Reference { service: None, tenant, host, volume: None };
    let (tenant, host) = context.tenant(Some(&bare.to_string()))?;
    Ok((Reference { service, tenant, host: None, volume }, host))
}
