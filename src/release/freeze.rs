//! The services of a tenant frozen together: their requests held, those under way ended, hooks run, containers paused.
//!
//! Each step has its way back, and whoever takes a step takes the way back too, whatever happens in between. Containers
//! that somebody else paused are not ours: they stay as they are.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};

use crate::model::{Error, Kind, Result};
use crate::tenant::config::Service;
use crate::tenant::hooks::Hook;
use crate::tenant::lifecycle::{Site, still};
use crate::tenant::runtime::{Container, Runtime, State, label};

/// How often a container that does not thaw is tried again, and how long it is waited in between.
const THAW_TRIES: u32 = 20;
const THAW_PAUSE: Duration = Duration::from_millis(250);

/// Where a tenant's requests come in.
pub trait Door: Send + Sync {
    /// From now on they wait, this long at the most.
    fn hold(&self, limit: Duration);
    /// Waits until those under way have ended, or patience has; then tells how many have not.
    fn drained(&self, patience: Duration) -> BoxFuture<'_, usize>;
    fn let_go(&self) -> Held;
}

/// What a hold meant for those who were held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub requests: u64,
    /// Of these, those that were answered with an error, since they waited too long.
    pub failed: u64,
    pub longest: Duration,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A held request.
    pub hold: Duration,
    /// Requests under way, to end.
    pub patience: Duration,
    /// A freeze, until it is broken off.
    pub freeze: Duration,
}

/// What is frozen.
pub struct Freezer<'a> {
    pub site: &'a Site<'a>,
    /// Those that can write what is to stand still, in their order.
    pub services: Vec<&'a Service>,
    pub door: &'a dyn Door,
    pub limits: Limits,
    /// How often the engine refused to pause a container.
    refusals: AtomicU32,
}

/// The containers of the services as they were before any was frozen: by it is seen whether one was started meanwhile.
#[derive(Clone, Debug, Default)]
pub struct Seen(Vec<Container>);

impl Seen {
    /// The ids of those that ran.
    pub fn running(&self) -> Vec<String> {
        self.0.iter().filter(|one| one.state == State::Running).map(|one| one.id.clone()).collect()
    }
}

impl<'a> Freezer<'a> {
    pub fn new(site: &'a Site<'a>, services: Vec<&'a Service>, door: &'a dyn Door, limits: Limits) -> Freezer<'a> {
        Freezer { site, services, door, limits, refusals: AtomicU32::new(0) }
    }

    pub fn refusals(&self) -> u32 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Their containers, those of `mcloud run` among them.
    pub async fn seen(&self) -> Result<Seen> {
        let all = self.site.runtime.containers(&self.site.labels()).await?;
        let is_meant = |container: &Container| {
            let service = container.labels.get(label::SERVICE).map(String::as_str);
            self.services.iter().any(|known| Some(known.name.as_str()) == service)
        };
        Ok(Seen(all.into_iter().filter(is_meant).collect()))
    }

    /// Whether nothing of them has run since they were paused. The engine may have started one again, or somebody by hand.
    pub async fn stood_still(&self, before: &Seen) -> Result<()> {
        for now in self.seen().await?.0 {
            let same = |was: &&Container| was.id == now.id && was.started_at == now.started_at;
            let never = now.started_at.is_empty() && now.state.is_at_rest();
            if now.state == State::Running || !(never || before.0.iter().any(|was| same(&was))) {
                let message = format!("`{}` did not stand still: {} was started meanwhile", self.site.tenant, now.name);
                return Err(Error::new(Kind::Busy, message)
                    .hint("what was copied is of no one moment, and is not used: run it again when nobody starts it"));
            }
        }
        Ok(())
    }

    /// Whether none of their containers runs now.
    pub async fn nothing_runs(&self) -> Result<()> {
        match self.seen().await?.0.into_iter().find(|one| one.state == State::Running) {
            None => Ok(()),
            Some(one) => {
                let message = format!("`{}` does not stand still: {} runs", self.site.tenant, one.name);
                Err(Error::new(Kind::Busy, message)
                    .hint("a command of `mcloud run` has to end first; `mcloud ps` shows it"))
            }
        }
    }

    /// Holds the tenant's requests and lets those under way end. How many have not.
    pub async fn hold(&self) -> usize {
        self.door.hold(self.limits.hold);
        self.door.drained(self.limits.patience).await
    }

    /// Runs the `snapshot.before` hooks; when one fails, the `snapshot.after` of those before it.
    pub async fn before(&self) -> Result<()> {
        for (number, service) in self.services.iter().enumerate() {
            if let Err(error) = self.site.hook(service, Hook::Before).await {
                self.after(number + 1).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Runs the `snapshot.after` hooks of the first so many services. One that fails is told of; what it was to do is not ours.
    pub async fn after(&self, count: usize) {
        for service in self.services.iter().take(count).rev() {
            if let Err(error) = self.site.hook(service, Hook::After).await {
                tracing::warn!("{}", error.chain());
                (self.site.say)(Some(&service.name), error.chain());
            }
        }
    }

    /// Pauses these containers, all at once. When one cannot be, although it was tried again, none is.
    pub async fn pause(&self, containers: &[String]) -> Result<()> {
        let late = tokio::time::Instant::now() + self.limits.freeze;
        let told = |error: &Error| {
            let times = self.refusals.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::warn!("{}: the freeze was refused ({times}): {}", self.site.tenant, error.chain());
            (self.site.say)(None, format!("{}; it is tried again", error.chain()));
        };
        let paused = join_all(containers.iter().map(|id| still::pause(self.site.runtime, id, late, &told))).await;
        match paused.into_iter().find_map(Result::err) {
            None => Ok(()),
            Some(error) => {
                thaw(self.site.runtime, containers).await?;
                let message = format!("`{}` could not be frozen; it goes on", self.site.tenant);
                let hint = error.hint.clone();
                let error = Error::failed(message).because(error);
                Err(Error { hint, ..error })
            }
        }
    }

    /// Freezes those that ran, has `look` look, thaws. The `look` that does not end in time is dropped, and what it saw does
    /// not count, nor what it saw of a tenant that did not stand still. Gives also how long the freeze lasted.
    pub async fn during<T>(&self, before: &Seen, look: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
        let containers = &before.running();
        let began = Instant::now();
        self.pause(containers).await?;
        crash_point!("freeze.frozen");
        let rest = self.limits.freeze.saturating_sub(began.elapsed());
        let look = async {
            let seen = look.await?;
            self.stood_still(before).await?;
            Ok(seen)
        };
        let seen = tokio::time::timeout(rest, look).await;
        let thawed = thaw(self.site.runtime, containers).await;
        let lasted = began.elapsed();
        crash_point!("freeze.thawed");
        let late = |_| {
            Err(Error::failed(format!(
                "the freeze of `{}` was broken off after {} s; nothing was copied",
                self.site.tenant,
                self.limits.freeze.as_secs()
            ))
            .hint("its data does not stand still long enough: `mcloud server --freeze-limit` gives more time"))
        };
        let seen = seen.unwrap_or_else(late);
        thawed?;
        Ok((seen?, lasted))
    }
}

/// Thaws these containers, all at once. One that is not paused (any more) is as it should be; an engine that does not answer
/// is tried again.
pub async fn thaw(runtime: &dyn Runtime, containers: &[String]) -> Result<()> {
    let one = async |id: &String| {
        let mut tries = 0;
        loop {
            let Err(error) = runtime.unpause(id).await else { return Ok(()) };
            match runtime.inspect(id).await {
                Ok(None) => return Ok(()),
                Ok(Some(there)) if there.state != State::Paused => return Ok(()),
                _ if tries == THAW_TRIES => return Err(error),
                _ => tries += 1,
            }
            tokio::time::sleep(THAW_PAUSE).await;
        }
    };
    let thawed = join_all(containers.iter().map(one)).await;
    let failed = |error| {
        Error::failed("a container that was frozen could not be thawed")
            .hint("it is thawed as soon as Docker answers")
            .because(error)
    };
    thawed.into_iter().find_map(Result::err).map_or(Ok(()), |error| Err(failed(error)))
}
