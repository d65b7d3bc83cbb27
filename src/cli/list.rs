//! `mcloud list`.

use clap::Args;
use serde_json::{Value, json};

use crate::model::Result;
use crate::model::host::Tenant;

use super::context::{self, Context};
use super::{show, when};

/// List the tenants that you may see
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud list
  mcloud -h 203.0.113.5 list --json")]
pub struct List {}

pub fn run(context: &Context) -> Result<u8> {
    let tenants = context::block_on(async { context.connect().await?.tenant_list().await })?;
    if tenants.is_empty() {
        context.out.say("no tenants yet: `mcloud init TENANT` makes one");
    } else {
        let rows: Vec<Vec<String>> = tenants
            .iter()
            .map(|tenant| {
                let volumes: Vec<String> = tenant.volumes.iter().map(ToString::to_string).collect();
                vec![
                    tenant.name.to_string(),
                    tenant.env.as_deref().map_or_else(|| "-".to_owned(), show::text),
                    show::text(&tenant.path),
                    if volumes.is_empty() { "-".to_owned() } else { volumes.join(" ") },
                    when::shown(tenant.created_unix),
                ]
            })
            .collect();
        context.out.line(show::table(&["TENANT", "ENV", "CODE", "DATA", "SINCE"], &rows));
    }
    for tenant in &tenants {
        let mut event = fields(tenant);
        event["event"] = json!("tenant");
        context.out.event(&event);
    }
    context.out.done(json!({"tenants": tenants.len()}));
    Ok(0)
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
