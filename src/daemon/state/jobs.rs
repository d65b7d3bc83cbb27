//! Jobs and their runs. A run is noted before it begins, together with the job's mark: no time is done twice.

use prost::Message;
use rusqlite::{OptionalExtension, Row, TransactionBehavior, params};

use super::{State, broken, foreign, key_of};
use crate::model::schedule::{Failure, NewJob, Outcome, Run, Work};
use crate::model::{Error, JobName, Result, TenantName};
use crate::transport::PublicKey;
use crate::wire::{proto, schedule as wire, sync as wire_sync};

/// Runs that are kept of each job.
const RUNS_KEPT: u64 = 200;

/// A job with what the schedule needs of it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    pub number: u64,
    pub name: JobName,
    pub cron: String,
    pub zone: String,
    /// What it acts on.
    pub tenant: TenantName,
    pub work: Work,
    /// Who added it.
    pub by_key: PublicKey,
    pub by: String,
    pub created_unix: u64,
    pub paused: bool,
    /// Its times up to here are settled; seconds since 1970.
    pub mark: i64,
    /// A time whose run was broken off.
    pub again: Option<i64>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended<'e> {
    pub outcome: Outcome,
    pub failure: Option<&'e Failure>,
    pub report: Option<proto::SyncReport>,
    pub kept: Option<proto::JobKept>,
    pub tries: u32,
}

impl State {
    pub fn add_job(&self, job: &NewJob, by: (&PublicKey, &str), now: i64) -> Result<()> {
        let (sql, on) = (
            "INSERT INTO jobs (name, cron, zone, tenant, work, by_key, by_label, created, mark) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            job.work.on(),
        );
        let work = wire::work_out(&job.work)?.encode_to_vec();
        let values = params![job.name.as_str(), job.cron, job.zone, on.tenant.as_str(), work, by.0.0, by.1, now, now];
        match self.writer().execute(sql, values) {
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                Err(Error::failed(format!("there is a schedule `{}` already", job.name))
                    .hint("another --name, or `mcloud schedule remove` first"))
            }
            done => done.map(drop).map_err(broken),
        }
    }

    /// All jobs, by name.
    pub fn jobs(&self) -> Result<Vec<JobRow>> {
        let db = self.reader();
        let mut query = db.prepare_cached("SELECT * FROM jobs ORDER BY name").map_err(broken)?;
        query.query_map([], job_of).and_then(Iterator::collect).map_err(broken)
    }

    pub fn remove_job(&self, number: u64) -> Result<()> {
        self.writer().execute("DELETE FROM jobs WHERE number = ?", [number]).map(drop).map_err(broken)
    }

    /// Pauses a job, or lets it go on: then what went by meanwhile is settled.
    pub fn pause_job(&self, number: u64, paused: bool, now: i64) -> Result<()> {
        let sql = "UPDATE jobs SET paused = ?1, mark = MAX(mark, ?2), again = NULL WHERE number = ?3 AND paused <> ?1";
        self.writer().execute(sql, params![paused, now, number]).map(drop).map_err(broken)
    }

    pub fn mark_job(&self, number: u64, mark: i64) -> Result<()> {
        self.writer()
            .execute("UPDATE jobs SET mark = ? WHERE number = ?", params![mark, number])
            .map(drop)
            .map_err(broken)
    }

    /// Notes a run that is to begin, and settles its time. Its number.
    pub fn begin_run(&self, job: u64, slot: Option<i64>, missed: u32, now: u64) -> Result<u64> {
        let mut db = self.writer();
        let mut begin = || -> rusqlite::Result<u64> {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if let Some(slot) = slot {
                tx.execute("UPDATE jobs SET mark = MAX(mark, ?), again = NULL WHERE number = ?", params![slot, job])?;
            }
            tx.execute(
                "INSERT INTO runs (job, slot, missed, began, outcome, tries) VALUES (?, ?, ?, ?, ?, 0)",
                params![job, slot, missed, now, Outcome::Running.word()],
            )?;
            let number = u64::try_from(tx.last_insert_rowid()).map_err(|_| rusqlite::Error::InvalidQuery)?;
            tx.execute(
                "DELETE FROM runs WHERE job = ?1 AND number NOT IN
                     (SELECT number FROM runs WHERE job = ?1 ORDER BY number DESC LIMIT ?2)",
                params![job, RUNS_KEPT],
            )?;
            tx.commit()?;
            Ok(number)
        };
        begin().map_err(broken)
    }

    /// Notes how a run ended. One that was interrupted is owed once more.
    pub fn end_run(&self, run: u64, ended: &Ended<'_>, now: u64) -> Result<()> {
        let mut db = self.writer();
        let mut end = || -> rusqlite::Result<()> {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            tx.execute(
                "UPDATE runs SET ended = ?, outcome = ?, kind = ?, message = ?, hint = ?, report = ?, kept = ?, tries = ? WHERE number = ?",
                params![
                    now,
                    ended.outcome.word(),
                    ended.failure.map(|failure| &failure.kind),
                    ended.failure.map(|failure| &failure.message),
                    ended.failure.and_then(|failure| failure.hint.as_ref()),
                    ended.report.as_ref().map(Message::encode_to_vec),
                    ended.kept.as_ref().map(Message::encode_to_vec),
                    ended.tries,
                    run
                ],
            )?;
            if ended.outcome == Outcome::Interrupted {
                tx.execute(OWED, [run])?;
            }
            tx.commit()
        };
        end().map_err(broken)
    }

    /// What ran when the daemon was killed: noted as interrupted, and owed once more. How many there were.
    pub fn runs_broken_off(&self, why: &Failure, now: u64) -> Result<usize> {
        let running = || -> rusqlite::Result<Vec<u64>> {
            let db = self.reader();
            let mut query = db.prepare_cached("SELECT number FROM runs WHERE outcome = 'running'")?;
            query.query_map([], |row| row.get(0))?.collect()
        };
        let running = running().map_err(broken)?;
        let ended = Ended { outcome: Outcome::Interrupted, failure: Some(why), report: None, kept: None, tries: 1 };
        for run in &running {
            self.end_run(*run, &ended, now)?;
        }
        Ok(running.len())
    }

    /// The newest runs of a job, or of all, the newest first.
    pub fn runs(&self, job: Option<u64>, last: u32) -> Result<Vec<(u64, Run)>> {
        let db = self.reader();
        let sql = "SELECT runs.*, jobs.name AS name FROM runs JOIN jobs ON jobs.number = runs.job
                   WHERE ?1 IS NULL OR job = ?1 ORDER BY runs.number DESC LIMIT ?2";
        let mut query = db.prepare_cached(sql).map_err(broken)?;
        query.query_map(params![job, last], run_of).and_then(Iterator::collect).map_err(broken)
    }

    pub fn run(&self, number: u64) -> Result<Option<Run>> {
        let db = self.reader();
        let sql =
            "SELECT runs.*, jobs.name AS name FROM runs JOIN jobs ON jobs.number = runs.job WHERE runs.number = ?";
        let found = db.prepare_cached(sql).and_then(|mut query| query.query_row([number], run_of).optional());
        Ok(found.map_err(broken)?.map(|(_, run)| run))
    }

    /// The times of a job after `now` that were done already, under a clock that was ahead.
    pub fn slots_after(&self, job: u64, now: i64) -> Result<Vec<i64>> {
        let db = self.reader();
        let mut query = db.prepare_cached("SELECT slot FROM runs WHERE job = ? AND slot > ?").map_err(broken)?;
        query.query_map(params![job, now], |row| row.get(0)).and_then(Iterator::collect).map_err(broken)
    }
}

/// The time of a run is owed once more, unless it was broken off before: what brings the daemon down is not done for ever.
const OWED: &str = "UPDATE jobs SET again = (SELECT slot FROM runs WHERE number = ?1)
    WHERE number = (SELECT job FROM runs WHERE number = ?1) AND 1 =
        (SELECT COUNT(*) FROM runs AS one JOIN runs AS other ON other.job = one.job AND other.slot = one.slot
         WHERE one.number = ?1 AND other.outcome = 'interrupted')";

fn name_of(row: &Row<'_>) -> rusqlite::Result<JobName> {
    JobName::new(&row.get::<_, String>("name")?).map_err(foreign)
}

fn job_of(row: &Row<'_>) -> rusqlite::Result<JobRow> {
    let work: Vec<u8> = row.get("work")?;
    let work = proto::JobWork::decode(work.as_slice())
        .map_err(|error| foreign(Error::failed("a schedule does not read back").because(error)))?;
    Ok(JobRow {
        number: row.get("number")?,
        name: name_of(row)?,
        cron: row.get("cron")?,
        zone: row.get("zone")?,
        tenant: TenantName::new(&row.get::<_, String>("tenant")?).map_err(foreign)?,
        work: wire::work_in(Some(work)).map_err(foreign)?,
        by_key: key_of(row, "by_key")?,
        by: row.get("by_label")?,
        created_unix: row.get("created")?,
        paused: row.get("paused")?,
        mark: row.get("mark")?,
        again: row.get("again")?,
    })
}

/// A run with the number of its job.
fn run_of(row: &Row<'_>) -> rusqlite::Result<(u64, Run)> {
    let failure = match row.get::<_, Option<String>>("message")? {
        Some(message) => Some(Failure {
            kind: row.get::<_, Option<String>>("kind")?.unwrap_or_default(),
            message,
            hint: row.get("hint")?,
        }),
        None => None,
    };
    // A receipt of another version is no reason not to list the run.
    let report = row
        .get::<_, Option<Vec<u8>>>("report")?
        .and_then(|bytes| wire_sync::report_in(proto::SyncReport::decode(bytes.as_slice()).ok()?).ok());
    let kept = row
        .get::<_, Option<Vec<u8>>>("kept")?
        .and_then(|bytes| wire::kept_in(proto::JobKept::decode(bytes.as_slice()).ok()?).ok());
    let run = Run {
        number: row.get("number")?,
        name: name_of(row)?,
        slot_unix: row.get::<_, Option<i64>>("slot")?.and_then(|slot| u64::try_from(slot).ok()),
        missed: row.get("missed")?,
        began_unix: row.get("began")?,
        ended_unix: row.get("ended")?,
        outcome: row.get::<_, String>("outcome")?.parse().map_err(foreign)?,
        failure,
        report,
        kept,
        tries: row.get("tries")?,
    };
    Ok((row.get("job")?, run))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::schedule::JobCopy;

    fn state() -> (tempfile::TempDir, State) {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state.db")).unwrap();
        (dir, state)
    }

    fn job(name: &str) -> NewJob {
        let copy =
            JobCopy { from: "a".parse().unwrap(), to: "b".parse().unwrap(), code: false, force: false, far: None };
        NewJob {
            name: JobName::new(name).unwrap(),
            cron: "0 2 * * *".into(),
            zone: "UTC".into(),
            work: Work::Copy(copy),
        }
    }

    fn why() -> Failure {
        Failure { kind: "failed".into(), message: "broken off".into(), hint: None }
    }

    #[test]
    fn a_run_settles_its_time_before_it_begins_and_history_is_bounded() {
        let (_dir, state) = state();
        let key = PublicKey([1; 32]);
        state.add_job(&job("nightly"), (&key, "ann"), 100).unwrap();
        assert!(state.add_job(&job("nightly"), (&key, "bob"), 100).unwrap_err().message.contains("already"));
        let row = state.jobs().unwrap().remove(0);
        assert_eq!((row.mark, row.by.as_str(), row.tenant.as_str(), row.paused), (100, "ann", "b", false));
        assert_eq!(row.work, job("nightly").work);
        let run = state.begin_run(row.number, Some(500), 2, 501).unwrap();
        assert_eq!(state.jobs().unwrap()[0].mark, 500);
        assert_eq!(state.slots_after(row.number, 400).unwrap(), [500]);
        let report = proto::SyncReport { files_created: 7, ..Default::default() };
        let ended = Ended { outcome: Outcome::Ok, failure: None, report: Some(report), kept: None, tries: 1 };
        state.end_run(run, &ended, 510).unwrap();
        let (_, kept) = state.runs(Some(row.number), 5).unwrap().remove(0);
        assert_eq!((kept.outcome, kept.missed, kept.ended_unix), (Outcome::Ok, 2, Some(510)));
        assert_eq!(kept.report.unwrap().files_created, 7);
        for _ in 0..RUNS_KEPT + 20 {
            state.begin_run(row.number, None, 0, 600).unwrap();
        }
        assert_eq!(state.runs(None, 10_000).unwrap().len() as u64, RUNS_KEPT);
        assert_eq!(state.jobs().unwrap()[0].mark, 500, "a run that somebody asked for settles nothing");
        state.remove_job(row.number).unwrap();
        assert!(state.runs(None, 10).unwrap().is_empty());
    }

    #[test]
    fn what_was_broken_off_is_owed_once() {
        let (_dir, state) = state();
        state.add_job(&job("nightly"), (&PublicKey([1; 32]), "ann"), 100).unwrap();
        let number = state.jobs().unwrap()[0].number;
        state.begin_run(number, Some(500), 0, 501).unwrap();
        assert_eq!(state.runs_broken_off(&why(), 600).unwrap(), 1);
        assert_eq!(state.jobs().unwrap()[0].again, Some(500));
        assert_eq!(state.runs(None, 1).unwrap()[0].1.outcome, Outcome::Interrupted);
        state.begin_run(number, Some(500), 0, 601).unwrap();
        assert_eq!(state.jobs().unwrap()[0].again, None);
        state.runs_broken_off(&why(), 700).unwrap();
        assert_eq!(state.jobs().unwrap()[0].again, None, "a second time would be for ever");
        // A run that somebody asked for is not owed: he sees that it is gone.
        state.begin_run(number, None, 0, 800).unwrap();
        state.runs_broken_off(&why(), 900).unwrap();
        assert_eq!(state.jobs().unwrap()[0].again, None);
    }

    #[test]
    fn a_pause_settles_what_goes_by() {
        let (_dir, state) = state();
        state.add_job(&job("nightly"), (&PublicKey([1; 32]), "ann"), 100).unwrap();
        let number = state.jobs().unwrap()[0].number;
        state.pause_job(number, true, 200).unwrap();
        state.pause_job(number, false, 900).unwrap();
        let row = state.jobs().unwrap().remove(0);
        assert_eq!((row.paused, row.mark), (false, 900));
        state.pause_job(number, false, 2000).unwrap();
        assert_eq!(state.jobs().unwrap()[0].mark, 900, "one that goes on already is left alone");
    }
}
