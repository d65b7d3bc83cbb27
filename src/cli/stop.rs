//! `mcloud stop`.

use clap::Args;

use super::act;
use super::context::Context;
use crate::model::Result;
use crate::model::running::Verb;

/// Stop what runs of a tenant, the last service first
///
/// Its containers and its data stay; `mcloud start` starts it again.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud stop shop
  mcloud stop web.shop")]
pub struct Stop {
    /// The tenant, or one service of it; default: the tenant that is called as this folder is
    #[arg(value_name = "[SERVICE.]TENANT")]
    reference: Option<String>,
}

pub fn run(arguments: &Stop, context: &Context) -> Result<u8> {
    act::run(Verb::Stop, arguments.reference.as_deref(), false, false, context)
}
