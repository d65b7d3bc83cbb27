//! What clients ask of schedules. Who sees the tenant that a job acts on sees the job, who may change it may change the job.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::daemon::access::Principal;
use crate::daemon::copies::joined;
use crate::daemon::requests::{fail, note, say};
use crate::daemon::state::JobRow;
use crate::daemon::{Daemon, tenants};
use crate::model::host::Role;
use crate::model::meant::nearest;
use crate::model::schedule::{Job, JobCopy, Run, Work};
use crate::model::{Error, Kind, Result};
use crate::schedule::calendar::Calendar;
use crate::transport::Stream;
use crate::wire::proto::{self, response};
use crate::wire::{nonsense, schedule as wire, sync as wire_sync};

/// How long the host of a source may take to hear that its grant is given back.
const GIVING_BACK: Duration = Duration::from_secs(10);
/// Runs that history tells at the most.
const RUNS: u32 = 1000;

pub fn add(daemon: &Daemon, who: &Principal, add: proto::ScheduleAdd) -> Result<response::What> {
    let job = wire::new_job_in(add)?;
    let on = job.work.on();
    let what = format!("{}: {} at {} {}", job.name, job.work, job.cron, job.zone);
    note(daemon, who, "schedule add", on.tenant.as_str(), &what, &mut || {
        // A host with a grant adds nothing: a job runs with the rights of a key that is enrolled here.
        who.may_by_himself(Role::Deployer, &on.tenant)?;
        tenants::find(&daemon.state, &on.tenant, |name| who.sees(name))?;
        match &job.work {
            Work::Copy(JobCopy { far: None, from, .. }) if from.host.is_none() => {
                who.may(Role::Viewer, &from.tenant)?;
                tenants::find(&daemon.state, &from.tenant, |name| who.sees(name))?;
            }
            Work::Copy(JobCopy { far: Some(_), from, .. }) if from.host.is_some() => {}
            Work::Copy(_) => return Err(nonsense("a source that is half at another host")),
            Work::Snapshot(snapshot) => super::keep::checked(&job.name, snapshot)?,
        }
        Calendar::parse(&job.cron, &job.zone)?;
        daemon.state.add_job(&job, (&who.key, &who.label()), super::now())?;
        daemon.runner.changed();
        jobs_out(daemon, &[find(daemon, who, job.name.as_str())?], Vec::new())
    })
}

pub fn list(daemon: &Daemon, who: &Principal, name: &str) -> Result<response::What> {
    who.is_enrolled()?;
    let rows = match name {
        "" => daemon.state.jobs()?.into_iter().filter(|row| who.sees(&row.tenant)).collect(),
        name => vec![find(daemon, who, name)?],
    };
    jobs_out(daemon, &rows, Vec::new())
}

pub fn history(daemon: &Daemon, who: &Principal, wanted: &proto::ScheduleHistory) -> Result<response::What> {
    who.is_enrolled()?;
    let last = wanted.last.min(RUNS);
    let runs: Vec<Run> = match wanted.name.as_str() {
        "" => {
            let seen: Vec<u64> = seen(daemon, who)?.iter().map(|row| row.number).collect();
            let all = daemon.state.runs(None, u32::MAX)?.into_iter();
            all.filter(|(job, _)| seen.contains(job)).map(|(_, run)| run).take(last as usize).collect()
        }
        name => {
            let job = find(daemon, who, name)?;
            daemon.state.runs(Some(job.number), last)?.into_iter().map(|(_, run)| run).collect()
        }
    };
    Ok(response::What::JobRuns(proto::JobRuns { runs: runs.iter().map(wire::run_out).collect() }))
}

/// Runs a job now, and tells how it goes. It goes on without whoever asked for it.
pub async fn run(daemon: Arc<Daemon>, who: Principal, mut stream: Stream, wanted: proto::ScheduleRun) {
    let (asking, asker) = (daemon.clone(), who.clone());
    let found = tokio::task::spawn_blocking(move || {
        let job = find(&asking, &asker, &wanted.name)?;
        note(&asking, &asker, "schedule run", job.tenant.as_str(), job.name.as_str(), &mut || {
            asker.may(Role::Deployer, &job.tenant)
        })?;
        Ok(job)
    });
    let begun = match joined(found.await) {
        Ok(job) => super::begin(&daemon, job, None).await,
        Err(error) => Err(error),
    };
    let live = match begun {
        Ok(live) => live,
        Err(error) => return fail(stream, &error).await,
    };
    let mut events = live.events.subscribe();
    let mut over = live.over.clone();
    let run = loop {
        tokio::select! {
            // All that was said is told before the end.
            biased;
            event = events.recv() => {
                // Who is behind has missed some progress.
                let Ok(event) = event else { continue };
                let event = response::What::SyncEvent(wire_sync::event_out(event));
                if stream.send(&proto::Response { what: Some(event) }).await.is_err() {
                    return;
                }
            }
            over = ended(&mut over) => break over,
        }
    };
    match run {
        Some(run) => say(&mut stream, response::What::JobRun(wire::run_out(&run))).await,
        None => {
            let error = Error::failed("how the run ended could not be noted").hint("the daemon's log says why");
            fail(stream, &error).await;
        }
    }
}

/// The run, once it is over.
async fn ended(over: &mut watch::Receiver<Option<Run>>) -> Option<Run> {
    over.wait_for(Option::is_some).await.ok().and_then(|run| run.clone())
}

/// `pause`, `resume` and `remove`.
pub async fn change(daemon: Arc<Daemon>, who: Principal, mut stream: Stream, change: proto::ScheduleChange) {
    let (asking, asker, verb) = (daemon.clone(), who.clone(), change.verb.clone());
    let done = tokio::task::spawn_blocking(move || {
        let job = find(&asking, &asker, &change.name)?;
        let what = format!("schedule {}", change.verb.escape_debug());
        note(&asking, &asker, &what, job.tenant.as_str(), job.name.as_str(), &mut || {
            asker.may(Role::Deployer, &job.tenant)?;
            match change.verb.as_str() {
                "pause" => asking.state.pause_job(job.number, true, super::now()),
                "resume" => asking.state.pause_job(job.number, false, super::now()),
                "remove" if asking.runner.live().contains_key(&job.number) => {
                    Err(Error::new(Kind::Busy, format!("`{}` runs", job.name))
                        .hint("wait for it, or end it: `mcloud ps` shows it, `mcloud kill` ends it"))
                }
                "remove" => asking.state.remove_job(job.number),
                _ => Err(nonsense("something else that is done to a schedule")),
            }
        })?;
        asking.runner.changed();
        match change.verb.as_str() {
            "remove" => Ok(job),
            _ => find(&asking, &asker, job.name.as_str()),
        }
    });
    let job = match joined(done.await) {
        Ok(job) => job,
        Err(error) => return fail(stream, &error).await,
    };
    let notes = match &job.work {
        Work::Copy(copy) if verb == "remove" => give_back(&daemon, copy).await.into_iter().collect(),
        _ => Vec::new(),
    };
    let answer = tokio::task::spawn_blocking(move || jobs_out(&daemon, &[job], notes));
    match joined(answer.await) {
        Ok(answer) => say(&mut stream, answer).await,
        Err(error) => fail(stream, &error).await,
    }
}

/// Gives the grant of a job that is gone back to the source's host. What to do where that does not work.
async fn give_back(daemon: &Arc<Daemon>, copy: &JobCopy) -> Option<String> {
    let far = copy.far.as_ref()?;
    let giving = async {
        let client = super::run::visit(daemon, copy, far).await?;
        let given = client.grant_revoke(far.grant).await;
        client.close().await;
        given
    };
    let given = tokio::time::timeout(GIVING_BACK, giving).await;
    let why = match given {
        Ok(Ok(())) => return None,
        // It is gone already: revoked, or with the tenant.
        Ok(Err(error)) if matches!(error.kind, Kind::NotFound | Kind::Refused) => return None,
        Ok(Err(error)) => error.chain(),
        Err(_) => "it does not answer".to_owned(),
    };
    let host = copy.from.host.as_ref().map(ToString::to_string).unwrap_or_default();
    Some(format!(
        "the grant g{} is left at {host} ({why}); take it back there: mcloud -h {host} access revoke g{}",
        far.grant, far.grant
    ))
}

fn seen(daemon: &Daemon, who: &Principal) -> Result<Vec<JobRow>> {
    Ok(daemon.state.jobs()?.into_iter().filter(|row| who.sees(&row.tenant)).collect())
}

fn find(daemon: &Daemon, who: &Principal, name: &str) -> Result<JobRow> {
    let rows = seen(daemon, who)?;
    if let Some(row) = rows.iter().find(|row| row.name.as_str() == name) {
        return Ok(row.clone());
    }
    let hint = match nearest(name, rows.iter().map(|row| row.name.as_str())) {
        Some(near) => format!("did you mean `{near}`?"),
        None if rows.is_empty() => "there is none yet: `mcloud help schedule`".to_owned(),
        None => "`mcloud schedule list` shows them".to_owned(),
    };
    Err(Error::new(Kind::NotFound, format!("there is no schedule `{}`", name.escape_debug())).hint(hint))
}

fn jobs_out(daemon: &Daemon, rows: &[JobRow], notes: Vec<String>) -> Result<response::What> {
    let job = |row: &JobRow| -> Result<proto::Job> {
        let running = daemon.runner.live().contains_key(&row.number);
        let calendar = Calendar::parse(&row.cron, &row.zone).ok();
        let next = calendar.and_then(|calendar| calendar.next(super::now().max(row.mark)));
        let last = daemon.state.runs(Some(row.number), 1)?.pop().map(|(_, run)| run);
        wire::job_out(&Job {
            name: row.name.clone(),
            cron: row.cron.clone(),
            zone: row.zone.clone(),
            work: row.work.clone(),
            by: row.by.clone(),
            created_unix: row.created_unix,
            paused: row.paused,
            running,
            next_unix: next.filter(|_| !row.paused).and_then(|next| u64::try_from(next).ok()),
            last,
        })
    };
    Ok(response::What::Jobs(proto::Jobs { jobs: rows.iter().map(job).collect::<Result<_>>()?, notes }))
}

/// Schedules that act on this tenant and whose last run that came to an end failed.
pub fn failed_of(daemon: &Daemon, tenant: &crate::model::TenantName) -> Result<Vec<String>> {
    use crate::model::schedule::Outcome;
    let mut failed = Vec::new();
    for row in daemon.state.jobs()?.into_iter().filter(|row| row.tenant == *tenant) {
        let runs = daemon.state.runs(Some(row.number), 2)?;
        let ended = runs.into_iter().map(|(_, run)| run.outcome).find(|outcome| *outcome != Outcome::Running);
        if matches!(ended, Some(Outcome::Failed | Outcome::Interrupted)) {
            failed.push(row.name.to_string());
        }
    }
    Ok(failed)
}
