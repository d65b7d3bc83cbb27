//! What the tests are made with: seeded trees and changes, an oracle that knows nothing of mcloud, hosts, networks, disks.

#![allow(dead_code)]

pub mod acme;
pub mod changes;
pub mod disks;
pub mod docker;
pub mod engine;
pub mod host;
pub mod mapper;
pub mod mounts;
pub mod nets;
pub mod oracle;
pub mod relay;
pub mod seat;
pub mod seed;
pub mod traffic;
pub mod trees;
pub mod versions;
pub mod web;

use std::path::Path;

pub use seed::Rng;

/// An empty folder of the test's own, gone at its end. In memory where the machine has it: these tests are about trees, not
/// about disks (`disks` brings those).
pub fn scratch() -> tempfile::TempDir {
    assert!(rustix::process::geteuid().is_root(), "these tests make devices, owners and mounts: run them as root");
    let memory = Path::new("/dev/shm");
    let builder = tempfile::Builder::new().prefix("mcloud-test-").to_owned();
    let made = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() };
    made.expect("a scratch folder")
}

/// Runs a command that has to succeed; its standard output.
pub fn sh(program: &str, arguments: &[&str]) -> String {
    let out = std::process::Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} does not run: {error}"));
    assert!(
        out.status.success(),
        "{program} {}: {}\n{}",
        arguments.join(" "),
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}
