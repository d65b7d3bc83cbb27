//! A tenant released in the place of another: what is asked for, and the receipt.

use super::host::FarHost;
use super::sync::{Class, Report};
use super::{Domain, Seat};

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ReleaseWanted {
    pub from: Seat,
    pub to: Seat,
    /// How the host of the one of them that is not here is reached.
    pub far: Option<FarHost>,
    pub domains: Vec<Domain>,
    /// The longest that a request may wait; the host's own limit without.
    pub hold_seconds: Option<u64>,
    pub dry_run: bool,
}

impl ReleaseWanted {
    /// The one that lives at another host; where neither does, the target.
    pub fn far_seat(&self) -> &Seat {
        if self.from.host.is_some() { &self.from } else { &self.to }
    }
}

/// What came of a release, or of a rollback.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Receipt {
    pub number: u64,
    pub is_rollback: bool,
    pub from: String,
    pub to: String,
    pub domains: Vec<String>,
    pub began_unix: u64,
    /// `done`, or why it was undone.
    pub outcome: String,
    /// The tenant that serves now.
    pub serving: String,
    /// What was copied, all in all.
    pub report: Report,
    pub failed_requests: u64,
    pub longest_hold_ms: u64,
    /// Each phase and its milliseconds, in their order.
    pub phases: Vec<(String, u64)>,
    /// With a rollback: what was written since the swap and is left behind, or was copied back.
    pub since: Option<Since>,
}

/// What a tenant has written since it took over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Since {
    pub created: Class,
    pub updated: Class,
    pub removed: Class,
    /// It came along.
    pub copied_back: bool,
}

impl Since {
    pub fn count(&self) -> u64 {
        self.created.count + self.updated.count + self.removed.count
    }
}
