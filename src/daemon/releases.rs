//! `release` and `rollback`: domains moved from one tenant to another, with the data, as one transaction.
//!
//! Each step is written down before it is begun (`release::steps`). Until the domains have moved, whatever goes wrong goes
//! back: the source is thawed and serves on. From then on it goes on, whatever happens. A request waits meanwhile, and is
//! answered by one tenant or by the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedMutexGuard;

use super::access::Principal;
use super::frozen::{self, life_of};
use super::lives::{self, Crew, Say};
use super::state::ReleaseRow;
use super::{Daemon, copies, door, far, keep, now_unix, publishing, uses};
use crate::model::host::{Role, VolumeRef};
use crate::model::publish::Route;
use crate::model::release::{Receipt, ReleaseWanted, Since};
use crate::model::running::{Verb, Wanted};
use crate::model::sync::{Event, Plan, Report, SyncOptions};
use crate::model::{Error, Kind, Name, Result, Seat, ServiceName, TenantName};
use crate::release::crash_point;
use crate::release::freeze::{Freezer, Held, Limits, Seen, thaw};
use crate::release::steps::{Mend, Step, Way};
use crate::sync::{Cancel, Observer};
use crate::tenant::config::Service;

mod copying;
pub mod errands;
mod rollback;
pub mod serve;
mod side;

use side::Side;

/// What is left of a hold when a release gives up, so that the source is thawed before anybody waited too long.
const MARGIN: Duration = Duration::from_secs(2);

/// A release under way.
struct Release<'a> {
    daemon: &'a Arc<Daemon>,
    who: &'a Principal,
    say: &'a Say,
    cancel: Cancel,
    from: &'a Side,
    to: &'a Side,
    /// Each data volume of the source, and the target's of the same service and path.
    volumes: Vec<(VolumeRef, VolumeRef)>,
    /// The routes that move, as they are now.
    routes: Vec<Route>,
    limits: Limits,
    row: ReleaseRow,
    /// The number by which the freeze is noted, and the source's containers before it.
    frozen: Option<(i64, Seen)>,
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
async fn mend_broken(daemon: &Arc<Daemon>, (from, to): &(Seat, Seat), say: &Say) {
    let mended = recover(daemon, |row| row.from == *from && row.to == *to);
    door::of(daemon, from).let_go();
    for result in [mended, frozen::recover(daemon, |tenant| from.if_here() == Some(tenant)).await] {
        if let Err(error) = result {
            tracing::error!("{}", error.chain());
        }
    }
    for tenant in [from, to].into_iter().filter_map(Seat::if_here) {
        keep::bring_back(daemon, tenant).await;
    }
    say(None, "the release broke; both tenants are what they were asked to be".to_owned());
}

/// The locks by which nobody else starts or stops those of the two that live here. Two releases the other way round do not
/// wait for each other.
async fn lives_of(daemon: &Arc<Daemon>, seats: [&Seat; 2], say: &Say) -> Vec<OwnedMutexGuard<()>> {
    let mut names: Vec<&TenantName> = seats.into_iter().filter_map(Seat::if_here).collect();
    names.sort();
    let mut locks = Vec::new();
    for name in names {
        locks.push(life_of(daemon, name, say).await);
    }
    locks
}

async fn whole(
    daemon: &Arc<Daemon>,
    who: &Principal,
    wanted: ReleaseWanted,
    is_rollback: bool,
    say: &Say,
    cancel: Cancel,
) -> Result<Receipt> {
    if wanted.from == wanted.to {
        return Err(Error::usage(format!("`{}` cannot be released in its own place", wanted.from)));
    }
    let mut is_kept = false;
    let done = begin(daemon, who, &wanted, (is_rollback, &mut is_kept), say, cancel).await;
    if let Some(far) = wanted.far.as_ref().filter(|_| !is_kept) {
        far::give_back(daemon, wanted.far_seat(), far).await;
    }
    done
}

/// `is_kept`: what another host granted for it is kept.
async fn begin(
    daemon: &Arc<Daemon>,
    who: &Principal,
    wanted: &ReleaseWanted,
    (is_rollback, is_kept): (bool, &mut bool),
    say: &Say,
    cancel: Cancel,
) -> Result<Receipt> {
    let _lives = lives_of(daemon, [&wanted.from, &wanted.to], say).await;
    let from = Side::of(daemon, who, &wanted.from, wanted.far.as_ref()).await?;
    let to = Side::of(daemon, who, &wanted.to, wanted.far.as_ref()).await?;
    let volumes = pairs(&from, &to)?;
    let routes = routes(daemon, wanted, &to)?;
    let hold = wanted.hold_seconds.map_or(daemon.hold, Duration::from_secs);
    if hold <= MARGIN {
        return Err(Error::usage(format!("--hold has to be more than {} s", MARGIN.as_secs())));
    }
    let row = ReleaseRow {
        number: 0,
        from: wanted.from.clone(),
        to: wanted.to.clone(),
        domains: wanted.domains.clone(),
        step: Step::Copying,
        to_was: to.wanted(daemon).await?,
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
        limits: Limits { hold, patience: hold / 3, freeze: hold },
        row,
        frozen: None,
        froze_at: None,
        began: Instant::now(),
        phases: Vec::new(),
        report: Report::default(),
        held: Held::default(),
    };
    if wanted.dry_run {
        return release.estimate().await;
    }
    check_source(daemon, &from).await?;
    if let (Some(there), Some(far)) = (from.there().or(to.there()), &wanted.far) {
        there.keep(daemon, far).await?;
        *is_kept = true;
    }
    release.go(is_rollback).await
}

/// The source has to run: else there is nothing to keep running.
async fn check_source(daemon: &Daemon, side: &Side) -> Result<()> {
    let (wanted, from) = (side.wanted(daemon).await?, side.seat());
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

/// Which volume goes to which: every data volume of the source has to have its like.
fn pairs(from: &Side, to: &Side) -> Result<Vec<(VolumeRef, VolumeRef)>> {
    let (source, target) = (from.tenant(), to.tenant());
    let missing: Vec<String> =
        source.volumes.iter().filter(|data| !target.volumes.contains(data)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        let (source, target) = (from.seat(), to.seat());
        let message = format!("`{target}` lacks volumes that `{source}` has: {}", missing.join(", "));
        return Err(Error::new(Kind::NotFound, message)
            .hint(format!("give it an mcloud.yml with them (`mcloud update {target}`)")));
    }
    let of = |tenant: &TenantName, data: &crate::model::host::DataVolume| VolumeRef {
        tenant: tenant.clone(),
        data: Some(data.clone()),
    };
    Ok(source.volumes.iter().map(|data| (of(&source.name, data), of(&target.name, data))).collect())
}

/// The routes of the domains, all of which have to lead to the source; the target has to be able to serve them.
fn routes(daemon: &Daemon, wanted: &ReleaseWanted, to: &Side) -> Result<Vec<Route>> {
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
    let service = publishing::serving_service(to.services());
    for route in &routes {
        publishing::check_port(&wanted.to, service, &Route { tenant: wanted.to.clone(), ..route.clone() })?;
    }
    Ok(routes)
}

impl Release<'_> {
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

    async fn walk(&mut self) -> Result<()> {
        let (daemon, from, to, say) = (self.daemon, self.from, self.to, self.say);
        let mut at = Instant::now();

        self.at(Step::Copying, &mut at)?;
        crash_point!("release.copying");
        to.stop(say).await?;
        self.copy("live", self.cancel.clone()).await?;

        self.at(Step::Checking, &mut at)?;
        crash_point!("release.checking");
        to.start(say).await.map_err(|error| {
            let message = format!("`{}` does not come up with the data of `{}`", self.row.to, self.row.from);
            // A host that went away is not a tenant that fails.
            let kind = if error.kind == Kind::Unreachable { error.kind } else { Kind::Failed };
            Error::new(kind, message)
                .hint(error.hint.clone().unwrap_or_else(|| format!("`mcloud logs {}` tells more", self.row.to)))
                .because(error)
        })?;

        self.at(Step::CopyingAgain, &mut at)?;
        crash_point!("release.copying_again");
        to.stop(say).await?;
        self.copy("live, again", self.cancel.clone()).await?;

        self.at(Step::Holding, &mut at)?;
        let held_at = Instant::now();
        self.hold().await?;

        self.at(Step::Freezing, &mut at)?;
        self.freeze(from).await?;
        crash_point!("release.frozen");

        self.at(Step::CopyingRest, &mut at)?;
        let late = self.limits.hold.saturating_sub(MARGIN).saturating_sub(held_at.elapsed());
        let cancel = Cancel::default();
        let watch = tokio::spawn(copying::stop_after(late, cancel.clone(), self.cancel.clone()));
        let copied = self.copy("frozen", cancel).await;
        watch.abort();
        copied?;
        self.stood_still(from).await?;
        crash_point!("release.copied");

        self.at(Step::Starting, &mut at)?;
        let late = self.limits.hold.saturating_sub(MARGIN).saturating_sub(held_at.elapsed());
        let started = tokio::time::timeout(late, to.start(say)).await;
        started.unwrap_or_else(|_| {
            Err(Error::failed(format!("`{}` was not up before the held requests had waited too long", self.row.to))
                .hint("a longer --hold gives it more time"))
        })?;
        // It may have been paused until now: nobody waits before it any more.
        to.after(daemon, say).await?;
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

    /// From now on requests wait here, and those under way end.
    async fn hold(&mut self) -> Result<()> {
        let daemon = self.daemon;
        let door = door::of(daemon, &self.row.from);
        if let Side::Here(crew) = self.from {
            let site = crew.site(self.say);
            let services = crew.config.services.iter().collect();
            let freezer = Freezer::new(&site, services, &*door, self.limits);
            let seen = freezer.seen().await?;
            let number = daemon.state.freeze_begin(&crew.row.tenant.name, &seen.running(), now_unix())?;
            self.frozen = Some((number, seen));
        }
        door.hold(self.limits.hold);
        let left = door.drained(self.limits.patience).await;
        crash_point!("release.held");
        if left > 0 {
            let seconds = self.limits.patience.as_secs();
            return Err(Error::new(Kind::Busy, format!("{left} requests had not ended after {seconds} s"))
                .hint("a longer --hold waits longer for them"));
        }
        Ok(())
    }

    /// From now on the source stands still.
    async fn freeze(&mut self, from: &Side) -> Result<()> {
        match from {
            Side::Here(crew) => {
                let (site, door) = (crew.site(self.say), door::of(self.daemon, &self.row.from));
                let services = crew.config.services.iter().collect();
                let freezer = Freezer::new(&site, services, &*door, self.limits);
                freezer.before().await?;
                crash_point!("release.hooked");
                self.froze_at = Some(Instant::now());
                let seen = self.frozen.as_ref().map(|(_, seen)| seen.running()).unwrap_or_default();
                freezer.pause(&seen).await?;
                let volumes: Vec<VolumeRef> = self.volumes.iter().map(|(from, _)| from.clone()).collect();
                uses::no_stranger(self.daemon, &crew.row, &volumes).await?;
                frozen::doubt_mapped(self.daemon, volumes).await
            }
            Side::There(there) => {
                crash_point!("release.hooked");
                self.froze_at = Some(Instant::now());
                there.act(Verb::Pause, true, self.say).await
            }
        }
    }

    /// Nothing of the source ran while what was left was copied.
    async fn stood_still(&self, from: &Side) -> Result<()> {
        let Side::Here(crew) = from else { return from.stood_still().await };
        let Some((_, seen)) = &self.frozen else { return Ok(()) };
        let (site, door) = (crew.site(self.say), door::of(self.daemon, &self.row.from));
        let services = crew.config.services.iter().collect();
        Freezer::new(&site, services, &*door, self.limits).stood_still(seen).await
    }

    /// The source stays frozen, now because it is asked to be paused; those who were held have gone to the target.
    async fn after_the_move(&mut self) -> Result<()> {
        let daemon = self.daemon;
        self.held = door::of(daemon, &self.row.from).let_go();
        // They would hang on what is frozen.
        daemon.proxy.end_streams(&self.row.from);
        daemon.state.release_at(self.row.number, Step::Moved)?;
        if let Some(tenant) = self.row.from.if_here() {
            keep_paused(daemon, tenant)?;
            publishing::after(daemon, tenant, self.say).await;
        }
        crash_point!("release.let_go");
        if let Some((number, _)) = self.frozen.take() {
            daemon.state.freeze_end(number)?;
        }
        Ok(())
    }

    /// Puts right what the steps so far have left. Each in turn, whatever became of the one before.
    async fn mend(&mut self, mends: &[Mend]) {
        for mend in mends {
            match mend {
                Mend::Thaw => self.thaw().await,
                // Those who were held need not wait for it.
                Mend::AfterHooks | Mend::LetGo => self.let_go(*mend, mends.contains(&Mend::AfterHooks)).await,
                Mend::PutBack => {
                    if let Err(error) = self.to.put_back(self.daemon, &self.row.to_was, self.say).await {
                        tracing::error!("{}: {}", self.row.to, error.chain());
                        (self.say)(None, format!("`{}` is not what it was: {}", self.row.to, error.chain()));
                    }
                }
            }
        }
    }

    async fn thaw(&mut self) {
        let daemon = self.daemon;
        let failed = match self.from {
            Side::Here(_) => {
                let Some((number, seen)) = &self.frozen else { return };
                match thaw(&*daemon.runtime, &seen.running()).await {
                    Ok(()) => daemon.state.freeze_end(*number).err(),
                    failed => failed.err(),
                }
            }
            Side::There(there) => match there.act(Verb::Resume, true, self.say).await {
                Ok(()) => far::is_served(daemon, &self.row.from).await.err(),
                Err(error) => {
                    (self.say)(None, format!("{} is thawed as soon as that can be: {}", self.row.from, error.chain()));
                    errands::leave_thawing(daemon, &self.row.from).err()
                }
            },
        };
        if let Some(error) = failed {
            tracing::error!("{}", error.chain());
        }
    }

    async fn let_go(&mut self, mend: Mend, hooked: bool) {
        let (daemon, from) = (self.daemon, self.from);
        let door = door::of(daemon, &self.row.from);
        let held = door.let_go();
        self.held = if held == Held::default() { self.held } else { held };
        let (Side::Here(crew), Mend::LetGo) = (from, mend) else { return };
        if hooked {
            let site = crew.site(self.say);
            let services: Vec<&Service> = crew.config.services.iter().collect();
            let freezer = Freezer::new(&site, services, &*door, self.limits);
            freezer.after(freezer.services.len()).await;
        } else if let Some((number, _)) = self.frozen.take() {
            let _ = daemon.state.freeze_end(number);
        }
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

/// What a tenant's services had been asked to be before.
fn want(daemon: &Daemon, tenant: &TenantName, was: &BTreeMap<String, Wanted>) -> Result<()> {
    for service in daemon.state.wanted(tenant)?.keys() {
        // One that had no container has one now; it does not run.
        let was = was.get(service).copied().unwrap_or(Wanted::Created);
        daemon.state.want(tenant, [&ServiceName::new(service)?], was)?;
    }
    Ok(())
}

fn keep_paused(daemon: &Daemon, tenant: &TenantName) -> Result<()> {
    for (service, wanted) in daemon.state.wanted(tenant)? {
        if wanted == Wanted::Running {
            daemon.state.want(tenant, [&ServiceName::new(&service)?], Wanted::Paused)?;
        }
    }
    Ok(())
}

/// Decides what becomes of releases that a daemon was in the middle of when it was killed; before anybody is served, and
/// without Docker: what containers have to become is what their tenants are asked to be. What is to be done at another host
/// is written down, and done as soon as that can be.
pub fn recover(daemon: &Daemon, is_meant: impl Fn(&ReleaseRow) -> bool) -> Result<()> {
    for row in daemon.state.releases_open()?.into_iter().filter(is_meant) {
        let leads = |domain| -> Result<bool> {
            let ways = [daemon.state.route(domain, false)?, daemon.state.route(domain, true)?];
            Ok(ways.iter().flatten().any(|route| route.tenant == row.to))
        };
        let moved = row.domains.iter().map(leads).collect::<Result<Vec<_>>>()?.into_iter().all(|leads| leads);
        let is_on = row.step.way(moved) == Way::On;
        if is_on {
            // One of another host is paused there already; one that was not frozen, by a rollback, runs on.
            if let Some(from) = row.from.if_here()
                && daemon.state.freezes()?.iter().any(|freeze| freeze.tenant == *from)
            {
                keep_paused(daemon, from)?;
            }
            tracing::info!("the release of {} in the place of {} is finished", row.to, row.from);
        } else {
            match row.to.if_here() {
                Some(to) => want(daemon, to, &row.to_was)?,
                None => errands::leave_settling(daemon, &row.to, &row.to_was)?,
            }
            if row.from.host.is_some() && row.step.mends().contains(&Mend::Thaw) {
                errands::leave_thawing(daemon, &row.from)?;
            }
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
