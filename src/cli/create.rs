//! `mcloud create`.

use clap::Args;

use super::act;
use super::context::Context;
use crate::model::Result;
use crate::model::running::Verb;

/// Make the containers of a tenant, without starting them
///
/// Images are pulled or built where they are missing.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud create shop")]
pub struct Create {
    /// The tenant, or one service of it; default: the tenant that is called as this folder is
    #[arg(value_name = "[SERVICE.]TENANT")]
    reference: Option<String>,
}

pub fn run(arguments: &Create, context: &Context) -> Result<u8> {
    act::run(Verb::Create, arguments.reference.as_deref(), false, false, context)
}
