//! The one integration binary: every promise that is seen from outside. Tests need root (devices, mounts, namespaces) and say
//! so; none is skipped.

#[path = "../common/common.rs"]
mod common;

mod harness;
