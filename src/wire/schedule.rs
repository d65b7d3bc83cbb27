//! Jobs and their runs as messages.

use bytes::Bytes;

use super::grants::{far_in, far_out};
use super::proto::{self, job_work};
use super::{nonsense, sync};
use crate::model::keep::Keep;
use crate::model::schedule::{Failure, Job, JobCopy, JobSnapshot, Kept, NewJob, Run, Work};
use crate::model::{JobName, Name, Result};

pub fn new_job_out(job: &NewJob) -> Result<proto::ScheduleAdd> {
    Ok(proto::ScheduleAdd {
        name: job.name.to_string(),
        cron: job.cron.clone(),
        zone: job.zone.clone(),
        work: Some(work_out(&job.work)?),
    })
}

pub fn new_job_in(add: proto::ScheduleAdd) -> Result<NewJob> {
    Ok(NewJob { name: JobName::new(&add.name)?, cron: add.cron, zone: add.zone, work: work_in(add.work)? })
}

pub fn work_out(work: &Work) -> Result<proto::JobWork> {
    let what = match work {
        Work::Copy(copy) => job_work::What::Copy(proto::JobCopy {
            from: copy.from.to_string(),
            to: copy.to.to_string(),
            code: copy.code,
            force: copy.force,
            far: copy.far.as_ref().map(far_out).transpose()?,
        }),
        Work::Snapshot(snapshot) => job_work::What::Snapshot(proto::JobSnapshot {
            of: snapshot.of.to_string(),
            keep: Some(keep_out(&snapshot.keep)),
            force: snapshot.force,
        }),
    };
    Ok(proto::JobWork { what: Some(what) })
}

pub fn work_in(work: Option<proto::JobWork>) -> Result<Work> {
    let what = work.and_then(|work| work.what).ok_or_else(|| nonsense("a schedule of nothing"))?;
    Ok(match what {
        job_work::What::Copy(copy) => Work::Copy(JobCopy {
            from: copy.from.parse()?,
            to: copy.to.parse()?,
            code: copy.code,
            force: copy.force,
            far: copy.far.map(far_in),
        }),
        job_work::What::Snapshot(snapshot) => Work::Snapshot(JobSnapshot {
            of: snapshot.of.parse()?,
            keep: keep_in(snapshot.keep.unwrap_or_default()),
            force: snapshot.force,
        }),
    })
}

fn keep_out(keep: &Keep) -> proto::KeepRules {
    proto::KeepRules {
        last: keep.last,
        hourly: keep.hourly,
        daily: keep.daily,
        weekly: keep.weekly,
        monthly: keep.monthly,
    }
}

fn keep_in(keep: proto::KeepRules) -> Keep {
    Keep { last: keep.last, hourly: keep.hourly, daily: keep.daily, weekly: keep.weekly, monthly: keep.monthly }
}

pub fn kept_out(kept: &Kept) -> proto::JobKept {
    let id = |name: &Name| Bytes::copy_from_slice(&name.0);
    proto::JobKept {
        id: id(&kept.id),
        entries: kept.entries,
        bytes: kept.bytes,
        bytes_new: kept.bytes_new,
        bytes_stored: kept.bytes_stored,
        bytes_read: kept.bytes_read,
        seconds: kept.seconds,
        left_out: kept.left_out,
        removed: kept.removed.iter().map(id).collect(),
    }
}

pub fn kept_in(kept: proto::JobKept) -> Result<Kept> {
    let name = |bytes: &Bytes| Name::from_slice(bytes).ok_or_else(|| nonsense("a snapshot's id that is none"));
    Ok(Kept {
        id: name(&kept.id)?,
        entries: kept.entries,
        bytes: kept.bytes,
        bytes_new: kept.bytes_new,
        bytes_stored: kept.bytes_stored,
        bytes_read: kept.bytes_read,
        seconds: kept.seconds,
        left_out: kept.left_out,
        removed: kept.removed.iter().map(name).collect::<Result<_>>()?,
    })
}

pub fn job_out(job: &Job) -> Result<proto::Job> {
    Ok(proto::Job {
        name: job.name.to_string(),
        cron: job.cron.clone(),
        zone: job.zone.clone(),
        work: Some(work_out(&job.work)?),
        by: job.by.clone(),
        created_unix: job.created_unix,
        paused: job.paused,
        running: job.running,
        next_unix: job.next_unix,
        last: job.last.as_ref().map(run_out),
    })
}

pub fn job_in(job: proto::Job) -> Result<Job> {
    Ok(Job {
        name: JobName::new(&job.name)?,
        cron: job.cron,
        zone: job.zone,
        work: work_in(job.work)?,
        by: job.by,
        created_unix: job.created_unix,
        paused: job.paused,
        running: job.running,
        next_unix: job.next_unix,
        last: job.last.map(run_in).transpose()?,
    })
}

pub fn run_out(run: &Run) -> proto::JobRun {
    let failure = |failure: &Failure| proto::Failure {
        kind: failure.kind.clone(),
        message: failure.message.clone(),
        hint: failure.hint.clone().unwrap_or_default(),
        causes: Vec::new(),
    };
    proto::JobRun {
        number: run.number,
        name: run.name.to_string(),
        slot_unix: run.slot_unix,
        missed: run.missed,
        began_unix: run.began_unix,
        ended_unix: run.ended_unix,
        outcome: run.outcome.word().to_owned(),
        failure: run.failure.as_ref().map(failure),
        report: run.report.as_ref().map(sync::report_out),
        kept: run.kept.as_ref().map(kept_out),
        tries: run.tries,
    }
}

pub fn run_in(run: proto::JobRun) -> Result<Run> {
    let failure = |failure: proto::Failure| Failure {
        kind: failure.kind,
        message: failure.message,
        hint: Some(failure.hint).filter(|hint| !hint.is_empty()),
    };
    Ok(Run {
        number: run.number,
        name: JobName::new(&run.name)?,
        slot_unix: run.slot_unix,
        missed: run.missed,
        began_unix: run.began_unix,
        ended_unix: run.ended_unix,
        outcome: run.outcome.parse()?,
        failure: run.failure.map(failure),
        report: run.report.map(sync::report_in).transpose()?,
        kept: run.kept.map(kept_in).transpose()?,
        tries: run.tries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::host::FarHost;

    #[test]
    fn a_job_comes_out_as_it_went_in() {
        let far = FarHost { host_key: "0a".repeat(32), addresses: vec!["10.0.0.1:7080".into()], grant: 3 };
        let copy = |far| {
            Work::Copy(JobCopy {
                from: "redis.shop@10.0.0.1:/data".parse().unwrap(),
                to: "redis.copy:/data".parse().unwrap(),
                code: true,
                force: true,
                far,
            })
        };
        let keep = Keep { last: 1, hourly: 2, daily: 3, weekly: 4, monthly: 5 };
        let snapshot = Work::Snapshot(JobSnapshot { of: "redis.shop".parse().unwrap(), keep, force: true });
        for work in [copy(None), copy(Some(far)), snapshot] {
            let (name, cron, zone) = (JobName::new("nightly").unwrap(), "0 2 * * *".into(), "UTC".into());
            let job = NewJob { name, cron, zone, work };
            assert_eq!(new_job_in(new_job_out(&job).unwrap()).unwrap(), job);
        }
        assert!(work_in(None).is_err());
    }
}
