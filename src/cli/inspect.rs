//! `mcloud inspect`.

use clap::Args;
use serde_json::{Value, json};

use super::context::{self, Context};
use crate::model::{Error, Result};

/// Show all that Docker knows of a service's container
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud inspect web.shop")]
pub struct Inspect {
    #[arg(value_name = "SERVICE.TENANT")]
    reference: String,
}

pub fn run(arguments: &Inspect, context: &Context) -> Result<u8> {
    let (tenant, service, host) = context.one_service(&arguments.reference)?;
    let told = context::block_on(async { context::connect(&host).await?.inspect(&tenant, &service).await })?;
    let container: Value =
        serde_json::from_str(&told).map_err(|cause| Error::failed("what the host tells is no JSON").because(cause))?;
    let shown = serde_json::to_string_pretty(&container).unwrap_or(told);
    context.out.line(shown);
    context.out.done(json!({"container": container}));
    Ok(0)
}
