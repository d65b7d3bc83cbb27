//! The composition root of a host: its state, what may be asked of it, and the syncs it runs. And its client side.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::model::{Error, Result};

pub mod client;

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where all its state lives; made with mode 0700.
    pub home: PathBuf,
    /// QUIC, over UDP.
    pub listen: SocketAddr,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub admin: SocketAddr,
}

/// Runs a daemon until it is told to stop (SIGTERM, SIGINT). Prints its `ready` line to standard output.
pub async fn serve(config: ServerConfig) -> Result<()> {
    let _ = config;
    Err(Error::failed("not built yet"))
}
