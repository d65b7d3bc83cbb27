//! Commands in containers, with somebody at them: `mcloud exec` in a service's, `mcloud run` in one of its own.

use std::sync::Arc;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use super::access::Principal;
use super::looks::container;
use super::{Daemon, lives, now_unix};
use crate::model::host::Role;
use crate::model::running::Command;
use crate::model::{Error, Kind, Result, ServiceName};
use crate::tenant::runtime::{Exec, Session, SessionId, State};
use crate::transport::{Receiver, Sender, Stream};
use crate::wire::proto::{self, input, response};
use crate::wire::running as wire;

/// Runs a command in a service's container, or in one of its own, with the client at it.
pub async fn command(daemon: Arc<Daemon>, who: Principal, stream: Stream, command: proto::Command) {
    let Stream { mut sender, receiver } = stream;
    let ran = async {
        let command = wire::command_in(command)?;
        let on = format!("{}.{}", command.service, command.tenant);
        let what = if command.once { "run" } else { "exec" };
        let (key, label) = (who.key, who.label());
        let number = daemon.state.audit_begin(&key, &label, what, command.tenant.as_str(), &on, now_unix())?;
        let killed = Arc::new(tokio::sync::Notify::new());
        let stop = killed.clone();
        let _listed = daemon.tasks.begin(what, &on, &label, move || stop.notify_one());
        let done = tokio::select! {
            done = run(&daemon, &who, &command, &mut sender, receiver) => done,
            () = killed.notified() => Err(Error::new(Kind::Cancelled, format!("`{what} {on}` was killed"))),
        };
        let result = match &done {
            Ok(status) => format!("ended with {status}"),
            Err(error) => format!("{}: {}", error.kind.word(), error.chain()),
        };
        daemon.state.audit_end(number, &result)?;
        done
    };
    let what = match ran.await {
        Ok(status) => response::What::Ended(proto::Ended { status }),
        Err(error) => response::What::Failure(crate::wire::sync::failure_out(&error)),
    };
    if sender.send(&proto::Response { what: Some(what) }).await.is_ok() {
        sender.finish();
        sender.delivered().await;
    }
}

async fn run(
    daemon: &Arc<Daemon>,
    who: &Principal,
    command: &Command,
    sender: &mut Sender,
    receiver: Receiver,
) -> Result<i64> {
    who.may(Role::Deployer, &command.tenant)?;
    let crew = lives::crew(daemon, Some(who), &command.tenant).await?;
    if command.once {
        let service = crew.chosen(Some(&command.service))?[0];
        let quiet = |_: Option<&ServiceName>, text: String| tracing::info!("{text}");
        let words = (!command.words.is_empty()).then(|| command.words.clone());
        let number = daemon.numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("{}.{}.run-{}-{number}", command.service, command.tenant, std::process::id());
        // It does not come up in the middle of a freeze, or while a volume of its service is replaced.
        let life = daemon.life_lock(&command.tenant).lock_owned().await;
        let id = crew.site(&quiet).once(service, words, command.tty, &name).await?;
        let _removed = Removed { daemon: daemon.clone(), id: id.clone() };
        let session = daemon.runtime.attend(&id).await?;
        drop(life);
        return talk(daemon, command, session, sender, receiver).await;
    }
    if command.words.is_empty() {
        return Err(Error::usage("there is no command to run"));
    }
    let there = container(&crew, &command.service).await?;
    let on = format!("{}.{}", command.service, command.tenant);
    if there.state != State::Running {
        let why = if there.state == State::Paused { "is paused" } else { "does not run" };
        let verb = if there.state == State::Paused { "resume" } else { "start" };
        return Err(Error::failed(format!("{on} {why}")).hint(format!("`mcloud {verb} {on}`, or `mcloud run {on}`")));
    }
    let exec = Exec { cmd: command.words.clone(), tty: command.tty, stdin: command.stdin };
    let session = daemon.runtime.exec(&there.id, &exec).await?;
    let mut ended = Ended { daemon: daemon.clone(), container: there.id, session: Some(session.id.clone()) };
    let talked = talk(daemon, command, session, sender, receiver).await;
    if talked.is_ok() {
        ended.session = None;
    }
    talked
}

/// A command in a container that is ended when this is dropped before it has ended by itself: nobody is at it any more.
struct Ended {
    daemon: Arc<Daemon>,
    container: String,
    session: Option<SessionId>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let (daemon, container) = (self.daemon.clone(), std::mem::take(&mut self.container));
        tokio::spawn(async move {
            if let Err(error) = daemon.runtime.kill(&container, &session).await {
                tracing::warn!("a command that nobody is at runs on: {}", error.chain());
            }
        });
    }
}

/// A container that is removed when this is dropped.
struct Removed {
    daemon: Arc<Daemon>,
    id: String,
}

impl Drop for Removed {
    fn drop(&mut self) {
        let (daemon, id) = (self.daemon.clone(), std::mem::take(&mut self.id));
        tokio::spawn(async move {
            if let Err(error) = daemon.runtime.remove(&id).await {
                tracing::warn!("a container of `mcloud run` is left: {}", error.chain());
            }
        });
    }
}

async fn talk(
    daemon: &Arc<Daemon>,
    command: &Command,
    session: Session,
    sender: &mut Sender,
    mut receiver: Receiver,
) -> Result<i64> {
    let Session { id, mut output, input } = session;
    let size = |(columns, rows): (u16, u16)| {
        let (daemon, id) = (daemon.clone(), id.clone());
        async move {
            if columns > 0 && rows > 0 {
                // It may have ended just now.
                let _ = daemon.runtime.resize(&id, columns, rows).await;
            }
        }
    };
    if command.tty {
        size(command.size).await;
    }
    let hear = async {
        let mut input = Some(input);
        loop {
            match receiver.receive::<proto::Input>().await {
                Ok(Some(proto::Input { what: Some(input::What::Data(data)) })) => {
                    if let Some(to) = &mut input
                        && (to.write_all(&data).await.is_err() || to.flush().await.is_err())
                    {
                        input = None;
                    }
                }
                Ok(Some(proto::Input { what: Some(input::What::End(_)) })) => {
                    if let Some(mut to) = input.take() {
                        let _ = to.shutdown().await;
                    }
                }
                Ok(Some(proto::Input { what: Some(input::What::Resize(to)) })) => {
                    size((u16::try_from(to.columns).unwrap_or(0), u16::try_from(to.rows).unwrap_or(0))).await;
                }
                Ok(Some(proto::Input { what: None })) => {}
                // The client is gone, and nobody hears the rest.
                Ok(None) | Err(_) => return,
            }
        }
    };
    let show = async {
        while let Some(piece) = output.next().await {
            let piece = piece?;
            let output = proto::Output { service: String::new(), is_error: piece.is_error, data: piece.bytes };
            sender.send(&proto::Response { what: Some(response::What::Output(output)) }).await?;
        }
        Ok::<(), Error>(())
    };
    tokio::select! {
        shown = show => shown?,
        () = hear => return Err(Error::new(Kind::Cancelled, "the client went away")),
    }
    daemon.runtime.exit_status(&id).await
}
