//! `mcloud status`.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::context::{self, Context};
use super::show;
use crate::model::running::{Seen, ServiceStatus, TenantStatus};
use crate::model::{Host, Result, TenantName};

/// How often `-f` looks again.
const AGAIN: Duration = Duration::from_secs(1);

/// Show what the services of a tenant are and what they take
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud status shop
  mcloud status -f              all tenants, again every second")]
pub struct Status {
    /// The tenant; default: all that you may see
    tenant: Option<String>,
    /// Look again and again, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

pub fn run(arguments: &Status, context: &Context) -> Result<u8> {
    let (tenant, host) = match &arguments.tenant {
        Some(typed) => context.tenant(Some(typed)).map(|(tenant, host)| (Some(tenant), host))?,
        None => (None, context.host()?),
    };
    let look = Look { tenant, whole: true, follow: arguments.follow };
    look.run(&host, context, table, fields)
}

/// How tenants are looked at: by `status`, and by `list`.
pub struct Look {
    /// `None`: all that the client sees.
    pub tenant: Option<TenantName>,
    /// Also what takes a moment: CPU, memory, sizes.
    pub whole: bool,
    /// Again and again, until Ctrl-C.
    pub follow: bool,
}

impl Look {
    /// Shows what is found as a table for people and as an event for each tenant.
    pub fn run(
        &self,
        host: &Host,
        context: &Context,
        table: impl Fn(&[TenantStatus]) -> String,
        fields: impl Fn(&TenantStatus) -> Value,
    ) -> Result<u8> {
        context::block_on(async {
            let client = context::connect(host).await?;
            let mut lines_before = 0;
            loop {
                let found = client.status(self.tenant.as_ref(), self.whole).await?;
                let text = table(&found);
                if context.out.shows_in_place() && self.follow {
                    context.out.in_place(&text, &mut lines_before);
                } else {
                    context.out.line(&text);
                }
                for tenant in &found {
                    context.out.event(&fields(tenant));
                }
                if !self.follow {
                    context.out.done(json!({"tenants": found.len()}));
                    return Ok(0);
                }
                tokio::time::sleep(AGAIN).await;
            }
        })
    }
}

fn table(found: &[TenantStatus]) -> String {
    let mut rows = Vec::new();
    let mut troubles = Vec::new();
    for tenant in found {
        if let Some(trouble) = &tenant.trouble {
            troubles.push(show::text(&format!("{}: {trouble}", tenant.tenant.name)));
        }
        if tenant.services.is_empty() {
            let mut row = vec![tenant.tenant.name.to_string(), "no services".to_owned()];
            row.resize(8, "-".to_owned());
            rows.push(row);
        }
        for service in &tenant.services {
            rows.push(vec![
                format!("{}.{}", service.name, tenant.tenant.name),
                state(service),
                service.ip.clone().unwrap_or_else(|| "-".to_owned()),
                service
                    .cpu_millis
                    .map_or_else(|| "-".to_owned(), |millis| format!("{:.1}%", show::precise(millis) / 10.0)),
                service.memory_bytes.map_or_else(|| "-".to_owned(), show::size),
                service.web.map_or_else(|| "-".to_owned(), |port| port.to_string()),
                volumes(service),
                if service.urls.is_empty() { "-".to_owned() } else { show::text(&service.urls.join(" ")) },
            ]);
        }
    }
    let mut text = match rows.is_empty() {
        true => "no tenants".to_owned(),
        false => show::table(&["SERVICE", "STATE", "IP", "CPU", "MEMORY", "WEB", "DATA", "PUBLISHED"], &rows),
    };
    for trouble in troubles {
        text.push_str(&format!("\n{trouble}"));
    }
    text
}

fn state(service: &ServiceStatus) -> String {
    let mut state = match service.seen {
        Seen::Failed => format!("failed ({})", service.exit_status),
        seen => seen.word().to_owned(),
    };
    if let Some(health) = &service.health
        && service.seen == Seen::Running
    {
        state.push_str(&format!(", {}", show::text(health)));
    }
    if service.seen.word() != service.wanted.word() && service.seen != Seen::Absent && service.seen != Seen::Unknown {
        state.push_str(&format!(", wanted {}", service.wanted));
    }
    state
}

fn volumes(service: &ServiceStatus) -> String {
    let volume = |(path, bytes): &(crate::model::VolumePath, Option<u64>)| match bytes {
        Some(bytes) => format!("{path} {}", show::size(*bytes)),
        None => path.to_string(),
    };
    match service.volumes.is_empty() {
        true => "-".to_owned(),
        false => service.volumes.iter().map(volume).collect::<Vec<_>>().join(", "),
    }
}

fn fields(status: &TenantStatus) -> Value {
    let service = |service: &ServiceStatus| {
        let volumes: Vec<Value> =
            service.volumes.iter().map(|(path, bytes)| json!({"path": path.as_str(), "bytes": bytes})).collect();
        json!({
            "service": service.name.as_str(),
            "state": service.seen.word(),
            "wanted": service.wanted.word(),
            "image": service.image,
            "container": service.container,
            "ip": service.ip,
            "exit_status": service.exit_status,
            "cpu_millis": service.cpu_millis,
            "memory_bytes": service.memory_bytes,
            "web": service.web,
            "urls": service.urls,
            "health": service.health,
            "volumes": volumes,
        })
    };
    let services: Vec<Value> = status.services.iter().map(service).collect();
    json!({
        "event": "status",
        "tenant": status.tenant.name.as_str(),
        "env": status.tenant.env,
        "path": status.tenant.path,
        "services": services,
        "trouble": status.trouble,
    })
}
