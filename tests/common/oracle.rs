//! Whether two trees are equal, by two witnesses that know nothing of mcloud: rsync's own comparison both ways, and a walk that
//! looks at what rsync does not tell (times of links, holes, link groups, attributes by their bytes).

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::trees::walk;

/// Fails with the first differences when the trees are not equal.
#[track_caller]
pub fn assert_equal(source: &Path, target: &Path, context: &str) {
    let found = differences(source, target);
    let first = found[..found.len().min(15)].join("\n").replace(&"x".repeat(200), "…");
    assert!(found.is_empty(), "{context}: {} differences:\n{first}", found.len());
}

/// Every difference, in words; none when the trees are equal.
pub fn differences(source: &Path, target: &Path) -> Vec<String> {
    let mut found = walk_differences(source, target);
    for (from, to) in [(source, target), (target, source)] {
        found.extend(rsync_differences(from, to));
    }
    found
}

/// What `rsync -aHAXn --checksum --delete` would do. (The window makes it compare nanoseconds.)
fn rsync_differences(from: &Path, to: &Path) -> Vec<String> {
    let out = std::process::Command::new("rsync")
        .args(["-aHAXn", "--checksum", "--itemize-changes", "--delete", "--modify-window=-1"])
        .arg(from.join(""))
        .arg(to.join(""))
        .output()
        .expect("rsync runs");
    let mut found: Vec<String> = String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| format!("rsync: {line}"))
        .collect();
    if !out.status.success() {
        found.push(format!("rsync ended with {}: {}", out.status, String::from_utf8_lossy(&out.stderr)));
    }
    found
}

fn walk_differences(source: &Path, target: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let relative = |root: &Path| -> BTreeMap<PathBuf, PathBuf> {
        let mut all: BTreeMap<PathBuf, PathBuf> = walk(root)
            .into_iter()
            .map(|path| (path.strip_prefix(root).expect("below the root").to_path_buf(), path))
            .collect();
        all.insert(PathBuf::new(), root.to_path_buf());
        all
    };
    let (ours, theirs) = (relative(source), relative(target));
    for path in ours.keys().filter(|path| !theirs.contains_key(*path)) {
        found.push(format!("{path:?} is missing"));
    }
    for path in theirs.keys().filter(|path| !ours.contains_key(*path)) {
        found.push(format!("{path:?} is too many"));
    }
    for (path, a) in &ours {
        if let Some(b) = theirs.get(path) {
            for what in entry_differences(a, b) {
                found.push(format!("{path:?}: {what}"));
            }
        }
    }
    if link_groups(&ours) != link_groups(&theirs) {
        found.push(format!("hard links: {:?} became {:?}", link_groups(&ours), link_groups(&theirs)));
    }
    found
}

/// The sets of names that are one inode, of those with more than one name in the tree.
fn link_groups(paths: &BTreeMap<PathBuf, PathBuf>) -> Vec<Vec<PathBuf>> {
    let mut groups: HashMap<u64, Vec<PathBuf>> = HashMap::new();
    for (name, path) in paths {
        let status = path.symlink_metadata().expect("an entry");
        if !status.is_dir() && status.nlink() > 1 {
            groups.entry(status.ino()).or_default().push(name.clone());
        }
    }
    let mut groups: Vec<Vec<PathBuf>> = groups.into_values().filter(|names| names.len() > 1).collect();
    groups.sort();
    groups
}

fn entry_differences(a: &Path, b: &Path) -> Vec<String> {
    let (sa, sb) = (a.symlink_metadata().expect("an entry"), b.symlink_metadata().expect("an entry"));
    let mut found = Vec::new();
    let mut differ = |what: &str, x: String, y: String| {
        if x != y {
            found.push(format!("{what} {x} became {y}"));
        }
    };
    differ("mode", format!("{:o}", sa.mode()), format!("{:o}", sb.mode()));
    differ("owner", format!("{}:{}", sa.uid(), sa.gid()), format!("{}:{}", sb.uid(), sb.gid()));
    differ("mtime", format!("{}.{:09}", sa.mtime(), sa.mtime_nsec()), format!("{}.{:09}", sb.mtime(), sb.mtime_nsec()));
    differ("attributes", attributes(a), attributes(b));
    if sa.file_type() != sb.file_type() {
        return found;
    }
    if sa.is_symlink() {
        differ("link", format!("{:?}", fs::read_link(a)), format!("{:?}", fs::read_link(b)));
    }
    if sa.file_type().is_block_device() || sa.file_type().is_char_device() {
        differ("device", format!("{:x}", sa.rdev()), format!("{:x}", sb.rdev()));
    }
    if sa.is_file() {
        differ("size", sa.len().to_string(), sb.len().to_string());
        if sa.len() == sb.len() {
            if let Some(at) = first_difference(a, b) {
                found.push(format!("content differs at {at}"));
            }
            // Room taken is not all data: a range may be reserved, and xfs keeps some for writes to shared blocks.
            let held = data_bytes(a).max(sa.blocks() * 512);
            let holds = data_bytes(b).min(sb.blocks() * 512);
            if held + 128 * 1024 < sa.len() && holds > held + 128 * 1024 {
                found.push(format!("holes are filled: {held} bytes allocated became {holds}"));
            }
        }
    }
    found
}

/// Bytes in ranges of data, less what is only in memory.
fn data_bytes(path: &Path) -> u64 {
    use rustix::fs::SeekFrom;
    let Ok(file) = fs::File::open(path) else { return 0 };
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let (mut at, mut sum) = (0, 0);
    while let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(&file, SeekFrom::Hole(data)).unwrap();
        sum += at - data;
    }
    sum
}

/// The names of an entry's extended attributes, in the order of bytes.
pub fn attribute_names(path: &Path) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; 64 * 1024];
    let len = rustix::fs::llistxattr(path, &mut buffer).expect("attributes");
    let mut names: Vec<Vec<u8>> =
        buffer[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    names.sort();
    names
}

fn attributes(path: &Path) -> String {
    let mut text = String::new();
    for name in attribute_names(path) {
        let mut value = vec![0; 64 * 1024];
        let len = rustix::fs::lgetxattr(path, name.as_slice(), &mut value).expect("an attribute");
        text.push_str(&format!("{}={} ", name.escape_ascii(), value[..len].escape_ascii()));
    }
    text
}

fn first_difference(a: &Path, b: &Path) -> Option<u64> {
    let (mut a, mut b) = (File::open(a).expect("a file"), File::open(b).expect("a file"));
    let (mut x, mut y) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut at = 0;
    loop {
        let n = a.read(&mut x).expect("bytes");
        if n == 0 {
            return None;
        }
        b.read_exact(&mut y[..n]).expect("as many bytes");
        if x[..n] != y[..n] {
            return (0..n).find(|i| x[*i] != y[*i]).map(|i| at + i as u64);
        }
        at += n as u64;
    }
}

/// All that a tree is, to the change time: equal before and after when nobody touched it.
pub fn portrait(root: &Path) -> String {
    let mut text = String::new();
    for path in [root.to_path_buf()].into_iter().chain(walk(root)) {
        let s = path.symlink_metadata().expect("an entry");
        text.push_str(&format!(
            "{path:?} {} {:o} {}:{} {} {} {}.{} {}.{} {:x} {}\n",
            s.ino(),
            s.mode(),
            s.uid(),
            s.gid(),
            s.nlink(),
            s.len(),
            s.mtime(),
            s.mtime_nsec(),
            s.ctime(),
            s.ctime_nsec(),
            s.rdev(),
            attributes(&path)
        ));
    }
    text
}

/// A tree's contents and metadata without what a copy cannot keep (inodes, change times): equal for equal trees.
pub fn likeness(root: &Path) -> String {
    let mut text = String::new();
    for path in [root.to_path_buf()].into_iter().chain(walk(root)) {
        let s = path.symlink_metadata().expect("an entry");
        let content = match () {
            () if s.is_file() => blake3::hash(&fs::read(&path).expect("a file")).to_string(),
            () if s.is_symlink() => format!("{:?}", fs::read_link(&path)),
            () => String::new(),
        };
        text.push_str(&format!(
            "{:?} {:o} {}:{} {}.{} {:x} {} {content}\n",
            path.strip_prefix(root).expect("below"),
            s.mode(),
            s.uid(),
            s.gid(),
            s.mtime(),
            s.mtime_nsec(),
            s.rdev(),
            attributes(&path)
        ));
    }
    text
}
