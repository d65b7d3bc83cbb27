//! `mcloud audit`.

use clap::Args;
use serde_json::json;

use crate::model::{Result, TenantName};

use super::context::{self, Context};
use super::{show, when};

/// Say who did what at the host, oldest first
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud audit --since 2h
  mcloud audit shop --since 2026-11-23
  mcloud -h 203.0.113.5 audit --json")]
pub struct Audit {
    /// Only what was done to this tenant
    tenant: Option<String>,
    /// Only what was done since then: 2h, 7d, or a date in UTC
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

pub fn run(arguments: &Audit, context: &Context) -> Result<u8> {
    let since = arguments.since.as_deref().map_or(Ok(0), |since| when::moment(since, when::now_unix()))?;
    let (tenant, host) = match arguments.tenant.as_deref() {
        Some(tenant) => context.tenant(Some(tenant)).map(|(tenant, host)| (Some(tenant), host))?,
        None => (None::<TenantName>, context.host()?),
    };
    let entries = context::block_on(async { context::connect(&host).await?.audit(tenant.as_ref(), since).await })?;
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            vec![
                when::shown(entry.at_unix),
                if entry.label.is_empty() { entry.key.chars().take(12).collect() } else { show::text(&entry.label) },
                show::text(&entry.what),
                show::text(&entry.on),
                show::text(&entry.result),
            ]
        })
        .collect();
    context.out.line(show::table(&["WHEN", "WHO", "WHAT", "ON", "RESULT"], &rows));
    for entry in &entries {
        context.out.event(&json!({
            "event": "audit",
            "at_unix": entry.at_unix,
            "key": entry.key,
            "label": entry.label,
            "what": entry.what,
            "on": entry.on,
            "result": entry.result,
        }));
    }
    context.out.done(json!({"entries": entries.len()}));
    Ok(0)
}
