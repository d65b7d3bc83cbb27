//! One run of a job: with the rights of who added it, tried again where another host cannot be reached for a while.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::broadcast;

use super::keep;
use crate::daemon::access::Principal;
use crate::daemon::client::{Client, Lease, freeze};
use crate::daemon::copies::{Copy, From, Services, joined};
use crate::daemon::frozen::{Frozen, frozen};
use crate::daemon::state::{JobRow, Standing};
use crate::daemon::{Daemon, syncs, tenants};
use crate::model::between::{Between, Sum, pair};
use crate::model::host::{FarHost, Role, Tenant, VolumeRef};
use crate::model::schedule::{JobCopy, Kept, Work};
use crate::model::sync::{Event, Plan, Report, SyncOptions};
use crate::model::{Error, Kind, Result, ServiceName, TenantName};
use crate::sync::{Cancel, Observer};
use crate::transport::{dial, resolve};

/// Before each further try of a run that did not reach another host.
const AGAIN: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];
/// How often waiting code looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// What a run did.
pub enum Receipt {
    Copied(Report),
    Kept(Kept),
}

/// What a run came to.
pub struct Done {
    pub result: Result<Receipt>,
    pub tries: u32,
}

impl Done {
    pub fn failed(error: Error) -> Done {
        Done { result: Err(error), tries: 1 }
    }
}

/// Does it. `asked`: somebody waits for it, and it is not tried again.
pub async fn job(daemon: &Arc<Daemon>, job: &JobRow, asked: bool, events: broadcast::Sender<Event>) -> Done {
    let cancel = Cancel::default();
    let kill = cancel.clone();
    let what = format!("schedule {}", job.name);
    let on = job.work.on().to_string();
    let _listed = daemon.tasks.begin(&what, &on, &job.by, move || kill.store(true, Ordering::SeqCst));
    let ears = Arc::new(Ears { events, left_out: Mutex::default() });
    let mut tries = 0;
    loop {
        tries += 1;
        let result = once(daemon, job, ears.clone(), cancel.clone()).await;
        let pause = match &result {
            Err(error) if !asked && may_pass(error) => AGAIN.get(tries as usize - 1),
            _ => None,
        };
        let Some(pause) = pause else { return Done { result, tries } };
        if let Err(error) = &result {
            tracing::info!("schedule {}: {}; tried again in {} s", job.name, error.chain(), pause.as_secs());
        }
        let stopped = async {
            while !cancel.load(Ordering::SeqCst) && !daemon.stopping.load(Ordering::SeqCst) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(*pause) => {}
            () = stopped => return Done { result, tries },
        }
    }
}

/// Whether it may go better in a moment: a host that is not reached may come back, one that does not let us in will not.
fn may_pass(error: &Error) -> bool {
    error.kind == Kind::Unreachable && !error.message.contains("does not know our key")
}

async fn once(daemon: &Arc<Daemon>, job: &JobRow, ears: Arc<Ears>, cancel: Cancel) -> Result<Receipt> {
    let (asking, key) = (daemon.clone(), job.by_key);
    let who = joined(tokio::task::spawn_blocking(move || asking.principal(key)).await)?;
    if who.standing == Standing::Unknown {
        let gone = format!("the key of {}, who added this schedule, is not let in any more", job.by);
        return Err(Error::new(Kind::Refused, gone)
            .hint(format!("add it again with a key that may: `mcloud schedule remove {}`, then `add`", job.name)));
    }
    match &job.work {
        Work::Copy(copy) => self::copy(daemon, &who, copy, ears, cancel).await.map(Receipt::Copied),
        Work::Snapshot(snapshot) => {
            let hear = Arc::new(move |event| ears.event(event));
            keep::snapshot(daemon, &who, job, snapshot, hear, cancel).await.map(Receipt::Kept)
        }
    }
}

/// Each volume of the source to its counterpart.
async fn copy(
    daemon: &Arc<Daemon>,
    who: &Principal,
    copy: &JobCopy,
    ears: Arc<Ears>,
    cancel: Cancel,
) -> Result<Report> {
    who.may(Role::Deployer, &copy.to.tenant)?;
    let to = tenant(daemon, who, &copy.to.tenant).await?;
    let (source, from) = match &copy.far {
        None => (None, tenant(daemon, who, &copy.from.tenant).await?),
        Some(far) => {
            let client = visit(daemon, copy, far).await?;
            let from = shown(&client, copy).await?;
            (Some(client), from)
        }
    };
    let between = Between { from: copy.from.clone(), to: copy.to.clone(), code: copy.code };
    let pairs = pair(&between, &from, &to)?;
    let volumes: Vec<VolumeRef> = pairs.iter().map(|(from, _)| from.clone()).collect();
    let views = match (&source, copy.force) {
        (_, false) => Views::Live,
        (None, true) => {
            let apart = from.name == to.name;
            let ears = ears.clone();
            let say = move |service: Option<&ServiceName>, text: String| {
                ears.event(Event::Note(service.map_or(text.clone(), |service| format!("{service}: {text}"))));
            };
            Views::Here(frozen(daemon, who, &from.name, volumes, apart, Arc::new(say), cancel.clone()).await?)
        }
        (Some(client), true) => {
            let force = SyncOptions { force: true, ..SyncOptions::default() };
            let ears: Arc<dyn Observer> = ears.clone();
            Views::There(freeze(client, &volumes, false, &force, &ears, &cancel).await?)
        }
    };
    let mut sum = Sum::default();
    for (from, to) in pairs {
        let label = match &copy.from.host {
            Some(host) => format!("{from} of {host}"),
            None => from.to_string(),
        };
        let source = match (&source, &views) {
            (None, Views::Here(frozen)) => From::View(frozen.view(&from)?, from),
            (None, _) => From::Volume(from),
            (Some(client), views) => {
                let frozen = if let Views::There(lease) = views { lease.id() } else { Bytes::new() };
                From::Link(syncs::far(daemon.clone(), syncs::granted(client, &from, frozen)?).boxed())
            }
        };
        let options = SyncOptions::default();
        let one = Copy { label, from: source, to, options, services: Services::Minded, client: None };
        sum.add(one.run(daemon, who, ears.clone(), cancel.clone()).await?);
    }
    let report = match views {
        Views::Live => sum.report,
        Views::Here(frozen) => Report {
            paused_ms: u64::try_from(frozen.paused.as_millis()).unwrap_or(u64::MAX),
            held_requests: frozen.held.requests,
            ..sum.report
        },
        Views::There(lease) => lease.end(sum.report).await,
    };
    if let Some(client) = source {
        client.close().await;
    }
    Ok(report)
}

/// What is copied: the source as it lives, or as it was at one moment.
enum Views {
    Live,
    Here(Frozen),
    There(Lease),
}

async fn tenant(daemon: &Arc<Daemon>, who: &Principal, name: &TenantName) -> Result<Tenant> {
    let (daemon, who, name) = (daemon.clone(), who.clone(), name.clone());
    let found = tokio::task::spawn_blocking(move || tenants::find(&daemon.state, &name, |name| who.sees(name)));
    Ok(joined(found.await)?.tenant)
}

/// The source's tenant, as its host shows it to us.
async fn shown(client: &Client, copy: &JobCopy) -> Result<Tenant> {
    let all = client.tenant_list().await?;
    all.into_iter().find(|tenant| tenant.name == copy.from.tenant).ok_or_else(|| {
        Error::new(Kind::Refused, format!("{} shows us no tenant `{}`", host_of(copy), copy.from.tenant)).hint(
            "it was removed there, or the grant was (`mcloud access list` at that host); adding the schedule again gives a new one",
        )
    })
}

/// A connection to the source's host, as this host. It is looked for where its name leads now, then where it was.
pub async fn visit(daemon: &Arc<Daemon>, copy: &JobCopy, far: &FarHost) -> Result<Client> {
    let mut addresses: Vec<SocketAddr> = match copy.host() {
        Some(host) => resolve(host).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let noted = far.addresses.iter().filter_map(|address| address.parse().ok());
    for address in noted.collect::<Vec<SocketAddr>>() {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let label = host_of(copy);
    let known = async {
        let connection = dial(&addresses, &label, &daemon.identity, far.host_key.parse()?).await?;
        Client::over(connection).await
    };
    known.await.map_err(|error| match error.kind {
        Kind::Unreachable if !may_pass(&error) => {
            Error::new(Kind::Refused, format!("{label} does not let this host in: what it granted was revoked"))
                .hint("`mcloud schedule remove`, then `add`: that gives a new grant")
        }
        _ => error,
    })
}

fn host_of(copy: &JobCopy) -> String {
    copy.from.host.as_ref().map_or_else(|| "the source's host".to_owned(), ToString::to_string)
}

/// Nobody is there to be asked: what a halt rule stops stays stopped.
struct Ears {
    events: broadcast::Sender<Event>,
    left_out: Mutex<u64>,
}

impl Observer for Ears {
    fn event(&self, event: Event) {
        if let Event::LeftOut(left) = &event {
            let mut count = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
            *count += 1;
            if *count == 1 {
                tracing::warn!("left out {}: {}", String::from_utf8_lossy(&left.path).escape_debug(), left.reason);
            }
        }
        // Nobody may be watching.
        let _ = self.events.send(event);
    }

    fn confirm(&self, plan: &Plan) -> Result<bool> {
        match plan.halts.first() {
            None => Ok(true),
            Some(halt) => Err(Error::new(Kind::Refused, halt.message.clone()).hint(format!(
                "nobody was there to say yes: look at it with `mcloud sync SRC DST --dry-run`, and if it is meant, sync once by hand ({})",
                halt.hint
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_that_is_not_reached_is_tried_again() {
        assert!(may_pass(&Error::new(Kind::Unreachable, "cannot reach it")));
        assert!(!may_pass(&Error::new(Kind::Unreachable, "h does not know our key")));
        assert!(!may_pass(&Error::new(Kind::Refused, "a halt rule")));
        assert!(!may_pass(&Error::failed("the disk")));
    }
}
