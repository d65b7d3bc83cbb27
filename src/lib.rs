//! mcloud: runs tenants on Docker hosts and moves what they are made of.
//!
//! The modules in the order of their layers; a module uses only those above it in this list (`tests/it/house.rs` checks).

// Printing is the command line's, and what the outside can cause is no reason to panic. Tests and benches may do both.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr))]

pub mod model;
pub mod sys;

pub mod tree;
pub mod wire;

pub mod fuse;
pub mod proxy;
pub mod schedule;
pub mod store;
pub mod sync;
pub mod tenant;

pub mod transport;

pub mod release;

pub mod daemon;

pub mod cli;
