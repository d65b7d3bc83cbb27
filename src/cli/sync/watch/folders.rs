//! The folders of a tree, each with a watch of its own: what the rules leave out costs none, and links lead nowhere.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::ErrorKind;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use crate::sync::Cancel;
use crate::sys::dir::{Dir, is_dir};
use crate::sys::inotify::{Event, Inotify, Kind, Watch};
use crate::tree::filter::{Filter, RULES_FILE, Stand};

/// File systems that others change, too, whose changes the kernel here does not see (`linux/magic.h`): NFS, SMB and CIFS,
/// FUSE, 9P, Ceph, AFS, Lustre, GPFS, OCFS2, GFS2, vboxsf, vmhgfs; and overlays, whose layers may change below them.
const SHARED: [u32; 16] = [
    0x6969,
    0x517b,
    0xfe53_4d42,
    0xff53_4d42,
    0x6573_5546,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
    0x6b41_4653,
    0x0bd0_0bd0,
    0x4750_4653,
    0x7461_636f,
    0x0116_1970,
    0x786f_4256,
    0xbacb_acbc,
    0x794c_7630,
];

/// What keeps changes from being told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// The kernel gives no more watches, or none at all.
    Blind(String),
    /// There is no folder at the path, or it cannot be read.
    Gone,
}

/// What some events come to.
#[derive(Default, Debug)]
pub struct Seen {
    /// Something that is synced may be another.
    pub changed: bool,
    /// Folders that came, went, or took another's name.
    renewed: BTreeSet<Vec<u8>>,
    /// The rules are others.
    pub rules: bool,
    /// The root was moved, removed or unmounted, or something below it was unmounted.
    pub uprooted: bool,
    /// Events were lost.
    pub lost: bool,
}

pub struct Folders {
    inotify: Inotify,
    filter: Filter,
    cancel: Cancel,
    by_path: BTreeMap<Arc<[u8]>, Watch>,
    /// A folder that is mounted at two places of the tree has one watch for both.
    by_watch: HashMap<Watch, Vec<Arc<[u8]>>>,
    devices: HashSet<u64>,
    /// Some of the tree lies where others may change it unseen.
    pub is_shared: bool,
    /// The first folder that cannot be watched although it can be read, and why.
    pub missed: Option<(Vec<u8>, String)>,
}

impl Folders {
    pub fn new(inotify: Inotify, filter: Filter, cancel: Cancel) -> Folders {
        Folders {
            inotify,
            filter,
            cancel,
            by_path: BTreeMap::new(),
            by_watch: HashMap::new(),
            devices: HashSet::new(),
            is_shared: false,
            missed: None,
        }
    }

    pub fn inotify(&self) -> &Inotify {
        &self.inotify
    }

    pub fn len(&self) -> usize {
        self.by_path.len()
    }

    /// Watches the folder at `from` (empty: the root) and all below it that is synced. Each is watched before it is
    /// listed, so that what comes into it after that is told.
    pub fn watch(&mut self, root: &Dir, from: &[u8]) -> Result<(), Trouble> {
        let mut waiting = vec![from.to_vec()];
        while let Some(path) = waiting.pop() {
            if self.cancel.load(Ordering::Relaxed) {
                return Ok(());
            }
            let listed = root.open_beneath(&path).and_then(|dir| {
                let watch = self.inotify.watch(&dir)?;
                self.take(&path, watch);
                self.look_at_device(&dir)?;
                Ok((dir.names()?, dir))
            });
            let (names, dir) = match listed {
                Ok(listed) => listed,
                Err(error) => match hindrance(&error) {
                    Hindrance::Passing => continue,
                    Hindrance::Limit(why) => return Err(Trouble::Blind(why)),
                    Hindrance::Other => {
                        self.missed.get_or_insert((path, error.to_string()));
                        continue;
                    }
                },
            };
            for entry in names {
                if entry.is_dir == Some(false)
                    || entry.is_dir.is_none() && !dir.stat(&entry.name).is_ok_and(|stat| is_dir(&stat))
                {
                    continue;
                }
                let below = joined(&path, &entry.name);
                if self.is_synced(&below, true) {
                    waiting.push(below);
                }
            }
        }
        Ok(())
    }

    /// What these events mean. Folders that came or went are not watched, or forgotten, before [`Folders::renew`].
    pub fn weigh(&mut self, events: &[Event]) -> Seen {
        let mut seen = Seen::default();
        for event in events {
            if event.kind == Kind::Overflow {
                seen.lost = true;
                continue;
            }
            let Some(paths) = self.by_watch.get(&event.watch).cloned() else { continue };
            match event.kind {
                Kind::Unmounted => seen.uprooted = true,
                Kind::Gone | Kind::Ended => seen.uprooted |= paths.iter().any(|path| path.is_empty()),
                _ => paths.iter().for_each(|path| self.weigh_one(event, path, &mut seen)),
            }
            if event.kind == Kind::Ended {
                self.by_watch.remove(&event.watch);
                for path in &paths {
                    self.by_path.remove(path);
                }
            }
        }
        seen
    }

    fn weigh_one(&self, event: &Event, folder: &[u8], seen: &mut Seen) {
        if event.name.is_empty() {
            // Of all others their parents tell, too.
            seen.changed |= folder.is_empty();
            return;
        }
        let path = joined(folder, &event.name);
        if path == RULES_FILE {
            seen.rules = true;
        }
        if seen.changed && !event.is_dir || !self.is_synced(&path, event.is_dir) {
            return;
        }
        seen.changed = true;
        // One that could not be read may have become readable.
        if event.is_dir && (event.kind == Kind::Entry || !self.by_path.contains_key(&path[..])) {
            seen.renewed.insert(path);
        }
    }

    /// Watches anew what came, and forgets what went. Both by looking at what is there now, first all that was and then all
    /// that is: two folders that changed places keep their watches with their new names.
    pub fn renew(&mut self, root: &Dir, seen: &Seen) -> Result<(), Trouble> {
        let mut last: Option<&[u8]> = None;
        let mut tops = Vec::new();
        for path in &seen.renewed {
            if last.is_some_and(|last| path.strip_prefix(last).is_some_and(|rest| rest.first() == Some(&b'/'))) {
                continue;
            }
            last = Some(path);
            tops.push(path);
        }
        tops.iter().for_each(|path| self.forget(path));
        tops.iter().try_for_each(|path| self.watch(root, path))
    }

    fn take(&mut self, path: &[u8], watch: Watch) {
        let path: Arc<[u8]> = path.into();
        if let Some(before) = self.by_path.insert(path.clone(), watch)
            && before != watch
        {
            self.leave(before, &path);
        }
        let paths = self.by_watch.entry(watch).or_default();
        if !paths.contains(&path) {
            paths.push(path);
        }
    }

    /// Takes the watches of a folder and of all below it away.
    fn forget(&mut self, path: &[u8]) {
        let (from, to) = (joined(path, b""), [path, b"0"].concat()); // `0` comes after `/`
        let below: Vec<(Arc<[u8]>, Watch)> = self
            .by_path
            .get_key_value(path)
            .into_iter()
            .chain(self.by_path.range::<[u8], _>((Bound::Included(&from[..]), Bound::Excluded(&to[..]))))
            .map(|(path, watch)| (path.clone(), *watch))
            .collect();
        for (path, watch) in below {
            self.by_path.remove(&path);
            self.leave(watch, &path);
        }
    }

    /// `path` is not where this watch is any more.
    fn leave(&mut self, watch: Watch, path: &[u8]) {
        let Some(paths) = self.by_watch.get_mut(&watch) else { return };
        paths.retain(|other| **other != *path);
        if paths.is_empty() {
            self.by_watch.remove(&watch);
            self.inotify.unwatch(watch);
        }
    }

    fn is_synced(&self, path: &[u8], is_dir: bool) -> bool {
        match self.filter.stand(path, is_dir) {
            Stand::In => true,
            Stand::Above => is_dir,
            Stand::Outside | Stand::Protected => false,
        }
    }

    fn look_at_device(&mut self, dir: &Dir) -> std::io::Result<()> {
        if self.devices.insert(dir.stat_self()?.st_dev) {
            let kind = rustix::fs::fstatfs(dir)?.f_type;
            // The type is wider on some machines than on others; the numbers have 32 bits.
            self.is_shared |= SHARED.contains(&(kind as u32));
        }
        Ok(())
    }
}

enum Hindrance {
    /// It went, is no folder any more, or may not be read: then the sync leaves it out, too.
    Passing,
    Limit(String),
    Other,
}

fn hindrance(error: &std::io::Error) -> Hindrance {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::PERM) => Hindrance::Passing,
        Some(Errno::NOSPC) => {
            Hindrance::Limit("the limit of watches is reached (fs.inotify.max_user_watches)".to_owned())
        }
        Some(Errno::NOMEM | Errno::MFILE | Errno::NFILE) => Hindrance::Limit(error.to_string()),
        _ if error.kind() == ErrorKind::NotFound => Hindrance::Passing,
        _ => Hindrance::Other,
    }
}

fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn folders(root: &Path, rules: &[u8]) -> Folders {
        let filter = Filter::new(b"", rules, &[]).unwrap();
        let mut folders = Folders::new(Inotify::new().unwrap(), filter, Cancel::default());
        folders.watch(&Dir::open(root).unwrap(), b"").unwrap();
        folders
    }

    /// Takes up what happened; whether something that is synced changed.
    fn catch_up(folders: &mut Folders, root: &Path) -> bool {
        let events = folders.inotify.read().unwrap();
        let seen = folders.weigh(&events);
        folders.renew(&Dir::open(root).unwrap(), &seen).unwrap();
        seen.changed
    }

    /// Whether a new file at `path` is told.
    fn sees(folders: &mut Folders, root: &Path, path: &str) -> bool {
        catch_up(folders, root);
        fs::write(root.join(path), b"x").unwrap();
        catch_up(folders, root)
    }

    #[test]
    fn every_folder_is_watched_but_those_left_out_and_what_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let (root, out) = (dir.path().join("root"), dir.path().join("out"));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir_all(root.join("node_modules/x/y")).unwrap();
        fs::create_dir_all(out.join("far")).unwrap();
        std::os::unix::fs::symlink("..", root.join("a/up")).unwrap();
        std::os::unix::fs::symlink(&out, root.join("out")).unwrap();
        let mut folders = folders(&root, b"node_modules/\n*.log\n");
        assert_eq!(folders.len(), 3);
        assert!(sees(&mut folders, &root, "a/b/f") && sees(&mut folders, &root, "f"));
        assert!(!sees(&mut folders, &root, "a/b/f.log") && !sees(&mut folders, &root, "node_modules/x/f"));
        assert!(!sees(&mut folders, &root, "out/far/f"));
        fs::create_dir_all(root.join("c/node_modules/z")).unwrap();
        assert!(sees(&mut folders, &root, "c/f") && !sees(&mut folders, &root, "c/node_modules/z/f"));
        assert_eq!(folders.len(), 4);
    }

    #[test]
    fn folders_that_move_are_watched_under_their_new_names_and_what_leaves_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (root, out) = (dir.path().join("root"), dir.path().join("out"));
        for path in ["a/x", "b/y", "ab", "c/d/e"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        let mut folders = folders(&root, b"/b/x\n");
        let all = folders.len();
        // Two change places: `x` is left out now.
        let at = |name: &str| std::ffi::CString::new(root.join(name).as_os_str().as_encoded_bytes()).unwrap();
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            at("a"),
            rustix::fs::CWD,
            at("b"),
            rustix::fs::RenameFlags::EXCHANGE,
        )
        .unwrap();
        assert!(catch_up(&mut folders, &root));
        assert_eq!(folders.len(), all - 1);
        assert!(sees(&mut folders, &root, "a/y/f") && sees(&mut folders, &root, "b/f"));
        assert!(!sees(&mut folders, &root, "b/x/f"));
        // Moved twice before anybody looks.
        fs::rename(root.join("c"), root.join("g")).unwrap();
        fs::rename(root.join("g"), root.join("h")).unwrap();
        assert!(sees(&mut folders, &root, "h/d/e/f") && sees(&mut folders, &root, "ab/f"));
        fs::rename(root.join("h"), &out).unwrap();
        catch_up(&mut folders, &root);
        fs::write(out.join("d/f"), b"").unwrap();
        assert!(!catch_up(&mut folders, &root));
        assert_eq!(folders.len(), all - 4);
        assert_eq!(folders.by_watch.len(), folders.len());
    }

    #[test]
    fn the_end_of_the_root_and_other_rules_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut folders = folders(&root, b"");
        fs::write(root.join(".mcignore"), b"x").unwrap();
        let events = folders.inotify.read().unwrap();
        let seen = folders.weigh(&events);
        assert!(seen.rules && !seen.uprooted);
        fs::rename(&root, dir.path().join("else")).unwrap();
        let events = folders.inotify.read().unwrap();
        assert!(folders.weigh(&events).uprooted);
    }
}
