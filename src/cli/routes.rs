//! `mcloud routes`.

use clap::Args;
use serde_json::{Value, json};

use super::context::{self, Context};
use super::show;
use crate::model::Result;
use crate::model::publish::{PublishedRoute, Route};

/// List the domains, the tenants they lead to, and how those are
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud routes
  mcloud -h 203.0.113.5 routes --json")]
pub struct Routes {}

pub fn run(context: &Context) -> Result<u8> {
    let all = context::block_on(async { context.connect().await?.routes().await })?;
    if all.is_empty() {
        context.out.say("no domain is published; `mcloud publish TENANT DOMAIN` does that");
    } else {
        let rows: Vec<Vec<String>> = all.iter().map(row).collect();
        context.out.line(show::table(&["DOMAIN", "TENANT", "STATE", "UPSTREAM"], &rows));
    }
    for route in &all {
        context.out.event(&event(route));
    }
    context.out.done(json!({"routes": all.len()}));
    Ok(0)
}

fn row(published: &PublishedRoute) -> Vec<String> {
    let mut state = match &published.why {
        Some(why) => format!("{}: {}", published.state, show::text(why)),
        None => published.state.clone(),
    };
    if published.waiting > 0 {
        state.push_str(&format!(", {}", show::counted(published.waiting, "request waits", "requests wait")));
    }
    let upstream = published.upstream.clone().unwrap_or_else(|| "-".to_owned());
    vec![name(&published.route), published.route.tenant.to_string(), state, upstream]
}

/// `DOMAIN` or `DOMAIN --ssl`.
pub fn name(route: &Route) -> String {
    if route.ssl { format!("{} --ssl", route.domain) } else { route.domain.to_string() }
}

pub fn event(published: &PublishedRoute) -> Value {
    let PublishedRoute { route, state, why, upstream, waiting } = published;
    json!({
        "event": "route",
        "domain": route.domain.as_str(),
        "ssl": route.ssl,
        "tenant": route.tenant.to_string(),
        "port": route.port,
        "state": state,
        "why": why,
        "upstream": upstream,
        "waiting": waiting,
    })
}
