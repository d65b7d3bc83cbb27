//! `mcloud exec`.

use clap::Args;

use super::context::Context;
use super::terminal;
use crate::model::Result;

/// Run a command in a service's running container
///
/// Its standard input, output and exit status are the command's; on a terminal it gets one.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud exec web.shop bash
  mcloud exec redis.shop redis-cli info
  mcloud exec db.shop sh -c 'pg_dump shop' > shop.sql")]
pub struct Exec {
    #[arg(value_name = "SERVICE.TENANT")]
    reference: String,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

pub fn run(arguments: &Exec, context: &Context) -> Result<u8> {
    terminal::run(&arguments.reference, &arguments.words, false, context)
}
