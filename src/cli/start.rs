//! `mcloud start`.

use clap::Args;

use super::context::{self, Context};
use super::{act, init};
use crate::model::running::{Act, Verb};
use crate::model::{Kind, Result};

/// Start a tenant's services, each one once the one before it is up
///
/// Containers are made and images pulled or built where they are missing. A service that does not come up stops the rest and
/// shows the last lines of its log.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud start shop
  mcloud start web.shop
  mcloud start shop --init        makes the tenant from this folder's mcloud.yml if there is none")]
pub struct Start {
    /// The tenant, or one service of it; default: the tenant that is called as this folder is
    #[arg(value_name = "[SERVICE.]TENANT")]
    reference: Option<String>,
    /// Make the tenant from the mcloud.yml of this folder if there is none
    #[arg(long)]
    init: bool,
}

pub fn run(arguments: &Start, context: &Context) -> Result<u8> {
    let (tenant, service, host) = context.service(arguments.reference.as_deref())?;
    let act = Act { verb: Verb::Start, tenant, service, scrub_data: false, config: None, env: None, hooks: false };
    context::block_on(async {
        let client = context::connect(&host).await?;
        match act::perform(&client, &act, context).await {
            Err(error) if error.kind == Kind::NotFound && arguments.init => {
                let tenants = client.tenant_list().await?;
                if tenants.iter().any(|tenant| tenant.name == act.tenant) {
                    return Err(error);
                }
                client.tenant_init(&init::from_folder(&act.tenant)?).await?;
                act::perform(&client, &act, context).await
            }
            done => done,
        }
    })?;
    act::done(Verb::Start, &act, context);
    Ok(0)
}
