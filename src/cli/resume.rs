//! `mcloud resume`.

use clap::Args;

use super::act;
use super::context::Context;
use crate::model::Result;
use crate::model::running::Verb;

/// Let a paused tenant go on
///
/// It goes on exactly where it was paused.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud resume shop")]
pub struct Resume {
    /// The tenant, or one service of it; default: the tenant that is called as this folder is
    #[arg(value_name = "[SERVICE.]TENANT")]
    reference: Option<String>,
}

pub fn run(arguments: &Resume, context: &Context) -> Result<u8> {
    act::run(Verb::Resume, arguments.reference.as_deref(), false, false, context)
}
