//! `mcloud login`.

use clap::Args;
use serde_json::json;

use crate::daemon::client::Client;
use crate::model::Result;

use super::context::{self, Context};
use super::whoami;

/// Use an invitation: know the host's key, and let the host know this client's
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud login INVITATION        the line that `mcloud invite` printed, as it is")]
pub struct Login {
    /// What `mcloud invite` printed behind `mcloud login`
    invitation: String,
}

pub fn run(arguments: &Login, context: &Context) -> Result<u8> {
    let config = context::client_config()?;
    let (address, who) = context::block_on(Client::login(&config, arguments.invitation.trim()))?;
    context.out.line(format!("logged in at {address} as {}: {}", who.label, whoami::rights(who.role, &who.tenants)));
    let mut fields = whoami::fields(&who);
    fields["host"] = json!(address.to_string());
    context.out.done(fields);
    Ok(0)
}
