//! `mcloud access list` and `mcloud access revoke`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::model::Result;
use crate::model::host::{Access as Entry, Grant, TenantGlob};

use super::context::{self, Context};
use super::{show, when, whoami};

/// Say whose keys the host lets in, and take one away
#[derive(Args, Debug)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:
  mcloud access list
  mcloud access revoke 3f9a2c        a key, or its beginning, or its label
  mcloud access revoke g12           a grant to another host"
)]
pub struct Access {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the enrolled keys, and what was granted to other hosts
    #[command(after_help = "Examples:\n  mcloud access list --json")]
    List,
    /// Take a key away, with all that it was granted and granted to others; its connections end at once
    #[command(after_help = "Examples:\n  mcloud access revoke 3f9a2c\n  mcloud access revoke g12")]
    Revoke {
        /// The key, or its beginning, or its label; or a grant, such as g12
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
        .keys
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
    if !all.grants.is_empty() {
        let rows: Vec<Vec<String>> = all.grants.iter().map(grant_row).collect();
        let head = ["GRANT", "HOST", "ROLE", "TENANT", "FOR", "GIVEN BY", "UNTIL", "LAST SEEN"];
        context.out.line(format!("\n{}", show::table(&head, &rows)));
    }
    all.keys.iter().map(event).chain(all.grants.iter().map(grant_event)).for_each(|event| context.out.event(&event));
    context.out.done(json!({"keys": all.keys.len(), "grants": all.grants.len()}));
    Ok(0)
}

fn grant_row(grant: &Grant) -> Vec<String> {
    let terms = &grant.terms;
    vec![
        format!("g{}", grant.number),
        format!("{} ({})", show::text(&terms.host), terms.host_key.get(..16).unwrap_or_default()),
        terms.role.to_string(),
        terms.tenant.to_string(),
        show::text(&terms.purpose),
        show::text(&grant.by),
        terms.expires_unix.map_or_else(|| "revoked".to_owned(), when::shown),
        grant.last_seen_unix.map_or_else(|| "never".to_owned(), when::shown),
    ]
}

fn revoke(key: &str, context: &Context) -> Result<u8> {
    let gone = context::block_on(async { context.connect().await?.access_revoke(key).await })?;
    for entry in &gone.keys {
        context.out.line(format!("revoked {} ({})", entry.key, show::text(&entry.label)));
    }
    for grant in &gone.grants {
        let terms = &grant.terms;
        let (host, purpose) = (show::text(&terms.host), show::text(&terms.purpose));
        context
            .out
            .line(format!("revoked g{}: {host} as {} of {} ({purpose})", grant.number, terms.role, terms.tenant));
    }
    let grants: Vec<Value> = gone.grants.iter().map(grant_event).collect();
    let mut fields = gone.keys.first().map_or_else(|| json!({}), event);
    fields["event"] = json!("done");
    fields["grants"] = json!(grants);
    context.out.done(fields);
    Ok(0)
}

fn grant_event(grant: &Grant) -> Value {
    let terms = &grant.terms;
    json!({
        "event": "grant",
        "grant": format!("g{}", grant.number),
        "host": terms.host,
        "host_key": terms.host_key,
        "role": terms.role.word(),
        "tenant": terms.tenant.as_str(),
        "purpose": terms.purpose,
        "by": grant.by,
        "by_key": grant.by_key,
        "created_unix": grant.created_unix,
        "expires_unix": terms.expires_unix,
        "last_seen_unix": grant.last_seen_unix,
    })
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
