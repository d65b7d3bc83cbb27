//! Snapshot and swap: a tenant frozen for a moment, what it is made of seen as of that moment, and one tenant released in
//! the place of another.
//!
//! This joins trees, containers and the proxy. It knows neither requests nor the database: what has to be remembered across
//! a crash it tells to whoever calls it.

/// A place at which tests have the process die, as by `kill -9` (`FAILPOINTS=NAME=return`). Nothing outside of tests.
macro_rules! crash_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| std::process::abort())
    };
}
pub(crate) use crash_point;

pub mod clone;
pub mod freeze;
pub mod steps;
