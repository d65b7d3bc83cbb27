//! `mcloud unmount`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::show;
use crate::fuse::table;
use crate::model::{Error, Kind, Result};

/// Take away what `mount` shows at a folder
///
/// Also what a process that was killed has left there.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud unmount /mnt/redis
  mcloud unmount --force /mnt/redis     even while it is in use")]
pub struct Unmount {
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Even while it is in use: those who use it keep what they have open until they end
    #[arg(long)]
    force: bool,
}

pub fn run(arguments: &Unmount, context: &Context) -> Result<u8> {
    let dir = table::resolve(&arguments.dir)?;
    let shown = show::text(&arguments.dir.to_string_lossy());
    match table::find(&dir)? {
        Some(mount) if mount.is_ours() => {}
        Some(mount) => {
            let what = show::text(&mount.source);
            return Err(Error::new(Kind::Refused, format!("what is mounted at {shown} is not of mcloud, but {what}"))
                .hint("`umount` takes it away"));
        }
        None => {
            return Err(Error::new(Kind::NotFound, format!("nothing is mounted at {shown}"))
                .hint("`findmnt -t fuse,fuse.mcloud` lists what is"));
        }
    }
    table::unmount(&dir, arguments.force)?;
    context.out.detail(format!("{shown} is unmounted"));
    context.out.done(json!({"dir": dir}));
    Ok(0)
}
