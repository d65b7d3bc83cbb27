//! `mcloud snapshot verify`.

use clap::Args;
use serde_json::json;

use crate::cli::context::{self, Context};
use crate::cli::show;
use crate::model::{Error, Kind, Result};

/// Look whether all snapshots can be restored; what is hurt is named by snapshot and path
///
/// What is found to be lost is not relied on any more: the next snapshot that still finds it at its tenant puts it back.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud snapshot verify                 everything is there
  mcloud snapshot verify --read-data     and every byte of it is what it was")]
pub struct Verify {
    /// Read all there is in the store
    #[arg(long)]
    read_data: bool,
}

pub fn run(arguments: &Verify, context: &Context) -> Result<u8> {
    let out = &context.out;
    let read_data = arguments.read_data;
    let found = context::block_on(async { context.connect().await?.snapshot_verify(read_data).await })?;
    for problem in &found.problems {
        if problem.snapshot.is_empty() {
            out.line(format!("{}: {}", show::text(&problem.file), show::text(&problem.what)));
            out.event(&json!({"event": "problem", "file": problem.file, "what": problem.what}));
            continue;
        }
        let snapshot: String = problem.snapshot.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = if problem.path.is_empty() { ".".to_owned() } else { show::path(&problem.path) };
        out.line(format!("snapshot {} {}: {path} is hurt", &snapshot[..12.min(snapshot.len())], problem.volume));
        out.event(&json!({"event": "problem", "snapshot": snapshot, "volume": problem.volume, "path": path}));
    }
    let looked = format!(
        "{}, {}, {}{}",
        show::counted(found.snapshots, "snapshot", "snapshots"),
        show::counted(found.objects, "object", "objects"),
        show::counted(found.packs, "pack", "packs"),
        if read_data { format!(", {} read", show::size(found.bytes_read)) } else { String::new() },
    );
    if found.problems.is_empty() {
        out.line(format!("all is well: {looked}"));
        out.done(json!({
            "snapshots": found.snapshots, "objects": found.objects, "packs": found.packs,
            "bytes_read": found.bytes_read, "problems": 0,
        }));
        return Ok(0);
    }
    let count = show::counted(found.problems.len() as u64, "problem", "problems");
    Err(Error::new(Kind::Corrupt, format!("{count} found in {looked}"))
        .hint("take a snapshot of each tenant that is named: what it still has is put back"))
}
