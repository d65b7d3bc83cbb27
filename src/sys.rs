//! The machine: beneath-only file access, metadata, range copies, locks, clocks. The only place for `unsafe`, raw descriptors
//! and the system's clock. Knows nothing of trees.

pub mod attrs;
pub mod clock;
pub mod copy;
pub mod dir;
pub mod inode;
pub mod inotify;
pub mod mapped;
pub mod memory;
pub mod meta;
pub mod mount;
pub mod path;
pub mod process;
pub mod stamps;
pub mod subvolume;
