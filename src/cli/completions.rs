//! `mcloud completions`.

use clap::Args;
use serde_json::json;

use crate::model::{Error, Result};

use super::context::Context;

/// Print what makes a shell complete mcloud's commands
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud completions bash > /etc/bash_completion.d/mcloud
  mcloud completions zsh > ~/.zfunc/_mcloud
  mcloud completions fish > ~/.config/fish/completions/mcloud.fish")]
pub struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub fn run(arguments: &Completions, context: &Context) -> Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::command(), "mcloud", &mut script);
    let script =
        String::from_utf8(script).map_err(|cause| Error::failed("the completions are not text").because(cause))?;
    context.out.raw(&script);
    context.out.done(json!({"script": script}));
    Ok(0)
}
