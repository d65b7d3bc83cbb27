//! `mcloud unset`.

use clap::Args;
use serde_json::json;

use super::context::{self, Context};
use crate::model::Result;

/// Take a variable of the host away (admins only)
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud unset REGION")]
pub struct Unset {
    name: String,
}

pub fn run(arguments: &Unset, context: &Context) -> Result<u8> {
    context::block_on(async { context.connect().await?.set_var(&arguments.name, None).await })?;
    context.out.line(format!("{} is not set any more; containers that are made from now on lack it", arguments.name));
    context.out.done(json!({"name": arguments.name}));
    Ok(0)
}
