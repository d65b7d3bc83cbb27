//! `mcloud restart`.

use clap::Args;

use super::act;
use super::context::Context;
use crate::model::Result;
use crate::model::running::Verb;

/// Stop a tenant and start it again
///
/// What did not run is started, too.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud restart shop
  mcloud restart web.shop@203.0.113.5")]
pub struct Restart {
    /// The tenant, or one service of it; default: the tenant that is called as this folder is
    #[arg(value_name = "[SERVICE.]TENANT")]
    reference: Option<String>,
}

pub fn run(arguments: &Restart, context: &Context) -> Result<u8> {
    act::run(Verb::Restart, arguments.reference.as_deref(), false, false, context)
}
