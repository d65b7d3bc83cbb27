//! From what is staged to what is there: the changes are written down ([`redo`]), made, and looked at.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::moves::subtree;
use super::receive::{Site, is_implied, stage_path, staging};
use super::redo::{self, Op};
use super::source::index_error;
use super::stage::Stage;
use super::want::{How, NONE, Source, Want, children};
use super::{place, receive};
use crate::model::sync::LeftOut;
use crate::model::{Error, Result};
use crate::sys::clock;
use crate::sys::dir::Dir;
use crate::sys::mapped::Mapped;
use crate::sys::stamps::{self, Stamps};
use crate::tree::entry::{Entry, EntryKind, Meta};
use crate::tree::read::{is_as_printed, kind_of, take_stat};
use crate::tree::view::{Item, LastDir, State, View, join};

/// Gives new directories their metadata while they are still staged.
pub fn dress_new(site: &Site<'_>, want: &Want) -> Result<Vec<LeftOut>> {
    let mut left_out = Vec::new();
    // A directory's entry stands in its parent's record; parents are visited once for all their children.
    for parent in 0..want.view.dirs.len() as u32 {
        let new: Vec<u32> =
            children(&want.view, parent).filter(|&child| want.dirs[child as usize].how == How::New).collect();
        if new.is_empty() {
            continue;
        }
        let items = want.view.items(parent).map_err(|cause| index_error(&cause))?;
        for child in new {
            let name = &want.view.dirs[child as usize].name;
            let Ok(at) = items.binary_search_by(|item| item.entry.name.cmp(name)) else { continue };
            dress_one(site, want, child, &items[at].entry, &mut left_out)?;
        }
    }
    if want.dirs[0].how == How::New {
        dress_one(site, want, 0, &want.view.root.entry, &mut left_out)?;
    }
    Ok(left_out)
}

fn dress_one(site: &Site<'_>, want: &Want, dir: u32, entry: &Entry, left_out: &mut Vec<LeftOut>) -> Result<()> {
    let path = want.view.path(dir);
    let failed = |cause| staging(&path, cause);
    let staged = site.stage.dir.open_beneath(&stage_path(want, dir)).map_err(failed)?;
    let entry = shown_entry(site, &path, entry);
    let refusals = place::dress(&staged, &entry, false).map_err(failed)?;
    left_out.extend(refusals.into_iter().map(|reason| LeftOut { path: path.clone(), reason }));
    Ok(())
}

/// A directory that is only there for what is asked for below it is made as any new folder is.
fn shown_entry(site: &Site<'_>, path: &[u8], entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    if is_implied(site.filter, path) {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        entry.meta = Meta { mode: 0o755, uid, gid, mtime: clock::file_clock(), xattrs: Vec::new() };
    }
    entry
}

/// Looks once more at the target's own files whose content is taken for known: those that move, get only other metadata,
/// or are changed in place. Tells which of them somebody changed since the scan; one to be changed in place must not be.
pub fn changed_since(site: &Site<'_>, want: &Want) -> Result<Vec<LeftOut>> {
    let mut changed = Vec::new();
    let Some(root) = site.root else { return Ok(changed) };
    let mut own_dir = LastDir::default();
    for &number in &want.pending {
        let dir = want.dirs[number as usize];
        if dir.how == How::New && want.moves.is_empty() {
            continue;
        }
        for item in want.view.items(number).map_err(|cause| index_error(&cause))? {
            let own_failed = |cause| index_error(&cause);
            let (own, known) = match item.state {
                _ if !matches!(item.entry.kind, EntryKind::File { .. }) => continue,
                State::Touch | State::Patched if dir.own != NONE => {
                    (dir.own, own_dir.find(site.own, dir.own, &item.entry.name).map_err(own_failed)?)
                }
                State::Moved => match want.origins[item.slot as usize].from {
                    Source::Own { dir, at } => {
                        (dir, own_dir.items(site.own, dir).map_err(own_failed)?.get(at as usize))
                    }
                    Source::Salvage { .. } => continue,
                },
                _ => continue,
            };
            let Some(known) = known else { continue };
            let now = root.open_beneath(&site.own.path(own)).and_then(|dir| dir.stat(&known.entry.name));
            if now.is_ok_and(|stat| is_as_printed(&stat, known)) {
                continue;
            }
            let path = want.view.path_of(number, &item.entry.name);
            if item.state == State::Patched {
                let path = String::from_utf8_lossy(&path).into_owned();
                return Err(Error::failed(format!(
                    "{path} was written to at the target while its changes were copied"
                ))
                .hint("run the sync again; the target is as it was"));
            }
            changed.push(LeftOut { path, reason: "it was changed by somebody else during the sync".into() });
        }
    }
    Ok(changed)
}

/// What the log does beside what the plan says.
#[derive(Default)]
pub struct Summary {
    /// Folders that the source lacks and that stay, since they hold something that is left alone.
    pub folders_stay: Vec<Vec<u8>>,
}

/// Writes down every change that makes the tree what is wanted.
pub fn write_log(site: &Site<'_>, want: &Want) -> Result<Summary> {
    let failed = |cause| staging(b"the redo log", cause);
    let log = site.stage.draft_log().and_then(redo::Writer::new).map_err(failed)?;
    let mut scribe = Scribe {
        site,
        want,
        log,
        moved: HashMap::new(),
        own: RefCell::default(),
        links: Vec::new(),
        summary: Summary::default(),
    };
    scribe.write()?;
    scribe.log.finish().map_err(failed)?;
    Ok(scribe.summary)
}

struct Scribe<'a> {
    site: &'a Site<'a>,
    want: &'a Want,
    log: redo::Writer,
    /// Where moved files wait, by their place in `origins`.
    moved: HashMap<u64, Vec<u8>>,
    /// The own folder that was looked into last.
    own: RefCell<Option<(u32, Rc<Vec<Item>>)>>,
    /// Further names to be made, as wanted directory and position.
    links: Vec<(u32, u32)>,
    summary: Summary,
}

impl Scribe<'_> {
    fn push(&mut self, op: &Op) -> Result<()> {
        self.log.push(op).map_err(|cause| staging(b"the redo log", cause))
    }

    fn own_items(&self, dir: u32) -> Result<Rc<Vec<Item>>> {
        let mut own = self.own.borrow_mut();
        if let Some((held, items)) = &*own
            && *held == dir
        {
            return Ok(Rc::clone(items));
        }
        let items = Rc::new(self.site.own.items(dir).map_err(|cause| index_error(&cause))?);
        *own = Some((dir, Rc::clone(&items)));
        Ok(items)
    }

    fn write(&mut self) -> Result<()> {
        let mut dress: Vec<Op> = Vec::new();
        let moved_dirs = self.write_moves()?;
        self.write_removals()?;
        if self.want.dirs[0].how == How::New {
            self.push(&Op::Attach { from: Stage::new_path(0), path: Vec::new() })?;
        } else if !self.want.view.root_is_implied() {
            let entry = Box::new(self.want.view.root.entry.clone());
            dress.push(Op::Dress { path: Vec::new(), entry });
        }
        let pending: HashSet<u32> = self.want.pending.iter().copied().collect();
        for number in 0..self.want.view.dirs.len() as u32 {
            let how = self.want.dirs[number as usize].how;
            if how == How::Same || how == How::Moved {
                continue;
            }
            let parent = self.want.view.dirs[number as usize].parent;
            let path = self.want.view.path(number);
            if number != 0 && how == How::New && self.want.dirs[parent as usize].how != How::New {
                self.push(&Op::Attach { from: Stage::new_path(number), path: path.clone() })?;
            }
            if pending.contains(&number) || how == How::Compare {
                self.write_dir(number, how, &path, &moved_dirs, &mut dress)?;
            }
        }
        self.relink(&mut dress)?;
        self.write_links()?;
        dress.iter().try_for_each(|op| self.push(op))
    }

    /// Takes what moves out of its place.
    fn write_moves(&mut self) -> Result<HashMap<u32, Vec<u8>>> {
        let moves: HashSet<(u32, u32)> = self.want.moves.iter().copied().collect();
        // In the order of their folders, so that each is read once.
        let mut origins: Vec<(u32, u32, usize)> = Vec::new();
        for (number, origin) in self.want.origins.iter().enumerate() {
            match origin.from {
                Source::Own { dir, at } if moves.contains(&(dir, at)) => origins.push((dir, at, number)),
                _ => {}
            }
        }
        origins.sort_unstable();
        for (dir, at, number) in origins {
            let items = self.own_items(dir)?;
            let item = &items[at as usize];
            let to = self.site.stage.new_trash();
            self.moved.insert(number as u64, to.clone());
            let path = self.site.own.path_of(dir, &item.entry.name);
            self.push(&Op::Detach { path, ino: item.print.ino, to })?;
        }
        let mut places = HashMap::new();
        for &(wanted, twin) in &self.want.moved_dirs {
            let to = self.site.stage.new_trash();
            let ino = self.site.own.dirs[twin as usize].id.1;
            self.push(&Op::Detach { path: self.site.own.path(twin), ino, to: to.clone() })?;
            places.insert(wanted, to);
        }
        Ok(places)
    }

    fn write_removals(&mut self) -> Result<()> {
        let twins: HashSet<u32> = self.want.moved_dirs.iter().map(|&(_, twin)| twin).collect();
        for &(dir, at) in &self.want.removed {
            // What replaces it may be the same inode, known by another of its names before: were it removed here, doing
            // this a second time would remove what has come.
            if self.want.replaced.contains(&(dir, at)) {
                continue;
            }
            let items = self.own_items(dir)?;
            let item = &items[at as usize];
            if !item.entry.is_dir() {
                let path = self.site.own.path_of(dir, &item.entry.name);
                self.push(&Op::Unlink { path, ino: item.print.ino })?;
                continue;
            }
            let Some(child) = self.site.own.child(dir, &item.entry.name) else { continue };
            if !twins.contains(&child) {
                self.remove_dir(child)?;
            }
        }
        Ok(())
    }

    /// A directory goes whole, unless it holds something that is to be left alone: then all else in it goes.
    fn remove_dir(&mut self, top: u32) -> Result<()> {
        let mut queue = vec![top];
        while let Some(dir) = queue.pop() {
            if self.want.stays.contains(&dir) {
                continue;
            }
            let node = &self.site.own.dirs[dir as usize];
            if !node.protected {
                let to = self.site.stage.new_trash();
                let path = self.site.own.path(dir);
                self.push(&Op::Discard { path, ino: node.id.1, to })?;
                continue;
            }
            self.summary.folders_stay.push(self.site.own.path(dir));
            for (at, item) in self.own_items(dir)?.iter().enumerate().filter(|(_, item)| !item.entry.is_dir()) {
                if !self.want.files_stay.contains(&(dir, at as u32)) {
                    let path = self.site.own.path_of(dir, &item.entry.name);
                    self.push(&Op::Unlink { path, ino: item.print.ino })?;
                }
            }
            queue.extend(children(self.site.own, dir));
        }
        Ok(())
    }

    /// Puts the entries of one directory in place.
    fn write_dir(
        &mut self,
        number: u32,
        how: How,
        path: &[u8],
        moved_dirs: &HashMap<u32, Vec<u8>>,
        dress: &mut Vec<Op>,
    ) -> Result<()> {
        let items = self.want.view.items(number).map_err(|cause| index_error(&cause))?;
        let mut child = self.want.view.dirs[number as usize].first_child;
        let mut late = false;
        for (at, item) in (0u32..).zip(&items) {
            let here = join(path, &item.entry.name);
            let this = child;
            child += u32::from(item.entry.is_dir());
            let dressed = |entry: &Entry| Op::Dress { path: here.clone(), entry: Box::new(entry.clone()) };
            match item.state {
                State::Staged => {
                    self.push(&Op::Attach { from: Stage::slot_path(item.slot), path: here.clone() })?;
                }
                State::Patched => {
                    let ino = self.own_ino(number, &item.entry.name)?;
                    self.push(&Op::Patch { from: Stage::slot_path(item.slot), path: here.clone(), ino })?;
                    dress.push(dressed(&item.entry));
                }
                State::Moved => {
                    let from = self.moved.get(&item.slot).cloned();
                    let from = from.ok_or_else(|| Error::failed("a move has lost its start"))?;
                    self.push(&Op::Attach { from, path: here.clone() })?;
                    dress.push(dressed(&item.entry));
                    late = true;
                }
                State::MovedDir => {
                    let from = moved_dirs.get(&this).cloned();
                    let from = from.ok_or_else(|| Error::failed("a move has lost its start"))?;
                    self.push(&Op::Attach { from, path: here.clone() })?;
                    dress.push(dressed(&item.entry));
                    late = true;
                }
                State::Hardlink => {
                    self.links.push((number, at));
                    late = true;
                }
                State::Touch => dress.push(dressed(&item.entry)),
                // Its own entries may change, and with them its time.
                State::Descend if !is_implied(self.site.filter, &here) => dress.push(dressed(&item.entry)),
                State::Dropped if item.slot == 0 => {
                    // Gone at the source since the listing: then it goes here, too.
                    if let Some(ino) = self.own_ino_if_there(number, &item.entry.name)? {
                        self.push(&Op::Unlink { path: here, ino })?;
                    }
                }
                State::NewDir if !is_implied(self.site.filter, &here) && self.gets_late(this)? => {
                    dress.push(dressed(&item.entry));
                }
                _ => {}
            }
        }
        if late && how == How::New && number == 0 {
            dress.push(Op::Dress { path: Vec::new(), entry: Box::new(self.want.view.root.entry.clone()) });
        }
        Ok(())
    }

    /// Whether something is put into this new directory only after it is in place itself, or could not be dressed well
    /// enough before (only root moves a directory that its owner may not write).
    fn gets_late(&self, dir: u32) -> Result<bool> {
        let items = self.want.view.items(dir).map_err(|cause| index_error(&cause))?;
        Ok(!rustix::process::geteuid().is_root()
            || items.iter().any(|item| matches!(item.state, State::Moved | State::MovedDir | State::Hardlink)))
    }

    /// Makes further names anew whose file is another one afterwards: an equal entry only says which first name it follows.
    /// It may stand in a folder that is else left as it is, or that has moved.
    fn relink(&mut self, dress: &mut Vec<Op>) -> Result<()> {
        let (own, want) = (self.site.own, self.want);
        let failed = |cause: std::io::Error| index_error(&cause);
        let wanted_of = self.wanted_of();
        let (mut first_dir, mut above) = (LastDir::default(), LastDir::default());
        for &dir in own.links.folders() {
            let folder = wanted_of[dir as usize];
            if folder == NONE {
                continue;
            }
            let items = own.items(dir).map_err(failed)?;
            let wanted = want.view.items(folder).map_err(failed)?;
            let before = self.links.len();
            for (first_in, at) in firsts_in_question(want, &items) {
                let link = &items[at as usize];
                let EntryKind::Link { first } = &link.entry.kind else { continue };
                let (_, name) = crate::sys::dir::split_last(first);
                let Some(file) = first_dir.find(&want.view, first_in, name).map_err(failed)? else { continue };
                if kept_inode(want.dirs[first_in as usize].how, file) == Some(link.print.ino) {
                    continue;
                }
                let there = wanted.binary_search_by(|item| item.entry.name.cmp(&link.entry.name));
                let follows = there
                    .ok()
                    .filter(|&at| wanted[at].state == State::Keep && wanted[at].entry.kind == link.entry.kind);
                self.links.extend(follows.map(|at| (folder, at as u32)));
            }
            // The folder, which may be one that is else left alone, gets its time back.
            let node = &want.view.dirs[folder as usize];
            if self.links.len() > before
                && folder != 0
                && let Some(item) = above.find(&want.view, node.parent, &node.name).map_err(failed)?
            {
                dress.push(Op::Dress { path: want.view.path(folder), entry: Box::new(item.entry.clone()) });
            }
        }
        Ok(())
    }

    /// For each own directory, the wanted one that it is or becomes.
    fn wanted_of(&self) -> Vec<u32> {
        let mut wanted_of = vec![NONE; self.site.own.dirs.len()];
        for (wanted, dir) in (0..).zip(&self.want.dirs) {
            if dir.own != NONE {
                wanted_of[dir.own as usize] = wanted;
            }
        }
        for &(wanted, twin) in &self.want.moved_dirs {
            for (wanted, own) in subtree(&self.want.view, wanted).into_iter().zip(subtree(self.site.own, twin)) {
                wanted_of[own as usize] = wanted;
            }
        }
        wanted_of
    }

    /// Every further name, when all files are in place.
    fn write_links(&mut self) -> Result<()> {
        let mut links = std::mem::take(&mut self.links);
        links.sort_unstable();
        links.dedup();
        let mut folder = LastDir::default();
        for (number, at) in links {
            let items = folder.items(&self.want.view, number).map_err(|cause| index_error(&cause))?;
            let item = &items[at as usize];
            if let EntryKind::Link { first } = &item.entry.kind {
                let path = self.want.view.path_of(number, &item.entry.name);
                self.push(&Op::Link { first: first.to_vec(), path })?;
            }
        }
        Ok(())
    }

    fn own_ino_if_there(&self, number: u32, name: &[u8]) -> Result<Option<u64>> {
        match self.want.dirs[number as usize].own {
            NONE => Ok(None),
            own => {
                let items = self.own_items(own)?;
                let at = items.binary_search_by(|item| (*item.entry.name).cmp(name));
                Ok(at.ok().map(|at| items[at].print.ino))
            }
        }
    }

    fn own_ino(&self, number: u32, name: &[u8]) -> Result<u64> {
        let ino = self.own_ino_if_there(number, name)?;
        ino.ok_or_else(|| Error::failed("a file to be changed in place has no place"))
    }
}

impl View {
    fn root_is_implied(&self) -> bool {
        self.dirs[0].implied
    }
}

/// Which inode a wanted file will be, if it is one that the target has already.
fn kept_inode(how: How, item: &Item) -> Option<u64> {
    let stays = match how {
        How::Same | How::Moved => true,
        How::Compare => matches!(item.state, State::Keep | State::Touch | State::Patched | State::Moved),
        How::New => item.state == State::Moved,
    };
    stays.then_some(item.print.ino)
}

/// The links among these entries whose file may be another one afterwards: the wanted directory of its first name, and the
/// position of the link. In the order of those directories, so that each is read once.
fn firsts_in_question(want: &Want, items: &[Item]) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    let mut last: Option<(&[u8], Option<u32>)> = None;
    for (at, item) in (0u32..).zip(items) {
        let EntryKind::Link { first } = &item.entry.kind else { continue };
        let (above, _) = crate::sys::dir::split_last(first);
        let dir = match last {
            Some((path, dir)) if path == above => dir,
            _ => want.view.dir_at(above),
        };
        last = Some((above, dir));
        // What is in a folder that stays as it is stays the same file.
        if let Some(dir) = dir.filter(|dir| want.dirs[*dir as usize].how != How::Same) {
            found.push((dir, at));
        }
    }
    found.sort_unstable();
    found
}

/// Looks at everything the commit touched: takes over its fingerprints, and notes what is not as it was wanted.
pub fn look_again(want: &mut Want, root: &Dir, known: &Known) -> Result<Looked> {
    // Whatever is changed from now on bears a later stamp than what is looked at here.
    stamps::next_tick();
    let mapped = Mapped::now();
    let touched: Vec<u32> = (0..want.view.dirs.len() as u32)
        .filter(|&dir| matches!(want.dirs[dir as usize].how, How::Compare | How::New))
        .collect();
    let looked = std::sync::Mutex::new((touched, Vec::new(), Looked::default()));
    let shown: &Want = want;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..crate::tree::scan::threads())
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let Some(dir) = receive::lock(&looked).0.pop() else { return Ok(()) };
                        let mut seen = Looked::default();
                        let found = look_at_dir(shown, dir, root, (known, &mapped), &mut seen)?;
                        let mut held = receive::lock(&looked);
                        held.1.push((dir, found));
                        held.2.left_out.append(&mut seen.left_out);
                        held.2.unsure |= seen.unsure;
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(Error::failed("a thread panicked"))))
    })?;
    let (_, found, mut seen) = looked.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (dir, (id, record, changed)) in found {
        let node = &mut want.view.dirs[dir as usize];
        node.id = id;
        node.record = record;
        node.dirty |= changed;
    }
    if !want.view.dirs[0].implied {
        let stat = root.stat_self().map_err(|cause| staging(b"the root", cause))?;
        let mut item = want.view.root.clone();
        take_stat(&stat, &mut item);
        if known.already.contains(&b""[..]) {
            item.entry.meta.xattrs = crate::sys::meta::xattrs_of(root).map_err(|cause| staging(b"the root", cause))?;
        } else if item.entry.meta != want.view.root.entry.meta {
            let reason = not_kept(&want.view.root.entry.meta, &item.entry.meta);
            seen.left_out.push(LeftOut { path: Vec::new(), reason });
        }
        want.view.root = item;
    }
    Ok(seen)
}

/// What is known of the commit when it is looked at.
pub struct Known {
    /// Paths of which something has been told.
    pub already: HashSet<Vec<u8>>,
    /// Paths that may hold something else than was wanted.
    pub unsure: HashSet<Vec<u8>>,
    /// Something was copied where a rename was planned: inodes are others than those that were staged.
    pub copied: bool,
}

/// What the look found.
#[derive(Default)]
pub struct Looked {
    pub left_out: Vec<LeftOut>,
    /// There is something of which the content is not known.
    pub unsure: bool,
}

fn look_at_dir(
    want: &Want,
    dir: u32,
    root: &Dir,
    (known, mapped): (&Known, &Mapped),
    seen: &mut Looked,
) -> Result<((u64, u64), crate::tree::records::Ptr, bool)> {
    let path = want.view.path(dir);
    let failed = |cause| staging(&path, cause);
    let mut items = want.view.items(dir).map_err(|cause| index_error(&cause))?;
    let Ok(open) = root.open_beneath(&path) else {
        // It went while the commit ran. The index must not claim to know it.
        seen.unsure = true;
        items.iter_mut().for_each(|item| item.print = Default::default());
        let record =
            want.view.records.append(&crate::tree::view::encode_items(&items)).map_err(|cause| index_error(&cause))?;
        return Ok(((0, 0), record, false));
    };
    let (own, stamps, now) = (open.stat_self().map_err(failed)?, Stamps::of(&open), clock::file_clock());
    let implied = want.view.dirs[dir as usize].implied;
    let mut changed = false;
    for item in items.iter_mut().filter(|item| item.state != State::Dropped) {
        if item.state == State::Keep && !item.entry.is_dir() {
            continue;
        }
        let here = join(&path, &item.entry.name);
        let told = known.already.contains(&here);
        // A folder that was not dressed may have been changed by whoever works in it.
        let was_left_alone = item.state == State::Keep;
        // What is new is known from the writing; the content of what stays, only as well as the scan knew it.
        let is_known = !matches!(item.state, State::Touch | State::Moved) || item.print.trusted;
        item.state = State::Keep;
        item.slot = 0;
        let Some(stat) = open.stat_if_there(&item.entry.name).map_err(failed)? else {
            if !told {
                let reason = "it was removed by somebody else during the sync".into();
                seen.left_out.push(LeftOut { path: here, reason });
            }
            seen.unsure = true;
            item.state = State::Dropped;
            changed = true;
            continue;
        };
        let wanted = item.entry.meta.clone();
        let staged = item.print.ino;
        let is_link = matches!(item.entry.kind, EntryKind::Link { .. });
        let only_passed = implied && item.entry.is_dir();
        if is_link || only_passed {
            let ctime = crate::sys::meta::stamps(&stat).1;
            item.print = crate::tree::view::Print { ino: stat.st_ino, ctime, trusted: false };
        } else {
            take_stat(&stat, item);
        }
        let same_kind = kind_of(&stat).is_some_and(|kind| is_link || kind.is_like(&item.entry.kind));
        // Somebody may have put something else there a moment ago: what is trusted is the very file that was staged, as it
        // was staged. (Which names are links of one file is seen anew by each scan.)
        let is_as_staged = stat.st_ino == staged && is_as_wanted(&stat, &item.entry, wanted.mtime);
        item.print.trusted = same_kind
            && is_known
            && !known.unsure.contains(&here)
            && stamps.are_past(&stat, now)
            && !mapped.contains(stat.st_dev, stat.st_ino)
            && (is_link || is_as_staged || item.entry.is_dir() && item.entry.meta == wanted);
        if matches!(item.entry.kind, EntryKind::Symlink { .. }) {
            item.entry.meta.mode = wanted.mode;
        }
        let is_other = !same_kind || !is_link && !item.entry.is_dir() && stat.st_ino != staged && !known.copied;
        seen.unsure |= is_other;
        if same_kind && !is_link && told {
            // Some of its attributes may have been refused: the index must not claim them.
            item.entry.meta.xattrs = crate::sys::meta::xattrs_at(&open, &item.entry.name).map_err(failed)?;
        }
        changed |= item.entry.meta != wanted;
        let reason = match (is_other, item.entry.meta != wanted && !was_left_alone) {
            (true, _) => "it was replaced by somebody else during the sync".to_string(),
            (false, true) => not_kept(&wanted, &item.entry.meta),
            _ => continue,
        };
        if !told {
            seen.left_out.push(LeftOut { path: here, reason });
        }
    }
    let record =
        want.view.records.append(&crate::tree::view::encode_items(&items)).map_err(|cause| index_error(&cause))?;
    Ok(((own.st_dev, own.st_ino), record, changed))
}

/// What of an entry's metadata is not as it was set, in a reason that is the same for all of which the same was lost.
fn not_kept(wanted: &Meta, found: &Meta) -> String {
    let all = [
        ("mode", wanted.mode != found.mode),
        ("owner", wanted.uid != found.uid),
        ("group", wanted.gid != found.gid),
        ("time", wanted.mtime != found.mtime),
        ("attributes", wanted.xattrs != found.xattrs),
    ];
    let lost: Vec<&str> = all.into_iter().filter(|(_, lost)| *lost).map(|(name, _)| name).collect();
    match &lost[..] {
        [] => "something else stands there than was put there".to_owned(),
        lost => format!("its {} could not be kept by the target's file system", lost.join(", ")),
    }
}

/// Whether the size and time that a stat tells are those of the file that was wanted.
fn is_as_wanted(stat: &rustix::fs::Stat, entry: &Entry, mtime: clock::Time) -> bool {
    let same_size = !matches!(entry.kind, EntryKind::File { size, .. } if size != stat.st_size as u64);
    same_size && crate::sys::meta::stamps(stat).0 == mtime
}
