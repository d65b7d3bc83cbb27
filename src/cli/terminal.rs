//! Somebody at a command that runs elsewhere: their terminal becomes its terminal, their input its input.

use std::io::{IsTerminal, Read, Write};

use bytes::Bytes;
use rustix::termios::{self, OptionalActions, Termios};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::context::{self, Context};
use crate::daemon::client::{Heard, Talk};
use crate::model::running::Command;
use crate::model::{Error, Kind, Result};

/// The exit status of who was interrupted.
const INTERRUPTED: u8 = 130;

/// The terminal gives what is typed as it is typed, until this is dropped.
struct Raw(Termios);

impl Raw {
    fn take() -> Result<Raw> {
        let cannot = |error: rustix::io::Errno| Error::io("this terminal cannot be used", std::io::Error::from(error));
        let before = termios::tcgetattr(std::io::stdin()).map_err(cannot)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(cannot)?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn size() -> (u16, u16) {
    termios::tcgetwinsize(std::io::stdout()).map_or((0, 0), |size| (size.ws_col, size.ws_row))
}

/// Runs it; its exit status is ours.
pub fn run(reference: &str, words: &[String], once: bool, context: &Context) -> Result<u8> {
    let (tenant, service, host) = context.one_service(reference)?;
    let tty = !context.out.json && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let command = Command { tenant, service, words: words.to_vec(), once, tty, stdin: true, size: size() };
    let out = context.out.clone();
    let status = context::block_on(async {
        let client = context::connect(&host).await?;
        let raw = tty.then(Raw::take).transpose()?;
        let (said, talk) = mpsc::channel(16);
        listen(said.clone());
        if tty {
            watch_size(said)?;
        }
        let hear = |heard: Heard| {
            if out.json {
                let text = String::from_utf8_lossy(&heard.data);
                out.event(&json!({"event": "output", "stderr": heard.is_error, "text": text}));
            } else if heard.is_error {
                let mut to = std::io::stderr().lock();
                let _ = to.write_all(&heard.data).and_then(|()| to.flush());
            } else {
                let mut to = std::io::stdout().lock();
                let _ = to.write_all(&heard.data).and_then(|()| to.flush());
            }
        };
        // Whoever leaves says so: the command there is ended at once, not when we are missed.
        let ended = tokio::select! {
            ended = client.command(&command, talk, hear) => ended.map(Some),
            () = called_off() => Ok(None),
        };
        drop(raw);
        client.close().await;
        ended
    })?;
    let Some(status) = status else {
        out.error(&Error::new(Kind::Cancelled, "stopped; the command there is ended, too"));
        return Ok(INTERRUPTED);
    };
    out.done(json!({"exit_status": status}));
    Ok(u8::try_from(status & 0xff).unwrap_or(1))
}

/// Ctrl-C where it is not the command's: not on a terminal, or sent from elsewhere.
async fn called_off() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Says what is typed or piped in. A thread of its own: reading a terminal cannot be called off.
fn listen(said: mpsc::Sender<Talk>) {
    std::thread::spawn(move || {
        let mut piece = vec![0; 32 << 10];
        loop {
            match std::io::stdin().read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(len) => {
                    if said.blocking_send(Talk::Data(Bytes::copy_from_slice(&piece[..len]))).is_err() {
                        return;
                    }
                }
            }
        }
        let _ = said.blocking_send(Talk::End);
    });
}

fn watch_size(said: mpsc::Sender<Talk>) -> Result<()> {
    let mut changes = signal(SignalKind::window_change())
        .map_err(|cause| Error::io("this terminal's size cannot be watched", cause))?;
    tokio::spawn(async move {
        while changes.recv().await.is_some() {
            let (columns, rows) = size();
            if said.send(Talk::Resize(columns, rows)).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
