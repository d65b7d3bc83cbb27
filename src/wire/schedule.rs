//! Jobs and their runs as messages.

use bytes::Bytes;

use super::{nonsense, proto, sync};
use crate::model::schedule::{Failure, FarSource, Job, JobCopy, NewJob, Run, Work};
use crate::model::{JobName, Result};

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
    let Work::Copy(copy) = work;
    let far = copy.far.as_ref().map(|far| {
        Ok::<_, crate::model::Error>(proto::FarSource {
            host_key: hex_in(&far.host_key)?,
            addresses: far.addresses.clone(),
            grant: far.grant,
        })
    });
    let copy = proto::JobCopy {
        from: copy.from.to_string(),
        to: copy.to.to_string(),
        code: copy.code,
        force: copy.force,
        far: far.transpose()?,
    };
    Ok(proto::JobWork { what: Some(proto::job_work::What::Copy(copy)) })
}

pub fn work_in(work: Option<proto::JobWork>) -> Result<Work> {
    let what = work.and_then(|work| work.what).ok_or_else(|| nonsense("a schedule of nothing"))?;
    let proto::job_work::What::Copy(copy) = what;
    let far = copy.far.map(|far| FarSource {
        host_key: far.host_key.iter().map(|byte| format!("{byte:02x}")).collect(),
        addresses: far.addresses,
        grant: far.grant,
    });
    let (from, to) = (copy.from.parse()?, copy.to.parse()?);
    Ok(Work::Copy(JobCopy { from, to, code: copy.code, force: copy.force, far }))
}

fn hex_in(hex: &str) -> Result<Bytes> {
    let digits = |at: usize| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(digits).collect();
    bytes.map(Bytes::from).ok_or_else(|| nonsense("a key that is none"))
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
        tries: run.tries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_comes_out_as_it_went_in() {
        let far = FarSource { host_key: "0a".repeat(32), addresses: vec!["10.0.0.1:7080".into()], grant: 3 };
        for far in [None, Some(far)] {
            let copy = JobCopy {
                from: "redis.shop@10.0.0.1:/data".parse().unwrap(),
                to: "redis.copy:/data".parse().unwrap(),
                code: true,
                force: true,
                far,
            };
            let job = NewJob {
                name: JobName::new("nightly").unwrap(),
                cron: "0 2 * * *".into(),
                zone: "UTC".into(),
                work: Work::Copy(copy),
            };
            assert_eq!(new_job_in(new_job_out(&job).unwrap()).unwrap(), job);
        }
        assert!(work_in(None).is_err() && hex_in("0g").is_err() && hex_in("abc").is_err());
    }
}
