//! A tree that is looked at, as a read-only file system.
//!
//! [`fs`] is the file system: it answers out of a [`Look`](crate::tree::look::Look) and knows nothing of FUSE's crate, so it is tested without a
//! mount. [`adapter`] is the thin layer between it and the kernel, [`table`] what the system knows of mounts.

pub mod adapter;
mod ahead;
mod blocks;
pub mod fs;
mod inodes;
mod pages;
mod pool;
pub mod table;
