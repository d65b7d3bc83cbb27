//! `mcloud vars`.

use clap::Args;
use serde_json::json;

use super::context::{self, Context};
use super::show;
use crate::model::Result;

/// List the variables that every container of the host gets (admins only)
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud vars
  mcloud vars --values")]
pub struct Vars {
    /// Show their values, too: one of them may be a secret
    #[arg(long)]
    values: bool,
}

pub fn run(arguments: &Vars, context: &Context) -> Result<u8> {
    let vars = context::block_on(async { context.connect().await?.vars().await })?;
    if vars.is_empty() {
        context.out.say("no variables are set");
    }
    for (name, value) in &vars {
        let value = arguments.values.then_some(value);
        context.out.line(value.map_or_else(|| name.clone(), |value| format!("{name}={}", show::text(value))));
        context.out.event(&json!({"event": "var", "name": name, "value": value}));
    }
    context.out.done(json!({"vars": vars.len()}));
    Ok(0)
}
