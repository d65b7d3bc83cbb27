//! A daemon as its clients see it: one method for each request.
//!
//! What is needed of this machine (keys, pinned hosts, the home of a daemon that runs here) is named by [`ClientConfig`].
//! Every failure to get there or to be let in is a [`Kind::Unreachable`](crate::model::Kind) with a hint.

use std::path::PathBuf;
use std::sync::Arc;

use crate::model::host::{Access, AuditEntry, InviteTerms, NewTenant, Tenant, Who};
use crate::model::reference::Address;
use crate::model::sync::{Report, SyncOptions};
use crate::model::{Error, Reference, Result, TenantName};
use crate::sync::{Cancel, LiveDir, Observer};

/// Where a client keeps what it is.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `MCLOUD_CONFIG_DIR`: this client's key and the hosts it knows. Made when it is needed.
    pub config_dir: PathBuf,
    /// `MCLOUD_HOME`: where a daemon of this machine keeps its state; who can read it is its admin.
    pub home: PathBuf,
}

/// A connection to one daemon.
pub struct Client {}

impl Client {
    /// Connects to the daemon at `host`, or to the one of this machine.
    pub async fn connect(config: &ClientConfig, host: Option<&Address>) -> Result<Client> {
        let _ = (config, host);
        Err(Error::failed("not built yet"))
    }

    /// Uses an invitation up: pins the host's key and enrols this client's. Returns the host's address as it is pinned.
    pub async fn login(config: &ClientConfig, invitation: &str) -> Result<(Address, Who)> {
        let _ = (config, invitation);
        Err(Error::failed("not built yet"))
    }

    /// Who we are to the daemon.
    pub fn whoami(&self) -> &Who {
        unreachable!("nothing connects yet")
    }

    /// An invitation to print: what [`Client::login`] takes.
    pub async fn invite(&self, terms: &InviteTerms) -> Result<String> {
        let _ = terms;
        Err(Error::failed("not built yet"))
    }

    pub async fn access_list(&self) -> Result<Vec<Access>> {
        Err(Error::failed("not built yet"))
    }

    /// `key` may be cut to where it is unique, or be a label. Returns what was revoked.
    pub async fn access_revoke(&self, key: &str) -> Result<Access> {
        let _ = key;
        Err(Error::failed("not built yet"))
    }

    /// What was done here, oldest first.
    pub async fn audit(&self, tenant: Option<&TenantName>, since_unix: u64) -> Result<Vec<AuditEntry>> {
        let _ = (tenant, since_unix);
        Err(Error::failed("not built yet"))
    }

    pub async fn tenant_init(&self, new: &NewTenant) -> Result<Tenant> {
        let _ = new;
        Err(Error::failed("not built yet"))
    }

    /// The tenants that we may see, by name.
    pub async fn tenant_list(&self) -> Result<Vec<Tenant>> {
        Err(Error::failed("not built yet"))
    }

    /// Forgets a tenant. Its volumes stay where they are, unless `scrub_data`.
    pub async fn tenant_remove(&self, name: &TenantName, scrub_data: bool) -> Result<Tenant> {
        let _ = (name, scrub_data);
        Err(Error::failed("not built yet"))
    }

    /// Makes a volume of the daemon equal to a folder of this machine. `to` without a volume is the root volume; its
    /// host does not matter here.
    pub async fn sync_push(
        &self,
        from: &LiveDir,
        to: &Reference,
        options: &SyncOptions,
        observer: Arc<dyn Observer>,
        cancel: Cancel,
    ) -> Result<Report> {
        let _ = (from, to, options, observer, cancel);
        Err(Error::failed("not built yet"))
    }

    /// Makes a folder of this machine equal to a volume of the daemon.
    pub async fn sync_pull(
        &self,
        from: &Reference,
        to: &LiveDir,
        options: &SyncOptions,
        observer: Arc<dyn Observer>,
        cancel: Cancel,
    ) -> Result<Report> {
        let _ = (from, to, options, observer, cancel);
        Err(Error::failed("not built yet"))
    }
}

/// What goes from one tenant to another.
#[derive(Clone, Debug)]
pub struct Between {
    pub from: Reference,
    pub to: Reference,
    /// `--code`: the root volume, too.
    pub code: bool,
}

/// Syncs between tenants, at one daemon or straight from one daemon to another. A reference with a volume is that
/// volume; one without is every data volume, to the one with the same service and path. Several volumes are one sync
/// after the other, each with its own plan and question; their reports are summed (and name roots only when there was one).
///
/// `source` and `target` may be connections to the same daemon.
pub async fn sync_between(
    source: &Client,
    target: &Client,
    between: &Between,
    options: &SyncOptions,
    observer: Arc<dyn Observer>,
    cancel: Cancel,
) -> Result<Report> {
    let _ = (source, target, between, options, observer, cancel);
    Err(Error::failed("not built yet"))
}
