//! What becomes of a tenant's services: what is asked for them, and what is seen of them.

use std::fmt;
use std::str::FromStr;

use super::host::Tenant;
use super::{Error, Result, ServiceName, VolumePath};

macro_rules! words {
    ($(#[$doc:meta])* $type:ident, $what:literal, $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type {
            $($(#[$variant_doc])* $variant),+
        }

        impl $type {
            pub const ALL: &[$type] = &[$($type::$variant),+];

            pub fn word(self) -> &'static str {
                match self {
                    $($type::$variant => $word),+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<$type> {
                $type::ALL.iter().copied().find(|one| one.word() == text).ok_or_else(|| {
                    Error::usage(format!(concat!("`{}` is not ", $what), text.escape_debug()))
                })
            }
        }
    };
}

words!(
    /// What is done to services.
    Verb, "something that is done to services",
    Create = "create",
    Start = "start",
    Stop = "stop",
    Restart = "restart",
    Pause = "pause",
    Resume = "resume",
    Destroy = "destroy",
    Rebuild = "rebuild",
    Update = "update",
);

words!(
    /// What a service was asked to be.
    Wanted, "what a service can be asked to be",
    /// Nothing: it has no container.
    None = "none",
    Created = "created",
    Stopped = "stopped",
    Running = "running",
    Paused = "paused",
);

words!(
    /// What a service is.
    Seen, "what a service can be",
    /// It has no container.
    Absent = "absent",
    Created = "created",
    Running = "running",
    Paused = "paused",
    Restarting = "restarting",
    /// It ended with status 0, or was stopped.
    Stopped = "stopped",
    /// It ended although it was to run.
    Failed = "failed",
    /// Docker does not answer.
    Unknown = "unknown",
);

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceStatus {
    pub name: ServiceName,
    pub seen: Seen,
    pub wanted: Wanted,
    pub image: String,
    pub container: String,
    pub ip: Option<String>,
    /// How it ended, where it has.
    pub exit_status: i64,
    /// Thousandths of one core.
    pub cpu_millis: Option<u64>,
    pub memory_bytes: Option<u64>,
    /// Its data volumes, with their sizes where those could be had in time.
    pub volumes: Vec<(VolumePath, Option<u64>)>,
    pub web: Option<u16>,
    /// Where it is published.
    pub urls: Vec<String>,
    /// What the image's HEALTHCHECK says: `healthy`, `unhealthy`, `starting`.
    pub health: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TenantStatus {
    pub tenant: Tenant,
    pub services: Vec<ServiceStatus>,
    /// Why the states are not known.
    pub trouble: Option<String>,
    /// Schedules of this tenant whose last run failed.
    pub failed_schedules: Vec<String>,
}

/// What to bring which services to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub verb: Verb,
    pub tenant: super::TenantName,
    /// `None`: all of the tenant's.
    pub service: Option<ServiceName>,
    pub scrub_data: bool,
    /// With [`Verb::Update`]: the new mcloud.yml.
    pub config: Option<String>,
    /// With [`Verb::Pause`]: the services' `snapshot.before` runs first, since they are to be copied as they stand still; with
    /// [`Verb::Resume`]: their `snapshot.after` runs then.
    pub hooks: bool,
    /// With [`Verb::Update`]: the new env, or none.
    pub env: Option<Option<String>>,
}

/// A command in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub tenant: super::TenantName,
    pub service: ServiceName,
    /// Empty only with `once`: the service's own.
    pub words: Vec<String>,
    /// In a container of its own.
    pub once: bool,
    pub tty: bool,
    pub stdin: bool,
    /// Columns and rows.
    pub size: (u16, u16),
}

/// Something a daemon is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub number: u64,
    pub what: String,
    pub on: String,
    /// Whose wish it is.
    pub label: String,
    pub since_unix: u64,
}
