//! `mcloud pause`.

use clap::Args;

use super::act;
use super::context::Context;
use crate::model::Result;
use crate::model::running::Verb;

/// Freeze what runs of a tenant
///
/// Its processes stand still until `mcloud resume`; nothing is lost.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud pause shop")]
pub struct Pause {
    /// The tenant, or one service of it; default: the tenant that is called as this folder is
    #[arg(value_name = "[SERVICE.]TENANT")]
    reference: Option<String>,
}

pub fn run(arguments: &Pause, context: &Context) -> Result<u8> {
    act::run(Verb::Pause, arguments.reference.as_deref(), false, false, context)
}
