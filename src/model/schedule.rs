//! Things done at a time: what is to be done and when, and how each run went.

use std::fmt;
use std::str::FromStr;

use super::host::FarHost;
use super::keep::Keep;
use super::reference::Address;
use super::sync::Report;
use super::{Error, JobName, Name, Reference, Result};

/// What somebody wants done.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    pub name: JobName,
    /// A cron expression, and the IANA zone in which it is meant.
    pub cron: String,
    pub zone: String,
    pub work: Work,
}

/// What is done at each time.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    Copy(JobCopy),
    Snapshot(JobSnapshot),
}

impl Work {
    /// What it changes or reads at the daemon where it stands: who may act on that may act on the job.
    pub fn on(&self) -> &Reference {
        match self {
            Work::Copy(copy) => &copy.to,
            Work::Snapshot(snapshot) => &snapshot.of,
        }
    }
}

/// `shop@203.0.113.5 → backup`, `snapshot of shop, keep-daily 7`
impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Copy(copy) => {
                let (code, force) = (if copy.code { " --code" } else { "" }, if copy.force { " --force" } else { "" });
                write!(f, "{} → {}{code}{force}", copy.from, copy.to)
            }
            Work::Snapshot(snapshot) => {
                write!(f, "snapshot of {}{}", snapshot.of, if snapshot.force { " --force" } else { "" })?;
                if snapshot.keep.is_empty() { Ok(()) } else { write!(f, ", {}", snapshot.keep) }
            }
        }
    }
}

/// A copy from one tenant to another, whose daemon does it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobCopy {
    /// With its host, where that is another one.
    pub from: Reference,
    /// Without a host: the daemon's own.
    pub to: Reference,
    /// The root volume, too.
    pub code: bool,
    /// The source is frozen for a moment, and copied as of then.
    pub force: bool,
    pub far: Option<FarHost>,
}

/// A snapshot of a tenant, a service or a volume of the daemon's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSnapshot {
    /// Without a host.
    pub of: Reference,
    /// What is kept of this job's snapshots; no rule keeps all.
    pub keep: Keep,
    /// While everything stands still.
    pub force: bool,
}

impl JobCopy {
    /// The source's host by the name that was typed, which may have moved since.
    pub fn host(&self) -> Option<&Address> {
        match self.from.host.as_ref()? {
            super::Host::At(address) => Some(address),
            super::Host::Me => None,
        }
    }
}

/// A job as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub name: JobName,
    pub cron: String,
    pub zone: String,
    pub work: Work,
    /// Who added it: it runs with his rights.
    pub by: String,
    pub created_unix: u64,
    pub paused: bool,
    pub running: bool,
    pub next_unix: Option<u64>,
    pub last: Option<Run>,
}

/// One run of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub number: u64,
    pub name: JobName,
    /// The time for which it was done; `None` for a run that somebody asked for.
    pub slot_unix: Option<u64>,
    /// Times before it that nothing was done for.
    pub missed: u32,
    pub began_unix: u64,
    pub ended_unix: Option<u64>,
    pub outcome: Outcome,
    pub failure: Option<Failure>,
    /// What a copy did.
    pub report: Option<Report>,
    /// What a snapshot is.
    pub kept: Option<Kept>,
    /// How often it was tried: an unreachable host is tried again.
    pub tries: u32,
}

/// A snapshot that a run took.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub id: Name,
    pub entries: u64,
    pub bytes: u64,
    pub bytes_new: u64,
    pub bytes_stored: u64,
    pub bytes_read: u64,
    pub seconds: f64,
    pub left_out: u64,
    /// Older ones that the keep rules removed.
    pub removed: Vec<Name>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Running,
    Ok,
    Failed,
    /// The daemon stopped or was killed in the middle.
    Interrupted,
}

impl Outcome {
    const ALL: [(Outcome, &'static str); 4] = [
        (Outcome::Running, "running"),
        (Outcome::Ok, "ok"),
        (Outcome::Failed, "failed"),
        (Outcome::Interrupted, "interrupted"),
    ];

    pub fn word(self) -> &'static str {
        Outcome::ALL.iter().find(|(outcome, _)| *outcome == self).map_or("failed", |(_, word)| word)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl FromStr for Outcome {
    type Err = Error;

    fn from_str(text: &str) -> Result<Outcome> {
        let found = Outcome::ALL.iter().find(|(_, word)| *word == text).map(|(outcome, _)| *outcome);
        found.ok_or_else(|| Error::usage(format!("`{}` is not how a run can end", text.escape_debug())))
    }
}

/// Why a run failed, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A word of [`super::Kind`].
    pub kind: String,
    /// The message with its causes, on one line.
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    pub fn of(error: &Error) -> Failure {
        Failure { kind: error.kind.word().to_owned(), message: error.chain(), hint: error.hint.clone() }
    }
}
