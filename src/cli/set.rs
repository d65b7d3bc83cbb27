//! `mcloud set`.

use std::io::Read;

use clap::Args;
use serde_json::json;

use super::context::{self, Context};
use crate::model::{Error, Result};

/// Set a variable that every container of the host gets (admins only)
///
/// Containers get it when they are made: `mcloud rebuild` or `mcloud update` gives it to those there are. A service's own
/// `env` goes before it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud set REGION eu
  mcloud set API_KEY < key.txt        the value from standard input, so that no list of processes shows it")]
pub struct Set {
    /// Letters, digits and _
    name: String,
    /// Its value; left out, it is read from standard input
    value: Option<String>,
}

pub fn run(arguments: &Set, context: &Context) -> Result<u8> {
    let value = match &arguments.value {
        Some(value) => value.clone(),
        None => {
            let mut value = String::new();
            let read = std::io::stdin().take(1 << 20).read_to_string(&mut value);
            read.map_err(|cause| Error::io("the value cannot be read from standard input", cause))?;
            value.strip_suffix('\n').map(str::to_owned).unwrap_or(value)
        }
    };
    context::block_on(async { context.connect().await?.set_var(&arguments.name, Some(&value)).await })?;
    context.out.line(format!("{} is set; containers that are made from now on get it", arguments.name));
    context.out.done(json!({"name": arguments.name}));
    Ok(0)
}
