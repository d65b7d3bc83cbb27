//! The commands of a service's `snapshot:`, run in its container around a snapshot of it.
//!
//! One that does not end in the time that mcloud.yml gives it (`snapshot: {timeout: 60}`) is killed, with what it started.
//! What it says is said as it comes, and the last of it stands in the error.

use std::collections::VecDeque;

use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use super::config::{Command, Service};
use super::lifecycle::{Site, words};
use super::runtime::{Exec, Output, Session, State};
use crate::model::{Error, Result};

/// A longer line is cut.
const LINE_BYTES: usize = 4 << 10;
/// What a hook says beyond that is not passed on.
const LINES_SAID: usize = 1000;
/// The last lines that an error shows.
const LINES_SHOWN: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Before,
    After,
}

impl Hook {
    /// As it stands in mcloud.yml.
    pub fn word(self) -> &'static str {
        match self {
            Hook::Before => "snapshot.before",
            Hook::After => "snapshot.after",
        }
    }

    pub fn of(self, service: &Service) -> Option<&str> {
        match self {
            Hook::Before => service.snapshot.before.as_deref(),
            Hook::After => service.snapshot.after.as_deref(),
        }
    }
}

impl Site<'_> {
    /// Runs a service's hook to its end. Whether it ran: without one, or in a service that does not run, nothing is done
    /// (a paused one cannot do anything, so run `before` first and `after` last).
    ///
    /// Dropped before its end, it leaves the command to run on in the container.
    pub async fn hook(&self, service: &Service, hook: Hook) -> Result<bool> {
        let Some(line) = hook.of(service) else { return Ok(false) };
        let what = format!("{} (`{}`)", hook.word(), line.escape_debug());
        let wrong = |error: Error| {
            let message = format!("{}.{}: {what} {}", service.name, self.tenant, error.message);
            Error { message, ..error }
        };
        let there = self.container(&service.name).await?;
        let Some(there) = there.filter(|there| there.state == State::Running) else {
            self.tell(service, format!("{what} is left out: it does not run"));
            return Ok(false);
        };
        self.tell(service, format!("runs {what}"));
        let exec = Exec { cmd: words(&Command::Line(line.to_owned())), tty: false, stdin: false };
        let until = Instant::now() + service.snapshot.timeout;
        let late = || {
            let seconds = service.snapshot.timeout.as_secs();
            Error::failed(format!("did not end in {seconds} s"))
                .hint(format!("a longer time is set with `snapshot: {{timeout: {}}}`", seconds * 2))
        };
        let session = match timeout_at(until, self.runtime.exec(&there.id, &exec)).await {
            Ok(session) => session.map_err(|error| wrong(Error::failed("cannot be run").because(error)))?,
            Err(_) => return Err(wrong(late())),
        };
        let Session { id, mut output, input: _input } = session;
        let mut lines = Lines::default();
        let run = async {
            while let Some(piece) = output.next().await {
                lines.take(piece?, &mut |line| self.tell(service, format!("| {line}")));
            }
            self.runtime.exit_status(&id).await
        };
        let ended = timeout_at(until, run).await;
        lines.end(&mut |line| self.tell(service, format!("| {line}")));
        let failed = match ended {
            Ok(Ok(0)) => return Ok(true),
            Ok(Ok(status)) => Error::failed(format!("ended with status {status}")),
            Ok(Err(error)) => Error::failed("broke off").because(error),
            Err(_) => match self.runtime.kill(&there.id, &id).await {
                Ok(()) => Error { message: format!("{} and was killed", late().message), ..late() },
                Err(error) => Error { message: format!("{}, and runs on", late().message), ..late() }.because(error),
            },
        };
        Err(wrong(match (failed.cause.is_none(), lines.shown()) {
            (true, Some(shown)) => failed.because(shown),
            _ => failed,
        }))
    }
}

/// What was said, a line at a time: standard output and standard error each in lines of its own.
#[derive(Default)]
struct Lines {
    rest: [BytesMut; 2],
    said: usize,
    last: VecDeque<String>,
}

impl Lines {
    fn take(&mut self, piece: Output, say: &mut dyn FnMut(&str)) {
        let rest = usize::from(piece.is_error);
        for part in piece.bytes.split_inclusive(|byte| *byte == b'\n') {
            // Of a longer line its beginning is kept.
            let room = LINE_BYTES.saturating_sub(self.rest[rest].len());
            self.rest[rest].extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.line(rest, say);
            }
        }
    }

    fn end(&mut self, say: &mut dyn FnMut(&str)) {
        for rest in 0..self.rest.len() {
            self.line(rest, say);
        }
    }

    fn line(&mut self, rest: usize, say: &mut dyn FnMut(&str)) {
        let line = String::from_utf8_lossy(&self.rest[rest].split()).trim_end().to_owned();
        if line.is_empty() {
            return;
        }
        self.said += 1;
        match self.said {
            0..=LINES_SAID => say(&line),
            said if said == LINES_SAID + 1 => say("… and more that is not shown"),
            _ => {}
        }
        self.last.push_back(line);
        if self.last.len() > LINES_SHOWN {
            self.last.pop_front();
        }
    }

    fn shown(&self) -> Option<String> {
        let shown = self.last.iter().map(String::as_str).collect::<Vec<_>>().join(" / ");
        (!shown.is_empty()).then(|| format!("it said: {shown}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(is_error: bool, text: &str) -> Output {
        Output { is_error, bytes: text.to_owned().into() }
    }

    #[test]
    fn what_comes_in_pieces_is_said_in_lines() {
        let (mut lines, mut said) = (Lines::default(), Vec::new());
        let mut say = |line: &str| said.push(line.to_owned());
        lines.take(piece(false, "one\ntw"), &mut say);
        lines.take(piece(true, "other\r\n"), &mut say);
        lines.take(piece(false, "o\n\nthree"), &mut say);
        lines.end(&mut say);
        assert_eq!(said, ["one", "other", "two", "three"]);
        assert_eq!(lines.shown().unwrap(), "it said: one / other / two / three");
    }

    #[test]
    fn one_that_never_stops_talking_is_not_listened_to_for_ever() {
        let (mut lines, mut said) = (Lines::default(), 0);
        for _ in 0..1100 {
            lines.take(piece(false, &"x".repeat(10_000)), &mut |_| said += 1);
            lines.take(piece(false, "\n"), &mut |line| said += usize::from(line.len() <= LINE_BYTES));
        }
        assert_eq!(said, LINES_SAID + 1);
        assert!(lines.rest.iter().all(|rest| rest.len() <= LINE_BYTES) && lines.last.len() == LINES_SHOWN);
    }
}
