//! `mcloud publish`.

use clap::Args;
use serde_json::json;

use super::context::{self, Context};
use super::routes;
use crate::model::publish::Route;
use crate::model::{Domain, Result, Seat};

/// Make a domain lead to a tenant
///
/// Requests for the domain go to the service of the tenant with `web:` (or, where there is none, to its only one). A domain
/// belongs to one tenant: published for another one it moves there in one step, with its requests that wait, and no request
/// is lost. Other domains' connections are not touched. DOMAIN and DOMAIN --ssl are two routes;
/// with --ssl TLS is passed through to the port that the service names with `ssl:`, or, where it names none, ended here with the
/// domain's certificate (`mcloud cert`).
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud publish shop shop.example.com
  mcloud -h 203.0.113.5 publish shop-next shop.example.com
  mcloud publish shop api.example.com --port 8080
  mcloud publish shop shop.example.com --ssl          TLS, passed through or ended here")]
pub struct Publish {
    /// The tenant
    tenant: String,
    /// The domain, such as shop.example.com
    domain: Domain,
    /// A port of the service other than the one its mcloud.yml names
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Publish for TLS
    #[arg(long)]
    ssl: bool,
}

pub fn run(arguments: &Publish, context: &Context) -> Result<u8> {
    let (tenant, host) = context.tenant(Some(&arguments.tenant))?;
    let route = Route {
        domain: arguments.domain.clone(),
        ssl: arguments.ssl,
        tenant: Seat::here(&tenant),
        port: arguments.port,
    };
    let (published, from) = context::block_on(async { context::connect(&host).await?.publish(&route).await })?;
    let name = routes::name(&published.route);
    context.out.line(match &from {
        Some(from) => format!("{name} leads to {}, no longer to {from}", route.tenant),
        None => format!("{name} leads to {}", route.tenant),
    });
    if let Some(why) = &published.why {
        context.out.say(format!("{} {why}", route.tenant));
    }
    let mut fields = routes::event(&published);
    fields["event"] = json!("done");
    fields["moved_from"] = json!(from.map(|from| from.to_string()));
    context.out.done(fields);
    Ok(0)
}
