//! The one integration binary: every promise that is seen from outside. Tests need root (devices, mounts, namespaces) and say
//! so; none is skipped.

// A test that cannot go on fails: that is what its unwraps say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "../common/common.rs"]
mod common;

mod cli;
mod engine;
mod engine_edges;
mod engine_peers;
mod frozen;
mod frozen_refused;
mod fuzz_smoke;
mod harness;
mod house;
mod ignore_rules;
mod mount_live;
mod mount_replaced;
mod mount_snapshot;
mod odd_trees;
mod own_commands;
mod proxy_hold;
mod proxy_http;
mod proxy_tenants;
mod proxy_tls;
mod release_crash;
mod release_far;
mod schedule_runs;
mod snapshot_bucket;
mod snapshot_crash;
mod snapshot_equal;
mod soak_slice;
mod sync_attrs;
mod sync_bad_input;
mod sync_counts;
mod sync_crash;
mod sync_disks;
mod sync_equal;
mod sync_holes;
mod sync_mapped;
mod sync_memory;
mod sync_modes;
mod sync_names;
mod sync_options;
mod sync_paths;
mod sync_races;
mod sync_rules;
mod sync_sparse;
mod sync_stamps;
mod sync_syscalls;
mod sync_volumes;
mod sync_watch;
mod tenants_bad_input;
mod tenants_faults;
mod tenants_hooks;
mod tenants_life;
mod tenants_look;
mod tenants_stop;
mod tenants_sync;
mod two_hosts;
mod upgrade;
mod walkthrough;
