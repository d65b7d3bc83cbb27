//! `mcloud list`.

use clap::Args;
use serde_json::{Value, json};

use super::context::Context;
use super::status::Look;
use super::{show, when};
use crate::model::Result;
use crate::model::host::Tenant;
use crate::model::running::{Seen, TenantStatus};

/// List the tenants that you may see
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud list
  mcloud list -f                      again every second, until Ctrl-C
  mcloud -h 203.0.113.5 list --json")]
pub struct List {
    /// Look again and again, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

pub fn run(arguments: &List, context: &Context) -> Result<u8> {
    let look = Look { tenant: None, whole: false, follow: arguments.follow };
    look.run(&context.host()?, context, table, |status| {
        let mut event = fields(&status.tenant);
        event["event"] = json!("tenant");
        event["state"] = json!(state(status));
        event["failed_schedules"] = json!(status.failed_schedules);
        event
    })
}

fn table(found: &[TenantStatus]) -> String {
    if found.is_empty() {
        return "no tenants yet: `mcloud init TENANT` makes one".to_owned();
    }
    let row = |status: &TenantStatus| {
        let tenant = &status.tenant;
        let volumes: Vec<String> = tenant.volumes.iter().map(ToString::to_string).collect();
        vec![
            tenant.name.to_string(),
            state(status),
            tenant.env.as_deref().map_or_else(|| "-".to_owned(), show::text),
            show::text(&tenant.path),
            if volumes.is_empty() { "-".to_owned() } else { volumes.join(" ") },
            when::shown(tenant.created_unix),
        ]
    };
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    show::table(&["TENANT", "STATE", "ENV", "CODE", "DATA", "SINCE"], &rows)
}

/// What a tenant's services are, in a word: that of all of them, or how many are what.
fn state(status: &TenantStatus) -> String {
    let all = status.services.len();
    let with = |seen: Seen| status.services.iter().filter(|service| service.seen == seen).count();
    let counts: Vec<String> = Seen::ALL
        .iter()
        .filter_map(|&seen| match with(seen) {
            0 => None,
            count if count == all => Some(seen.word().to_owned()),
            count => Some(format!("{count} {seen}")),
        })
        .collect();
    let mut said = if counts.is_empty() { "no services".to_owned() } else { counts.join(", ") };
    for name in &status.failed_schedules {
        said.push_str(&format!(", schedule {} failed", show::text(name)));
    }
    said
}

pub fn fields(tenant: &Tenant) -> Value {
    let volumes: Vec<Value> = tenant
        .volumes
        .iter()
        .map(|volume| json!({"service": volume.service.as_str(), "path": volume.path.as_str()}))
        .collect();
    json!({
        "tenant": tenant.name.as_str(),
        "env": tenant.env,
        "path": tenant.path,
        "volumes": volumes,
        "created_unix": tenant.created_unix,
    })
}
