//! `mcloud snapshot`: taken, listed, looked at, given back, removed.

pub mod create;
mod diff;
mod list;
mod prune;
mod remove;
pub mod restore;
mod verify;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::Context;
use super::{show, when};
use crate::model::{Name, Result};
use crate::store::snapshot::{How, Snapshot as Record};

/// Keep a tenant as it is now, for years; list, compare and restore what is kept
#[derive(Args, Debug)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:
  mcloud snapshot create shop                     its code and all its data volumes
  mcloud snapshot create redis.shop:/data --tag before-upgrade
  mcloud snapshot list
  mcloud snapshot restore latest:shop ./copy      to a folder
  mcloud snapshot restore 3f9a2c shop@me          back to the tenant

A snapshot is named by its id, cut to where it is unique (4 digits at least), or as the newest one of something: latest:REF."
)]
pub struct Snapshot {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Create(create::Create),
    List(list::List),
    Show(list::Show),
    Diff(diff::Diff),
    Restore(restore::Restore),
    Remove(remove::Remove),
    Prune(prune::Prune),
    Verify(verify::Verify),
}

pub fn run(arguments: Snapshot, context: Context) -> Result<u8> {
    match arguments.what {
        What::Create(arguments) => create::run(&arguments, &context),
        What::List(arguments) => list::run(&arguments, &context),
        What::Show(arguments) => list::show(&arguments, &context),
        What::Diff(arguments) => diff::run(&arguments, &context),
        What::Restore(arguments) => restore::run(arguments, context),
        What::Remove(arguments) => remove::run(&arguments, &context),
        What::Prune(arguments) => prune::run(&arguments, &context),
        What::Verify(arguments) => verify::run(&arguments, &context),
    }
}

/// An id as people read it.
fn short(id: Name) -> String {
    id.to_string()[..12].to_owned()
}

fn taken(record: &Record) -> String {
    when::shown(record.taken_ms / 1000)
}

fn how(record: &Record) -> String {
    match record.how {
        How::Live => "live".to_owned(),
        How::Frozen { freeze_ms } => format!("frozen {}", show::seconds(freeze_ms as f64 / 1000.0)),
    }
}

/// A snapshot for scripts.
fn fields(id: Name, record: &Record) -> Value {
    let volumes: Vec<Value> = record
        .volumes
        .iter()
        .map(|volume| {
            json!({
                "volume": volume.label(),
                "root": crate::tree::node::root_name(&volume.root).to_string(),
                "entries": volume.entries,
                "bytes": volume.bytes,
                "left_out": volume.left_out,
            })
        })
        .collect();
    json!({
        "snapshot": id.to_string(),
        "of": record.of,
        "tenant": record.tenant.as_str(),
        "taken_ms": record.taken_ms,
        "how": match record.how { How::Live => "live", How::Frozen { .. } => "frozen" },
        "freeze_ms": match record.how { How::Live => None, How::Frozen { freeze_ms } => Some(freeze_ms) },
        "tags": record.tags,
        "by": record.by,
        "entries_total": record.entries(),
        "bytes_total": record.bytes(),
        "volumes": volumes,
    })
}
