//! What a container engine does for tenants. Small: just what [`lifecycle`](super::lifecycle) and looking in need.
//!
//! Containers and networks are named by the engine's own ids or by their names; whose they are is in their labels.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use tokio::io::AsyncWrite;

use crate::model::Result;

/// What a runtime answers, in time.
pub type Answer<'a, T> = BoxFuture<'a, Result<T>>;

/// Hears lines of progress.
pub type Say<'a> = &'a (dyn Fn(String) + Send + Sync);

/// What was written, in pieces that need not be lines.
pub type Outputs = Pin<Box<dyn Stream<Item = Result<Output>> + Send>>;

/// Labels of everything that mcloud makes: which daemon's, which tenant's, which service's.
pub mod label {
    pub const OWNER: &str = "mcloud.owner";
    pub const TENANT: &str = "mcloud.tenant";
    pub const SERVICE: &str = "mcloud.service";
    /// A digest of what the container was made from.
    pub const SPEC: &str = "mcloud.spec";
    /// Set on containers of `mcloud run`.
    pub const ONCE: &str = "mcloud.once";
}

pub type Labels = BTreeMap<String, String>;

/// An image as far as containers made of it differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub id: String,
    /// Paths that the image declares as volumes.
    pub volumes: Vec<String>,
    pub has_healthcheck: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Paused,
    /// It ended and the engine is about to start it again.
    Restarting,
    Exited,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    Starting,
    Healthy,
    Unhealthy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub labels: Labels,
    pub image_id: String,
    pub state: State,
    pub exit_status: i64,
    /// Out of memory, a command that is not there: what the engine says of its end.
    pub error: String,
    pub ip: Option<String>,
    /// As the engine writes it (RFC 3339, UTC); empty when it never ran.
    pub started_at: String,
    pub restarts: i64,
    /// What the image's HEALTHCHECK says, where there is one.
    pub checked: Option<Checked>,
}

/// A container that is not at rest, as a list of all of them tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lively {
    pub id: String,
    pub name: String,
    pub labels: Labels,
    /// Folders of the host that it can write.
    pub writes: Vec<PathBuf>,
}

impl State {
    /// Nothing of it runs, and the engine is not about to change that.
    pub fn is_at_rest(self) -> bool {
        matches!(self, State::Created | State::Exited | State::Dead)
    }
}

/// What a container is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub name: String,
    pub image: String,
    pub labels: Labels,
    pub hostname: String,
    pub network: String,
    /// Names by which others of its network find it.
    pub aliases: Vec<String>,
    pub env: Vec<String>,
    pub cmd: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub workdir: Option<String>,
    /// Folders of the host and where they appear.
    pub binds: Vec<(PathBuf, String)>,
    /// Start it again when it fails.
    pub restart: bool,
    /// Somebody sits at it: its input is open, and it is gone with its end.
    pub attended: Option<Attended>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attended {
    pub tty: bool,
}

/// What an image is built from: a tar with everything, the Dockerfile among it.
#[derive(Debug)]
pub struct Build {
    pub tag: String,
    pub context: File,
    pub dockerfile: String,
    pub no_cache: bool,
    pub labels: Labels,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub is_error: bool,
    pub bytes: Bytes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogsWanted {
    pub follow: bool,
    /// The last so many lines; all without.
    pub tail: Option<u64>,
    pub timestamps: bool,
}

/// A command in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    pub cmd: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
}

/// Something that runs and is talked to.
pub struct Session {
    pub id: SessionId,
    pub output: Outputs,
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionId {
    Exec(String),
    Container(String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub memory_bytes: u64,
    /// Thousandths of one core.
    pub cpu_millis: u64,
}

pub trait Runtime: Send + Sync {
    /// Whether the engine answers.
    fn ping(&self) -> Answer<'_, ()>;
    /// Returns when the engine has gone away, however soon it is back.
    fn gone(&self) -> BoxFuture<'_, ()>;

    fn image<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Image>>;
    fn pull<'a>(&'a self, name: &'a str, say: Say<'a>) -> Answer<'a, ()>;
    fn build<'a>(&'a self, build: Build, say: Say<'a>) -> Answer<'a, ()>;

    /// Makes a network if it is not there; whether it was made.
    fn ensure_network<'a>(&'a self, name: &'a str, labels: &'a Labels) -> Answer<'a, bool>;
    fn remove_network<'a>(&'a self, name: &'a str) -> Answer<'a, ()>;

    /// The containers that have all these labels, of any state.
    fn containers<'a>(&'a self, labels: &'a Labels) -> Answer<'a, Vec<Container>>;
    /// All containers of this machine that are not at rest, whoever made them. What it tells may be a moment old:
    /// [`Runtime::inspect`] tells what is.
    fn lively(&self) -> Answer<'_, Vec<Lively>>;
    fn inspect<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Container>>;
    /// All that the engine tells of a container, as JSON.
    fn describe<'a>(&'a self, id: &'a str) -> Answer<'a, String>;
    fn create<'a>(&'a self, spec: &'a Spec) -> Answer<'a, String>;
    fn start<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// Asks it to end, and ends it when it has not after `grace`.
    fn stop<'a>(&'a self, id: &'a str, grace: Duration) -> Answer<'a, ()>;
    fn pause<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    fn unpause<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    fn remove<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;

    fn logs<'a>(&'a self, id: &'a str, wanted: &'a LogsWanted) -> Answer<'a, Outputs>;
    fn usage<'a>(&'a self, id: &'a str) -> Answer<'a, Usage>;
    fn exec<'a>(&'a self, id: &'a str, exec: &'a Exec) -> Answer<'a, Session>;
    /// Attaches to a container that was made with [`Spec::attended`], then starts it.
    fn attend<'a>(&'a self, id: &'a str) -> Answer<'a, Session>;
    fn resize<'a>(&'a self, session: &'a SessionId, columns: u16, rows: u16) -> Answer<'a, ()>;
    /// Ends a command that runs in container `id`, with all that it started.
    fn kill<'a>(&'a self, id: &'a str, session: &'a SessionId) -> Answer<'a, ()>;
    /// How it ended, once its output has ended.
    fn exit_status<'a>(&'a self, session: &'a SessionId) -> Answer<'a, i64>;
}
