//! `mcloud run`.

use clap::Args;

use super::context::Context;
use super::terminal;
use crate::model::Result;

/// Run a command in a new container like a service's, which is gone with its end
///
/// It has the service's image, code, data, variables and network. Without a command it runs the service's own.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud run web.shop bash
  mcloud run web.shop python manage.py migrate")]
pub struct Run {
    #[arg(value_name = "SERVICE.TENANT")]
    reference: String,
    /// The command and its arguments; default: the service's own
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

pub fn run(arguments: &Run, context: &Context) -> Result<u8> {
    terminal::run(&arguments.reference, &arguments.words, true, context)
}
