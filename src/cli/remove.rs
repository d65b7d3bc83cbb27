//! `mcloud remove`.

use clap::Args;

use crate::model::{Error, Kind, Result};

use super::context::{self, Context};
use super::list;

/// Forget a tenant; its volumes stay where they are
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud remove shop
  mcloud -h 203.0.113.5 remove shop --scrub-data      deletes its volumes, too")]
pub struct Remove {
    /// The tenant; default: called as this folder is
    tenant: Option<String>,
    /// Delete its volumes: nothing else does, and nothing brings them back
    #[arg(long)]
    scrub_data: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub fn run(arguments: &Remove, context: &Context) -> Result<u8> {
    let (name, host) = context.tenant(arguments.tenant.as_deref())?;
    let question = format!("Delete all volumes of the tenant {name} for good?");
    if arguments.scrub_data && !arguments.yes && context.out.ask(&question) == Some(false) {
        return Err(Error::new(Kind::Refused, "you said no; nothing was removed"));
    }
    let gone =
        context::block_on(async { context::connect(&host).await?.tenant_remove(&name, arguments.scrub_data).await })?;
    if arguments.scrub_data {
        context.out.line(format!("removed the tenant {} and its volumes", gone.name));
    } else {
        context.out.line(format!("removed the tenant {}; its volumes stay, its code in {}", gone.name, gone.path));
    }
    context.out.done(list::fields(&gone));
    Ok(0)
}
