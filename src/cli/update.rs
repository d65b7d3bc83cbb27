//! `mcloud update`.

use std::path::PathBuf;

use clap::Args;

use super::context::{self, Context};
use super::{act, init};
use crate::model::Result;
use crate::model::running::{Act, Verb};

/// Give a tenant a new mcloud.yml and recreate just what it changes
///
/// Containers that stay as they are go on running; what ran is started again.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud update shop                     the mcloud.yml of this folder
  mcloud update shop deploy/mcloud.yml")]
pub struct Update {
    /// The tenant; default: called as this folder is
    tenant: Option<String>,
    /// Its mcloud.yml, or the folder that holds one; default: this folder
    #[arg(value_name = "FILE|DIR")]
    config: Option<PathBuf>,
}

pub fn run(arguments: &Update, context: &Context) -> Result<u8> {
    let (tenant, host) = context.tenant(arguments.tenant.as_deref())?;
    let text = init::read(arguments.config.as_deref())?;
    let config = Some(text);
    let act = Act { verb: Verb::Update, tenant, service: None, scrub_data: false, config, env: None, hooks: false };
    context::block_on(async { act::perform(&context::connect(&host).await?, &act, context).await })?;
    act::done(Verb::Update, &act, context);
    Ok(0)
}
