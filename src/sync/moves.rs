//! What need not come over the wire: files and whole directories that the target already has, elsewhere in its tree or
//! left over from an earlier try. What is leaving its place anyway is moved; what stays is copied.

use std::collections::{HashMap, HashSet};

use super::obstacles::Obstacles;
use super::source::index_error;
use super::want::{How, NONE, Origin, Source, Want, children, fresh_state};
use crate::model::{Name, Result};
use crate::tree::entry::EntryKind;
use crate::tree::view::{Item, LastDir, State, View};

/// Own files by content: the first bytes of the content's name, the directory, the position in it. Sorted.
struct ByContent(Vec<(u64, u32, u32)>);

impl ByContent {
    fn of(view: &View) -> Result<ByContent> {
        let mut found = Vec::new();
        for dir in 0..view.dirs.len() as u32 {
            for (at, item) in view.items(dir).map_err(|cause| index_error(&cause))?.iter().enumerate() {
                if let EntryKind::File { size, content } = item.entry.kind
                    && size > 0
                    && content.is_known()
                {
                    found.push((content.prefix(), dir, at as u32));
                }
            }
        }
        found.sort_unstable();
        Ok(ByContent(found))
    }

    fn candidates(&self, content: Name) -> impl Iterator<Item = (u32, u32)> + '_ {
        let prefix = content.prefix();
        let start = self.0.partition_point(|(other, ..)| *other < prefix);
        self.0[start..].iter().take_while(move |(other, ..)| *other == prefix).map(|&(_, dir, at)| (dir, at))
    }
}

/// Finds for everything wanted whether the target has it already.
pub fn resolve(own: &View, want: &mut Want, salvage: Option<&View>, obstacles: &Obstacles<'_>) -> Result<()> {
    let mut used = vec![false; own.dirs.len()];
    for dir in &want.dirs {
        if dir.own != NONE && matches!(dir.how, How::Same | How::Compare) {
            used[dir.own as usize] = true;
        }
    }
    let mut claimed = vec![false; own.dirs.len()];
    let mut twins: HashMap<Name, Vec<u32>> = HashMap::new();
    if !want.mirrors.is_empty() {
        for (dir, node) in (0u32..).zip(&own.dirs).skip(1).filter(|(_, node)| !node.protected) {
            twins.entry(node.content).or_default().push(dir);
        }
    }
    for (wanted, twin) in std::mem::take(&mut want.mirrors) {
        // Of several folders with this very content one may be free to go; best the one that had this name.
        let name = &want.view.dirs[wanted as usize].name;
        let alike = twins.get(&own.dirs[twin as usize].content).map_or(&[][..], Vec::as_slice);
        let is_reached = reached(own, want, obstacles, wanted);
        let free = |dir: &&u32| {
            is_reached
                && obstacles.can_move(own, **dir)
                && subtree(own, **dir).iter().all(|&dir| !used[dir as usize] && !claimed[dir as usize])
        };
        let named = alike.iter().filter(|dir| own.dirs[**dir as usize].name == *name).find(free);
        match named.or_else(|| alike.iter().find(free)).copied() {
            Some(twin) => {
                // The same content is the same folders in the same order, each with files of its own.
                for (dir, from) in subtree(&want.view, wanted).into_iter().zip(subtree(own, twin)) {
                    claimed[from as usize] = true;
                    want.view.dirs[dir as usize].record = own.dirs[from as usize].record;
                    want.view.dirs[dir as usize].id = own.dirs[from as usize].id;
                }
                want.moved_dirs.push((wanted, twin));
            }
            None => make_anew(want, wanted)?,
        }
    }
    let mut own_files: Option<ByContent> = None;
    let salvaged = salvage.map(ByContent::of).transpose()?;
    let (mut own_dir, mut salvage_dir) = (LastDir::default(), LastDir::default());
    let removed: HashSet<(u32, u32)> = want.removed.iter().copied().collect();
    let mut claimed_files: HashSet<(u32, u32)> = HashSet::new();
    want.pending.sort_unstable();
    want.pending.dedup();
    for &dir in &want.pending.clone() {
        let mut items = want.view.items(dir).map_err(|cause| index_error(&cause))?;
        let mut changed = false;
        let is_reached = reached(own, want, obstacles, dir);
        for item in items.iter_mut().filter(|item| item.state == State::Fetch) {
            let EntryKind::File { size, content } = item.entry.kind else { continue };
            if size == 0 || !content.is_known() {
                continue;
            }
            if own_files.is_none() {
                own_files = Some(ByContent::of(own)?);
            }
            let mut found = None;
            for (from, at) in own_files.iter().flat_map(|files| files.candidates(content)) {
                let leaves = !used[from as usize] || removed.contains(&(from, at));
                let free = leaves
                    && is_reached
                    && obstacles.renames_reach(from)
                    && !claimed[from as usize]
                    && !claimed_files.contains(&(from, at));
                if found.is_some() && !free {
                    continue;
                }
                if is_content(&mut own_dir, own, from, at, content)? {
                    found = Some((if free { State::Moved } else { State::Local }, Source::Own { dir: from, at }));
                    if free {
                        claimed_files.insert((from, at));
                        break;
                    }
                }
            }
            if found.is_none()
                && let (Some(files), Some(view)) = (&salvaged, salvage)
            {
                for (from, at) in files.candidates(content) {
                    if is_content(&mut salvage_dir, view, from, at, content)? {
                        found = Some((State::Local, Source::Salvage { dir: from, at }));
                        break;
                    }
                }
            }
            if let Some((state, from)) = found {
                want.origins.push(Origin { from, src_entry: item.slot as u32 });
                item.slot = want.origins.len() as u64 - 1;
                if let (State::Moved, Source::Own { dir, at }) = (state, from) {
                    let own_items = own_dir.items(own, dir).map_err(|cause| index_error(&cause))?;
                    item.print = own_items[at as usize].print;
                    item.list = own_items[at as usize].list;
                }
                item.state = state;
                changed = true;
            }
        }
        if changed {
            want.view.set_items(dir, &items).map_err(|cause| index_error(&cause))?;
        }
    }
    want.removed.retain(|place| !claimed_files.contains(place));
    want.moves.extend(claimed_files);
    Ok(())
}

/// Whether what is moved can come to a wanted directory by a rename.
fn reached(own: &View, want: &Want, obstacles: &Obstacles<'_>, wanted: u32) -> bool {
    let mut at = wanted;
    while at != 0 && want.dirs[at as usize].own == NONE {
        at = want.view.dirs[at as usize].parent;
    }
    let there = want.dirs[at as usize].own;
    there == NONE || there as usize >= own.dirs.len() || obstacles.renames_reach(there)
}

fn is_content(last: &mut LastDir, view: &View, dir: u32, at: u32, content: Name) -> Result<bool> {
    let items = last.items(view, dir).map_err(|cause| index_error(&cause))?;
    Ok(items.get(at as usize).is_some_and(|item| item.entry.content() == Some(content)))
}

/// A directory and all directories below it.
pub fn subtree(view: &View, dir: u32) -> Vec<u32> {
    let mut found = vec![dir];
    let mut at = 0;
    while at < found.len() {
        found.extend(children(view, found[at]));
        at += 1;
    }
    found
}

/// A twin that has to stay where it is: its likeness is made of copies.
fn make_anew(want: &mut Want, top: u32) -> Result<()> {
    let mut parent = want.view.items(want.view.dirs[top as usize].parent).map_err(|cause| index_error(&cause))?;
    let name = want.view.dirs[top as usize].name.clone();
    if let Some(item) = parent.iter_mut().find(|item| item.entry.name == name) {
        item.state = State::NewDir;
    }
    let number = want.view.dirs[top as usize].parent;
    want.view.set_items(number, &parent).map_err(|cause| index_error(&cause))?;
    for dir in subtree(&want.view, top) {
        let mut items: Vec<Item> = want.view.items(dir).map_err(|cause| index_error(&cause))?;
        for item in &mut items {
            item.state = fresh_state(&item.entry.kind);
            item.slot = u64::from(NONE);
            item.print = Default::default();
            item.list = Default::default();
        }
        want.view.set_items(dir, &items).map_err(|cause| index_error(&cause))?;
        want.dirs[dir as usize].how = How::New;
        want.dirs[dir as usize].own = NONE;
        want.view.dirs[dir as usize].id = (0, 0);
        want.pending.push(dir);
    }
    Ok(())
}
