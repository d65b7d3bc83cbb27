//! Whether a service has come up: its log, its page, its image's HEALTHCHECK, or just that it lives on.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::Site;
use crate::model::{Error, Result};
use crate::tenant::config::{Health, Service};
use crate::tenant::runtime::{Checked, Container, LogsWanted, Outputs, State};

/// How long a service with a health check but without `wait` may take.
const HEALTH_MOST: Duration = Duration::from_secs(60);
/// A service that says nothing of when it is up has to live so long.
const SETTLE: Duration = Duration::from_millis(150);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// The line with which a service says that it is ready.
const READY: &str = "@mcloud ready in ";
/// A line of a log that is looked at; longer ones are cut.
const LINE_BYTES: usize = 64 << 10;

/// The time of the last line that a container has logged so far; empty if there is none. The time at which the engine
/// says that it started is no help: the first lines may be older.
pub async fn last_stamp(site: &Site<'_>, container: &Container) -> Result<String> {
    if container.started_at.is_empty() {
        return Ok(String::new());
    }
    let wanted = LogsWanted { follow: false, tail: Some(1), timestamps: true };
    let mut pieces = site.runtime.logs(&container.id, &wanted).await?;
    let mut last = String::new();
    while let Some(piece) = pieces.next().await {
        let line = String::from_utf8_lossy(&piece?.bytes).into_owned();
        if let Some((time, _)) = line.split_once(' ') {
            last = last.max(comparable(time));
        }
    }
    Ok(last)
}

/// Returns when the service is up. An error says why it is not. What it logged until `before` is of another run.
pub async fn until_up(site: &Site<'_>, service: &Service, id: &str, before: String) -> Result<()> {
    let began = Instant::now();
    let first = look(site, id, 0).await?;
    let image = site.runtime.image(&site.image_name(service)).await?;
    let checks = image.is_some_and(|image| image.has_healthcheck) || service.health.is_some();
    let at_most = match (&service.wait, checks) {
        (Some(wait), _) => wait.at_most,
        (None, true) => HEALTH_MOST,
        (None, false) => SETTLE,
    };
    let text = service.wait.as_ref().and_then(|wait| wait.log.as_deref());
    let follow = LogsWanted { follow: true, tail: None, timestamps: true };
    let mut log = match service.wait.is_some() || checks {
        true => Some(Log::new(site.runtime.logs(id, &follow).await?, before)),
        false => None,
    };
    let mut ready_at: Option<Instant> = None;
    let mut why_not = String::new();
    loop {
        let container = look(site, id, first.restarts).await?;
        if ready_at.is_some_and(|at| Instant::now() >= at) {
            return Ok(());
        }
        // What is checked decides, unless the log is to say something first.
        if ready_at.is_none() && text.is_none() && checks {
            match healthy(service, &container).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => why_not = error,
            }
        }
        let late = began.elapsed() >= at_most;
        if late && ready_at.is_none() {
            return match (text, checks) {
                (Some(text), _) => Err(Error::failed(format!(
                    "it has not come up: its log did not say \"{}\" in {} s",
                    text.escape_debug(),
                    at_most.as_secs()
                ))),
                (None, true) => {
                    let error = Error::failed(format!("it has not come up: not healthy after {} s", at_most.as_secs()));
                    Err(if why_not.is_empty() { error } else { error.because(why_not) })
                }
                // It was to live so long, and it does.
                (None, false) => Ok(()),
            };
        }
        let pause = sleep(LOOK);
        let Some(lines) = &mut log else {
            pause.await;
            continue;
        };
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                line = lines.line() => match line {
                    None => { pause.await; break }
                    Some(line) => {
                        if text.is_some_and(|text| line.contains(text)) {
                            return Ok(());
                        }
                        if let Some(after) = ready_in(&line) {
                            ready_at = Some(Instant::now() + after.min(Duration::from_secs(3600)));
                        }
                    }
                },
            }
        }
    }
}

/// `@mcloud ready in 3s` anywhere in a line.
fn ready_in(line: &str) -> Option<Duration> {
    let rest = &line[line.find(READY)? + READY.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let seconds: f64 = rest[..end].trim_end_matches('.').parse().ok()?;
    rest[end..].starts_with('s').then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

/// The container, which has to run, and not to have been started again.
async fn look(site: &Site<'_>, id: &str, restarts: i64) -> Result<Container> {
    let Some(container) = site.runtime.inspect(id).await? else {
        return Err(Error::failed("it has not come up: somebody removed its container"));
    };
    let ended = !matches!(container.state, State::Running | State::Paused) || container.restarts > restarts;
    if ended {
        let error = Error::failed(format!("it has not come up: it ended with status {}", container.exit_status));
        return Err(if container.error.is_empty() { error } else { error.because(container.error) });
    }
    Ok(container)
}

async fn healthy(service: &Service, container: &Container) -> Result<bool, String> {
    match container.checked {
        Some(Checked::Starting) => return Ok(false),
        Some(Checked::Unhealthy) => return Err("its image's HEALTHCHECK fails".to_owned()),
        Some(Checked::Healthy) | None => {}
    }
    match (&service.health, service.web, &container.ip) {
        (None, _, _) => Ok(container.checked == Some(Checked::Healthy)),
        (Some(health), Some(port), Some(ip)) => {
            let address = format!("{ip}:{port}").parse().map_err(|_| format!("{ip} is no address"))?;
            match timeout(health.timeout, page(address, health)).await {
                Ok(Ok(status)) if (200..400).contains(&status) => Ok(true),
                Ok(Ok(status)) => Err(format!("{} answers with status {status}", health.path)),
                Ok(Err(error)) => Err(format!("port {port}: {error}")),
                Err(_) => Err(format!("{} does not answer in {} s", health.path, health.timeout.as_secs())),
            }
        }
        _ => Err("it has no address".to_owned()),
    }
}

/// The status that a page is answered with.
async fn page(address: SocketAddr, health: &Health) -> std::io::Result<u16> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: mcloud\r\nConnection: close\r\n\r\n",
        health.path,
        address.ip()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while head.len() < 512 && !head.contains(&b'\n') {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let line = String::from_utf8_lossy(&head);
    let status = line.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    status.filter(|_| line.starts_with("HTTP/")).ok_or_else(|| std::io::Error::other("what answers is no HTTP"))
}

/// The lines of a log after a moment.
struct Log {
    pieces: Outputs,
    before: String,
    rest: Vec<u8>,
    ready: std::collections::VecDeque<String>,
}

impl Log {
    fn new(pieces: Outputs, before: String) -> Log {
        Log { pieces, before, rest: Vec::new(), ready: Default::default() }
    }

    /// The next line; `None` when the log has ended.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            let piece = self.pieces.next().await?.ok()?;
            self.rest.extend_from_slice(&piece.bytes);
            while let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                self.take(&line);
            }
            if self.rest.len() > LINE_BYTES {
                let line = std::mem::take(&mut self.rest);
                self.take(&line);
            }
        }
    }

    fn take(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        match line.split_once(' ') {
            // Of a run before this one.
            Some((time, _)) if comparable(time) <= self.before => {}
            Some((_, text)) => self.ready.push_back(text.trim_end().to_owned()),
            None => {}
        }
    }
}

/// RFC 3339 in UTC with all nine digits, so that text compares as time.
fn comparable(time: &str) -> String {
    let time = time.trim_end_matches('Z');
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
    format!("{seconds}.{fraction:0<9}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_says_ready_says_when() {
        assert_eq!(ready_in("x @mcloud ready in 3s"), Some(Duration::from_secs(3)));
        assert_eq!(ready_in("@mcloud ready in 0.5s."), Some(Duration::from_millis(500)));
        assert_eq!(ready_in("@mcloud ready in 0s"), Some(Duration::ZERO));
        for line in ["@mcloud ready in s", "@mcloud ready in 3", "mcloud ready in 3s", "@mcloud ready in -1s"] {
            assert_eq!(ready_in(line), None, "{line}");
        }
    }

    #[test]
    fn times_compare_however_many_digits_they_have() {
        assert!(comparable("2026-11-23T14:40:00.12Z") < comparable("2026-11-23T14:40:00.120000001Z"));
        assert!(comparable("2026-11-23T14:40:00Z") < comparable("2026-11-23T14:40:00.000000001Z"));
        assert_eq!(comparable("2026-11-23T14:40:00.1Z"), comparable("2026-11-23T14:40:00.100000000Z"));
    }
}
