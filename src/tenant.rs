//! What a tenant is made of: its `mcloud.yml`, and the containers that come of it.
//!
//! [`runtime`] is what a container engine has to do, [`docker`] does it; [`lifecycle`] brings a tenant's services from the
//! state they are in to the one that is asked for. None of them knows where the daemon keeps things: it hands in folders.

pub mod config;
pub mod docker;
#[cfg(test)]
pub mod fake;
pub mod hooks;
pub mod lifecycle;
pub mod runtime;
