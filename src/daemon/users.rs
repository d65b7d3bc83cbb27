//! The services that use a volume while a sync writes it: stopped before it changes, started after.
//!
//! Code in a root volume is replaced under running services. Without Docker a sync goes on, and says what it cannot know.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use tokio::sync::OwnedMutexGuard;

use super::Daemon;
use super::lives::{self, Say};
use super::publishing;
use crate::model::host::VolumeRef;
use crate::model::running::Wanted;
use crate::model::sync::{Event, Report};
use crate::model::{Error, Result, ServiceName};
use crate::tenant::config::Service;
use crate::tenant::runtime::State;

pub struct Users {
    daemon: Arc<Daemon>,
    volume: VolumeRef,
    no_restart: bool,
    notes: mpsc::Sender<Event>,
    runtime: tokio::runtime::Handle,
    /// Held from the stop to the start: nobody else starts what is stopped meanwhile.
    stopped: Mutex<Option<Stopped>>,
}

struct Stopped {
    services: Vec<ServiceName>,
    _life: OwnedMutexGuard<()>,
}

impl Users {
    /// To be made on a thread of the runtime.
    pub fn new(daemon: Arc<Daemon>, volume: VolumeRef, no_restart: bool, notes: mpsc::Sender<Event>) -> Users {
        let runtime = tokio::runtime::Handle::current();
        Users { daemon, volume, no_restart, notes, runtime, stopped: Mutex::new(None) }
    }

    fn stopped(&self) -> MutexGuard<'_, Option<Stopped>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the plan says of services. Blocks.
    pub fn note(&self) -> Option<String> {
        let users = match self.runtime.block_on(self.running()) {
            Ok(users) => users,
            Err(error) => return Some(format!("whether services use it is not known: {}", error.chain())),
        };
        let names: Vec<String> = users.iter().map(|service| format!("{service}.{}", self.volume.tenant)).collect();
        match (names.is_empty(), self.no_restart) {
            (true, _) => None,
            (false, true) => Some(format!("stops {} before the data changes, and leaves it stopped", names.join(", "))),
            (false, false) => Some(format!("stops {} before the data changes, starts it after", names.join(", "))),
        }
    }

    /// The services that run with this volume.
    async fn running(&self) -> Result<Vec<ServiceName>> {
        let Some(data) = &self.volume.data else { return Ok(Vec::new()) };
        if self.daemon.state.wanted(&self.volume.tenant)?.is_empty() {
            return Ok(Vec::new());
        }
        let crew = lives::crew(&self.daemon, None, &self.volume.tenant).await?;
        let quiet = |_: Option<&ServiceName>, _: String| {};
        let there = crew.site(&quiet).container(&data.service).await?;
        let runs = there.is_some_and(|there| matches!(there.state, State::Running | State::Restarting | State::Paused));
        Ok(if runs { vec![data.service.clone()] } else { Vec::new() })
    }

    /// Stops them. Blocks.
    pub fn stop(&self) -> Result<()> {
        self.runtime.block_on(async {
            if self.volume.data.is_none() {
                return Ok(());
            }
            let life = self.daemon.life_lock(&self.volume.tenant).lock_owned().await;
            let services = match self.running().await {
                Ok(services) => services,
                Err(error) => {
                    tracing::warn!("{}: {}", self.volume, error.chain());
                    return Ok(());
                }
            };
            if services.is_empty() {
                return Ok(());
            }
            // Noted before it is done: what is stopped only in part is started as well.
            *self.stopped() = Some(Stopped { services: services.clone(), _life: life });
            let crew = lives::crew(&self.daemon, None, &self.volume.tenant).await?;
            let say = self.say();
            let meant: Vec<&Service> =
                crew.config.services.iter().filter(|service| services.contains(&service.name)).collect();
            publishing::down(
                &self.daemon,
                &self.volume.tenant,
                &meant,
                &crew.config.services,
                "gets other data just now",
            );
            crew.site(&*say).stop(&meant).await
        })
    }

    /// Starts what was stopped, however the sync ended.
    pub async fn release(&self, done: Result<Report>) -> Result<Report> {
        let Some(stopped) = self.stopped().take() else { return done };
        let tenant = &self.volume.tenant;
        if self.no_restart && done.is_ok() {
            self.daemon.state.want(tenant, &stopped.services, Wanted::Stopped)?;
            publishing::after(&self.daemon, tenant, &*self.say()).await;
            return done;
        }
        let say = self.say();
        let started = async {
            let crew = lives::crew(&self.daemon, None, tenant).await?;
            crew.settle(&crew.site(&*say)).await
        };
        let started = started.await;
        publishing::after(&self.daemon, tenant, &*say).await;
        match (started, done) {
            (Ok(()), done) => done,
            (Err(error), Ok(_)) => {
                let hint = format!("`mcloud status {tenant}` and `mcloud logs {tenant}` tell more");
                Err(Error::failed(format!("the data is in place, but `{tenant}` did not come up again"))
                    .hint(error.hint.clone().unwrap_or(hint))
                    .because(error))
            }
            (Err(error), Err(first)) => {
                tracing::error!("{tenant} did not come up again: {}", error.chain());
                Err(first)
            }
        }
    }

    fn say(&self) -> Box<Say> {
        let (notes, tenant) = (self.notes.clone(), self.volume.tenant.clone());
        Box::new(move |service, text| {
            let on = service.map_or_else(|| tenant.to_string(), |service| format!("{service}.{tenant}"));
            let _ = notes.send(Event::Note(format!("{on}: {text}")));
        })
    }
}
