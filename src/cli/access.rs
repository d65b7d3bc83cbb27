//! `mcloud access list` and `mcloud access revoke`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::model::Result;
use crate::model::host::{Access as Entry, TenantGlob};

use super::context::{self, Context};
use super::{show, when, whoami};

/// Say whose keys the host lets in, and take one away
#[derive(Args, Debug)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:
  mcloud access list
  mcloud access revoke 3f9a2c        a key, or its beginning, or its label"
)]
pub struct Access {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the enrolled keys
    #[command(after_help = "Examples:\n  mcloud access list --json")]
    List,
    /// Take a key away; its connections end at once
    #[command(after_help = "Examples:\n  mcloud access revoke 3f9a2c")]
    Revoke {
        /// The key, or its beginning, or its label
        key: String,
    },
}

pub fn run(arguments: &Access, context: &Context) -> Result<u8> {
    match &arguments.what {
        What::List => list(context),
        What::Revoke { key } => revoke(key, context),
    }
}

fn list(context: &Context) -> Result<u8> {
    let all = context::block_on(async { context.connect().await?.access_list().await })?;
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|entry| {
            vec![
                entry.key.clone(),
                show::text(&entry.label),
                entry.role.to_string(),
                if entry.tenants.is_empty() { "all".to_owned() } else { whoami::globs(&entry.tenants) },
                when::shown(entry.created_unix),
                entry.last_seen_unix.map_or_else(|| "never".to_owned(), when::shown),
            ]
        })
        .collect();
    context.out.line(show::table(&["KEY", "LABEL", "ROLE", "TENANTS", "SINCE", "LAST SEEN"], &rows));
    for entry in &all {
        context.out.event(&event(entry));
    }
    context.out.done(json!({"keys": all.len()}));
    Ok(0)
}

fn revoke(key: &str, context: &Context) -> Result<u8> {
    let gone = context::block_on(async { context.connect().await?.access_revoke(key).await })?;
    context.out.line(format!("revoked {} ({})", gone.key, gone.label));
    let mut fields = event(&gone);
    fields["event"] = json!("done");
    context.out.done(fields);
    Ok(0)
}

fn event(entry: &Entry) -> Value {
    json!({
        "event": "access",
        "key": entry.key,
        "label": entry.label,
        "role": entry.role.word(),
        "tenants": entry.tenants.iter().map(TenantGlob::as_str).collect::<Vec<_>>(),
        "created_unix": entry.created_unix,
        "last_seen_unix": entry.last_seen_unix,
    })
}
