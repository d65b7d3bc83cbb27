//! `mcloud snapshot restore`: a sync whose source is a snapshot.

use std::ffi::OsString;

use clap::Args;

use crate::cli::context::Context;
use crate::cli::sync;
use crate::model::Result;

/// Make a folder or a tenant equal to a snapshot; the same as `mcloud sync ID DST`
///
/// To a tenant, each data volume goes to the one with the same service and path; the code goes with --code, or where the
/// snapshot has nothing else. To a folder, one volume is that folder; of several each gets a folder in it: `root`, and
/// `SERVICE.PATH` for each data volume.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud snapshot restore latest:shop ./copy
  mcloud snapshot restore 3f9a2c shop@me --dry-run
  mcloud snapshot restore 3f9a2c redis.next@203.0.113.5:/data --volume redis:/data")]
pub struct Restore {
    /// Its id, or latest:REF; @HOST behind it, or -h, says whose it is
    #[arg(value_name = "ID")]
    snapshot: String,
    /// A folder, or a tenant or one volume of one: [SERVICE.]TENANT@HOST[:/VOLUME]
    #[arg(value_name = "DST")]
    target: OsString,
    #[command(flatten)]
    options: sync::RestoreOptions,
}

pub fn run(arguments: Restore, context: Context) -> Result<u8> {
    sync::restore(&arguments.snapshot, &arguments.target, &arguments.options, context)
}
