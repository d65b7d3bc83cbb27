//! `mcloud vars`.

use clap::Args;
use serde_json::json;

use super::context::{self, Context};
use crate::model::Result;

/// What stands for a value: the host does not tell it to anybody but its containers.
const HIDDEN: &str = "***";

/// List the variables that every container of the host gets (admins only)
///
/// Their values may be secrets and are never shown; `mcloud exec SERVICE.TENANT printenv NAME` asks a container that has one.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud vars
  mcloud vars --json")]
pub struct Vars {}

pub fn run(context: &Context) -> Result<u8> {
    let names = context::block_on(async { context.connect().await?.vars().await })?;
    if names.is_empty() {
        context.out.say("no variables are set");
    }
    for name in &names {
        context.out.line(format!("{name}={HIDDEN}"));
        context.out.event(&json!({"event": "var", "name": name, "value": HIDDEN}));
    }
    context.out.done(json!({"vars": names.len()}));
    Ok(0)
}
