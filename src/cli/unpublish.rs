//! `mcloud unpublish`.

use clap::Args;
use serde_json::json;

use super::context::{self, Context};
use super::routes;
use crate::model::{Domain, Result};

/// Take a domain away from the tenant it leads to
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud unpublish shop.example.com
  mcloud unpublish shop.example.com --ssl")]
pub struct Unpublish {
    /// The domain
    domain: Domain,
    /// The route for TLS
    #[arg(long)]
    ssl: bool,
}

pub fn run(arguments: &Unpublish, context: &Context) -> Result<u8> {
    let (domain, ssl) = (&arguments.domain, arguments.ssl);
    let gone = context::block_on(async { context.connect().await?.unpublish(domain, ssl).await })?;
    context.out.line(format!("{} leads nowhere, no longer to {}", routes::name(&gone.route), gone.route.tenant));
    let mut fields = routes::event(&gone);
    fields["event"] = json!("done");
    context.out.done(fields);
    Ok(0)
}
