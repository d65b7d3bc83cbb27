//! `mcloud man`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::model::{Error, Result};

use super::context::Context;

/// Write the manual pages into a folder
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud man /usr/local/share/man/man1
  mcloud man . && man ./mcloud-sync.1")]
pub struct Man {
    /// The folder; made if it is not there
    dir: PathBuf,
}

pub fn run(arguments: &Man, context: &Context) -> Result<u8> {
    let dir = &arguments.dir;
    let mut pages: Vec<String> = Vec::new();
    std::fs::create_dir_all(dir)
        .map_err(|cause| Error::io(format!("the folder {} cannot be made", dir.display()), cause))?;
    let mut command = super::command();
    command.build();
    write(&command, "mcloud", dir, &mut pages)?;
    context.out.line(format!("{} pages in {}", pages.len(), dir.display()));
    context.out.done(json!({"pages": pages}));
    Ok(0)
}

/// This command's page and those of the commands below it.
fn write(command: &clap::Command, name: &str, dir: &std::path::Path, pages: &mut Vec<String>) -> Result<()> {
    let file = dir.join(format!("{name}.1"));
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone().display_name(name.to_owned()))
        .title(name.to_uppercase())
        .manual("mcloud")
        .render(&mut page)
        .and_then(|()| {
            // A manual page that a crash cuts short is written again.
            std::fs::write(&file, &page)
        })
        .map_err(|cause| Error::io(format!("{} cannot be written", file.display()), cause))?;
    pages.push(format!("{name}.1"));
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        write(below, &format!("{name}-{}", below.get_name()), dir, pages)?;
    }
    Ok(())
}
