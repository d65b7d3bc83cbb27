//! Tenants that live: their services brought to what is asked of them.
//!
//! What is wanted is written down before anything is done for it. One thing at a time is done to a tenant.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use tokio::sync::Notify;

use super::access::Principal;
use super::folders::Folders;
use super::mouth::{mouth, telling};
use super::publishing;
use super::requests;
use super::state::TenantRow;
use super::{Daemon, door, frozen, now_unix, tenants, uses};
use crate::model::host::Role;
use crate::model::running::{Act, Verb, Wanted};
use crate::model::{Error, Kind, Result, Seat, ServiceName, TenantName};
use crate::release::freeze::{Door, Freezer};
use crate::tenant::config::{self, Config, Service};
use crate::tenant::lifecycle::{Fresh, Site};
use crate::transport::Stream;
use crate::wire::proto::{self, response};
use crate::wire::{running as wire, sync as wire_sync};

/// Hears what is done.
pub type Say = dyn Fn(Option<&ServiceName>, String) + Send + Sync;

/// Everything that is needed to act on one tenant.
pub struct Crew {
    daemon: Arc<Daemon>,
    pub row: TenantRow,
    pub config: Config,
    vars: Vec<(String, String)>,
    owner: String,
    folders: Folders,
}

impl Crew {
    pub fn of(daemon: &Arc<Daemon>, row: TenantRow) -> Result<Crew> {
        let config = match row.config.trim().is_empty() {
            true => Config { services: Vec::new(), hosts: Vec::new(), commands: Vec::new() },
            false => config::parse(&row.config, row.tenant.env.as_deref())?,
        };
        let folders = Folders::of(daemon, &row);
        let owner = daemon.owner();
        Ok(Crew { daemon: daemon.clone(), row, config, vars: daemon.state.vars()?, owner, folders })
    }

    pub fn site<'s>(&'s self, say: &'s Say) -> Site<'s> {
        Site {
            runtime: &*self.daemon.runtime,
            owner: &self.owner,
            tenant: &self.row.tenant.name,
            services: &self.config.services,
            vars: &self.vars,
            folders: &self.folders,
            say,
        }
    }

    fn name(&self) -> &TenantName {
        &self.row.tenant.name
    }

    /// The services that are meant.
    pub fn chosen(&self, service: Option<&ServiceName>) -> Result<Vec<&Service>> {
        let all = &self.config.services;
        if all.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("`{}` has no services", self.name()))
                .hint(format!("`mcloud update {} FILE` gives it an mcloud.yml", self.name())));
        }
        let Some(name) = service else { return Ok(all.iter().collect()) };
        let chosen: Vec<&Service> = all.iter().filter(|service| service.name == *name).collect();
        if chosen.is_empty() {
            let names: Vec<&str> = all.iter().map(|service| service.name.as_str()).collect();
            return Err(Error::new(Kind::NotFound, format!("`{}` has no service `{name}`", self.name()))
                .hint(format!("it has {}", names.join(", "))));
        }
        Ok(chosen)
    }

    fn want(&self, services: &[&Service], wanted: Wanted) -> Result<()> {
        self.daemon.state.want(self.name(), services.iter().map(|service| &service.name), wanted)
    }

    /// Lets go of what is bound for containers when there are none any more.
    fn release_if_done(&self) -> Result<()> {
        if self.daemon.state.wanted(self.name())?.is_empty() {
            self.daemon.binds.release(self.name());
        }
        Ok(())
    }

    /// Those of `services` that were asked to be one of these.
    fn that_are<'s>(&self, services: &[&'s Service], wanted: &[Wanted]) -> Result<Vec<&'s Service>> {
        let known = self.daemon.state.wanted(self.name())?;
        let is = |service: &Service| known.get(service.name.as_str()).copied().unwrap_or(Wanted::None);
        Ok(services.iter().copied().filter(|service| wanted.contains(&is(service))).collect())
    }

    /// These services are to end: the tenant's domains say so from now on.
    pub fn down(&self, services: &[&Service], why: &str) {
        publishing::down(&self.daemon, self.name(), services, &self.config.services, why);
    }

    /// Starts services, which are wanted from then on.
    pub async fn start(&self, site: &Site<'_>, services: &[&Service]) -> Result<()> {
        self.want(services, Wanted::Running)?;
        let started = site.start(services).await;
        // They were all stopped, unless Docker went away: then they are wanted still.
        if started.is_err() && site.runtime.ping().await.is_ok() {
            self.want(services, Wanted::Stopped)?;
        }
        started
    }

    /// Removes the containers of services. As long as they are not known to be gone something is asked of them: they may
    /// run, and what would be in their way has to ask the engine.
    async fn forget(&self, site: &Site<'_>, services: &[&Service]) -> Result<()> {
        self.want(&self.that_are(services, &[Wanted::Running, Wanted::Paused])?, Wanted::Stopped)?;
        self.down(services, "is not running");
        site.destroy(services).await?;
        self.want(services, Wanted::None)
    }

    /// Brings everything to what was asked of it.
    pub async fn settle(&self, site: &Site<'_>) -> Result<()> {
        let all: Vec<&Service> = self.config.services.iter().collect();
        let there = [Wanted::Created, Wanted::Stopped, Wanted::Running, Wanted::Paused];
        site.create(&self.that_are(&all, &there)?).await?;
        site.stop(&self.that_are(&all, &[Wanted::Created, Wanted::Stopped])?).await?;
        let paused = self.that_are(&all, &[Wanted::Paused])?;
        let containers = site.containers().await?;
        let is_paused = |service: &Service| {
            let there = containers.get(service.name.as_str());
            there.is_some_and(|there| there.state == crate::tenant::runtime::State::Paused)
        };
        let running = self.that_are(&all, &[Wanted::Running, Wanted::Paused])?;
        let to_start: Vec<&Service> =
            running.into_iter().filter(|s| !(is_paused(s) && paused.iter().any(|p| p.name == s.name))).collect();
        site.start(&to_start).await?;
        site.pause(&paused).await
    }
}

/// Loads a tenant with its services, off the threads that serve.
pub async fn crew(daemon: &Arc<Daemon>, who: Option<&Principal>, tenant: &TenantName) -> Result<Crew> {
    let (daemon, who, tenant) = (daemon.clone(), who.cloned(), tenant.clone());
    let loaded = tokio::task::spawn_blocking(move || {
        let sees = |name: &TenantName| who.as_ref().is_none_or(|who| who.sees(name));
        Crew::of(&daemon, tenants::find(&daemon.state, &tenant, sees)?)
    });
    loaded.await.unwrap_or_else(|error| Err(Error::failed("a task of the daemon broke").because(error)))
}

/// Does what is asked, and tells of it on this stream. A client that is gone does not stop it; `mcloud kill` does.
pub async fn act(daemon: Arc<Daemon>, who: Principal, mut stream: Stream, asked: proto::Act) {
    let (say, heard) = mouth();
    let working = tokio::spawn(async move { noted(&daemon, &who, asked, &*say).await });
    let done = telling(&mut stream, heard, working).await;
    let what = match done.unwrap_or_else(|error| Err(Error::failed("a task of the daemon broke").because(error))) {
        Ok(()) => response::What::Done(proto::Done {}),
        Err(error) => response::What::Failure(wire_sync::failure_out(&error)),
    };
    requests::say(&mut stream, what).await;
}

async fn noted(daemon: &Arc<Daemon>, who: &Principal, asked: proto::Act, say: &Say) -> Result<()> {
    let act = wire::act_in(asked)?;
    let on = match &act.service {
        Some(service) => format!("{service}.{}", act.tenant),
        None => act.tenant.to_string(),
    };
    let (verb, tenant) = (act.verb.word(), act.tenant.to_string());
    let number = daemon.state.audit_begin(&who.key, &who.label(), verb, &tenant, &on, now_unix())?;
    let killed = Arc::new(Notify::new());
    let stop = killed.clone();
    let _listed = daemon.tasks.begin(verb, &on, &who.label(), move || stop.notify_one());
    let done = tokio::select! {
        done = perform(daemon, who, &act, say) => done,
        () = killed.notified() => Err(Error::new(Kind::Cancelled, format!("`{verb} {on}` was killed"))
            .hint(format!("`mcloud status {tenant}` shows how far it came; the same command again goes on from there"))),
    };
    let result = match &done {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("{}: {}", error.kind.word(), error.chain()),
    };
    publishing::after(daemon, &act.tenant, say).await;
    daemon.state.audit_end(number, &result)?;
    done
}

async fn perform(daemon: &Arc<Daemon>, who: &Principal, act: &Act, say: &Say) -> Result<()> {
    who.may(Role::Deployer, &act.tenant)?;
    let lock = daemon.life_lock(&act.tenant);
    let _held = match lock.clone().try_lock_owned() {
        Ok(held) => held,
        Err(_) => {
            say(None, format!("waiting: something else is done to {}", act.tenant));
            lock.lock_owned().await
        }
    };
    let crew = crew(daemon, Some(who), &act.tenant).await?;
    if act.verb == Verb::Update {
        return update(daemon, who, crew, act, say).await;
    }
    let chosen = crew.chosen(act.service.as_ref())?;
    let site = crew.site(say);
    let door = door::of(daemon, &Seat::here(&act.tenant));
    match act.verb {
        Verb::Create => {
            crew.want(&crew.that_are(&chosen, &[Wanted::None])?, Wanted::Created)?;
            site.create(&chosen).await
        }
        Verb::Start => crew.start(&site, &chosen).await,
        Verb::Stop => {
            crew.want(&crew.that_are(&chosen, &[Wanted::Running, Wanted::Paused])?, Wanted::Stopped)?;
            crew.down(&chosen, "is stopped");
            site.stop(&chosen).await
        }
        Verb::Restart => {
            crew.want(&chosen, Wanted::Running)?;
            crew.down(&chosen, "is started again just now");
            site.stop(&chosen).await?;
            crew.start(&site, &chosen).await
        }
        Verb::Pause => {
            let running = crew.that_are(&chosen, &[Wanted::Running, Wanted::Paused])?;
            if running.is_empty() {
                say(None, "nothing runs that could be paused".to_owned());
            }
            crew.want(&running, Wanted::Paused)?;
            publishing::hold(daemon, &crew.row, say).await;
            let freezer = freezer(daemon, &site, running.clone(), &*door);
            let paused = paused(daemon, &crew, &freezer, act.hooks).await;
            if paused.is_err() {
                crew.want(&running, Wanted::Running)?;
            }
            paused
        }
        Verb::Resume => {
            crew.want(&crew.that_are(&chosen, &[Wanted::Paused])?, Wanted::Running)?;
            site.resume(&chosen).await?;
            if act.hooks {
                freezer(daemon, &site, chosen.clone(), &*door).after(chosen.len()).await;
            }
            Ok(())
        }
        Verb::Destroy => {
            crew.forget(&site, &chosen).await?;
            crew.release_if_done()?;
            scrub(daemon, &crew, &chosen, act.scrub_data).await
        }
        Verb::Rebuild => {
            let lived = [Wanted::Created, Wanted::Stopped, Wanted::Running, Wanted::Paused];
            crew.want(&crew.that_are(&chosen, &[Wanted::None])?, Wanted::Created)?;
            let chosen = crew.that_are(&chosen, &lived)?;
            crew.down(&chosen, "is made anew just now");
            if act.scrub_data {
                site.destroy(&chosen).await?;
                scrub(daemon, &crew, &chosen, true).await?;
            }
            site.renew(&chosen, Fresh { images: true }).await?;
            crew.settle(&site).await
        }
        Verb::Update => Err(Error::failed("an update is done elsewhere")),
    }
}

/// Freezes services; where they cannot all be, none is. `hooks`: another host copies what stands still then.
async fn paused(daemon: &Arc<Daemon>, crew: &Crew, freezer: &Freezer<'_>, hooks: bool) -> Result<()> {
    if hooks {
        freezer.before().await?;
    }
    let volumes = tenants::all_volumes(&crew.row.tenant);
    let paused = async {
        freezer.site.pause(&freezer.services).await?;
        if hooks {
            uses::no_stranger(daemon, &crew.row, &volumes).await?;
            freezer.nothing_runs().await?;
        }
        frozen::doubt_mapped(daemon, volumes).await
    };
    let paused = paused.await;
    if paused.is_err() {
        if let Err(error) = freezer.site.resume(&freezer.services).await {
            tracing::error!("{}", error.chain());
        }
        if hooks {
            freezer.after(freezer.services.len()).await;
        }
    }
    paused
}

fn freezer<'a>(daemon: &Daemon, site: &'a Site<'a>, services: Vec<&'a Service>, door: &'a dyn Door) -> Freezer<'a> {
    Freezer::new(site, services, door, frozen::limits(daemon))
}

/// Takes a new mcloud.yml, recreates what it changes, starts what ran.
async fn update(daemon: &Arc<Daemon>, who: &Principal, old: Crew, act: &Act, say: &Say) -> Result<()> {
    if act.service.is_some() {
        return Err(Error::usage("an mcloud.yml is a tenant's, and a service of one is named"));
    }
    let text = act.config.clone().unwrap_or_else(|| old.row.config.clone());
    let env = act.env.clone().unwrap_or_else(|| old.row.tenant.env.clone());
    let volumes = tenants::data_volumes(&text, env.as_deref())?;
    let services = config::parse(&text, env.as_deref())?.services;
    let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
    let before = daemon.state.wanted(&act.tenant)?;
    daemon.state.reconfigure(&act.tenant, &text, env.as_deref(), &names, &volumes)?;
    if act.config.is_some() {
        tenants::replace_config(&old.row, &text)?;
    }
    let new = crew(daemon, Some(who), &act.tenant).await?;
    // A service that is new does what the others do.
    let newcomer = before.values().copied().max().unwrap_or(Wanted::None);
    let added: Vec<&Service> = new
        .config
        .services
        .iter()
        .filter(|service| !old.config.services.iter().any(|known| known.name == service.name))
        .collect();
    new.want(&added, newcomer)?;
    let site = new.site(say);
    if before.is_empty() {
        return Ok(());
    }
    site.sweep().await?;
    let all: Vec<&Service> = new.config.services.iter().collect();
    let lived = [Wanted::Created, Wanted::Stopped, Wanted::Running, Wanted::Paused];
    let touched = site.renew(&new.that_are(&all, &lived)?, Fresh::default()).await?;
    if touched.is_empty() {
        say(None, "no container had to change".to_owned());
    }
    new.settle(&site).await
}

/// Empties data volumes: the only way in which data goes away.
async fn scrub(daemon: &Arc<Daemon>, crew: &Crew, services: &[&Service], wanted: bool) -> Result<()> {
    if !wanted {
        return Ok(());
    }
    // Those that images declare were learnt of since the crew was loaded.
    let row = tenants::find(&daemon.state, crew.name(), |_| true)?;
    let names: BTreeSet<&str> = services.iter().map(|service| service.name.as_str()).collect();
    for volume in tenants::all_volumes(&row.tenant) {
        if volume.data.as_ref().is_some_and(|data| names.contains(data.service.as_str())) {
            let dir = daemon.home.volume(&volume);
            uses::of(daemon, crew, &volume).await?.no_other(&volume)?;
            let _held = daemon.write_lock(&dir).lock.try_lock_owned().map_err(|_| {
                Error::new(Kind::Busy, format!("a sync into {volume} is under way")).hint("wait for it, or stop it")
            })?;
            let (home, index) = (daemon.home.clone(), daemon.home.index(&volume));
            let emptied = tokio::task::spawn_blocking(move || {
                match fs::remove_dir_all(&dir) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::io(format!("the volume {} cannot be deleted", dir.display()), error));
                    }
                    _ => {}
                }
                let _ = fs::remove_file(index);
                tenants::volume_dir(&home, &dir)
            });
            emptied.await.unwrap_or_else(|error| Err(Error::failed("a task of the daemon broke").because(error)))?;
        }
    }
    Ok(())
}

/// Removes the containers of a tenant that is to be forgotten.
pub async fn end(daemon: &Arc<Daemon>, who: &Principal, tenant: &str) -> Result<()> {
    let tenant = TenantName::new(tenant)?;
    who.may(Role::Deployer, &tenant)?;
    let _held = daemon.life_lock(&tenant).lock_owned().await;
    let crew = crew(daemon, Some(who), &tenant).await?;
    // One that never lived needs no Docker to be forgotten.
    if daemon.state.wanted(&tenant)?.is_empty() {
        return Ok(());
    }
    let all: Vec<&Service> = crew.config.services.iter().collect();
    let quiet = |_: Option<&ServiceName>, text: String| tracing::info!("{text}");
    crew.forget(&crew.site(&quiet), &all).await?;
    crew.release_if_done()
}
