//! Random changes to a tree, as people and programs make them.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::trees::{self, Shape};
use super::{Rng, trees::walk};

/// What a tree has to pick from.
struct Seen {
    root: PathBuf,
    /// Folders, the root among them.
    dirs: Vec<PathBuf>,
    files: Vec<PathBuf>,
    /// All but the root.
    all: Vec<PathBuf>,
}

impl Seen {
    fn of(root: &Path) -> Seen {
        let all = walk(root);
        let kind = |path: &Path| path.symlink_metadata().expect("an entry").file_type();
        let mut dirs: Vec<PathBuf> = all.iter().filter(|path| kind(path).is_dir()).cloned().collect();
        dirs.push(root.to_path_buf());
        let files = all.iter().filter(|path| kind(path).is_file()).cloned().collect();
        Seen { root: root.to_path_buf(), dirs, files, all }
    }

    /// A folder that is not below `path`, shallow enough to move something into.
    fn dir_outside(&self, path: &Path, rng: &mut Rng) -> PathBuf {
        let depth = self.root.components().count();
        let fits = |dir: &&PathBuf| !dir.starts_with(path) && dir.components().count() < depth + 8;
        let outside: Vec<&PathBuf> = self.dirs.iter().filter(fits).collect();
        (*rng.pick(&outside)).clone()
    }
}

/// Makes one random change below `root` and says which.
pub fn change(root: &Path, rng: &mut Rng, shape: &Shape) -> String {
    let seen = Seen::of(root);
    loop {
        if let Some(done) = try_one(&seen, rng, shape) {
            // Names of 255 bytes and the root say nothing.
            let root = format!("{}/", root.display());
            return done.replace(&root, "").replace(&"x".repeat(200), "…");
        }
    }
}

fn try_one(seen: &Seen, rng: &mut Rng, shape: &Shape) -> Option<String> {
    let file = |rng: &mut Rng| (!seen.files.is_empty()).then(|| rng.pick(&seen.files).clone());
    let any = |rng: &mut Rng| (!seen.all.is_empty()).then(|| rng.pick(&seen.all).clone());
    let subdir = |rng: &mut Rng| {
        (seen.dirs.len() > 1).then(|| seen.dirs[rng.below(seen.dirs.len() as u64 - 1) as usize].clone())
    };
    let fresh = |dir: &Path, rng: &mut Rng| dir.join(OsStr::from_bytes(&trees::name(rng)));
    Some(match rng.below(23) {
        0 => {
            let path = file(rng)?;
            let len = path.metadata().ok()?.len();
            let at = rng.below(len + 1);
            write_at(&path, at, &rng.bytes(50));
            format!("edited {path:?} at {at}")
        }
        1 => {
            // The change a cache without ctime misses.
            let path = file(rng)?;
            let status = path.metadata().ok()?;
            if status.len() == 0 {
                return None;
            }
            let at = rng.below(status.len());
            let mut byte = [0];
            OpenOptions::new().read(true).open(&path).ok()?.read_exact_at(&mut byte, at).ok()?;
            write_at(&path, at, &[byte[0] ^ 0xff]);
            trees::set_mtime(&path, status.mtime(), status.mtime_nsec());
            format!("edited {path:?} at {at}, size and mtime as before")
        }
        2 => {
            let path = file(rng)?;
            let len = path.metadata().ok()?.len();
            let more = rng.within(1, 100_000) as usize;
            write_at(&path, len, &rng.bytes(more));
            format!("appended {more} to {path:?}")
        }
        3 => {
            let path = file(rng)?;
            let len = path.metadata().ok()?.len();
            let keep = rng.below(len + 1);
            OpenOptions::new().write(true).open(&path).ok()?.set_len(keep).ok()?;
            format!("truncated {path:?} from {len} to {keep}")
        }
        4 => {
            let path = file(rng)?;
            let mut bytes = rng.bytes(64);
            bytes.extend(fs::read(&path).ok()?);
            fs::write(&path, bytes).ok()?;
            format!("64 bytes before {path:?}")
        }
        5 => {
            let path = file(rng)?;
            let len = path.metadata().ok()?.len() + rng.within(100_000, 400_000);
            OpenOptions::new().write(true).open(&path).ok()?.set_len(len).ok()?;
            format!("a hole behind {path:?} to {len}")
        }
        6 => {
            let path = any(rng)?;
            remove(&path);
            let (dir, kind) = (path.parent()?.to_path_buf(), rng.below(3));
            match kind {
                0 => {
                    fs::create_dir(&path).ok()?;
                    trees::add_entry(&path, rng, shape, &[]);
                }
                _ => {
                    let made = trees::add_entry(&dir, rng, shape, &[]);
                    fs::rename(made, &path).ok()?;
                }
            }
            format!("replaced {path:?} by another kind ({kind})")
        }
        7 => {
            let path = any(rng)?;
            if path.is_symlink() {
                return None;
            }
            trees::permit(&path, rng);
            format!("chmod {path:?}")
        }
        8 if shape.root_only => {
            let path = any(rng)?;
            trees::own(&path, rng);
            format!("chown {path:?}")
        }
        9 => {
            let path = any(rng)?;
            trees::times(&path, rng);
            format!("touched {path:?}")
        }
        10 => {
            let path = any(rng)?;
            trees::attributes(&path, rng, shape);
            format!("attributes of {path:?}")
        }
        11 => {
            let path = any(rng)?;
            let gone = super::oracle::attribute_names(&path);
            let name = gone.first()?;
            rustix::fs::lremovexattr(&path, name.as_slice()).ok()?;
            format!("attribute removed from {path:?}")
        }
        12 => {
            let path = any(rng)?;
            if path.is_symlink() {
                return None;
            }
            trees::access_list(&path, rng);
            format!("access list of {path:?}")
        }
        13 => {
            let path = any(rng)?;
            let to = fresh(path.parent()?, rng);
            fs::rename(&path, &to).ok()?;
            format!("renamed {path:?} to {to:?}")
        }
        14 | 15 => {
            let path = if rng.one_in(2) { subdir(rng)? } else { any(rng)? };
            let dir = seen.dir_outside(&path, rng);
            let to = fresh(&dir, rng);
            fs::rename(&path, &to).ok()?;
            format!("moved {path:?} to {to:?}")
        }
        16 => {
            let (a, b) = (any(rng)?, any(rng)?);
            if a.starts_with(&b) || b.starts_with(&a) {
                return None;
            }
            rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, rustix::fs::RenameFlags::EXCHANGE)
                .ok()?;
            format!("swapped {a:?} and {b:?}")
        }
        17 => {
            let path = file(rng)?;
            let to = fresh(&rng.pick(&seen.dirs).clone(), rng);
            fs::hard_link(&path, &to).ok()?;
            format!("linked {path:?} as {to:?}")
        }
        18 => {
            // A link group loses a member that stays as a file of its own.
            let path = seen.files.iter().find(|path| {
                // Written anew it would have no holes, and nothing but that would tell it from its group.
                let is_whole = |status: &fs::Metadata| status.blocks() * 512 >= status.len();
                path.metadata().is_ok_and(|status| status.nlink() > 1 && is_whole(&status))
            })?;
            let bytes = fs::read(path).ok()?;
            fs::remove_file(path).ok()?;
            fs::write(path, bytes).ok()?;
            format!("unlinked {path:?} from its group")
        }
        19 => {
            let path = any(rng)?;
            remove(&path);
            format!("removed {path:?}")
        }
        20 | 21 => {
            let dir = rng.pick(&seen.dirs).clone();
            let made = trees::add_entry(&dir, rng, shape, &seen.files);
            trees::dress(&made, rng, shape);
            format!("added {made:?}")
        }
        22 => {
            let from = subdir(rng)?;
            let to = fresh(&seen.dir_outside(&from, rng), rng);
            super::sh("cp", &["-a", "--", from.to_str()?, to.to_str()?]);
            format!("copied {from:?} to {to:?}")
        }
        _ => return None,
    })
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).expect("a file").write_all_at(bytes, at).expect("an edit");
}

fn remove(path: &Path) {
    if path.symlink_metadata().is_ok_and(|status| status.is_dir()) {
        fs::remove_dir_all(path).expect("a folder removed");
    } else {
        fs::remove_file(path).expect("an entry removed");
    }
}
