//! Docker's long conversations: logs, commands with somebody at them, and how busy a container is.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ContainerStatsResponse;

use super::{
    Answer, Bollard, CPU_WINDOW, Docker, Error, Exec, LogsWanted, Output, Outputs, Runtime, Session, SessionId,
    StreamExt, TryStreamExt, Usage, query,
};
use crate::model::Result;
use crate::sys::process;

/// A command whose output has ended ends in this time.
const ENDING: Duration = Duration::from_secs(5);

fn output(piece: LogOutput) -> Output {
    Output { is_error: matches!(piece, LogOutput::StdErr { .. }), bytes: piece.into_bytes() }
}

pub fn logs<'a>(docker: &'a Docker, id: &'a str, wanted: &'a LogsWanted) -> Answer<'a, Outputs> {
    Box::pin(async move {
        let client = docker.client().await?;
        let options = query::LogsOptions {
            follow: wanted.follow,
            stdout: true,
            stderr: true,
            timestamps: wanted.timestamps,
            tail: wanted.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()),
            ..Default::default()
        };
        let cannot = |error: Bollard| Error::failed("the log cannot be read").because(error);
        Ok(client.logs(id, Some(options)).map_ok(output).map_err(cannot).boxed())
    })
}

pub fn exec<'a>(docker: &'a Docker, id: &'a str, exec: &'a Exec) -> Answer<'a, Session> {
    Box::pin(async move {
        let client = docker.client().await?;
        let shown = exec.cmd.first().map_or("", String::as_str).escape_debug().to_string();
        let cannot = |error| docker.wrong(&format!("`{shown}` cannot be run there"), error);
        let options = CreateExecOptions {
            attach_stdin: Some(exec.stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(exec.tty),
            cmd: Some(exec.cmd.clone()),
            ..Default::default()
        };
        let made = client.create_exec(id, options).await.map_err(cannot)?;
        let start = StartExecOptions { detach: false, tty: exec.tty, output_capacity: None };
        match client.start_exec(&made.id, Some(start)).await.map_err(cannot)? {
            StartExecResults::Attached { output: pieces, input } => {
                let broke = |error: Bollard| Error::failed("the command's output broke off").because(error);
                Ok(Session {
                    id: SessionId::Exec(made.id),
                    output: pieces.map_ok(output).map_err(broke).boxed(),
                    input,
                })
            }
            StartExecResults::Detached => Err(Error::failed(format!("`{shown}` went away from its output"))),
        }
    })
}

pub fn attend<'a>(docker: &'a Docker, id: &'a str) -> Answer<'a, Session> {
    Box::pin(async move {
        let client = docker.client().await?;
        let options = query::AttachContainerOptions {
            stdin: true,
            stdout: true,
            stderr: true,
            stream: true,
            logs: true,
            ..Default::default()
        };
        let attached = client
            .attach_container(id, Some(options))
            .await
            .map_err(|error| docker.wrong("the container cannot be attached to", error))?;
        docker.start(id).await?;
        let broke = |error: Bollard| Error::failed("the command's output broke off").because(error);
        Ok(Session {
            id: SessionId::Container(id.to_owned()),
            output: attached.output.map_ok(output).map_err(broke).boxed(),
            input: attached.input,
        })
    })
}

pub fn resize<'a>(docker: &'a Docker, session: &'a SessionId, columns: u16, rows: u16) -> Answer<'a, ()> {
    Box::pin(async move {
        let client = docker.client().await?;
        let (w, h) = (columns.into(), rows.into());
        let resized = match session {
            SessionId::Exec(id) => client.resize_exec(id, query::ResizeExecOptions { h, w }).await,
            SessionId::Container(id) => {
                client.resize_container_tty(id, query::ResizeContainerTTYOptions { h, w }).await
            }
        };
        resized.map_err(|error| docker.wrong("the terminal cannot be resized", error))
    })
}

/// Docker ends no command in a container, only tells its process: that is ended from here.
pub fn kill<'a>(docker: &'a Docker, id: &'a str, session: &'a SessionId) -> Answer<'a, ()> {
    Box::pin(async move {
        let client = docker.client().await?;
        let cannot = |error| docker.wrong("the command cannot be ended", error);
        let exec = match session {
            SessionId::Exec(exec) => exec,
            SessionId::Container(id) => {
                return match client.kill_container(id, None::<query::KillContainerOptions>).await {
                    // 409: it has ended.
                    Ok(()) | Err(Bollard::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
                    Err(error) => Err(cannot(error)),
                };
            }
        };
        let found = client.inspect_exec(exec).await.map_err(cannot)?;
        let pid = found.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        let Some(pid) = pid.filter(|_| found.running == Some(true)) else { return Ok(()) };
        let group = id.to_owned();
        let ended = tokio::task::spawn_blocking(move || process::kill_session(pid, &group)).await.unwrap_or(0);
        // It may have ended meanwhile.
        if ended > 0 || client.inspect_exec(exec).await.map_err(cannot)?.running != Some(true) {
            return Ok(());
        }
        Err(Error::failed("its process is not to be seen from here")
            .hint(format!("`docker restart {}` ends it", &id[..12.min(id.len())])))
    })
}

pub fn exit_status<'a>(docker: &'a Docker, session: &'a SessionId) -> Answer<'a, i64> {
    Box::pin(async move {
        let client = docker.client().await?;
        match session {
            SessionId::Exec(id) => {
                let began = Instant::now();
                loop {
                    let ended = client.inspect_exec(id).await;
                    let ended = ended.map_err(|error| docker.wrong("how the command ended is not known", error))?;
                    // Its output may end a moment before it does.
                    match ended.exit_code {
                        Some(status) if ended.running != Some(true) => return Ok(status),
                        _ if began.elapsed() > ENDING => {
                            return Err(Error::failed("the command closed its output and does not end"));
                        }
                        _ => tokio::time::sleep(ENDING / 250).await,
                    }
                }
            }
            SessionId::Container(id) => {
                let mut ends = client.wait_container(id, None::<query::WaitContainerOptions>);
                match ends.next().await {
                    Some(Ok(ended)) => Ok(ended.status_code),
                    // bollard makes an error of a status that is not 0.
                    Some(Err(Bollard::DockerContainerWaitError { code, .. })) => Ok(code),
                    Some(Err(error)) => Err(docker.wrong("how the command ended is not known", error)),
                    None => Ok(0),
                }
            }
        }
    })
}

pub fn usage<'a>(docker: &'a Docker, id: &'a str) -> Answer<'a, Usage> {
    Box::pin(async move {
        // Docker takes up to a second for each look: what it told just before is as good as a second one.
        let (before, after) = match docker.samples.last(id) {
            Some(before) => (Some(before), sample(docker, id).await?),
            None => {
                let before = cpu(&sample(docker, id).await?);
                tokio::time::sleep(CPU_WINDOW).await;
                (before, sample(docker, id).await?)
            }
        };
        let cpu_millis = match (before, cpu(&after)) {
            (Some(before), Some(after)) => {
                docker.samples.keep(id, after);
                after.millis_since(before)
            }
            _ => 0,
        };
        let memory = after.memory_stats.unwrap_or_default();
        // Pages that hold files are given back when they are wanted (cgroup v1, then v2).
        let stats = memory.stats.unwrap_or_default();
        let files = stats.get("total_inactive_file").or_else(|| stats.get("inactive_file")).copied().unwrap_or(0);
        Ok(Usage { memory_bytes: memory.usage.unwrap_or(0).saturating_sub(files), cpu_millis })
    })
}

/// What a container had used of all cores together, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    used: u64,
    all: u64,
    cores: u64,
}

impl Cpu {
    fn millis_since(self, before: Cpu) -> u64 {
        match self.all.saturating_sub(before.all) {
            0 => 0,
            all => self.used.saturating_sub(before.used).saturating_mul(self.cores * 1000) / all,
        }
    }
}

fn cpu(sample: &ContainerStatsResponse) -> Option<Cpu> {
    let cpu = sample.cpu_stats.as_ref()?;
    let used = cpu.cpu_usage.as_ref()?.total_usage?;
    Some(Cpu { used, all: cpu.system_cpu_usage?, cores: cpu.online_cpus.unwrap_or(1).max(1).into() })
}

/// The last look at each container that was looked at in the last seconds.
#[derive(Debug, Default)]
pub struct Samples(Mutex<HashMap<String, (Instant, Cpu)>>);

impl Samples {
    /// A busyness over a longer time would not be one of now.
    const GOOD: Duration = Duration::from_secs(5);

    fn known(&self) -> MutexGuard<'_, HashMap<String, (Instant, Cpu)>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (at, _)| at.elapsed() < Samples::GOOD);
        known
    }

    fn last(&self, id: &str) -> Option<Cpu> {
        self.known().get(id).map(|(_, cpu)| *cpu)
    }

    fn keep(&self, id: &str, cpu: Cpu) {
        self.known().insert(id.to_owned(), (Instant::now(), cpu));
    }
}

async fn sample(docker: &Docker, id: &str) -> Result<ContainerStatsResponse> {
    let client = docker.client().await?;
    let mut samples = client.stats(id, Some(query::StatsOptions { stream: false, one_shot: true }));
    match samples.next().await {
        Some(sample) => sample.map_err(|error| docker.wrong("how busy the container is cannot be learnt", error)),
        None => Ok(ContainerStatsResponse::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_busy_a_container_is_lies_between_two_looks() {
        let at = |used, all| Cpu { used, all, cores: 2 };
        assert_eq!(at(2_000, 20_000).millis_since(at(1_000, 10_000)), 200);
        assert_eq!(at(1_000, 10_000).millis_since(at(1_000, 10_000)), 0);
        assert_eq!(at(1_000, 20_000).millis_since(at(9_000, 10_000)), 0, "it was started again in between");
        let samples = Samples::default();
        samples.keep("web", at(1, 2));
        assert_eq!(samples.last("web").map(|cpu| cpu.used), Some(1));
        assert!(samples.last("other").is_none());
    }
}
