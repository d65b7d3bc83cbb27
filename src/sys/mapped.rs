//! Files that processes write through memory. The first write to a page stamps the file; those that follow leave no trace until the page
//! has gone to disk, which may take half a minute, so that what stamps vouch for may be told only of files that nobody has
//! mapped like this.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use super::process::pids;

/// Memory that the kernel gives a file's name to although no tree has such a file.
const NO_FILES: [&[u8]; 5] = [b"/memfd:", b"/SYSV", b"/dev/zero", b"/anon_hugepage", b"/[aio]"];

/// The files that are mapped so that writes to the memory go to the file.
#[derive(Clone, Debug, Default)]
pub struct Mapped {
    /// By inode: the devices as `stat` tells them; `None` is any device.
    files: HashMap<u64, Vec<Option<u64>>>,
}

impl Mapped {
    /// What is mapped now, by the processes that can be seen from here and may be looked at: to root all but those of other
    /// machines, and from within a container those of the container.
    pub fn now() -> Mapped {
        let mut mapped = Mapped::default();
        let mut maps = Vec::new();
        for pid in pids() {
            read_maps(pid, &mut maps);
            for line in maps.split(|&byte| byte == b'\n') {
                if let Some(line) = Line::parse(line) {
                    mapped.take(pid, &line);
                }
            }
        }
        mapped
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether the file with this device and inode is among them.
    pub fn contains(&self, device: u64, inode: u64) -> bool {
        let devices = self.files.get(&inode);
        devices.is_some_and(|devices| devices.iter().any(|one| one.is_none_or(|one| one == device)))
    }

    /// Whether a file with this inode, on some device, is among them.
    pub fn may_contain(&self, inode: u64) -> bool {
        self.files.contains_key(&inode)
    }

    pub fn add(&mut self, device: Option<u64>, inode: u64) {
        let devices = self.files.entry(inode).or_default();
        if !devices.contains(&device) {
            devices.push(device);
        }
    }

    /// Those of both.
    #[must_use]
    pub fn and(mut self, other: &Mapped) -> Mapped {
        for (inode, devices) in &other.files {
            devices.iter().for_each(|device| self.add(*device, *inode));
        }
        self
    }

    /// `maps` tells the device of the file system, which on btrfs and overlayfs is not what `stat` tells of its files. The
    /// mapping's own link leads to the very file; only root may follow it.
    fn take(&mut self, pid: u32, line: &Line<'_>) {
        match std::fs::metadata(format!("/proc/{pid}/map_files/{}", line.range)) {
            Ok(found) => self.add(Some(found.dev()), found.ino()),
            Err(_) if NO_FILES.iter().any(|name| line.path.starts_with(name)) => {}
            Err(_) => self.add(None, line.inode),
        }
    }
}

/// All mappings of a process; none of one that is gone, is the kernel's, or may not be looked at.
fn read_maps(pid: u32, maps: &mut Vec<u8>) {
    let mut read = |path: &str| {
        maps.clear();
        File::open(path).and_then(|mut file| file.read_to_end(maps)).is_ok_and(|len| len > 0)
    };
    if read(&format!("/proc/{pid}/maps")) {
        return;
    }
    // A process whose first thread has ended shows its memory by the others.
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let others = tasks.filter_map(|task| task.file_name().into_string().ok()).filter(|task| *task != pid.to_string());
    for task in others {
        if read(&format!("/proc/{pid}/task/{task}/maps")) {
            return;
        }
    }
}

/// What a line of `maps` tells of a file that is written through memory.
#[derive(Debug, PartialEq, Eq)]
struct Line<'l> {
    range: &'l str,
    inode: u64,
    path: &'l [u8],
}

impl Line<'_> {
    /// `7f00-7f01 rw-s 00000000 fd:01 1234   /path` (proc(5)); `None` where its writes go to no file.
    fn parse(line: &[u8]) -> Option<Line<'_>> {
        let space = line.iter().position(|&byte| byte == b' ')?;
        // Almost every line ends here.
        let [_, b'w', _, b's', b' '] = line.get(space + 1..space + 6)? else { return None };
        let mut words = line[space + 6..].splitn(4, |&byte| byte == b' ');
        let (_offset, _device) = (words.next()?, words.next()?);
        let inode: u64 = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
        let path = words.next().unwrap_or_default().trim_ascii_start();
        (inode != 0).then_some(Line { range: std::str::from_utf8(&line[..space]).ok()?, inode, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_written_through_memory_are_told_by_their_maps() {
        let found = Line { range: "7f00-7f01", inode: 1234, path: b"/srv/data 1.mdb" };
        assert_eq!(Line::parse(b"7f00-7f01 rw-s 00000000 fd:01 1234   /srv/data 1.mdb"), Some(found));
        let nameless = Line { range: "7f00-7f01", inode: 1234, path: b"" };
        assert_eq!(Line::parse(b"7f00-7f01 -w-s 00000000 00:2a 1234"), Some(nameless));
        for (line, why) in [
            (&b"7f00-7f01 rw-p 00000000 fd:01 1234   /lib/x.so"[..], "private"),
            (b"7f00-7f01 r--s 00000000 fd:01 1234   /srv/data.mdb", "read only"),
            (b"7f00-7f01 rw-s 00000000 00:01 0", "no file"),
            (b"what is this", "no line"),
            (b"7f00-7f01 rw", "half a line"),
            (b"7f00-7f01 rw-s 00000000 fd:01 -5", "no number"),
            (b"", "nothing"),
        ] {
            assert_eq!(Line::parse(line), None, "{why}");
        }
    }

    #[test]
    fn one_that_cannot_be_told_by_its_device_is_taken_for_each_with_its_number() {
        let mut mapped = Mapped::default();
        mapped.add(Some(7), 100);
        mapped.add(None, 200);
        assert!(mapped.contains(7, 100) && !mapped.contains(8, 100) && mapped.may_contain(100));
        assert!(mapped.contains(7, 200) && mapped.contains(8, 200));
        let both = Mapped::default().and(&mapped);
        assert!(both.contains(7, 100) && both.contains(9, 200) && !both.may_contain(300));
    }
}
