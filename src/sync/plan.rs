//! The plan in numbers: what a person is shown and the halt rules judge.

use std::collections::HashSet;

use super::moves::subtree;
use super::source::index_error;
use super::want::{How, NONE, Source, Want, children};
use crate::model::Result;
use crate::model::sync::{Class, Plan};
use crate::tree::view::{Item, LastDir, State, View, join};

/// Paths shown of each kind.
const FIRST: usize = 10;

/// What the sync will have done, in files (all that are not directories).
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub created: u64,
    pub updated: u64,
    pub moved: u64,
    pub removed: u64,
    /// Files whose content has to be staged, and their bytes.
    pub files_to_move: u64,
    pub bytes_to_move: u64,
}

pub fn plan(own: &View, want: &Want) -> Result<(Plan, Tally)> {
    let mut plan = Plan::default();
    let mut tally = Tally::default();
    let mut from_dir = LastDir::default();
    let items_of = |view: &View, dir: u32| view.items(dir).map_err(|cause| index_error(&cause));
    if want.dirs[0].own == 0 && want.view.root.entry.meta != own.root.entry.meta {
        plan.touched.add(Vec::new(), 0);
    }
    for dir in 0..want.view.dirs.len() as u32 {
        if !matches!(want.dirs[dir as usize].how, How::Compare | How::New) {
            continue;
        }
        let path = want.view.path(dir);
        let own_dir = want.dirs[dir as usize].own;
        let own_items = if own_dir == NONE { Vec::new() } else { items_of(own, own_dir)? };
        for item in items_of(&want.view, dir)? {
            let beside = own_items.binary_search_by(|other| other.entry.name.cmp(&item.entry.name));
            let beside = beside.ok().map(|at| &own_items[at]);
            let there = beside.is_some();
            let path = join(&path, &item.entry.name);
            let size = item.entry.size();
            match item.state {
                State::Fetch | State::Local | State::Make | State::Hardlink => {
                    if matches!(item.state, State::Fetch | State::Local) {
                        tally.files_to_move += 1;
                        tally.bytes_to_move += size;
                    }
                    let (class, count) = match there {
                        true => (&mut plan.updated, &mut tally.updated),
                        false => (&mut plan.created, &mut tally.created),
                    };
                    *count += 1;
                    class.add(path, size);
                }
                State::NewDir => plan.created.add(path, 0),
                State::Descend if beside.is_some_and(|own| own.entry.meta != item.entry.meta) => {
                    plan.touched.add(path, 0);
                }
                State::Touch => {
                    tally.updated += u64::from(!item.entry.is_dir());
                    plan.touched.add(path, 0);
                }
                State::Moved => {
                    tally.moved += 1;
                    let Source::Own { dir, at } = want.origins[item.slot as usize].from else { continue };
                    let from = from_dir.items(own, dir).map_err(|cause| index_error(&cause))?;
                    let old = own.path_of(dir, &from[at as usize].entry.name);
                    plan.moved.add(moved(&old, &path), size);
                }
                _ => {}
            }
        }
    }
    for &(wanted, twin) in &want.moved_dirs {
        let mut files = 0;
        for dir in subtree(own, twin) {
            files += items_of(own, dir)?.iter().filter(|item| !item.entry.is_dir()).count() as u64;
        }
        tally.moved += files;
        plan.moved.add(moved(&own.path(twin), &want.view.path(wanted)), 0);
        plan.moved.count += files.saturating_sub(1);
    }
    let gone = Moved {
        dirs: want.moved_dirs.iter().flat_map(|&(_, twin)| subtree(own, twin)).collect(),
        files: want.moved_files().collect(),
    };
    for &(dir, at) in &want.removed {
        let items = from_dir.items(own, dir).map_err(|cause| index_error(&cause))?;
        if let Some(item) = items.get(at as usize) {
            count_removed(own, want, dir, item, &gone, &mut plan, &mut tally)?;
        }
    }
    plan.bytes_to_move = tally.bytes_to_move;
    Ok((plan, tally))
}

fn moved(old: &[u8], new: &[u8]) -> Vec<u8> {
    [old, b"\0", new].concat()
}

/// Own entries that move, so they are not removed.
struct Moved {
    dirs: HashSet<u32>,
    files: HashSet<(u32, u32)>,
}

fn count_removed(
    own: &View,
    want: &Want,
    dir: u32,
    item: &Item,
    moved: &Moved,
    plan: &mut Plan,
    tally: &mut Tally,
) -> Result<()> {
    let path = own.path_of(dir, &item.entry.name);
    if !item.entry.is_dir() {
        tally.removed += 1;
        plan.removed.add(path, item.entry.size());
        return Ok(());
    }
    let Some(child) = own.child(dir, &item.entry.name) else { return Ok(()) };
    if moved.dirs.contains(&child) {
        return Ok(());
    }
    let mut first = true;
    let mut queue = vec![child];
    while let Some(below) = queue.pop() {
        if moved.dirs.contains(&below) || want.stays.contains(&below) {
            continue;
        }
        queue.extend(children(own, below));
        // A folder stays that holds something that stays.
        if !own.dirs[below as usize].protected {
            if std::mem::take(&mut first) {
                plan.removed.add(own.path(below), 0);
            } else {
                plan.removed.count += 1;
            }
        }
        for (at, item) in own.items(below).map_err(|cause| index_error(&cause))?.iter().enumerate() {
            let place = (below, at as u32);
            if item.entry.is_dir() || moved.files.contains(&place) || want.files_stay.contains(&place) {
                continue;
            }
            tally.removed += 1;
            if std::mem::take(&mut first) {
                plan.removed.add(own.path_of(below, &item.entry.name), item.entry.size());
            } else {
                plan.removed.count += 1;
                plan.removed.bytes += item.entry.size();
            }
        }
    }
    Ok(())
}

impl Class {
    fn add(&mut self, path: Vec<u8>, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
        if self.first.len() < FIRST {
            self.first.push(path);
        }
    }
}
