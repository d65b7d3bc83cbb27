//! Schedules at a daemon, asked by a client.

use super::{Client, answer, only, start, unexpected};
use crate::model::Result;
use crate::model::schedule::{Job, NewJob, Run};
use crate::model::sync::Event;
use crate::wire::proto::{self, request, response};
use crate::wire::{schedule as wire, sync as wire_sync};

impl Client {
    pub async fn schedule_add(&self, job: &NewJob) -> Result<Job> {
        let (jobs, _) = self.jobs(request::What::ScheduleAdd(wire::new_job_out(job)?)).await?;
        only(jobs)
    }

    /// All schedules that we see, or the one of that name.
    pub async fn schedules(&self, name: Option<&str>) -> Result<Vec<Job>> {
        let list = proto::ScheduleList { name: name.unwrap_or_default().to_owned() };
        Ok(self.jobs(request::What::ScheduleList(list)).await?.0)
    }

    /// `pause`, `resume` or `remove`. Also says what could not be done beside it.
    pub async fn schedule_change(&self, name: &str, verb: &str) -> Result<(Job, Vec<String>)> {
        let change = proto::ScheduleChange { name: name.to_owned(), verb: verb.to_owned() };
        let (jobs, notes) = self.jobs(request::What::ScheduleChange(change)).await?;
        Ok((only(jobs)?, notes))
    }

    /// The newest runs, the newest first.
    pub async fn schedule_history(&self, name: Option<&str>, last: u32) -> Result<Vec<Run>> {
        let wanted = proto::ScheduleHistory { name: name.unwrap_or_default().to_owned(), last };
        match self.ask(request::What::ScheduleHistory(wanted)).await? {
            response::What::JobRuns(runs) => runs.runs.into_iter().map(wire::run_in).collect(),
            _ => Err(unexpected()),
        }
    }

    /// Runs a job now, and waits for it. Given up, the run goes on.
    pub async fn schedule_run(&self, name: &str, mut hears: impl FnMut(Event)) -> Result<Run> {
        let wanted = proto::ScheduleRun { name: name.to_owned() };
        let mut stream = start(&self.connection, request::What::ScheduleRun(wanted)).await?;
        loop {
            match answer(&mut stream).await? {
                response::What::SyncEvent(event) => match wire_sync::event_in(event) {
                    Ok(event) => hears(event),
                    Err(error) => tracing::debug!("{error}"),
                },
                response::What::JobRun(run) => return wire::run_in(run),
                _ => return Err(unexpected()),
            }
        }
    }

    async fn jobs(&self, what: request::What) -> Result<(Vec<Job>, Vec<String>)> {
        match self.ask(what).await? {
            response::What::Jobs(jobs) => {
                Ok((jobs.jobs.into_iter().map(wire::job_in).collect::<Result<_>>()?, jobs.notes))
            }
            _ => Err(unexpected()),
        }
    }
}
