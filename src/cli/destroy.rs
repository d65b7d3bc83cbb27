//! `mcloud destroy`.

use clap::Args;

use super::act;
use super::context::Context;
use crate::model::Result;
use crate::model::running::Verb;

/// Remove the containers of a tenant; its volumes stay
///
/// `mcloud start` makes them again, with the same data.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud destroy shop
  mcloud destroy shop --scrub-data      deletes its data volumes, too")]
pub struct Destroy {
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

pub fn run(arguments: &Destroy, context: &Context) -> Result<u8> {
    act::run(Verb::Destroy, arguments.reference.as_deref(), arguments.scrub_data, arguments.yes, context)
}
