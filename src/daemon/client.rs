//! A daemon as its clients see it: one method for each request.
//!
//! What is needed of this machine (keys, pinned hosts, the home of a daemon that runs here) is named by [`ClientConfig`].
//! Every failure to get there or to be let in is a [`Kind::Unreachable`](crate::model::Kind) with a hint.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::invitation::Invitation;
use super::requests::enrolment;
use crate::model::host::{AuditEntry, InviteTerms, NewTenant, Role, Tenant, Who};
use crate::model::reference::Address;
use crate::model::sync::{Report, SyncOptions};
use crate::model::{Error, Kind, Reference, Result, TenantName};
use crate::sync::{Cancel, LiveDir, Observer};
use crate::transport::identity::to_hex;
use crate::transport::{Connection, Identity, PublicKey, Stream, dial};
use crate::wire::proto::{self, request, response};
use crate::wire::{host as wire, nonsense, sync as wire_sync};

mod freeze;
mod grants;
mod hosts;
mod look;
mod publish;
mod release;
mod running;
mod schedule;
mod snapshots;
mod sync;
mod web;

pub(super) use freeze::{Lease, freeze};
pub use grants::Rights;
pub use look::{Looking, Tree};
pub use running::{Heard, Talk};
pub use snapshots::{Created, Restore, entry_in as snapshot_in, folder_of, restore_to_tenant};
pub(super) use sync::push_volume;
pub use sync::sync_between;
pub(super) use web::web_dial;

/// A request that is not a sync is answered by then.
const ANSWER: Duration = Duration::from_secs(120);

/// Where a client keeps what it is.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `MCLOUD_CONFIG_DIR`: this client's key and the hosts it knows. Made when it is needed.
    pub config_dir: PathBuf,
    /// `MCLOUD_HOME`: where a daemon of this machine keeps its state; who can read it is its admin.
    pub home: PathBuf,
}

impl ClientConfig {
    fn key(&self) -> PathBuf {
        self.config_dir.join("client.key")
    }

    fn known_hosts(&self) -> PathBuf {
        self.config_dir.join("known_hosts")
    }
}

/// A connection to one daemon.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    who: Who,
    /// The daemon is a process of this machine that sees what we see, and we own its home.
    is_neighbour: bool,
}

impl Client {
    /// Connects to the daemon at `host`, or to the one of this machine.
    pub async fn connect(config: &ClientConfig, host: Option<&Address>) -> Result<Client> {
        let found = hosts::find(config, host).await?;
        let connection = dial(&found.addresses, &found.label, &found.identity, found.host_key).await?;
        let client = Client::over(connection).await?;
        // `MCLOUD_WIRE=always` keeps even neighbours to the wire.
        let wire = std::env::var_os("MCLOUD_WIRE").is_some_and(|value| value == "always");
        Ok(Client { is_neighbour: found.neighbour.is_some() && !wire, ..client })
    }

    /// A daemon that is connected already.
    pub(super) async fn over(connection: Connection) -> Result<Client> {
        // Being refused may come a moment after the handshake; asking who we are waits for that.
        match call(&connection, request::What::Whoami(proto::Whoami {})).await? {
            response::What::Me(me) => Ok(Client { connection, who: who_in(me)?, is_neighbour: false }),
            _ => Err(unexpected()),
        }
    }

    /// How long so many bytes take to get there, as far as the round trips tell.
    pub(super) fn ramp(&self, bytes: u64) -> Duration {
        self.connection.ramp(bytes)
    }

    /// Where it was reached.
    pub(super) fn reached(&self) -> std::net::SocketAddr {
        self.connection.remote_address()
    }

    /// Uses an invitation up: pins the host's key and enrols this client's. Returns the host's address as it is pinned.
    pub async fn login(config: &ClientConfig, invitation: &str) -> Result<(Address, Who)> {
        let invitation = Invitation::parse(invitation)?;
        let once = Identity::from_seed(invitation.seed)?;
        let identity = Identity::load_or_create(&config.key())?;
        let addresses: Vec<String> = invitation.addresses.iter().map(ToString::to_string).collect();
        let label = format!("the host at {}", addresses.join(", "));
        let used = |error: Error| match error.message.contains("does not know our key") {
            true => Error::new(Kind::Unreachable, "the invitation was used already, or has expired")
                .hint("ask an admin of that host for a new one (`mcloud invite`)"),
            false => error,
        };
        let connection = dial(&invitation.addresses, &label, &once, invitation.host_key).await.map_err(used)?;
        let proof = identity.sign(&enrolment(&invitation.host_key, &once.public()));
        let enrol = proto::Enrol {
            key: Bytes::copy_from_slice(&identity.public().0),
            proof: proof.into(),
            label: hosts::own_label(),
        };
        // Pinned before the invitation is used up: it cannot be used a second time.
        hosts::pin(config, &invitation.addresses, invitation.host_key)?;
        let reached = connection.remote_address();
        let answered = call(&connection, request::What::Enrol(enrol)).await.map_err(used);
        connection.bye().await;
        let response::What::Me(me) = answered? else { return Err(unexpected()) };
        Ok((Address { host: reached.ip().to_string(), port: Some(reached.port()) }, who_in(me)?))
    }

    /// Asks the daemon to read a folder of its machine, whoever we are.
    #[cfg(test)]
    pub async fn ask_to_read(&self, folder: &std::path::Path, to: &Reference) -> Result<Report> {
        struct Yes;
        impl Observer for Yes {
            fn event(&self, _: crate::model::sync::Event) {}
            fn confirm(&self, _: &crate::model::sync::Plan) -> Result<bool> {
                Ok(true)
            }
        }
        let from = LiveDir { root: folder.to_owned(), index: None, label: folder.display().to_string() };
        let options = SyncOptions { force: true, ..SyncOptions::default() };
        sync::push_to_neighbour(
            self,
            &from,
            &crate::model::between::one_volume(to)?,
            &options,
            Arc::new(Yes),
            Cancel::default(),
        )
        .await
    }

    /// Ends the connection so that the daemon knows at once.
    pub async fn close(self) {
        self.connection.bye().await;
    }

    /// Who we are to the daemon.
    pub fn whoami(&self) -> &Who {
        &self.who
    }

    /// An invitation to print: what [`Client::login`] takes.
    pub async fn invite(&self, terms: &InviteTerms) -> Result<String> {
        let invite = proto::Invite {
            role: terms.role.word().to_owned(),
            tenants: wire::globs_out(&terms.tenants),
            expires_seconds: terms.expires.as_secs(),
        };
        let response::What::Invitation(made) = self.ask(request::What::Invite(invite)).await? else {
            return Err(unexpected());
        };
        let parsed = PublicKey::from_slice(&made.host_key).zip(made.seed.as_ref().try_into().ok());
        let (host_key, seed) = parsed.ok_or_else(|| nonsense("an invitation without its keys"))?;
        let addresses: Option<Vec<_>> = made.addresses.iter().map(|address| address.parse().ok()).collect();
        let mut addresses = addresses.ok_or_else(|| nonsense("an invitation without an address"))?;
        // Where we found the host is where others do, unless that is only good on this machine.
        let reached = self.connection.remote_address();
        if !reached.ip().is_loopback() {
            addresses.retain(|address| *address != reached);
            addresses.insert(0, reached);
        }
        Ok(Invitation { host_key, seed, addresses }.to_text())
    }

    /// What was done here, oldest first.
    pub async fn audit(&self, tenant: Option<&TenantName>, since_unix: u64) -> Result<Vec<AuditEntry>> {
        let audit = proto::Audit { tenant: tenant.map(ToString::to_string).unwrap_or_default(), since_unix };
        let response::What::Audit(entries) = self.ask(request::What::Audit(audit)).await? else {
            return Err(unexpected());
        };
        let entry = |entry: proto::AuditEntry| AuditEntry {
            at_unix: entry.at_unix,
            key: to_hex(&entry.key),
            label: entry.label,
            what: entry.what,
            on: entry.on,
            result: entry.result,
        };
        Ok(entries.entries.into_iter().map(entry).collect())
    }

    pub async fn tenant_init(&self, new: &NewTenant) -> Result<Tenant> {
        only(self.tenants(request::What::TenantInit(wire::new_tenant_out(new))).await?)
    }

    /// The tenants that we may see, by name.
    pub async fn tenant_list(&self) -> Result<Vec<Tenant>> {
        self.tenants(request::What::TenantList(proto::TenantList {})).await
    }

    /// Forgets a tenant. Its volumes stay where they are, unless `scrub_data`.
    pub async fn tenant_remove(&self, name: &TenantName, scrub_data: bool) -> Result<Tenant> {
        let remove = proto::TenantRemove { tenant: name.to_string(), scrub_data };
        only(self.tenants(request::What::TenantRemove(remove)).await?)
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
        sync::push(self, from, to, options, observer, cancel).await
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
        sync::pull(self, from, to, options, observer, cancel).await
    }

    async fn tenants(&self, what: request::What) -> Result<Vec<Tenant>> {
        match self.ask(what).await? {
            response::What::Tenants(tenants) => tenants.tenants.into_iter().map(wire::tenant_in).collect(),
            _ => Err(unexpected()),
        }
    }

    async fn ask(&self, what: request::What) -> Result<response::What> {
        call(&self.connection, what).await
    }
}

/// One request, one answer. A failure that the daemon reports is an error here.
async fn call(connection: &Connection, what: request::What) -> Result<response::What> {
    let asked = async {
        let mut stream = start(connection, what).await?;
        stream.sender.finish();
        answer(&mut stream).await
    };
    let late = |_| Error::new(Kind::Unreachable, format!("{} does not answer", connection.label()));
    tokio::time::timeout(ANSWER, asked).await.map_err(late)?
}

/// Opens a stream with a request.
async fn start(connection: &Connection, what: request::What) -> Result<Stream> {
    let mut stream = connection.open().await?;
    stream.send(&proto::Request { what: Some(what) }).await?;
    Ok(stream)
}

async fn answer(stream: &mut Stream) -> Result<response::What> {
    match stream.receive::<proto::Response>().await? {
        Some(proto::Response { what: Some(response::What::Failure(failure)) }) => Err(wire_sync::failure_in(failure)),
        Some(proto::Response { what: Some(what) }) => Ok(what),
        _ => Err(unexpected()),
    }
}

/// A stream that is a link to a source at the other end.
pub(super) async fn open_source(connection: &Connection, open: proto::SourceOpen) -> Result<Stream> {
    let mut stream = start(connection, request::What::SourceOpen(open)).await?;
    match answer(&mut stream).await? {
        response::What::Done(_) => Ok(stream),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> Error {
    nonsense("an answer to something else")
}

fn only<T>(mut list: Vec<T>) -> Result<T> {
    match list.pop() {
        Some(one) if list.is_empty() => Ok(one),
        _ => Err(unexpected()),
    }
}

fn who_in(me: proto::Me) -> Result<Who> {
    Ok(Who {
        key: to_hex(&me.key),
        label: me.label,
        role: if me.role.is_empty() { Role::Viewer } else { wire::role_in(&me.role)? },
        tenants: wire::globs_in(&me.tenants)?,
        host_key: to_hex(&me.host_key),
        version: me.version,
    })
}
