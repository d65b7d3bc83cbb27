//! The services that use a data volume while a sync writes it: stopped before it changes, started after.
//!
//! Nothing is changed before the engine has told, after the stop, that nothing runs which uses the volume: an engine that
//! does not answer leaves it as it was. Code in a root volume is replaced under running services.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::copies::Services;
use super::frozen::life_of;
use super::lives::{self, Crew, Say};
use super::uses::{self, Uses};
use super::{Daemon, publishing};
use crate::model::host::VolumeRef;
use crate::model::running::Wanted;
use crate::model::sync::{Event, Report};
use crate::model::{Error, Kind, Result, ServiceName};
use crate::tenant::config::Service;

/// How long it is waited for whatever else is done to the tenant: that may itself wait for the volume, which is ours.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Users {
    daemon: Arc<Daemon>,
    volume: VolumeRef,
    services: Services,
    no_restart: bool,
    notes: mpsc::Sender<Event>,
    runtime: tokio::runtime::Handle,
    /// Held from the stop to the start: nobody else starts what is stopped meanwhile.
    stopped: Mutex<Option<Stopped>>,
    /// They were left stopped since the change before this one was not whole.
    were_left: AtomicBool,
}

struct Stopped {
    services: Vec<ServiceName>,
    _life: Option<OwnedMutexGuard<()>>,
}

impl Users {
    /// To be made on a thread of the runtime.
    pub fn new(
        daemon: Arc<Daemon>,
        volume: VolumeRef,
        services: Services,
        no_restart: bool,
        notes: mpsc::Sender<Event>,
    ) -> Users {
        let runtime = tokio::runtime::Handle::current();
        let (stopped, were_left) = (Mutex::new(None), AtomicBool::new(false));
        Users { daemon, volume, services, no_restart, notes, runtime, stopped, were_left }
    }

    fn stopped(&self) -> MutexGuard<'_, Option<Stopped>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the plan says of services. Blocks.
    pub fn note(&self) -> Option<String> {
        if self.volume.data.is_none() || self.services == Services::Stopped {
            return None;
        }
        let tenant = &self.volume.tenant;
        let uses = match self.runtime.block_on(async { self.uses(&self.crew().await?).await }) {
            Ok(uses) => uses,
            Err(error) => {
                return Some(format!("it changes nothing before it is known what uses the data: {}", error.chain()));
            }
        };
        if let Err(error) = uses.no_other(&self.volume) {
            return Some(format!("it changes nothing while {}", error.chain()));
        }
        let names = uses.names(tenant);
        match (names.is_empty(), self.no_restart) {
            (true, _) => None,
            (false, true) => Some(format!("stops {} before the data changes, and leaves it stopped", names.join(", "))),
            (false, false) => Some(format!("stops {} before the data changes, starts it after", names.join(", "))),
        }
    }

    async fn crew(&self) -> Result<Crew> {
        lives::crew(&self.daemon, None, &self.volume.tenant).await
    }

    async fn uses(&self, crew: &Crew) -> Result<Uses> {
        uses::of(&self.daemon, crew, &self.volume).await
    }

    /// A change that was broken off in the middle is finished first: under services that are stopped, and start after it.
    pub fn finish_first(&self) -> Result<()> {
        self.were_left.store(true, Ordering::SeqCst);
        self.stop()
    }

    /// Returns when nothing uses the volume any more and nobody can start what would; else nothing may be changed. Blocks.
    pub fn stop(&self) -> Result<()> {
        self.runtime.block_on(async {
            if self.volume.data.is_none() {
                return Ok(());
            }
            self.take_life().await?;
            let crew = self.crew().await?;
            let uses = self.uses(&crew).await.map_err(|error| self.not_known(error))?;
            uses.no_other(&self.volume)?;
            if uses == Uses::default() {
                return Ok(());
            }
            if self.services == Services::Minded {
                self.stop_these(&crew, uses.services).await?;
            }
            // The engine may start one again, and so may anybody who does not ask us.
            let left = self.uses(&crew).await.map_err(|error| self.not_known(error))?;
            match left.names(&self.volume.tenant).first() {
                None => Ok(()),
                Some(name) => {
                    Err(Error::new(Kind::Busy, format!("{name} does not stay stopped, and uses {}", self.volume))
                        .hint("nothing was changed; what starts it again? `docker ps` and `docker events` tell more"))
                }
            }
        })
    }

    /// From now on nobody else starts or stops the tenant's services.
    async fn take_life(&self) -> Result<()> {
        if self.stopped().is_some() {
            return Ok(());
        }
        let tenant = &self.volume.tenant;
        let life = match self.services {
            Services::Stopped => None,
            Services::Minded => {
                let say = self.say();
                let life = tokio::time::timeout(PATIENCE, life_of(&self.daemon, tenant, &*say)).await;
                Some(life.map_err(|_| {
                    Error::new(Kind::Busy, format!("something else is done to `{tenant}` and does not end"))
                        .hint("`mcloud ps` shows what; run the sync again after it: what was staged is kept")
                })?)
            }
        };
        *self.stopped() = Some(Stopped { services: Vec::new(), _life: life });
        Ok(())
    }

    async fn stop_these(&self, crew: &Crew, services: Vec<ServiceName>) -> Result<()> {
        let all = &crew.config.services;
        let meant: Vec<&Service> = all.iter().filter(|service| services.contains(&service.name)).collect();
        // Noted before it is done: what is stopped only in part is started as well.
        if let Some(stopped) = &mut *self.stopped() {
            stopped.services = services;
        }
        publishing::down(&self.daemon, &self.volume.tenant, &meant, all, "gets other data just now");
        let say = self.say();
        crew.site(&*say).stop(&meant).await.map_err(|error| self.not_known(error))
    }

    fn not_known(&self, error: Error) -> Error {
        let message = format!("{} is left as it was: whether anything still uses it is not known", self.volume);
        let hint = "look at Docker (`docker ps`), then run the sync again: what was staged is kept";
        Error::failed(message).hint(error.hint.clone().unwrap_or_else(|| hint.to_owned())).because(error)
    }

    /// Starts what was stopped, however the sync ended; unless it ended in the middle of the change (`is_torn`): what would
    /// start on half of it would be hurt by it, and hurt it.
    pub async fn release(&self, done: Result<Report>, is_torn: bool) -> Result<Report> {
        let Some(stopped) = self.stopped().take() else { return done };
        let done = match done {
            Ok(report) => self.nobody_came().await.map(|()| report),
            failed => failed,
        };
        let has_to_start = !stopped.services.is_empty() || self.were_left.load(Ordering::SeqCst);
        if self.services == Services::Stopped || !has_to_start {
            return done;
        }
        let tenant = &self.volume.tenant;
        if is_torn {
            publishing::after(&self.daemon, tenant, &*self.say()).await;
            let names: Vec<&str> = stopped.services.iter().map(ServiceName::as_str).collect();
            return done.map_err(|error| left_stopped(error, &names));
        }
        if self.no_restart && done.is_ok() {
            self.daemon.state.want(tenant, &stopped.services, Wanted::Stopped)?;
            publishing::after(&self.daemon, tenant, &*self.say()).await;
            return done;
        }
        self.start(done).await
    }

    async fn start(&self, done: Result<Report>) -> Result<Report> {
        let (tenant, say) = (&self.volume.tenant, self.say());
        let started = async {
            let crew = self.crew().await?;
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

    /// Whether nothing came up while the data changed: it may have read half of it, and writes what it makes of that.
    async fn nobody_came(&self) -> Result<()> {
        let came = async { self.uses(&self.crew().await?).await };
        let names = match came.await {
            Ok(came) => came.names(&self.volume.tenant),
            // That nothing ran was known when the change began.
            Err(error) => {
                tracing::warn!("{}: what runs after the change is not known: {}", self.volume, error.chain());
                return Ok(());
            }
        };
        match names.first() {
            None => Ok(()),
            Some(name) => {
                let message = format!("{name} was started by somebody else while the data of {} changed", self.volume);
                Err(Error::new(Kind::Busy, message).hint(
                    "what it had read by then it may write back: run the sync again, and compare with --checksum",
                ))
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

fn left_stopped(error: Error, names: &[&str]) -> Error {
    let what = match names {
        [] => "its services stay stopped".to_owned(),
        names => format!("stopped until then: {}", names.join(", ")),
    };
    let hint = error.hint.clone().map_or(what.clone(), |hint| format!("{hint}; {what}"));
    error.hint(hint)
}
