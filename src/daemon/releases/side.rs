//! The two tenants of a release, each wherever it lives: this host acts on its own, and asks the other host for the other.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::FutureExt;

use super::*;
use crate::daemon::client::{Client, push_volume};
use crate::daemon::copies::{Copy, From, Services};
use crate::daemon::far::{self, Attention};
use crate::daemon::syncs;
use crate::model::host::{FarHost, Tenant};
use crate::model::running::{Act, Verb};
use crate::model::{Seat, ServiceName};
use crate::tenant::config;

/// One of the two.
pub(super) enum Side {
    Here(Box<Crew>),
    There(Box<There>),
}

/// A tenant of another host.
pub(super) struct There {
    seat: Seat,
    far: FarHost,
    client: Client,
    tenant: Tenant,
    config: config::Config,
    _watched: Attention,
}

impl Side {
    /// `far`: how its host is reached, where that is not noted yet.
    pub(super) async fn of(daemon: &Arc<Daemon>, who: &Principal, seat: &Seat, far: Option<&FarHost>) -> Result<Side> {
        who.may(Role::Deployer, &seat.tenant)?;
        if let Some(tenant) = seat.if_here() {
            return Ok(Side::Here(Box::new(lives::crew(daemon, Some(who), tenant).await?)));
        }
        let far = match far {
            Some(far) => far.clone(),
            None => far::noted(daemon, seat)?,
        };
        errands::run_of(daemon, seat).await?;
        let client = far::visit(daemon, seat, &far).await?;
        let (tenant, text) = client.config(&seat.tenant).await?;
        let config = match text.trim().is_empty() {
            true => config::Config { services: Vec::new(), hosts: Vec::new(), commands: Vec::new() },
            false => config::parse(&text, tenant.env.as_deref())?,
        };
        let watched = far::attend(daemon, seat)?;
        Ok(Side::There(Box::new(There { seat: seat.clone(), far, client, tenant, config, _watched: watched })))
    }

    pub(super) fn seat(&self) -> Seat {
        match self {
            Side::Here(crew) => Seat::here(&crew.row.tenant.name),
            Side::There(there) => there.seat.clone(),
        }
    }

    pub(super) fn there(&self) -> Option<&There> {
        match self {
            Side::Here(_) => None,
            Side::There(there) => Some(there),
        }
    }

    pub(super) fn tenant(&self) -> &Tenant {
        match self {
            Side::Here(crew) => &crew.row.tenant,
            Side::There(there) => &there.tenant,
        }
    }

    pub(super) fn services(&self) -> &[Service] {
        match self {
            Side::Here(crew) => &crew.config.services,
            Side::There(there) => &there.config.services,
        }
    }

    /// What its services are asked to be; those of which nothing is asked are not among them.
    pub(super) async fn wanted(&self, daemon: &Daemon) -> Result<BTreeMap<String, Wanted>> {
        match self {
            Side::Here(crew) => daemon.state.wanted(&crew.row.tenant.name),
            Side::There(there) => {
                let status = there.client.status(Some(&there.tenant.name), false).await?;
                let services = status.into_iter().flat_map(|status| status.services);
                let asked = services.filter(|service| service.wanted != Wanted::None);
                Ok(asked.map(|service| (service.name.to_string(), service.wanted)).collect())
            }
        }
    }

    /// Stops all of it, for as long as the release does not start it.
    pub(super) async fn stop(&self, say: &Say) -> Result<()> {
        match self {
            Side::Here(crew) => {
                let all: Vec<&Service> = crew.config.services.iter().collect();
                crew.down(&all, "is about to be released");
                crew.site(say).stop(&all).await
            }
            Side::There(there) => there.act(Verb::Stop, false, say).await,
        }
    }

    /// Starts all of it and waits until it is well.
    pub(super) async fn start(&self, say: &Say) -> Result<()> {
        match self {
            Side::Here(crew) => {
                let all: Vec<&Service> = crew.config.services.iter().collect();
                crew.start(&crew.site(say), &all).await
            }
            Side::There(there) => there.act(Verb::Start, false, say).await,
        }
    }

    /// Starts what was frozen or stopped, with what its services want to be done after a freeze.
    pub(super) async fn come_back(&self, daemon: &Arc<Daemon>, say: &Say) -> Result<()> {
        self.start(say).await?;
        match self {
            Side::Here(crew) => {
                let (site, door) = (crew.site(say), door::of(daemon, &self.seat()));
                let services: Vec<&Service> = crew.config.services.iter().collect();
                let freezer = Freezer::new(&site, services, &*door, frozen::limits(daemon));
                freezer.after(freezer.services.len()).await;
                Ok(())
            }
            Side::There(there) => there.act(Verb::Resume, true, say).await,
        }
    }

    /// Whether nobody has thawed a tenant of another host since it was frozen.
    pub(super) async fn stood_still(&self) -> Result<()> {
        let Side::There(there) = self else { return Ok(()) };
        let status = there.client.status(Some(&there.tenant.name), false).await?;
        if status.iter().flat_map(|status| &status.services).any(|service| service.wanted == Wanted::Running) {
            return Err(Error::new(Kind::Busy, format!("`{}` was started again while it was copied", there.seat)));
        }
        Ok(())
    }

    /// After anything was done to it: the proxy knows what serves it, and nobody waits for it any more.
    pub(super) async fn after(&self, daemon: &Arc<Daemon>, say: &Say) -> Result<()> {
        match self {
            Side::Here(crew) => {
                publishing::after(daemon, &crew.row.tenant.name, say).await;
                Ok(())
            }
            Side::There(there) => far::is_served(daemon, &there.seat).await,
        }
    }

    /// Brings its services back to what they had been asked to be.
    pub(super) async fn put_back(&self, daemon: &Arc<Daemon>, was: &BTreeMap<String, Wanted>, say: &Say) -> Result<()> {
        match self {
            Side::Here(crew) => {
                let tenant = &crew.row.tenant.name;
                want(daemon, tenant, was)?;
                let now = lives::crew(daemon, None, tenant).await?;
                now.settle(&now.site(say)).await?;
                publishing::after(daemon, tenant, say).await;
                Ok(())
            }
            Side::There(there) => {
                let Err(error) = settle(&there.client, &there.tenant.name, was, say).await else { return Ok(()) };
                say(None, format!("{} is put back as soon as that can be: {}", there.seat, error.chain()));
                errands::leave_settling(daemon, &there.seat, was)
            }
        }
    }
}

impl There {
    /// What its host has granted now takes the place of what it had granted before.
    pub(super) async fn keep(&self, daemon: &Daemon, far: &FarHost) -> Result<()> {
        if let Some(before) = daemon.state.keep_far(&self.seat, &far.host_key.parse()?, far)? {
            // It may have been taken away there.
            let _ = self.client.grant_revoke(before).await;
        }
        Ok(())
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// `hooks`: those of a freeze run with it.
    pub(super) async fn act(&self, verb: Verb, hooks: bool, say: &Say) -> Result<()> {
        act(&self.client, &self.tenant.name, None, (verb, hooks), say).await
    }
}

async fn act(
    client: &Client,
    tenant: &TenantName,
    service: Option<ServiceName>,
    (verb, hooks): (Verb, bool),
    say: &Say,
) -> Result<()> {
    let act = Act { verb, tenant: tenant.clone(), service, scrub_data: false, config: None, env: None, hooks };
    let noted = |service: &str, text: &str| say(ServiceName::new(service).ok().as_ref(), text.to_owned());
    client.act(&act, noted).await
}

/// Thaws a far tenant.
pub(super) async fn resume(client: &Client, tenant: &TenantName, say: &Say) -> Result<()> {
    act(client, tenant, None, (Verb::Resume, true), say).await
}

/// Brings the services of a far tenant to what they had been asked to be.
pub(super) async fn settle(
    client: &Client,
    tenant: &TenantName,
    was: &BTreeMap<String, Wanted>,
    say: &Say,
) -> Result<()> {
    let status = client.status(Some(tenant), false).await?;
    for service in status.into_iter().flat_map(|status| status.services) {
        let (is, name) = (service.wanted, Some(service.name.clone()));
        // One that had no container may have one now; it does not run.
        let was = was.get(service.name.as_str()).copied().unwrap_or(Wanted::None);
        if was >= Wanted::Running && is != was {
            act(client, tenant, name.clone(), (Verb::Start, false), say).await?;
            if was == Wanted::Paused {
                act(client, tenant, name, (Verb::Pause, false), say).await?;
            }
        } else if was < Wanted::Running && is != Wanted::None {
            act(client, tenant, name, (Verb::Stop, false), say).await?;
        }
    }
    Ok(())
}

/// One volume to its like, from wherever to wherever. `how` is for the audit log.
pub(super) async fn copy(
    (daemon, who): (&Arc<Daemon>, &Principal),
    (from, to): (&Side, &Side),
    volumes: &(VolumeRef, VolumeRef),
    (how, options): (&str, SyncOptions),
    ears: Arc<dyn Observer>,
    cancel: Cancel,
) -> Result<Report> {
    let (source, target) = volumes;
    let label = format!("{source} ({how}, for a release)");
    let (from, client) = match (from, to) {
        (Side::Here(_), Side::Here(_)) => (From::Volume(source.clone()), None),
        (Side::There(there), Side::Here(_)) => {
            let far = syncs::granted(&there.client, source, Bytes::new())?;
            (From::Link(syncs::far(daemon.clone(), far).boxed()), None)
        }
        (Side::Here(_), Side::There(there)) => {
            let tree = copies::live(daemon, who, source).await?;
            // One of its own, so that it is known what went over it.
            let client = far::visit(daemon, &there.seat, &there.far).await?;
            let done = push_volume(&client, &tree, target, &options, ears, cancel).await;
            client.close().await;
            return done;
        }
        (Side::There(_), Side::There(_)) => return Err(Error::failed("a release has to do with one other host")),
    };
    let copy = Copy { label, from, to: target.clone(), options, services: Services::Stopped, client };
    copy.run(daemon, who, ears, cancel).await
}
