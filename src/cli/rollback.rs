//! `mcloud rollback`.

use clap::{Args, ValueEnum};

use super::context::{self, Context};
use super::release;
use crate::model::{Domain, Result};

/// Move a domain back to the tenant that the last release took it from
///
/// That tenant was frozen since: it is thawed and serves again, with the data as of the release. What was written since is
/// counted and stays where it is; with `--data back` it is copied back first, as a release the other way round.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud rollback shop.example.com
  mcloud rollback shop.example.com --data back")]
pub struct Rollback {
    /// The domain; those that were released with it go back, too
    domain: String,
    /// What becomes of the data that was written since
    #[arg(long, value_name = "WHAT", default_value = "keep")]
    data: Data,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Data {
    /// It stays with the tenant that wrote it
    Keep,
    /// It is copied back
    Back,
}

pub fn run(arguments: &Rollback, context: &Context) -> Result<u8> {
    let domain = Domain::new(&arguments.domain)?;
    let host = context.host()?;
    let receipt = context::block_on(async {
        let client = context::connect(&host).await?;
        client
            .rollback(&domain, arguments.data == Data::Back, |service, text| release::note(context, service, text))
            .await
    })?;
    context.out.line(release::shown(&receipt));
    context.out.done(release::fields(&receipt));
    Ok(0)
}
