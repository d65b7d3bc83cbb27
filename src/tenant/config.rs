//! `mcloud.yml`, whole: text in, services out, in the order written.
//!
//! It takes the text and the tenant's env and touches no file. Whatever is wrong is said with its line, its column and what was
//! probably meant. The text may come from anybody: its size, depth and expansion are bounded ([`yaml`]), and a local
//! path that leads outside the tenant's folder is refused. Symlinks below that folder are the business of whoever opens
//! such a path.

mod blocks;
mod read;
mod yaml;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use crate::model::{Reference, Result, ServiceName, VolumePath};

/// The largest `mcloud.yml`, in bytes.
pub const SIZE_MAX: usize = 1 << 20;

/// A tenant's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// In the order written, which is the order they start in.
    pub services: Vec<Service>,
    /// `"---": {hosts: …}`: short names for where commands go.
    pub hosts: Vec<(String, Reference)>,
    /// `"---": {commands: …}`: names for lines of commands.
    pub commands: Vec<(String, Vec<String>)>,
}

/// One container of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: ServiceName,
    pub origin: Origin,
    pub cmd: Option<Command>,
    pub entrypoint: Option<Command>,
    /// Absolute, in the container.
    pub workdir: Option<String>,
    /// In the order written; each name once.
    pub env: Vec<(String, String)>,
    /// Folders of the tenant, as the container sees them.
    pub volumes: Vec<Mount>,
    /// Volumes with live data, by their path in the container.
    pub data: Vec<VolumePath>,
    /// The port that `publish` serves.
    pub web: Option<u16>,
    /// The port that TLS is passed through to.
    pub ssl: Option<u16>,
    pub wait: Option<Wait>,
    pub health: Option<Health>,
    pub snapshot: Hooks,
}

/// Where a service's image comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Image(String),
    /// A folder of the tenant with a `Dockerfile`.
    Build(LocalPath),
    /// The text of a Dockerfile.
    Dockerfile(String),
}

/// What a container runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A line for the shell.
    Line(String),
    /// Words, run as they are.
    Words(Vec<String>),
}

/// A folder or file of the tenant in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub local: LocalPath,
    pub path: VolumePath,
}

/// A path inside the tenant's folder: relative, without `.` and `..`; empty is the folder itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalPath(String);

impl LocalPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LocalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "." } else { &self.0 })
    }
}

/// How long a service is waited for after it was started, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub at_most: Duration,
    /// Text in its log that ends the wait, and without which the service has not come up.
    pub log: Option<String>,
}

/// A request to the `web:` port that has to succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub path: String,
    pub timeout: Duration,
}

/// Commands that run in the container around a snapshot of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    pub before: Option<String>,
    pub after: Option<String>,
    /// How long each of them may take.
    pub timeout: Duration,
}

impl Default for Hooks {
    fn default() -> Hooks {
        Hooks { before: None, after: None, timeout: Duration::from_secs(60) }
    }
}

/// Reads an `mcloud.yml` for a tenant with this env. Blocks of other envs are checked as well, so that a mistake in one is
/// found before it is needed.
pub fn parse(text: &str, env: Option<&str>) -> Result<Config> {
    let root = yaml::parse(text)?;
    let config = read::config(&blocks::resolve(&root, env)?)?;
    for other in blocks::envs(&root)? {
        if Some(other.as_str()) != env {
            read::config(&blocks::resolve(&root, Some(&other))?).map_err(|mut error| {
                error.message.push_str(&format!(" (with env `{other}`)"));
                error
            })?;
        }
    }
    Ok(config)
}
