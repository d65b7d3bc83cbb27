//! `mcloud invite`.

use clap::Args;
use serde_json::json;

use crate::model::Result;
use crate::model::host::{InviteTerms, Role, TenantGlob};

use super::context::{self, Context};
use super::when;

/// Let somebody in: print a `mcloud login …` line that is good once
///
/// Who runs that line enrols the key of his machine with the role and the tenants that are said here. Viewers read,
/// deployers act, both on the tenants that match; admins do everything.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud invite                                          a deployer for all tenants
  mcloud invite --role deployer --tenant 'shop*' --expires 2d
  mcloud -h 203.0.113.5 invite --role viewer --tenant shop")]
pub struct Invite {
    /// What the guest may do: admin, deployer or viewer
    #[arg(long, default_value = "deployer", value_name = "ROLE")]
    role: String,
    /// Only tenants whose names match; may be given again
    #[arg(long, value_name = "GLOB")]
    tenant: Vec<String>,
    /// How long the invitation is good
    #[arg(long, value_name = "TIME", default_value = "1h")]
    expires: String,
}

pub fn run(arguments: &Invite, context: &Context) -> Result<u8> {
    let role: Role = arguments.role.parse()?;
    let mut tenants = arguments.tenant.iter().map(|glob| TenantGlob::new(glob)).collect::<Result<Vec<_>>>()?;
    if role == Role::Admin && !tenants.is_empty() {
        return Err(crate::model::Error::usage("an admin does everything, with all tenants")
            .hint("leave --tenant out, or invite a deployer"));
    }
    if role != Role::Admin && tenants.is_empty() {
        tenants.push(TenantGlob::new("*")?);
    }
    let terms = InviteTerms { role, tenants, expires: when::duration(&arguments.expires)? };
    let invitation = context::block_on(async { context.connect().await?.invite(&terms).await })?;
    let command = format!("mcloud login {invitation}");
    context.out.line(&command);
    context.out.done(json!({"invitation": invitation, "command": command}));
    Ok(0)
}
