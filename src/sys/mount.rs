//! An open file or folder at a second path, where nobody but us can put another in its place.

use std::io::Result;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::mount::{UnmountFlags, mount_bind, unmount};

/// Lets `what` be found at `at`, which is there already and of the same type.
pub fn bind(what: impl AsFd, at: &Path) -> Result<()> {
    // The link of a descriptor leads to what is open, whatever has become of its name.
    mount_bind(format!("/proc/self/fd/{}", what.as_fd().as_raw_fd()), at)?;
    Ok(())
}

/// Takes away what [`bind`] put there, however often. Whoever has it open keeps it.
pub fn unbind(at: &Path) -> Result<()> {
    loop {
        match unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
