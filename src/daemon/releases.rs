//! `release` and `rollback`: domains moved from one tenant to another, with the data, as one transaction.
//!
//! Each step is written down before it is begun (`release::steps`). Until the domains have moved, whatever goes wrong goes
//! back: the source is thawed and serves on. From then on it goes on, whatever happens. A request waits meanwhile, and is
//! answered by one tenant or by the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::access::Principal;
use super::frozen::{self, life_of};
use super::lives::{self, Crew, Say};
use super::state::ReleaseRow;
use super::{Daemon, copies, door, keep, now_unix, publishing};
use crate::model::host::{Role, VolumeRef};
use crate::model::publish::Route;
use crate::model::release::{Receipt, ReleaseWanted, Since};
use crate::model::running::Wanted;
use crate::model::sync::{Event, Plan, Report, SyncOptions};
use crate::model::{Error, Kind, Name, Result, TenantName};
use crate::release::crash_point;
use crate::release::freeze::{Freezer, Held, Limits, thaw};
use crate::release::steps::{Mend, Step, Way};
use crate::sync::{Cancel, Observer};
use crate::sys::process::mapped_for_writing;
use crate::tenant::config::Service;
use crate::tree::index::doubt;

mod copying;
mod rollback;
pub mod serve;

/// What is left of a hold when a release gives up, so that the source is thawed before anybody waited too long.
const MARGIN: Duration = Duration::from_secs(2);

/// A release under way.
struct Release<'a> {
    daemon: &'a Arc<Daemon>,
    who: &'a Principal,
    say: &'a Say,
    cancel: Cancel,
    from: &'a Crew,
    to: &'a Crew,
    /// Each data volume of the source, and the target's of the same service and path.
    volumes: Vec<(VolumeRef, VolumeRef)>,
    /// The routes that move, as they are now.
    routes: Vec<Route>,
    limits: Limits,
    row: ReleaseRow,
    /// The number by which the freeze is noted, and the source's containers that are frozen.
    frozen: Option<(i64, Vec<String>)>,
    froze_at: Option<Instant>,
    began: Instant,
    phases: Vec<(String, u64)>,
    report: Report,
    held: Held,
}

/// Does it; in a task of its own, since it has to come to an end whoever goes away.
pub async fn release(
    daemon: &Arc<Daemon>,
    who: &Principal,
    wanted: ReleaseWanted,
    is_rollback: bool,
    say: Arc<Say>,
    cancel: Cancel,
) -> Result<Receipt> {
    let (daemon, who, running) = (daemon.clone(), who.clone(), daemon.running.clone());
    let (again, tenants, heard) = (daemon.clone(), (wanted.from.clone(), wanted.to.clone()), say.clone());
    let working = tokio::spawn(async move {
        let done = whole(&daemon, &who, wanted, is_rollback, &*say, cancel).await;
        drop(running);
        done
    });
    match working.await {
        Ok(done) => done,
        Err(broke) => {
            mend_broken(&again, &tenants, &*heard).await;
            Err(Error::failed("the release broke, and what it had begun was put right").because(broke))
        }
    }
}

/// A bug in the middle of a release leaves no tenant frozen: it is put right as after a crash.
async fn mend_broken(daemon: &Arc<Daemon>, (from, to): &(TenantName, TenantName), say: &Say) {
    let mended = recover(daemon, |row| row.from == *from && row.to == *to);
    door::of(daemon, from).let_go();
    for result in [mended, frozen::recover(daemon, |tenant| tenant == from).await] {
        if let Err(error) = result {
            tracing::error!("{}", error.chain());
        }
    }
    for tenant in [from, to] {
        keep::bring_back(daemon, tenant).await;
    }
    say(None, "the release broke; both tenants are what they were asked to be".to_owned());
}

async fn whole(
    daemon: &Arc<Daemon>,
    who: &Principal,
    wanted: ReleaseWanted,
    is_rollback: bool,
    say: &Say,
    cancel: Cancel,
) -> Result<Receipt> {
    for tenant in [&wanted.from, &wanted.to] {
        who.may(Role::Deployer, tenant)?;
    }
    if wanted.from == wanted.to {
        return Err(Error::usage(format!("`{}` cannot be released in its own place", wanted.from)));
    }
    // Two releases the other way round do not wait for each other.
    let mut names = [&wanted.from, &wanted.to];
    names.sort();
    let _first = life_of(daemon, names[0], say).await;
    let _second = life_of(daemon, names[1], say).await;
    let from = lives::crew(daemon, Some(who), &wanted.from).await?;
    let to = lives::crew(daemon, Some(who), &wanted.to).await?;
    let volumes = pairs(&from, &to)?;
    let routes = routes(daemon, &wanted, &to)?;
    let hold = wanted.hold_seconds.map_or(daemon.hold, Duration::from_secs);
    if hold <= MARGIN {
        return Err(Error::usage(format!("--hold has to be more than {} s", MARGIN.as_secs())));
    }
    let limits = Limits { hold, patience: hold / 3, freeze: hold };
    let row = ReleaseRow {
        number: 0,
        from: wanted.from.clone(),
        to: wanted.to.clone(),
        domains: wanted.domains.clone(),
        step: Step::Copying,
        to_was: daemon.state.wanted(&wanted.to)?,
    };
    let release = Release {
        daemon,
        who,
        say,
        cancel,
        from: &from,
        to: &to,
        volumes,
        routes,
        limits,
        row,
        frozen: None,
        froze_at: None,
        began: Instant::now(),
        phases: Vec::new(),
        report: Report::default(),
        held: Held::default(),
    };
    if !wanted.dry_run {
        release.check_source().await?;
        return release.go(is_rollback).await;
    }
    release.estimate().await
}

/// Which volume goes to which: every data volume of the source has to have its like.
fn pairs(from: &Crew, to: &Crew) -> Result<Vec<(VolumeRef, VolumeRef)>> {
    let (source, target) = (&from.row.tenant, &to.row.tenant);
    let missing: Vec<String> =
        source.volumes.iter().filter(|data| !target.volumes.contains(data)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        let message = format!("`{}` lacks volumes that `{}` has: {}", target.name, source.name, missing.join(", "));
        return Err(Error::new(Kind::NotFound, message)
            .hint(format!("give it an mcloud.yml with them (`mcloud update {}`)", target.name)));
    }
    let of = |tenant: &TenantName, data: &crate::model::host::DataVolume| VolumeRef {
        tenant: tenant.clone(),
        data: Some(data.clone()),
    };
    Ok(source.volumes.iter().map(|data| (of(&source.name, data), of(&target.name, data))).collect())
}

/// The routes of the domains, all of which have to lead to the source; the target has to be able to serve them.
fn routes(daemon: &Daemon, wanted: &ReleaseWanted, to: &Crew) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for domain in &wanted.domains {
        let both = [false, true].map(|ssl| daemon.state.route(domain, ssl));
        let mut found = Vec::new();
        for route in both {
            found.extend(route?.filter(|route| route.tenant == wanted.from));
        }
        if found.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("{domain} does not lead to `{}`", wanted.from))
                .hint("`mcloud routes` shows where domains lead; `mcloud publish` makes one lead there"));
        }
        routes.append(&mut found);
    }
    for route in &routes {
        publishing::check_port(&to.row, &Route { tenant: wanted.to.clone(), ..route.clone() })?;
    }
    Ok(routes)
}

impl Release<'_> {
    /// The source has to run: else there is nothing to keep running.
    async fn check_source(&self) -> Result<()> {
        let wanted = self.daemon.state.wanted(&self.row.from)?;
        let from = &self.row.from;
        if wanted.values().any(|wanted| *wanted == Wanted::Paused) {
            return Err(Error::new(Kind::Refused, format!("`{from}` is paused"))
                .hint(format!("`mcloud resume {from}` first; or `mcloud sync --force` and `mcloud publish` by hand")));
        }
        if !wanted.values().any(|wanted| *wanted == Wanted::Running) {
            return Err(Error::new(Kind::Refused, format!("`{from}` does not run"))
                .hint(format!("`mcloud start {from}` first; or `mcloud sync` and `mcloud publish` by hand")));
        }
        Ok(())
    }

    async fn go(mut self, is_rollback: bool) -> Result<Receipt> {
        self.row.number = self.daemon.state.release_begin(&self.row, is_rollback, now_unix())?;
        let walked = self.walk().await;
        let outcome = match walked {
            Ok(()) => Ok(()),
            Err(error) => {
                self.mend(self.row.step.mends()).await;
                let message = format!("the release was undone: `{}` serves on", self.row.from);
                Err(Error::new(error.kind, message)
                    .hint(error.hint.clone().unwrap_or_else(|| "the same command again starts anew".to_owned()))
                    .because(error))
            }
        };
        let receipt = self.receipt(is_rollback, outcome.as_ref().err());
        let bytes = super::requests::encoded(&crate::wire::release::receipt_out(&receipt));
        self.daemon.state.release_end(self.row.number, &bytes, outcome.is_ok())?;
        outcome.map(|()| receipt)
    }

    /// Notes that a step is begun, and how long the one before took.
    fn at(&mut self, step: Step, began: &mut Instant) -> Result<()> {
        let last = std::mem::replace(began, Instant::now());
        let took = u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX);
        if step != Step::Copying {
            self.phases.push((self.row.step.word().to_owned(), took));
        }
        self.row.step = step;
        if self.is_cancelled() {
            return Err(Error::new(Kind::Cancelled, "the release was stopped"));
        }
        self.daemon.state.release_at(self.row.number, step)?;
        (self.say)(None, format!("{step} …"));
        Ok(())
    }

    fn is_cancelled(&self) -> bool {
        let stop = copies::Stop { cancel: self.cancel.clone(), stopping: self.daemon.stopping.clone() };
        stop.is_asked()
    }

    fn all(crew: &Crew) -> Vec<&Service> {
        crew.config.services.iter().collect()
    }

    async fn walk(&mut self) -> Result<()> {
        let (daemon, from, to) = (self.daemon, self.from, self.to);
        let (source, target) = (from.site(self.say), to.site(self.say));
        let (theirs, ours) = (Self::all(from), Self::all(to));
        let mut at = Instant::now();

        self.at(Step::Copying, &mut at)?;
        crash_point!("release.copying");
        to.down(&ours, "is about to be released");
        target.stop(&ours).await?;
        self.copy("live", self.cancel.clone()).await?;

        self.at(Step::Checking, &mut at)?;
        crash_point!("release.checking");
        to.start(&target, &ours).await.map_err(|error| {
            let message = format!("`{}` does not come up with the data of `{}`", self.row.to, self.row.from);
            Error::failed(message)
                .hint(error.hint.clone().unwrap_or_else(|| format!("`mcloud logs {}` tells more", self.row.to)))
                .because(error)
        })?;

        self.at(Step::CopyingAgain, &mut at)?;
        crash_point!("release.copying_again");
        target.stop(&ours).await?;
        self.copy("live, again", self.cancel.clone()).await?;

        self.at(Step::Holding, &mut at)?;
        let door = door::of(daemon, &self.row.from);
        let freezer = Freezer { site: &source, services: theirs, door: &*door, limits: self.limits };
        let containers: Vec<String> = freezer.running().await?.into_iter().map(|container| container.id).collect();
        let number = daemon.state.freeze_begin(&self.row.from, &containers, now_unix())?;
        self.frozen = Some((number, containers.clone()));
        let held_at = Instant::now();
        let left = freezer.hold().await;
        crash_point!("release.held");
        if left > 0 {
            let seconds = self.limits.patience.as_secs();
            return Err(Error::new(Kind::Busy, format!("{left} requests had not ended after {seconds} s"))
                .hint("a longer --hold waits longer for them"));
        }

        self.at(Step::Freezing, &mut at)?;
        freezer.before().await?;
        crash_point!("release.hooked");
        self.froze_at = Some(Instant::now());
        freezer.pause(&containers).await?;
        crash_point!("release.frozen");

        self.at(Step::CopyingRest, &mut at)?;
        let late = self.limits.hold.saturating_sub(MARGIN).saturating_sub(held_at.elapsed());
        self.doubt_mapped().await?;
        let cancel = Cancel::default();
        let watch = tokio::spawn(copying::stop_after(late, cancel.clone(), self.cancel.clone()));
        let copied = self.copy("frozen", cancel).await;
        watch.abort();
        copied?;
        crash_point!("release.copied");

        self.at(Step::Starting, &mut at)?;
        let late = self.limits.hold.saturating_sub(MARGIN).saturating_sub(held_at.elapsed());
        let started = tokio::time::timeout(late, to.start(&target, &ours)).await;
        started.unwrap_or_else(|_| {
            Err(Error::failed(format!("`{}` was not up before the held requests had waited too long", self.row.to))
                .hint("a longer --hold gives it more time"))
        })?;
        // It may have been paused until now: nobody waits before it any more.
        publishing::after(daemon, &self.row.to, self.say).await;
        crash_point!("release.started");

        self.at(Step::Moving, &mut at)?;
        let moves = self
            .routes
            .iter()
            .map(|route| (Route { tenant: self.row.to.clone(), ..route.clone() }, Some(self.row.from.clone())));
        publishing::move_routes(daemon, &moves.collect::<Vec<_>>())?;
        let froze = self.froze_at.map_or(Duration::ZERO, |froze| froze.elapsed());
        self.report.paused_ms = u64::try_from(froze.as_millis()).unwrap_or(u64::MAX);
        crash_point!("release.moved");
        self.phases.push((Step::Moving.word().to_owned(), u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)));
        self.row.step = Step::Moved;
        // It is done, whatever becomes of the clearing up: a start of the daemon does that again.
        if let Err(error) = self.after_the_move().await {
            tracing::error!("{}", error.chain());
            (self.say)(None, format!("the domains have moved, but: {}", error.chain()));
        }
        Ok(())
    }

    /// The source stays frozen, now because it is asked to be paused; those who were held have gone to the target.
    async fn after_the_move(&mut self) -> Result<()> {
        let daemon = self.daemon;
        self.held = door::of(daemon, &self.row.from).let_go();
        // They would hang on what is frozen.
        daemon.proxy.end_streams(&self.row.from);
        daemon.state.release_at(self.row.number, Step::Moved)?;
        keep_paused(daemon, &self.row.from, self.from)?;
        publishing::after(daemon, &self.row.from, self.say).await;
        crash_point!("release.let_go");
        if let Some((number, _)) = self.frozen.take() {
            daemon.state.freeze_end(number)?;
        }
        Ok(())
    }

    /// Puts right what the steps so far have left. Each in turn, whatever became of the one before.
    async fn mend(&mut self, mends: &[Mend]) {
        let (daemon, source) = (self.daemon, self.from.site(self.say));
        let services = Self::all(self.from);
        let count = services.len();
        let door = door::of(daemon, &self.row.from);
        let freezer = Freezer { site: &source, services, door: &*door, limits: self.limits };
        for mend in mends {
            match mend {
                Mend::Thaw => {
                    if let Some((number, containers)) = &self.frozen {
                        match thaw(&*daemon.runtime, containers).await {
                            Ok(()) => drop(daemon.state.freeze_end(*number)),
                            Err(error) => tracing::error!("{}", error.chain()),
                        }
                    }
                }
                // Those who were held need not wait for it.
                Mend::AfterHooks => self.held = door.let_go(),
                Mend::LetGo => {
                    let held = door.let_go();
                    self.held = if held == Held::default() { self.held } else { held };
                    if mends.contains(&Mend::AfterHooks) {
                        freezer.after(count).await;
                    } else if let Some((number, _)) = self.frozen.take() {
                        let _ = daemon.state.freeze_end(number);
                    }
                }
                Mend::PutBack => {
                    if let Err(error) = self.put_back().await {
                        tracing::error!("{}: {}", self.row.to, error.chain());
                        (self.say)(None, format!("`{}` is not what it was: {}", self.row.to, error.chain()));
                    }
                }
            }
        }
    }

    async fn put_back(&self) -> Result<()> {
        want(self.daemon, &self.row)?;
        let to = lives::crew(self.daemon, None, &self.row.to).await?;
        to.settle(&to.site(self.say)).await?;
        publishing::after(self.daemon, &self.row.to, self.say).await;
        Ok(())
    }

    fn receipt(&self, is_rollback: bool, error: Option<&Error>) -> Receipt {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let mut report = self.report.clone();
        report.seconds = self.began.elapsed().as_secs_f64();
        report.held_requests = self.held.requests;
        Receipt {
            number: self.row.number.unsigned_abs(),
            is_rollback,
            from: self.row.from.to_string(),
            to: self.row.to.to_string(),
            domains: self.row.domains.iter().map(ToString::to_string).collect(),
            began_unix: now_unix().saturating_sub(self.began.elapsed().as_secs()),
            outcome: error.map_or_else(|| "done".to_owned(), Error::chain),
            serving: if error.is_some() { self.row.from.to_string() } else { self.row.to.to_string() },
            report,
            failed_requests: self.held.failed,
            longest_hold_ms: ms(self.held.longest),
            phases: self.phases.clone(),
            since: None,
        }
    }
}

/// What the target's services had been asked to be before.
fn want(daemon: &Daemon, row: &ReleaseRow) -> Result<()> {
    let tenant = daemon.state.wanted(&row.to)?;
    for service in tenant.keys() {
        // One that had no container has one now; it does not run.
        let was = row.to_was.get(service).copied().unwrap_or(Wanted::Created);
        daemon.state.want(&row.to, [&crate::model::ServiceName::new(service)?], was)?;
    }
    Ok(())
}

fn keep_paused(daemon: &Daemon, tenant: &TenantName, crew: &Crew) -> Result<()> {
    let wanted = daemon.state.wanted(tenant)?;
    let ran = |service: &&Service| wanted.get(service.name.as_str()) == Some(&Wanted::Running);
    let ran = crew.config.services.iter().filter(ran).map(|service| &service.name);
    daemon.state.want(tenant, ran, Wanted::Paused)
}

/// Decides what becomes of releases that a daemon was in the middle of when it was killed; before anybody is served, and
/// without Docker: what containers have to become is what their tenants are asked to be.
pub fn recover(daemon: &Daemon, is_meant: impl Fn(&ReleaseRow) -> bool) -> Result<()> {
    for row in daemon.state.releases_open()?.into_iter().filter(is_meant) {
        let leads = |domain| -> Result<bool> {
            let ways = [daemon.state.route(domain, false)?, daemon.state.route(domain, true)?];
            Ok(ways.iter().flatten().any(|route| route.tenant == row.to))
        };
        let moved = row.domains.iter().map(leads).collect::<Result<Vec<_>>>()?.into_iter().all(|leads| leads);
        let is_on = row.step.way(moved) == Way::On;
        if is_on {
            if let Some(from) = daemon.state.tenant(&row.from)? {
                let wanted = daemon.state.wanted(&row.from)?;
                for (service, _) in wanted.iter().filter(|(_, wanted)| **wanted == Wanted::Running) {
                    daemon.state.want(
                        &from.tenant.name,
                        [&crate::model::ServiceName::new(service)?],
                        Wanted::Paused,
                    )?;
                }
            }
            tracing::info!("the release of {} in the place of {} is finished", row.to, row.from);
        } else {
            want(daemon, &row)?;
            tracing::info!("the release of {} in the place of {} is undone", row.to, row.from);
        }
        let receipt = Receipt {
            number: row.number.unsigned_abs(),
            from: row.from.to_string(),
            to: row.to.to_string(),
            domains: row.domains.iter().map(ToString::to_string).collect(),
            began_unix: now_unix(),
            outcome: if is_on { "done" } else { "undone: the daemon ended in the middle" }.to_owned(),
            serving: if is_on { row.to.to_string() } else { row.from.to_string() },
            ..Receipt::default()
        };
        let bytes = super::requests::encoded(&crate::wire::release::receipt_out(&receipt));
        daemon.state.release_end(row.number, &bytes, is_on)?;
    }
    Ok(())
}
