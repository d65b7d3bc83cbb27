//! The one integration binary: every promise that is seen from outside. Tests need root (devices, mounts, namespaces) and say
//! so; none is skipped.

#[path = "../common/common.rs"]
mod common;

mod cli;
mod engine;
mod fuzz_smoke;
mod harness;
mod house;
mod ignore_rules;
mod sync_bad_input;
mod sync_counts;
mod sync_crash;
mod sync_disks;
mod sync_equal;
mod sync_memory;
mod sync_options;
mod sync_races;
mod sync_syscalls;
mod sync_volumes;
mod two_hosts;
