//! What is wanted, beside what is: walks the source's listings down from the root, wherever they differ from the
//! target's own tree, and writes down for each entry what has to become of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::obstacles::Obstacles;
use super::source::index_error;
use super::talk::{Talk, nonsense};
use super::want::{How, NONE, Want, WantDir, children, fresh_state};
use crate::model::name::Short;
use crate::model::sync::LeftOut;
use crate::model::{Name, Result};
use crate::sys::attrs::drop_views;
use crate::tree::entry::{Entry, EntryKind};
use crate::tree::filter::{Filter, Stand};
use crate::tree::link::{Ask, ListingNode, Tell};
use crate::tree::node::{ListBuilder, ListKind, decode_entries};
use crate::tree::view::{DirNode, Item, Links, Print, State, View, join};

/// Parts of about a mebibyte in which one directory is told, at most: some ten million names.
const LISTING_PARTS: u32 = 1024;

/// A directory of which the listing is awaited.
struct Awaited {
    want: u32,
    /// What its entry said its content is; unknown if the source did not know yet.
    content: Name,
    /// The parts told so far.
    nodes: Vec<ListingNode>,
    parts: u32,
}

/// Compares and returns what is wanted.
///
/// `unreadable`: paths the source could not give; the target's own entries there are left alone.
pub fn compare(
    own: &View,
    root: &Entry,
    talk: &mut Talk<'_>,
    no_remove: bool,
    filter: &Filter,
    unreadable: &HashSet<Vec<u8>>,
    obstacles: &Obstacles<'_>,
) -> Result<Want> {
    let mut top = Item::new(root.clone(), Print::default());
    let left_views = drop_views(&mut top.entry.meta.xattrs);
    let mut walk = Walk {
        own,
        obstacles,
        no_remove,
        filter,
        unreadable,
        by_content: HashMap::new(),
        want: Want {
            view: View {
                records: Arc::clone(&own.records),
                root: top,
                dirs: vec![new_node(0, b"", own.dirs[0].implied)],
                links: Links::default(),
                entries: 0,
                bytes: 0,
            },
            dirs: vec![WantDir { src: 0, own: 0, how: How::Compare }],
            pending: Vec::new(),
            origins: Vec::new(),
            removed: Vec::new(),
            replaced: HashSet::new(),
            moves: Vec::new(),
            moved_dirs: Vec::new(),
            mirrors: Vec::new(),
            keeps_extra: false,
            stays: HashSet::new(),
            files_stay: HashSet::new(),
            left_alone: false,
            left_views,
            left_out: Vec::new(),
        },
        awaited: HashMap::new(),
    };
    for (number, dir) in own.dirs.iter().enumerate().skip(1) {
        if dir.content.is_known() && dir.content != empty_listing() && !dir.protected {
            walk.by_content.entry(dir.content).or_insert(number as u32);
        }
    }
    let content = root.content().unwrap_or(Name::UNKNOWN);
    if content.is_known() && content == own.dirs[0].content {
        walk.import(0, 0, How::Same)?;
    } else {
        walk.expect(0, content, talk)?;
    }
    while !walk.awaited.is_empty() {
        match talk.next()? {
            Tell::Listing { dir, first_child, nodes, more } => walk.listing(dir, first_child, nodes, more, talk)?,
            _ => return Err(nonsense("something else than the listing it was asked for")),
        }
    }
    walk.want.pending.sort_unstable();
    walk.want.pending.dedup();
    Ok(walk.want)
}

struct Walk<'a> {
    own: &'a View,
    obstacles: &'a Obstacles<'a>,
    no_remove: bool,
    filter: &'a Filter,
    unreadable: &'a HashSet<Vec<u8>>,
    /// Own directories that could be moved whole, by their content.
    by_content: HashMap<Name, u32>,
    want: Want,
    /// By the source's number.
    awaited: HashMap<u32, Awaited>,
}

impl Walk<'_> {
    /// Asks for a listing.
    fn expect(&mut self, want: u32, content: Name, talk: &Talk<'_>) -> Result<()> {
        let WantDir { src, own, .. } = self.want.dirs[want as usize];
        let leaves = own_leaves(&self.own_items(own)?);
        // A list of one leaf is that leaf, and that is known to differ.
        let have = if leaves.len() > 1 { leaves.keys().copied().collect() } else { Vec::new() };
        if self.awaited.insert(src, Awaited { want, content, nodes: Vec::new(), parts: 0 }).is_some() {
            return Err(nonsense("one directory in two places"));
        }
        talk.ask(Ask::List { dir: src, have })
    }

    fn own_items(&self, own: u32) -> Result<Vec<Item>> {
        match own {
            NONE => Ok(Vec::new()),
            own => self.own.items(own).map_err(|cause| index_error(&cause)),
        }
    }

    fn listing(
        &mut self,
        src: u32,
        first_child: u32,
        nodes: Vec<ListingNode>,
        more: bool,
        talk: &Talk<'_>,
    ) -> Result<()> {
        let Some(awaited) = self.awaited.get_mut(&src) else {
            return Err(nonsense("a listing that was not asked for"));
        };
        awaited.nodes.extend(nodes);
        // A folder of fifty million names; a list without end is none.
        awaited.parts += 1;
        if awaited.parts > LISTING_PARTS {
            return Err(nonsense("a listing without end"));
        }
        if more {
            return Ok(());
        }
        let Some(awaited) = self.awaited.remove(&src) else { return Ok(()) };
        let own_items = self.own_items(self.want.dirs[awaited.want as usize].own)?;
        let some_had = awaited.nodes.iter().any(|node| matches!(node, ListingNode::Have(_)));
        let mut leaves = if some_had { own_leaves(&own_items) } else { HashMap::new() };
        let mut entries: Vec<Entry> = Vec::new();
        let mut check = ListBuilder::new(ListKind::Entries, |_, _| ());
        for node in awaited.nodes {
            let part = match node {
                ListingNode::Have(short) => leaves.remove(&short).as_deref().and_then(decode_entries),
                ListingNode::Raw(bytes) => decode_entries(&bytes),
            };
            let part = part.ok_or_else(|| nonsense("a listing that cannot be read"))?;
            if let (Some(last), Some(first)) = (entries.last(), part.first())
                && last.name >= first.name
            {
                return Err(nonsense("a listing out of order"));
            }
            entries.extend(part);
        }
        entries.iter().for_each(|entry| check.push_entry(entry));
        if awaited.content.is_known() && check.finish() != awaited.content {
            return Err(nonsense("a listing that is not what its name says"));
        }
        // Numbers are given from the root down: what keeps to that cannot go round in a circle.
        let dirs = entries.iter().filter(|entry| entry.is_dir()).count();
        let last_child = u32::try_from(dirs).ok().and_then(|dirs| first_child.checked_add(dirs));
        if dirs > 0 && (first_child <= src || last_child.is_none_or(|last| last == NONE)) {
            return Err(nonsense("folders under numbers that cannot be theirs"));
        }
        let items = self.merge(awaited.want, &own_items, entries, first_child, talk)?;
        self.want.view.entries += items.len() as u64;
        let bytes = &mut self.want.view.bytes;
        *bytes = items.iter().fold(*bytes, |sum, item| sum.saturating_add(item.entry.size()));
        self.want.view.set_items(awaited.want, &items).map_err(|cause| index_error(&cause))?;
        if items.iter().any(|item| item.state.is_work()) || self.want.dirs[awaited.want as usize].how == How::New {
            self.want.pending.push(awaited.want);
        }
        Ok(())
    }

    /// Lays the wanted entries of one directory beside the own ones.
    fn merge(
        &mut self,
        want: u32,
        own_items: &[Item],
        entries: Vec<Entry>,
        first_child: u32,
        talk: &Talk<'_>,
    ) -> Result<Vec<Item>> {
        let own_dir = self.want.dirs[want as usize].own;
        let path = self.want.view.path(want);
        let mut own = own_items.iter().enumerate().peekable();
        let mut own_child = if own_dir == NONE { 0 } else { self.own.dirs[own_dir as usize].first_child };
        let mut src_child = first_child;
        let mut items = Vec::with_capacity(entries.len());
        // Directories to go on with once all children have their numbers.
        let mut next: Vec<(u32, Next)> = Vec::new();
        self.want.view.dirs[want as usize].first_child = self.want.view.dirs.len() as u32;
        for (number, entry) in entries.into_iter().enumerate() {
            // What the target leaves out, or does not look at, is not the source's to write.
            match self.filter.stand(&join(&path, &entry.name), entry.is_dir()) {
                Stand::In => {}
                Stand::Above if entry.is_dir() => {}
                _ => return Err(nonsense("an entry that was left out by the rules")),
            }
            while let Some((at, item)) = own.next_if(|(_, item)| item.entry.name < entry.name) {
                self.own_only(want, own_dir, at as u32, item, &mut own_child, &path, &mut items, &mut next);
            }
            let beside = own.next_if(|(_, item)| item.entry.name == entry.name);
            let beside_child = match beside {
                Some((_, item)) if item.entry.is_dir() => {
                    own_child += 1;
                    own_child - 1
                }
                _ => NONE,
            };
            let src = match entry.is_dir() {
                true => {
                    src_child += 1;
                    src_child - 1
                }
                false => NONE,
            };
            let mut item = Item::new(entry, Print::default());
            // Versions before this one took them for a tree's own: they are in old snapshots.
            self.want.left_views |= drop_views(&mut item.entry.meta.xattrs);
            let own_item = beside.map(|(_, own_item)| own_item);
            let alike = own_item.filter(|own_item| own_item.entry.kind.is_like(&item.entry.kind));
            if let Some(own_item) = own_item
                && let Some(reason) = self.why_kept(own_dir, own_item, beside_child, &item.entry)
            {
                let path = join(&path, &item.entry.name);
                self.want.left_out.push(LeftOut { path, reason: reason.to_string() });
                self.keep(want, own_item, beside_child, &mut items, &mut next);
                continue;
            }
            if alike.is_none()
                && let Some((at, own_item)) = beside
            {
                // Something of another kind stands there: it goes.
                self.want.removed.push((own_dir, at as u32));
                if !own_item.entry.is_dir() && !item.entry.is_dir() {
                    self.want.replaced.insert((own_dir, at as u32));
                }
            }
            let EntryKind::Dir { content } = item.entry.kind else {
                match alike {
                    Some(own_item) => beside_like(&mut item, own_item, number as u32),
                    None => {
                        item.state = fresh_state(&item.entry.kind);
                        item.slot = number as u64;
                    }
                }
                items.push(item);
                continue;
            };
            let child = self.add_dir(want, &item.entry.name, src, if alike.is_some() { beside_child } else { NONE });
            self.want.view.dirs[child as usize].implied =
                self.filter.stand(&join(&path, &item.entry.name), true) == Stand::Above;
            if let Some(own_item) = alike {
                item.print = own_item.print;
                let same = content.is_known() && content == self.own.dirs[beside_child as usize].content;
                let touch = own_item.entry.meta != item.entry.meta;
                item.state = match (same, touch) {
                    (true, false) => State::Keep,
                    (true, true) => State::Touch,
                    (false, _) => State::Descend,
                };
                next.push((child, if same { Next::Same(beside_child) } else { Next::Ask(content) }));
            } else if let Some(twin) = self.by_content.get(&content).copied().filter(|_| content.is_known()) {
                item.state = State::MovedDir;
                next.push((child, Next::Mirror(twin)));
            } else {
                item.state = State::NewDir;
                next.push((child, Next::Ask(content)));
            }
            items.push(item);
        }
        for (at, item) in own {
            self.own_only(want, own_dir, at as u32, item, &mut own_child, &path, &mut items, &mut next);
        }
        for (child, step) in next {
            match step {
                Next::Same(own) => self.import(child, own, How::Same)?,
                Next::Mirror(own) => {
                    self.import(child, own, How::Moved)?;
                    self.want.mirrors.push((child, own));
                }
                Next::Ask(content) if content == empty_listing() && self.want.dirs[child as usize].own == NONE => {
                    self.want.view.set_items(child, &[]).map_err(|cause| index_error(&cause))?;
                    self.want.pending.push(child);
                }
                Next::Ask(content) => self.expect(child, content, talk)?,
            }
        }
        Ok(items)
    }

    /// An own entry that the source does not have: goes, or stays if it has to.
    #[expect(clippy::too_many_arguments, reason = "one step of the merge, with its state")]
    fn own_only(
        &mut self,
        want: u32,
        own_dir: u32,
        at: u32,
        item: &Item,
        own_child: &mut u32,
        path: &[u8],
        items: &mut Vec<Item>,
        next: &mut Vec<(u32, Next)>,
    ) {
        let child = *own_child;
        if item.entry.is_dir() {
            *own_child += 1;
        }
        // Where the folder itself could not be read after all, it was told as an empty one.
        let unreadable = self.unreadable.contains(&join(path, &item.entry.name))
            || !path.is_empty() && self.unreadable.contains(path);
        let obstacle = match item.entry.is_dir() {
            true => self.obstacles.of_dir(child),
            false => self.obstacles.of_file(own_dir, &item.entry.name),
        };
        if let (Some(reason), false) = (obstacle, self.no_remove || unreadable) {
            let path = join(path, &item.entry.name);
            self.want.left_out.push(LeftOut { path, reason: reason.to_string() });
        } else if !self.no_remove && !unreadable {
            self.want.removed.push((own_dir, at));
            return;
        }
        self.keep(want, item, child, items, next);
    }

    /// Leaves an own entry that the source does not have as it is; `child`: its number if it is a directory.
    fn keep(&mut self, want: u32, own: &Item, child: u32, items: &mut Vec<Item>, next: &mut Vec<(u32, Next)>) {
        self.want.keeps_extra = true;
        let mut kept = own.clone();
        kept.state = State::Keep;
        if own.entry.is_dir() {
            let number = self.add_dir(want, &own.entry.name, NONE, child);
            next.push((number, Next::Same(child)));
        }
        items.push(kept);
    }

    /// Why an own entry stays although the source has another one in its place, if it does.
    fn why_kept(&self, own_dir: u32, own: &Item, child: u32, wanted: &Entry) -> Option<&'static str> {
        if !own.entry.is_dir() {
            let is_same = own.entry == *wanted;
            return self.obstacles.of_file(own_dir, &own.entry.name).filter(|_| !is_same);
        }
        if !wanted.is_dir() {
            let holds = self.no_remove && self.holds_something(child);
            let kept = holds.then_some("a folder that holds something stands there, and nothing is removed");
            return self.obstacles.of_dir(child).or(kept);
        }
        let content = wanted.content().filter(Name::is_known);
        let is_same = own.entry.meta == wanted.meta && content == Some(self.own.dirs[child as usize].content);
        let is_read_only = self.obstacles.is_read_only(child) && !is_same;
        is_read_only.then_some("it is mounted read-only; it is left alone")
    }

    fn holds_something(&self, own: u32) -> bool {
        let node = &self.own.dirs[own as usize];
        node.protected || node.content != empty_listing()
    }

    fn add_dir(&mut self, parent: u32, name: &[u8], src: u32, own: u32) -> u32 {
        let how = if own == NONE { How::New } else { How::Compare };
        self.want.view.dirs.push(new_node(parent, name, false));
        self.want.dirs.push(WantDir { src, own, how });
        self.want.view.dirs.len() as u32 - 1
    }

    /// Takes an own directory as it is, with all below.
    fn import(&mut self, want: u32, own: u32, how: How) -> Result<()> {
        let mut queue = vec![(want, own)];
        while let Some((want, own)) = queue.pop() {
            let node = &self.own.dirs[own as usize];
            let first = self.want.view.dirs.len() as u32;
            let target = &mut self.want.view.dirs[want as usize];
            target.record = node.record;
            target.content = node.content;
            target.protected = node.protected;
            target.id = node.id;
            target.implied = node.implied;
            target.dirty = false;
            target.first_child = first;
            self.want.dirs[want as usize].how = how;
            self.want.dirs[want as usize].own = if how == How::Same { own } else { NONE };
            for (number, child) in children(self.own, own).enumerate() {
                let name = self.own.dirs[child as usize].name.clone();
                self.want.view.dirs.push(new_node(want, &name, false));
                self.want.dirs.push(WantDir { src: NONE, own: child, how });
                queue.push((first + number as u32, child));
            }
        }
        Ok(())
    }
}

/// The leaves of the list of these items.
fn own_leaves(items: &[Item]) -> HashMap<Short, Vec<u8>> {
    let mut leaves = HashMap::new();
    let mut list = ListBuilder::new(ListKind::Entries, |name: Name, bytes: Vec<u8>| {
        leaves.insert(name.short(), bytes);
    });
    items.iter().for_each(|item| list.push_entry(&item.entry));
    list.finish();
    leaves
}

/// How to go on with a directory.
enum Next {
    Same(u32),
    Mirror(u32),
    Ask(Name),
}

/// What becomes of an entry beside an own one of the same kind.
fn beside_like(item: &mut Item, own: &Item, number: u32) {
    let same_meta = own.entry.meta == item.entry.meta;
    let same_kind = own.entry.kind == item.entry.kind && item.entry.content().is_none_or(|content| content.is_known());
    item.state = match (same_kind, same_meta) {
        (true, true) => State::Keep,
        (true, false) => State::Touch,
        (false, _) => fresh_state(&item.entry.kind),
    };
    if same_kind {
        item.print = own.print;
        item.list = own.list;
    } else {
        item.slot = u64::from(number);
    }
}

/// The name of a directory with nothing in it.
pub fn empty_listing() -> Name {
    static NAME: std::sync::LazyLock<Name> =
        std::sync::LazyLock::new(|| ListBuilder::new(ListKind::Entries, |_, _| ()).finish());
    *NAME
}

fn new_node(parent: u32, name: &[u8], implied: bool) -> DirNode {
    DirNode {
        parent,
        name: name.into(),
        id: (0, 0),
        record: Default::default(),
        first_child: 0,
        content: Name::UNKNOWN,
        protected: false,
        dirty: true,
        implied,
    }
}
