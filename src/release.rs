//! Snapshot and swap: a tenant frozen for a moment, what it is made of seen as of that moment, and one tenant released in
//! the place of another.
//!
//! This joins trees, containers and the proxy. It knows neither requests nor the database: what has to be remembered across
//! a crash it tells to whoever calls it.

pub mod clone;
pub mod freeze;
