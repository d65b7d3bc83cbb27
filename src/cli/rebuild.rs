//! `mcloud rebuild`.

use clap::Args;

use super::act;
use super::context::Context;
use crate::model::Result;
use crate::model::running::Verb;

/// Build a tenant's images again and make its containers anew
///
/// What ran is started again; data stays.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud rebuild shop
  mcloud rebuild web.shop")]
pub struct Rebuild {
    /// The tenant, or one service of it; default: the tenant that is called as this folder is
    #[arg(value_name = "[SERVICE.]TENANT")]
    reference: Option<String>,
    /// Delete its data volumes, too: nothing brings them back
    #[arg(long)]
    scrub_data: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub fn run(arguments: &Rebuild, context: &Context) -> Result<u8> {
    act::run(Verb::Rebuild, arguments.reference.as_deref(), arguments.scrub_data, arguments.yes, context)
}
