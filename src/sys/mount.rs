//! Mounts: an open file or folder at a second path, where nobody but us can put another in its place; and what is mounted
//! below a folder.

use std::io::Result;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
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

/// Something that is mounted below a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where, relative to the folder.
    pub path: Vec<u8>,
    pub read_only: bool,
}

/// Everything that is mounted below a folder, of which `root` is the real path.
pub fn mounted_below(root: &Path) -> Result<Vec<Mounted>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?, root.as_os_str().as_bytes()))
}

/// Reads `mountinfo` (proc_pid_mountinfo(5)): the fifth field is the mount point, the sixth its options.
fn parse(table: &[u8], root: &[u8]) -> Vec<Mounted> {
    let mut found = Vec::new();
    for line in table.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b' ').skip(4);
        let (Some(point), Some(options)) = (fields.next(), fields.next()) else { continue };
        let point = unescape(point);
        let below = match root {
            b"/" => point.strip_prefix(b"/"),
            root => point.strip_prefix(root).and_then(|rest| rest.strip_prefix(b"/")),
        };
        let Some(path) = below.filter(|path| !path.is_empty()) else { continue };
        let read_only = options.split(|&byte| byte == b',').any(|option| option == b"ro");
        // Of several mounts at one place the last is the one that is seen.
        found.retain(|earlier: &Mounted| earlier.path != path);
        found.push(Mounted { path: path.to_vec(), read_only });
    }
    found
}

/// Blanks and backslashes are written as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).filter(|digit| (b'0'..=b'7').contains(digit)).map(|digit| digit - b'0');
        rest = match (byte, digit(0), digit(1), digit(2)) {
            (b'\\', Some(high @ 0..=3), Some(middle), Some(low)) => {
                out.push(high << 6 | middle << 3 | low);
                &after[3..]
            }
            _ => {
                out.push(byte);
                after
            }
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_below_the_folder_only() {
        let table = b"20 1 8:1 / / rw - ext4 /dev/a rw\n\
            21 20 0:5 / /srv/data rw - xfs /dev/b rw\n\
            22 21 0:6 / /srv/data/with\\040blank rw,nosuid - tmpfs none rw\n\
            23 21 0:7 /sub /srv/data/deep/ro ro,relatime shared:3 - ext4 /dev/a rw\n\
            24 20 0:8 / /srv/database rw - tmpfs none rw\n";
        let found = parse(table, b"/srv/data");
        let expected = [("with blank", false), ("deep/ro", true)];
        let expected = expected.map(|(path, read_only)| Mounted { path: path.into(), read_only });
        assert_eq!(found, expected);
        assert_eq!(parse(table, b"/").len(), 4);
    }
}
