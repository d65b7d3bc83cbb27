//! `mcloud whoami`.

use clap::Args;
use serde_json::{Value, json};

use crate::model::Result;
use crate::model::host::{Role, TenantGlob, Who};

use super::context::{self, Context};

/// Say who the host takes you for, and what you may do there
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud whoami
  mcloud -h 203.0.113.5 whoami --json")]
pub struct Whoami {}

pub fn run(context: &Context) -> Result<u8> {
    let who = context::block_on(async { Ok(context.connect().await?.whoami().clone()) })?;
    context.out.line(format!("{}: {}", who.label, rights(who.role, &who.tenants)));
    context.out.line(format!("key       {}", who.key));
    context.out.line(format!("host key  {}", who.host_key));
    context.out.line(format!("version   {} at the host, {} here", who.version, env!("CARGO_PKG_VERSION")));
    context.out.done(fields(&who));
    Ok(0)
}

/// `deployer of shop*, blog`.
pub fn rights(role: Role, tenants: &[TenantGlob]) -> String {
    match (role, tenants) {
        (Role::Admin, _) | (_, []) => role.to_string(),
        (role, tenants) => format!("{role} of {}", globs(tenants)),
    }
}

pub fn globs(tenants: &[TenantGlob]) -> String {
    tenants.iter().map(TenantGlob::as_str).collect::<Vec<_>>().join(", ")
}

pub fn fields(who: &Who) -> Value {
    json!({
        "key": who.key,
        "label": who.label,
        "role": who.role.word(),
        "tenants": who.tenants.iter().map(TenantGlob::as_str).collect::<Vec<_>>(),
        "host_key": who.host_key,
        "version": who.version,
    })
}
