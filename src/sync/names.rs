//! Which names the target's file system can hold. Some take two names for one (upper and lower case, two spellings of a
//! letter), some refuse names or change them. What cannot be there as it is at the source is left out and told, and
//! nothing else gives way to it.
//!
//! Rules of such file systems are many, so none is known here: the file system itself is asked, in a folder of the stage.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;

use super::moves::subtree;
use super::receive::staging;
use super::source::index_error;
use super::stage::Stage;
use super::want::{How, NONE, Want, WantDir, children};
use crate::model::Result;
use crate::model::sync::LeftOut;
use crate::sys::dir::Dir;
use crate::tree::entry::EntryKind;
use crate::tree::view::{Item, State, View};

/// The folder in the stage in which names are tried.
const TRIED: &[u8] = b"names";

/// Names that a file system keeps apart and as they are if it takes names for what they are to Linux, bytes.
const ODD: [&[u8]; 8] =
    [b"a", b"A", "\u{e9}".as_bytes(), "e\u{301}".as_bytes(), b"\xff", b"a:b?*|\"<>\\", b"end. ", &[b'n'; 255]];

const FOLDED: &str = "the target's file system takes its name for that of another entry";

/// Leaves out of what is wanted the entries whose names the target cannot hold. Before it is decided what moves.
pub fn settle(own: &View, want: &mut Want, stage: &Stage, root: Option<&Dir>) -> Result<()> {
    let mut names = Names { own, stage, root, takes_all: None };
    let mut lost: HashMap<Vec<u8>, String> = HashMap::new();
    let with_mirrors = want.mirrors.iter().map(|&(dir, _)| want.view.dirs[dir as usize].parent);
    let mut dirs: Vec<u32> = want.pending.iter().copied().chain(with_mirrors).collect();
    dirs.sort_unstable();
    dirs.dedup();
    for dir in dirs {
        if want.dirs[dir as usize].how == How::Same {
            // It is below a folder that was left out.
            continue;
        }
        let mut items = want.view.items(dir).map_err(|cause| index_error(&cause))?;
        let refused = names.refused(want, dir, &items)?;
        if refused.is_empty() {
            continue;
        }
        let folders: HashMap<Box<[u8]>, u32> =
            children(&want.view, dir).map(|child| (want.view.dirs[child as usize].name.clone(), child)).collect();
        for (at, reason) in refused {
            if let Some(folder) = folders.get(&items[at].entry.name) {
                forget(want, *folder);
            }
            drop_item(&mut items[at]);
            lost.insert(want.view.path_of(dir, &items[at].entry.name), reason);
        }
        want.view.set_items(dir, &items).map_err(|cause| index_error(&cause))?;
    }
    if !lost.is_empty() {
        drop_links(want, &mut lost)?;
    }
    want.left_out.extend(lost.into_iter().map(|(path, reason)| LeftOut { path, reason }));
    Ok(())
}

/// What stands at the target under that name, if anything, is left alone.
fn drop_item(item: &mut Item) {
    item.state = State::Dropped;
    item.slot = 1;
}

/// Takes a wanted folder and all below out of the work.
fn forget(want: &mut Want, folder: u32) {
    let gone: HashSet<u32> = subtree(&want.view, folder).into_iter().collect();
    for &dir in &gone {
        want.dirs[dir as usize] = WantDir { src: NONE, own: NONE, how: How::Same };
        want.view.dirs[dir as usize].id = (0, 0);
    }
    want.pending.retain(|dir| !gone.contains(dir));
    want.mirrors.retain(|(dir, _)| !gone.contains(dir));
}

/// A further name of a file that was left out has nothing to be a name of.
fn drop_links(want: &mut Want, lost: &mut HashMap<Vec<u8>, String>) -> Result<()> {
    let is_lost = |lost: &HashMap<Vec<u8>, String>, path: &[u8]| {
        (0..=path.len()).any(|end| (end == path.len() || path[end] == b'/') && lost.contains_key(&path[..end]))
    };
    for dir in want.pending.clone() {
        let mut items = want.view.items(dir).map_err(|cause| index_error(&cause))?;
        let mut changed = false;
        for item in items.iter_mut().filter(|item| item.state == State::Hardlink) {
            let EntryKind::Link { first } = &item.entry.kind else { continue };
            if is_lost(lost, first) {
                let path = want.view.path_of(dir, &item.entry.name);
                lost.insert(path, "it is a hard link to an entry that was left out".to_owned());
                drop_item(item);
                changed = true;
            }
        }
        if changed {
            want.view.set_items(dir, &items).map_err(|cause| index_error(&cause))?;
        }
    }
    Ok(())
}

struct Names<'a> {
    own: &'a View,
    stage: &'a Stage,
    root: Option<&'a Dir>,
    /// Whether the file system takes any names at all, once it was asked.
    takes_all: Option<bool>,
}

impl Names<'_> {
    /// Which of a wanted directory's new entries cannot be there, and why.
    fn refused(&mut self, want: &Want, dir: u32, items: &[Item]) -> Result<Vec<(usize, String)>> {
        let own_items = match want.dirs[dir as usize].own {
            NONE => Vec::new(),
            own => self.own.items(own).map_err(|cause| index_error(&cause))?,
        };
        let known = |item: &Item| own_items.binary_search_by(|own| own.entry.name.cmp(&item.entry.name)).is_ok();
        let (there, new): (Vec<usize>, Vec<usize>) = (0..items.len()).partition(|&at| known(&items[at]));
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let path = want.view.path(dir);
        let failed = |cause| staging(&path, cause);
        let place = match (self.root, want.dirs[dir as usize].own) {
            (Some(root), own) if own != NONE => root.open_beneath(&path).ok(),
            _ => None,
        };
        let folds = place.as_ref().is_some_and(Dir::folds_names);
        if !folds && self.takes_all().map_err(failed)? {
            return Ok(Vec::new());
        }
        let mut stays: Vec<Box<[u8]>> = there.iter().map(|&at| items[at].entry.name.clone()).collect();
        if let Some(place) = &place {
            // What the rules protect, or somebody just put there, is in no view, and does not give way either.
            let own = |name: &[u8]| own_items.binary_search_by(|own| (*own.entry.name).cmp(name)).is_ok();
            let listed = place.names().map_err(failed)?.into_iter().map(|entry| entry.name);
            stays.extend(listed.filter(|name| !own(name)));
        }
        self.tried(folds, items, &stays, &new).map_err(failed)
    }

    /// Whether all is well with any name. Asked once.
    fn takes_all(&mut self) -> std::io::Result<bool> {
        if let Some(known) = self.takes_all {
            return Ok(known);
        }
        let dir = self.fresh_folder()?;
        let mut taken = true;
        for name in ODD {
            taken = taken && dir.create(name, 0o600).is_ok();
        }
        let listed = dir.names()?;
        taken = taken && listed.len() == ODD.len() && listed.iter().all(|entry| ODD.contains(&&*entry.name));
        self.stage.dir.remove_all(TRIED)?;
        self.takes_all = Some(taken);
        Ok(taken)
    }

    /// Makes the names in a folder of the stage, those that stay at the target first, and tells which do not fit.
    fn tried(
        &self,
        folds: bool,
        items: &[Item],
        stays: &[Box<[u8]>],
        new: &[usize],
    ) -> std::io::Result<Vec<(usize, String)>> {
        let dir = self.fresh_folder()?;
        if folds {
            dir.fold_names()?;
        }
        for name in stays {
            // Whatever this folder makes of it, it is there.
            let _ = dir.create(name, 0o600);
        }
        let mut refused = Vec::new();
        let mut untried = new.to_vec();
        loop {
            let (made, folded) = try_names(&dir, items, &untried, &mut refused)?;
            let listed: HashSet<Box<[u8]>> = dir.names()?.into_iter().map(|entry| entry.name).collect();
            let changed: Vec<usize> = made.into_iter().filter(|&at| !listed.contains(&items[at].entry.name)).collect();
            for &at in &changed {
                dir.remove_file(&items[at].entry.name)?;
                refused.push((at, "the target's file system would change its name".to_owned()));
            }
            if changed.is_empty() {
                refused.extend(folded.into_iter().map(|at| (at, FOLDED.to_owned())));
                break;
            }
            // Names that were in the way have gone.
            untried = folded;
        }
        self.stage.dir.remove_all(TRIED)?;
        Ok(refused)
    }

    fn fresh_folder(&self) -> std::io::Result<Dir> {
        self.stage.dir.remove_all(TRIED)?;
        self.stage.dir.ensure_dir(TRIED, 0o700)
    }
}

/// Makes these names. Which were made, and which are taken for others; what is refused is noted.
fn try_names(
    dir: &Dir,
    items: &[Item],
    names: &[usize],
    refused: &mut Vec<(usize, String)>,
) -> std::io::Result<(Vec<usize>, Vec<usize>)> {
    let (mut made, mut folded) = (Vec::new(), Vec::new());
    for &at in names {
        match dir.create(&items[at].entry.name, 0o600) {
            Ok(_) => made.push(at),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => folded.push(at),
            Err(error) if is_name_refused(&error) => {
                refused.push((at, format!("the target's file system does not take its name: {error}")));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((made, folded))
}

/// Whether it is the name that is not taken, rather than that the disk is full or broken.
fn is_name_refused(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        number,
        Some(Errno::INVAL | Errno::ILSEQ | Errno::NAMETOOLONG | Errno::PERM | Errno::ACCESS | Errno::NOENT)
    )
}
