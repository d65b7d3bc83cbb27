//! What a client asks of tenants that live.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Client, answer, start, unexpected};
use crate::model::host::Tenant;
use crate::model::running::{Act, Command, Task, TenantStatus};
use crate::model::{Result, ServiceName, TenantName};
use crate::wire::proto::{self, input, request, response};
use crate::wire::{host, nonsense, running as wire};

/// A piece of output: of which service, whether it went to standard error, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub service: String,
    pub is_error: bool,
    pub data: Bytes,
}

/// What somebody who sits at a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Talk {
    Data(Bytes),
    /// There is no more input.
    End,
    /// The terminal has so many columns and rows now.
    Resize(u16, u16),
}

impl Client {
    /// Brings services to a state; `note` hears of which service what was done.
    pub async fn act(&self, act: &Act, mut note: impl FnMut(&str, &str)) -> Result<()> {
        let mut stream = start(&self.connection, request::What::Act(wire::act_out(act))).await?;
        loop {
            match answer(&mut stream).await? {
                response::What::Note(heard) => note(&heard.service, &heard.text),
                response::What::Done(_) => return Ok(()),
                _ => return Err(unexpected()),
            }
        }
    }

    /// The tenants that we see, or one of them; `whole` with what takes a moment to learn.
    pub async fn status(&self, tenant: Option<&TenantName>, whole: bool) -> Result<Vec<TenantStatus>> {
        let wanted = proto::StatusWanted { tenant: tenant.map(ToString::to_string).unwrap_or_default(), whole };
        match self.ask(request::What::Status(wanted)).await? {
            response::What::Statuses(found) => found.tenants.into_iter().map(wire::status_in).collect(),
            _ => Err(unexpected()),
        }
    }

    pub async fn logs(
        &self,
        tenant: &TenantName,
        service: Option<&ServiceName>,
        follow: bool,
        tail: Option<u64>,
        mut hear: impl FnMut(Heard),
    ) -> Result<()> {
        let wanted = proto::LogsWanted {
            tenant: tenant.to_string(),
            service: service.map(ToString::to_string).unwrap_or_default(),
            follow,
            tail,
        };
        let mut stream = start(&self.connection, request::What::Logs(wanted)).await?;
        loop {
            match answer(&mut stream).await? {
                response::What::Output(output) => {
                    hear(Heard { service: output.service, is_error: output.is_error, data: output.data });
                }
                response::What::Done(_) => return Ok(()),
                _ => return Err(unexpected()),
            }
        }
    }

    /// Runs a command; its exit status. `talk` is what the one who sits at it does.
    pub async fn command(
        &self,
        command: &Command,
        mut talk: mpsc::Receiver<Talk>,
        mut hear: impl FnMut(Heard),
    ) -> Result<i64> {
        let mut stream = start(&self.connection, request::What::Command(wire::command_out(command))).await?;
        let (sender, receiver) = (&mut stream.sender, &mut stream.receiver);
        let saying = async {
            while let Some(said) = talk.recv().await {
                let what = match said {
                    Talk::Data(data) => input::What::Data(data),
                    Talk::End => input::What::End(true),
                    Talk::Resize(columns, rows) => {
                        input::What::Resize(proto::TerminalSize { columns: columns.into(), rows: rows.into() })
                    }
                };
                if sender.send(&proto::Input { what: Some(what) }).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let hearing = async {
            loop {
                let heard = receiver.receive::<proto::Response>().await?.and_then(|heard| heard.what);
                match heard {
                    Some(response::What::Output(output)) => {
                        hear(Heard { service: output.service, is_error: output.is_error, data: output.data });
                    }
                    Some(response::What::Ended(ended)) => return Ok(ended.status),
                    Some(response::What::Failure(failure)) => return Err(crate::wire::sync::failure_in(failure)),
                    _ => return Err(unexpected()),
                }
            }
        };
        tokio::select! {
            () = saying => Err(unexpected()),
            ended = hearing => ended,
        }
    }

    /// What Docker tells of a service's container, as JSON.
    pub async fn inspect(&self, tenant: &TenantName, service: &ServiceName) -> Result<String> {
        let wanted = proto::InspectWanted { tenant: tenant.to_string(), service: service.to_string() };
        match self.ask(request::What::Inspect(wanted)).await? {
            response::What::Inspection(found) => Ok(found.json),
            _ => Err(unexpected()),
        }
    }

    /// A tenant and its mcloud.yml.
    pub async fn config(&self, tenant: &TenantName) -> Result<(Tenant, String)> {
        let wanted = proto::ConfigWanted { tenant: tenant.to_string() };
        match self.ask(request::What::Config(wanted)).await? {
            response::What::Config(found) => {
                let tenant = found.tenant.ok_or_else(|| nonsense("an mcloud.yml of no tenant"))?;
                Ok((host::tenant_in(tenant)?, found.text))
            }
            _ => Err(unexpected()),
        }
    }

    /// Sets a variable of the host, or takes it away.
    pub async fn set_var(&self, name: &str, value: Option<&str>) -> Result<()> {
        let var = proto::VarSet { name: name.to_owned(), value: value.map(str::to_owned) };
        match self.ask(request::What::VarSet(var)).await? {
            response::What::Done(_) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// The names of the host's variables; their values stay there.
    pub async fn vars(&self) -> Result<Vec<String>> {
        match self.ask(request::What::VarList(proto::VarList {})).await? {
            response::What::Vars(vars) => Ok(vars.names),
            _ => Err(unexpected()),
        }
    }

    pub async fn tasks(&self) -> Result<Vec<Task>> {
        self.tasks_of(request::What::TaskList(proto::TaskList {})).await
    }

    /// Ends a task of the daemon; which it was.
    pub async fn kill_task(&self, number: u64) -> Result<Task> {
        super::only(self.tasks_of(request::What::TaskKill(proto::TaskKill { number })).await?)
    }

    async fn tasks_of(&self, what: request::What) -> Result<Vec<Task>> {
        match self.ask(what).await? {
            response::What::Tasks(tasks) => Ok(tasks.tasks.into_iter().map(wire::task_in).collect()),
            _ => Err(unexpected()),
        }
    }
}
