//! Mounts: an open file or folder at a second path, where nobody but us can put another in its place; and what is mounted
//! below a folder.

use std::fs::File;
use std::io::{Read, Result, Seek};
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
        let point = plain(point);
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

/// The kernel's table of what is mounted where, as this process sees it.
#[derive(Debug)]
pub struct Table(File);

impl Table {
    pub fn open() -> Result<Table> {
        Ok(Table(File::open("/proc/self/mountinfo")?))
    }

    /// To be waited for: it is ready, out of band, each time the table has changed.
    pub fn file(&self) -> &File {
        &self.0
    }

    /// What is mounted at `root` and below, a line for each. `root` has no links in it.
    pub fn below(&mut self, root: &Path) -> Result<Vec<Vec<u8>>> {
        let mut text = Vec::new();
        self.0.rewind()?;
        self.0.read_to_end(&mut text)?;
        Ok(below(&text, root.as_os_str().as_bytes()))
    }
}

/// Of each line the numbers of the mount, the device, the part of it that is mounted, and where.
fn below(table: &[u8], root: &[u8]) -> Vec<Vec<u8>> {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    let is_below = |place: &[u8]| place.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
    let mut found = Vec::new();
    for line in table.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').take(5).collect();
        if fields.len() == 5 && is_below(&plain(fields[4])) {
            found.push(fields.join(&b' '));
        }
    }
    found
}

/// A field of the table as a path: blanks, line ends and backslashes are written there as `\\` and three octal digits.
pub fn plain(field: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|digit| (b'0'..b'8').contains(digit)));
        match digits {
            Some(digits) => {
                let octal = digits.iter().fold(0u32, |sum, digit| sum * 8 + u32::from(digit - b'0'));
                path.push(octal as u8);
                rest = &after[3..];
            }
            None => {
                path.push(*first);
                rest = after;
            }
        }
    }
    path
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

    #[test]
    fn mounts_at_and_below_a_folder_are_found() {
        let table = b"21 1 8:1 / / rw - ext4 x rw\n30 21 0:5 / /a rw - tmpfs t rw\n31 30 0:6 / /a/with\\040blank rw - tmpfs t rw\n32 21 0:7 / /ab rw - x\n";
        assert_eq!(below(table, b"/a").len(), 2);
        assert_eq!(below(table, b"/a/with blank"), [b"31 30 0:6 / /a/with\\040blank".to_vec()]);
        assert_eq!(below(table, b"/").len(), 4);
        assert!(below(table, b"/b").is_empty());
    }
}
