//! Hard links: which name stands for a file that has several.
//!
//! Each folder is read once to choose, once to write, and written only where something in it changes. What is kept for a
//! name does not grow with its path: that is made when it is needed.

use std::collections::HashMap;
use std::io::{ErrorKind, Result};

use super::Scan;
use crate::model::Name;
use crate::sys::clock::file_clock;
use crate::sys::dir::is_gone;
use crate::sys::stamps::Stamps;
use crate::tree::entry::{EntryKind, Meta};
use crate::tree::read::look_at;
use crate::tree::view::{Item, State, View, join};

/// One name of a file that has several: the file, the folder, the position in it.
#[derive(Clone, Copy)]
pub struct LinkName {
    pub id: (u64, u64),
    pub dir: u32,
    pub at: u32,
}

/// One name, and the number of its file.
struct Member {
    dir: u32,
    at: u32,
    file: u32,
}

/// A file with several names.
struct File {
    /// The name that stands for it, the smallest path of all, once one has been seen.
    first: Option<First>,
    /// A name under which the index knew it as more than a link, and whether its content is known there.
    known: Option<(u32, u32, bool)>,
}

struct First {
    dir: u32,
    at: u32,
    name: Box<[u8]>,
    /// What it is has to be taken from elsewhere: the entry is a link, or its content is unread.
    bare: bool,
}

/// The path of the folder that was asked for last.
#[derive(Default)]
struct LastPath(Option<(u32, Vec<u8>)>);

impl LastPath {
    fn of(&mut self, view: &View, dir: u32) -> &[u8] {
        if self.0.as_ref().is_none_or(|(held, _)| *held != dir) {
            self.0 = Some((dir, view.path(dir)));
        }
        self.0.as_ref().map_or(b"", |(_, path)| path)
    }
}

impl Scan<'_> {
    /// Of each file with several names in the tree, the smallest path stands for it and the others point there.
    pub(super) fn settle_links(&self, view: &mut View, mut names: Vec<LinkName>, unread: &mut Vec<u32>) -> Result<()> {
        names.sort_unstable_by_key(|name| name.id);
        let (mut members, mut files) = (Vec::with_capacity(names.len()), 0);
        for (number, name) in names.iter().enumerate() {
            files += u32::from(number > 0 && names[number - 1].id != name.id);
            members.push(Member { dir: name.dir, at: name.at, file: files });
        }
        drop(names);
        members.sort_unstable_by_key(|member| (member.dir, member.at));
        let mut files: Vec<File> = match members.is_empty() {
            true => Vec::new(),
            false => (0..=files).map(|_| File { first: None, known: None }).collect(),
        };
        choose(view, &members, &mut files)?;
        let mut known = fetch_known(view, &files)?;
        for members in members.chunk_by(|a, b| a.dir == b.dir) {
            self.settle_dir(view, members, &files, &mut known, unread)?;
        }
        view.links.close();
        unread.sort_unstable();
        unread.dedup();
        Ok(())
    }

    /// Makes the names in one folder what they are to be.
    fn settle_dir(
        &self,
        view: &mut View,
        members: &[Member],
        files: &[File],
        known: &mut HashMap<u32, Item>,
        unread: &mut Vec<u32>,
    ) -> Result<()> {
        let Some(&Member { dir, .. }) = members.first() else { return Ok(()) };
        let (mut items, mut paths, mut changed) = (view.items(dir)?, LastPath::default(), false);
        for member in members {
            let (item, file) = (&mut items[member.at as usize], &files[member.file as usize]);
            let Some(first) = &file.first else { continue };
            if (first.dir, first.at) != (dir, member.at) {
                let path = join(paths.of(view, first.dir), &first.name);
                view.links.add(dir);
                if matches!(&item.entry.kind, EntryKind::Link { first } if **first == path[..]) {
                    continue;
                }
                view.bytes = view.bytes.saturating_sub(item.entry.size());
                item.entry.kind = EntryKind::Link { first: path.into() };
                item.entry.meta = Meta::default();
                item.list = Default::default();
                changed = true;
                continue;
            }
            let was_link = matches!(item.entry.kind, EntryKind::Link { .. });
            // All may be remembered as links to a name that is in the view no more.
            let known = match known.remove(&member.file) {
                Some(known) => known,
                None if was_link => self.look_anew(view, dir, item)?,
                None => continue,
            };
            if was_link {
                view.bytes += known.entry.size();
            }
            let name = std::mem::replace(item, known).entry.name;
            item.entry.name = name;
            changed = true;
            if item.is_unread() {
                unread.push(dir);
            }
        }
        match changed {
            true => view.set_items(dir, &items),
            false => Ok(()),
        }
    }

    fn look_anew(&self, view: &View, dir: u32, item: &Item) -> Result<Item> {
        let looked = self.root.open_beneath(&view.path(dir)).and_then(|open| {
            let now = file_clock();
            let stat = open.stat(&item.entry.name)?;
            let settled = Stamps::at(&open, &item.entry.name).are_settled(&stat, now);
            look_at(&open, &item.entry.name, &stat, settled)?.ok_or_else(|| ErrorKind::NotFound.into())
        });
        match looked {
            // Gone since its folder was read, as a file may be by the time it is to be read.
            Err(error) if is_gone(&error) => {
                let kind = EntryKind::File { size: 0, content: Name::of(b"") };
                let mut gone = Item::new(item.entry.clone(), Default::default());
                (gone.entry.kind, gone.state) = (kind, State::Dropped);
                Ok(gone)
            }
            other => other,
        }
    }
}

/// Chooses the name that stands for each file, and one that knows what it is.
fn choose(view: &View, members: &[Member], files: &mut [File]) -> Result<()> {
    let mut other_path = LastPath::default();
    for members in members.chunk_by(|a, b| a.dir == b.dir) {
        let Some(&Member { dir, .. }) = members.first() else { continue };
        let (items, path) = (view.items(dir)?, view.path(dir));
        for member in members {
            let (item, file) = (&items[member.at as usize], &mut files[member.file as usize]);
            let is_link = matches!(item.entry.kind, EntryKind::Link { .. });
            let is_first = match &file.first {
                None => true,
                // Of the names in one folder the first is the smallest.
                Some(first) if first.dir == dir => false,
                Some(first) => join(&path, &item.entry.name) < join(other_path.of(view, first.dir), &first.name),
            };
            if is_first {
                let bare = is_link || item.is_unread();
                file.first = Some(First { dir, at: member.at, name: item.entry.name.clone(), bare });
            }
            if !is_link && file.known.is_none_or(|(.., read)| !read && !item.is_unread()) {
                file.known = Some((dir, member.at, !item.is_unread()));
            }
        }
    }
    Ok(())
}

/// What the index knows of the files whose first name was another one before, by their number.
fn fetch_known(view: &View, files: &[File]) -> Result<HashMap<u32, Item>> {
    let mut wanted: Vec<(u32, u32, u32)> = (0u32..)
        .zip(files)
        .filter_map(|(number, file)| {
            let (first, (dir, at, _)) = (file.first.as_ref()?, file.known?);
            (first.bare && (first.dir, first.at) != (dir, at)).then_some((dir, at, number))
        })
        .collect();
    wanted.sort_unstable();
    let mut found = HashMap::with_capacity(wanted.len());
    for wanted in wanted.chunk_by(|a, b| a.0 == b.0) {
        let Some(&(dir, ..)) = wanted.first() else { continue };
        let items = view.items(dir)?;
        for &(_, at, number) in wanted {
            found.insert(number, items[at as usize].clone());
        }
    }
    Ok(found)
}
