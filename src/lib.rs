//! mcloud: runs tenants on Docker hosts and moves what they are made of.
//!
//! The modules in the order of their layers; a module uses only those above it in this list (`tests/it/house.rs` checks).

pub mod model;
pub mod sys;

pub mod tree;
pub mod wire;

pub mod sync;
pub mod tenant;

pub mod transport;

pub mod daemon;

pub mod cli;
