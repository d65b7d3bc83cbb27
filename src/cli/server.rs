//! `mcloud server`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::daemon::{self, ServerConfig, StoreConfig};
use crate::model::{Error, Result};
use crate::proxy::Acme;
use crate::tenant::docker::SOCKET;

use super::context::{self, Context};

/// Run the daemon of this machine
///
/// Serves until SIGTERM or Ctrl-C, then lets what runs come to a safe place and stops. When all listeners serve, it prints one
/// line: `ready listen=… http=… https=… admin=…`. Port 0 picks a free one.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud server
  mcloud server --home /srv/mcloud --listen 203.0.113.5:7080
  mcloud server --home ./try --listen 127.0.0.1:0 --http 127.0.0.1:0 --https 127.0.0.1:0 --admin 127.0.0.1:0")]
pub struct Server {
    /// Where its state lives; default $MCLOUD_HOME, else /var/lib/mcloud for root, ~/.local/share/mcloud for others
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Where clients and other hosts come in (QUIC, UDP)
    #[arg(long, value_name = "ADDR:PORT", env = "MCLOUD_LISTEN", default_value = "0.0.0.0:7080", value_parser = listener)]
    listen: SocketAddr,
    /// Where the tenants' pages are served
    #[arg(long, value_name = "ADDR:PORT", env = "MCLOUD_HTTP", default_value = "0.0.0.0:80", value_parser = listener)]
    http: SocketAddr,
    /// Where the tenants' pages are served with TLS
    #[arg(long, value_name = "ADDR:PORT", env = "MCLOUD_HTTPS", default_value = "0.0.0.0:443", value_parser = listener)]
    https: SocketAddr,
    /// Where the /metrics and /healthz are
    #[arg(long, value_name = "ADDR:PORT", env = "MCLOUD_ADMIN", default_value = "127.0.0.1:7081", value_parser = listener)]
    admin: SocketAddr,
    /// Docker's socket; without Docker, syncs work and tenants do not run
    #[arg(long, value_name = "URL", env = "MCLOUD_DOCKER", default_value = SOCKET)]
    docker: String,
    /// A tenant is frozen for a copy so long at the most
    #[arg(long, value_name = "SECS", env = "MCLOUD_FREEZE_LIMIT", default_value = "60", value_parser = clap::value_parser!(u32).range(1..))]
    freeze_limit: u32,
    /// The longest that a request for a paused tenant waits before it is told to come again, seconds
    #[arg(long, value_name = "SECS", env = "MCLOUD_HOLD", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    hold: u32,
    /// Where snapshots are kept: s3://BUCKET/PREFIX, credentials from the AWS_ variables; default: in the home
    #[arg(long, value_name = "URL", env = "MCLOUD_STORE")]
    store: Option<String>,
    /// The key that seals the store, made if there is none; a bucket is sealed with the home's keys/store.key where this is left out
    #[arg(long, value_name = "FILE", env = "MCLOUD_STORE_KEY")]
    store_key: Option<PathBuf>,
    /// Keep snapshots in a bucket unsealed
    #[arg(long, env = "MCLOUD_STORE_PLAIN", conflicts_with = "store_key")]
    store_plain: bool,
    /// The directory of the CA that makes certificates (ACME)
    #[arg(
        long,
        value_name = "URL",
        env = "MCLOUD_ACME",
        default_value = "https://acme-v02.api.letsencrypt.org/directory"
    )]
    acme: String,
    /// A PEM file with the root of that CA, where the system does not know it
    #[arg(long, value_name = "FILE", env = "MCLOUD_ACME_ROOT")]
    acme_root: Option<PathBuf>,
}

fn listener(text: &str) -> Result<SocketAddr, String> {
    let whole = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    whole.parse().map_err(|_| "expected ADDR:PORT, such as 0.0.0.0:7080 or [::]:7080".to_owned())
}

pub fn run(arguments: Server, context: &Context) -> Result<u8> {
    let Server { home, listen, http, https, admin, docker, freeze_limit, hold, acme, acme_root, .. } = arguments;
    let store = StoreConfig { url: arguments.store, key: arguments.store_key, plain: arguments.store_plain };
    let home = match home {
        Some(home) => home,
        None => context::daemon_home()?,
    };
    let home = std::path::absolute(&home)
        .map_err(|cause| Error::io(format!("{} is not a folder's name", home.display()), cause))?;
    context.out.detail(format!("home {}", home.display()));
    let [freeze_limit, hold] = [freeze_limit, hold].map(|seconds| Duration::from_secs(seconds.into()));
    let acme = Acme { directory: acme, root: acme_root };
    let config = ServerConfig { home, listen, http, https, admin, docker, freeze_limit, hold, store, acme };
    context::block_on(daemon::serve(config))?;
    Ok(0)
}
