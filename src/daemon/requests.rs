//! A connection's requests: each is read, allowed or refused, done, noted and answered.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::access::Principal;
use super::state::{Standing, TenantRow};
use super::{
    Daemon, certs, commands, grants, guests, jobs, leases, lives, looking, looks, now_unix, publishing, releases,
    snapshots, syncs, tenants, upkeep,
};
use crate::model::host::{InviteTerms, Role, TenantGlob};
use crate::model::{Error, Kind, Result, TenantName};
use crate::transport::identity::{Identity, random};
use crate::transport::{Connection, PublicKey, Stream, local_addresses};
use crate::wire::proto::{self, request, response};
use crate::wire::{host as wire, nonsense, running, sync as wire_sync};

/// A stream whose request does not come is given up.
const FIRST_FRAME: Duration = Duration::from_secs(30);
/// Sources that wait for their syncs, for each connection.
const PARKED: usize = 16;
/// How long a ticket is good.
const TICKET_SECONDS: u64 = 60;
const LABEL_CHARS: usize = 64;
/// The longest name or value of a variable.
const VAR_BYTES: usize = 64 << 10;
const INVITE_SECONDS: std::ops::RangeInclusive<u64> = 1..=366 * 86_400;

/// What the streams of one connection share.
#[derive(Default)]
pub struct Session {
    attached: Mutex<HashMap<u64, Slot>>,
}

/// The meeting of a sync and its client's source, whichever comes first.
enum Slot {
    /// The sync is here.
    Waiting(oneshot::Sender<Stream>),
    /// The source is here.
    Parked(Stream),
    /// They have met.
    Met,
    /// The sync has ended without its source, which may still come.
    Ended,
}

impl Session {
    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Slot>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attach(&self, number: u64, stream: Stream) {
        let mut slots = self.slots();
        let parked = slots.values().filter(|slot| matches!(slot, Slot::Parked(_))).count();
        // A stream that is not kept is dropped, and so broken off.
        match slots.remove(&number) {
            Some(Slot::Waiting(waiting)) => {
                drop(waiting.send(stream));
                slots.insert(number, Slot::Met);
            }
            None if parked < PARKED => drop(slots.insert(number, Slot::Parked(stream))),
            _ => {}
        }
    }

    /// The source with this number, as soon as it is there.
    pub async fn attached(&self, number: u64) -> Result<Stream> {
        let arrival = {
            let mut slots = self.slots();
            let (waiting, arrival) = oneshot::channel();
            match slots.insert(number, Slot::Waiting(waiting)) {
                Some(Slot::Parked(stream)) => {
                    slots.insert(number, Slot::Met);
                    return Ok(stream);
                }
                _ => arrival,
            }
        };
        let arrived = tokio::time::timeout(FIRST_FRAME, arrival).await;
        arrived.ok().and_then(Result::ok).ok_or_else(|| nonsense("a sync whose source does not come"))
    }

    /// The sync with this number is over, and its source not wanted any more.
    pub fn end(&self, number: u64) {
        let mut slots = self.slots();
        match slots.remove(&number) {
            Some(Slot::Met | Slot::Parked(_)) => {}
            Some(Slot::Waiting(_) | Slot::Ended) | None => drop(slots.insert(number, Slot::Ended)),
        }
    }
}

/// Serves a connection until it ends.
pub async fn serve(daemon: Arc<Daemon>, connection: Connection) {
    let number = daemon.numbers.fetch_add(1, Ordering::Relaxed);
    daemon.connections().insert(number, connection.clone());
    let session = Arc::new(Session::default());
    let (state, peer) = (daemon.state.clone(), connection.peer());
    tokio::task::spawn_blocking(move || {
        state.seen(&peer, now_unix()).map_err(|error| tracing::warn!("{}", error.chain()))
    });
    // Revoked between the handshake and its entry in the list: nobody else would close it.
    match daemon.principal(connection.peer()) {
        Ok(principal) if principal.standing != Standing::Unknown => {}
        _ => connection.close_revoked(),
    }
    while let Some(stream) = connection.accept().await {
        tokio::spawn(request(daemon.clone(), session.clone(), stream));
    }
    daemon.connections().remove(&number);
}

async fn request(daemon: Arc<Daemon>, session: Arc<Session>, mut stream: Stream) {
    let label = stream.connection().label().to_owned();
    let first = tokio::time::timeout(FIRST_FRAME, stream.receive::<proto::Request>()).await;
    let what = match first {
        Ok(Ok(Some(proto::Request { what: Some(what) }))) => what,
        Ok(Ok(Some(proto::Request { what: None }))) => {
            let error = Error::failed("this host does not know that request").hint("is it older than the client?");
            return fail(stream, &error).await;
        }
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(error)) => {
            tracing::debug!("{label}: {}", error.chain());
            return fail(stream, &error).await;
        }
    };
    let principal = match daemon.principal(stream.connection().peer()) {
        Ok(principal) => principal,
        Err(error) => return fail(stream, &error).await,
    };
    match what {
        request::What::SourceAttach(attach) => session.attach(attach.number, stream),
        request::What::SyncStart(start) => syncs::target(daemon, &session, principal, stream, start).await,
        request::What::SourceOpen(open) => syncs::source(daemon, principal, stream, open).await,
        request::What::Release(start) => releases::serve::start(daemon, principal, stream, start).await,
        request::What::Rollback(start) => releases::serve::back(daemon, principal, stream, start).await,
        request::What::Freeze(wanted) => leases::serve(daemon, principal, stream, wanted).await,
        request::What::Act(act) => lives::act(daemon, principal, stream, act).await,
        request::What::Status(wanted) => looks::status(daemon, principal, stream, wanted).await,
        request::What::Logs(wanted) => looks::logs(daemon, principal, stream, wanted).await,
        request::What::Inspect(wanted) => looks::inspect(daemon, principal, stream, wanted).await,
        request::What::Command(command) => commands::command(daemon, principal, stream, command).await,
        request::What::Publish(publish) => publishing::publish(daemon, principal, stream, publish).await,
        request::What::WebWatch(watch) => guests::watch(daemon, principal, stream, watch).await,
        request::What::WebDial(dial) => guests::dial(daemon, principal, stream, dial).await,
        request::What::LookOpen(open) => looking::serve(daemon, principal, stream, open).await,
        request::What::SnapshotCreate(create) => snapshots::create(daemon, principal, stream, create).await,
        request::What::ScheduleRun(wanted) => jobs::requests::run(daemon, principal, stream, wanted).await,
        request::What::ScheduleChange(change) => jobs::requests::change(daemon, principal, stream, change).await,
        request::What::SnapshotPrune(prune) => upkeep::prune(daemon, principal, stream, prune).await,
        request::What::SnapshotVerify(verify) => upkeep::verify(daemon, principal, stream, verify).await,
        request::What::SnapshotDiff(diff) => upkeep::diff(daemon, principal, stream, diff).await,
        request::What::CertAcme(asked) => certs::acme(daemon, principal, stream, asked).await,
        what => {
            if let request::What::TenantRemove(remove) = &what
                && let Err(error) = lives::end(&daemon, &principal, &remove.tenant).await
            {
                return fail(stream, &error).await;
            }
            let asked = Asked { local_ip: stream.connection().local_ip(), principal };
            let answered = tokio::task::spawn_blocking(move || answer(&daemon, &asked, what)).await;
            match answered.unwrap_or_else(|error| Err(Error::failed("a request broke the daemon").because(error))) {
                Ok(what) => say(&mut stream, what).await,
                Err(error) => fail(stream, &error).await,
            }
        }
    }
}

/// A message as bytes, to be kept.
pub fn encoded(message: &impl prost::Message) -> Vec<u8> {
    message.encode_to_vec()
}

/// Sends the last answer of a stream.
pub async fn say(stream: &mut Stream, what: response::What) {
    if stream.send(&proto::Response { what: Some(what) }).await.is_ok() {
        stream.sender.finish();
        stream.sender.delivered().await;
    }
}

pub async fn fail(mut stream: Stream, error: &Error) {
    say(&mut stream, response::What::Failure(wire_sync::failure_out(error))).await;
}

struct Asked {
    principal: Principal,
    /// Where the client reached us.
    local_ip: Option<IpAddr>,
}

/// Does what is short enough to be done in one go, and notes whatever changes something.
fn answer(daemon: &Arc<Daemon>, asked: &Asked, what: request::What) -> Result<response::What> {
    let who = &asked.principal;
    let noted = |what: &str, tenant: &str, on: &str, work: &mut dyn FnMut() -> Result<response::What>| {
        note(daemon, who, what, tenant, on, work)
    };
    match what {
        request::What::Whoami(_) => me(daemon, who),
        request::What::Invite(invite) => noted("invite", "", &invite.role, &mut || {
            who.may_administrate()?;
            make_invitation(daemon, asked, &invite)
        }),
        request::What::Enrol(enrol) => {
            noted("login", "", &label_of(&enrol.label), &mut || enrol_key(daemon, who, &enrol))
        }
        request::What::AccessList(_) => {
            who.may_administrate()?;
            grants::list(daemon)
        }
        request::What::AccessRevoke(revoke) => noted("revoke", "", &revoke.key.clone(), &mut || {
            who.may_administrate()?;
            grants::revoke(daemon, &revoke.key)
        }),
        request::What::GrantHost(grant) => grants::give(daemon, who, &grant, addresses(daemon, asked.local_ip)),
        request::What::GrantRevoke(revoke) => grants::take_back(daemon, who, revoke.number),
        request::What::Audit(audit) => {
            let tenant = if audit.tenant.is_empty() { None } else { Some(TenantName::new(&audit.tenant)?) };
            match &tenant {
                Some(tenant) => who.may(Role::Viewer, tenant)?,
                None => who.may_administrate()?,
            }
            let entry = |entry: crate::model::host::AuditEntry| {
                let key: PublicKey = entry.key.parse()?;
                Ok(proto::AuditEntry {
                    at_unix: entry.at_unix,
                    key: Bytes::copy_from_slice(&key.0),
                    label: entry.label,
                    what: entry.what,
                    on: entry.on,
                    result: entry.result,
                })
            };
            let entries = daemon.state.audit(tenant.as_ref(), audit.since_unix)?;
            let entries = entries.into_iter().map(entry).collect::<Result<_>>()?;
            Ok(response::What::Audit(proto::AuditEntries { entries }))
        }
        request::What::TenantInit(init) => noted("init", &init.tenant.clone(), &init.tenant.clone(), &mut || {
            let new = wire::new_tenant_in(init.clone())?;
            who.may(Role::Deployer, &new.name)?;
            if new.path.is_some() {
                who.may_administrate()
                    .map_err(|error| Error { message: format!("--path: {}", error.message), ..error })?;
            }
            let tenant = tenants::init(&daemon.home, &daemon.state, &new, now_unix())?;
            Ok(response::What::Tenants(proto::Tenants { tenants: vec![wire::tenant_out(&tenant)] }))
        }),
        request::What::TenantList(_) => {
            who.is_enrolled()?;
            let rows = daemon.state.tenants()?.into_iter().map(|row| row.tenant);
            let tenants =
                rows.filter(|tenant| who.sees(&tenant.name)).map(|tenant| wire::tenant_out(&tenant)).collect();
            Ok(response::What::Tenants(proto::Tenants { tenants }))
        }
        request::What::TenantRemove(remove) => {
            noted("remove", &remove.tenant.clone(), &remove.tenant.clone(), &mut || {
                let name = TenantName::new(&remove.tenant)?;
                who.may(Role::Deployer, &name)?;
                remove_tenant(daemon, who, &name, remove.scrub_data)
            })
        }
        request::What::TicketWanted(wanted) => {
            let volume = wire::volume_in(wanted.source.clone())?;
            noted("ticket", volume.tenant.as_str(), &volume.to_string(), &mut || {
                who.may(Role::Viewer, &volume.tenant)?;
                let host =
                    PublicKey::from_slice(&wanted.host_key).ok_or_else(|| nonsense("a host's key that is none"))?;
                match wanted.snapshot.is_empty() {
                    true => {
                        let row = tenants::find(&daemon.state, &volume.tenant, |name| who.sees(name))?;
                        drop(tenants::live(&daemon.home, &row, &volume)?);
                    }
                    false => drop(snapshots::volume(daemon, who, &wanted.snapshot, &volume)?),
                }
                let (secret, now) = (random::<32>()?, now_unix());
                let good_for = snapshots::ticket(&secret, &wanted.snapshot);
                daemon.state.issue_ticket(&good_for, &host, &volume, now, now + TICKET_SECONDS)?;
                let addresses = addresses(daemon, asked.local_ip).iter().map(SocketAddr::to_string).collect();
                Ok(response::What::Ticket(proto::Ticket { secret: Bytes::copy_from_slice(&secret), addresses }))
            })
        }
        request::What::Config(wanted) => {
            let name = TenantName::new(&wanted.tenant)?;
            who.may(Role::Viewer, &name)?;
            let row = tenants::find(&daemon.state, &name, |name| who.sees(name))?;
            let tenant = Some(wire::tenant_out(&row.tenant));
            Ok(response::What::Config(proto::ConfigText { tenant, text: row.config }))
        }
        request::What::SnapshotList(_) => snapshots::list(daemon, who),
        request::What::SnapshotFind(find) => snapshots::find(daemon, who, &find.snapshots),
        request::What::SnapshotRemove(remove) => snapshots::remove(daemon, who, &remove.snapshots),
        request::What::VarSet(var) => {
            let what = if var.value.is_some() { "set" } else { "unset" };
            noted(what, "", &var.name.clone(), &mut || {
                who.may_administrate()?;
                set_var(daemon, &var)
            })
        }
        request::What::VarList(_) => {
            who.may_administrate()?;
            // Never their values.
            let names = daemon.state.vars()?.into_iter().map(|(name, _)| name).collect();
            Ok(response::What::Vars(proto::Vars { names }))
        }
        request::What::Unpublish(unpublish) => publishing::unpublish(daemon, who, &unpublish),
        request::What::RouteList(_) => publishing::list(daemon, who),
        request::What::ReleaseHistory(_) => releases::serve::history(daemon, who),
        request::What::CertAdd(add) => certs::add(daemon, who, &add),
        request::What::CertList(_) => certs::list(daemon, who),
        request::What::CertRemove(remove) => certs::remove(daemon, who, &remove),
        request::What::TaskList(_) => {
            who.is_enrolled()?;
            let tasks = daemon.tasks.list().into_iter().filter(|task| sees_task(who, &task.on));
            Ok(response::What::Tasks(proto::Tasks { tasks: tasks.map(|task| running::task_out(&task)).collect() }))
        }
        request::What::TaskKill(kill) => noted("kill", "", &kill.number.to_string(), &mut || {
            let gone = || {
                Error::new(Kind::NotFound, format!("there is no task {}", kill.number))
                    .hint("`mcloud ps` lists those there are")
            };
            let task = daemon.tasks.find(kill.number).filter(|task| sees_task(who, &task.on)).ok_or_else(gone)?;
            who.may(Role::Deployer, &tenant_of(&task.on)?)?;
            if !daemon.tasks.kill(kill.number) {
                return Err(gone());
            }
            Ok(response::What::Tasks(proto::Tasks { tasks: vec![running::task_out(&task)] }))
        }),
        request::What::ScheduleAdd(add) => jobs::requests::add(daemon, who, add),
        request::What::ScheduleList(wanted) => jobs::requests::list(daemon, who, &wanted.name),
        request::What::ScheduleHistory(wanted) => jobs::requests::history(daemon, who, &wanted),
        request::What::ScheduleRun(_)
        | request::What::ScheduleChange(_)
        | request::What::SyncStart(_)
        | request::What::SourceAttach(_)
        | request::What::SourceOpen(_)
        | request::What::Act(_)
        | request::What::Freeze(_)
        | request::What::Release(_)
        | request::What::Rollback(_)
        | request::What::Status(_)
        | request::What::Logs(_)
        | request::What::Inspect(_)
        | request::What::Command(_)
        | request::What::Publish(_)
        | request::What::WebWatch(_)
        | request::What::WebDial(_)
        | request::What::SnapshotCreate(_)
        | request::What::SnapshotPrune(_)
        | request::What::SnapshotVerify(_)
        | request::What::SnapshotDiff(_)
        | request::What::LookOpen(_)
        | request::What::CertAcme(_) => Err(nonsense("a request on the wrong stream")),
    }
}

/// The tenant of `[SERVICE.]TENANT[:/VOLUME]`.
fn tenant_of(on: &str) -> Result<TenantName> {
    let name = on.split_once(':').map_or(on, |(name, _)| name);
    TenantName::new(name.rsplit('.').next().unwrap_or(name))
}

fn sees_task(who: &Principal, on: &str) -> bool {
    tenant_of(on).is_ok_and(|tenant| who.sees(&tenant))
}

fn set_var(daemon: &Daemon, var: &proto::VarSet) -> Result<response::What> {
    let name = &var.name;
    let good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !good || name.len() > VAR_BYTES {
        return Err(Error::usage(format!("`{}` cannot be the name of a variable", name.escape_debug()))
            .hint("letters, digits and `_`, such as DATABASE_URL"));
    }
    if var.value.as_ref().is_some_and(|value| value.len() > VAR_BYTES || value.contains('\0')) {
        return Err(Error::usage(format!("the value of {name} has {VAR_BYTES} bytes at the most, and no NUL")));
    }
    let changed = daemon.state.set_var(name, var.value.as_deref())?;
    if !changed && var.value.is_none() {
        return Err(Error::new(Kind::NotFound, format!("there is no variable {name}"))
            .hint("`mcloud vars` lists those there are"));
    }
    Ok(response::What::Done(proto::Done {}))
}

/// Notes what is done, before it is done and how it ended.
pub fn note<T>(
    daemon: &Daemon,
    who: &Principal,
    what: &str,
    tenant: &str,
    on: &str,
    work: &mut dyn FnMut() -> Result<T>,
) -> Result<T> {
    let number = daemon.state.audit_begin(&who.key, &who.label(), what, tenant, on, now_unix())?;
    let done = work();
    let result = match &done {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{}: {}", error.kind.word(), error.chain()),
    };
    daemon.state.audit_end(number, &result)?;
    done
}

fn me(daemon: &Daemon, who: &Principal) -> Result<response::What> {
    let (role, tenants) = match &who.standing {
        Standing::Enrolled { role, tenants, .. } => (role.word(), wire::globs_out(tenants)),
        _ => ("", Vec::new()),
    };
    Ok(response::What::Me(proto::Me {
        key: Bytes::copy_from_slice(&who.key.0),
        label: who.label(),
        role: role.to_owned(),
        tenants,
        host_key: Bytes::copy_from_slice(&daemon.identity.public().0),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}

/// Where others may find this daemon: where this client did first, unless that is only good on this machine.
fn addresses(daemon: &Daemon, reached: Option<IpAddr>) -> Vec<SocketAddr> {
    let mut ips = match daemon.listen.ip() {
        ip if ip.is_unspecified() => local_addresses(),
        ip => vec![ip],
    };
    ips.retain(|ip| daemon.listen.is_ipv6() || ip.is_ipv4());
    if let Some(reached) = reached.map(|ip| ip.to_canonical()).filter(|ip| !ip.is_loopback()) {
        ips.retain(|ip| *ip != reached);
        ips.insert(0, reached);
    }
    ips.into_iter().map(|ip| SocketAddr::new(ip, daemon.listen.port())).collect()
}

fn make_invitation(daemon: &Daemon, asked: &Asked, invite: &proto::Invite) -> Result<response::What> {
    let role = wire::role_in(&invite.role)?;
    let mut tenants = wire::globs_in(&invite.tenants)?;
    if role == Role::Admin {
        tenants.clear();
    } else if tenants.is_empty() {
        tenants.push(TenantGlob::new("*")?);
    }
    if !INVITE_SECONDS.contains(&invite.expires_seconds) {
        return Err(Error::usage("an invitation expires after a second at the least and a year at the most"));
    }
    let key = Identity::generate()?;
    let now = now_unix();
    let terms = InviteTerms { role, tenants, expires: Duration::from_secs(invite.expires_seconds) };
    daemon.state.invite(&key.public(), &terms, now)?;
    Ok(response::What::Invitation(proto::Invitation {
        seed: Bytes::copy_from_slice(key.seed()),
        host_key: Bytes::copy_from_slice(&daemon.identity.public().0),
        addresses: addresses(daemon, asked.local_ip).iter().map(SocketAddr::to_string).collect(),
        expires_unix: now + invite.expires_seconds,
    }))
}

/// What the key that is to be enrolled signs.
pub fn enrolment(host: &PublicKey, invitation: &PublicKey) -> Vec<u8> {
    [b"mcloud enrol".as_slice(), &host.0, &invitation.0].concat()
}

fn label_of(text: &str) -> String {
    let label: String = text.chars().filter(|c| !c.is_control() && !c.is_whitespace()).take(LABEL_CHARS).collect();
    if label.is_empty() { "unnamed".to_owned() } else { label }
}

fn enrol_key(daemon: &Daemon, who: &Principal, enrol: &proto::Enrol) -> Result<response::What> {
    let key = PublicKey::from_slice(&enrol.key).ok_or_else(|| nonsense("a key that is none"))?;
    if !key.verifies(&enrolment(&daemon.identity.public(), &who.key), &enrol.proof) {
        return Err(Error::new(Kind::Refused, "the key that asks to be enrolled did not prove itself"));
    }
    if key == daemon.local_key {
        return Err(Error::new(Kind::Refused, "the key of the host's own home is enrolled already"));
    }
    daemon.state.accept(&who.key, &key, &label_of(&enrol.label), now_unix())?;
    me(daemon, &daemon.principal(key)?)
}

fn remove_tenant(daemon: &Arc<Daemon>, who: &Principal, name: &TenantName, scrub_data: bool) -> Result<response::What> {
    let row: TenantRow = tenants::find(&daemon.state, name, |name| who.sees(name))?;
    let mut held = Vec::new();
    for volume in tenants::all_volumes(&row.tenant) {
        let root = match &volume.data {
            None => row.tenant.path.clone().into(),
            Some(_) => daemon.home.volume(&volume),
        };
        let busy =
            |_| Error::new(Kind::Busy, format!("a sync into {volume} is under way")).hint("wait for it, or stop it");
        held.push(daemon.write_lock(&root).lock.try_lock_owned().map_err(busy)?);
    }
    tenants::remove(&daemon.home, &daemon.state, &row, scrub_data)?;
    // Its domains went with it.
    publishing::load_routes(daemon)?;
    Ok(response::What::Tenants(proto::Tenants { tenants: vec![wire::tenant_out(&row.tenant)] }))
}
