//! Folders that do not stand still between the reading of their parent and their own: one that has gone is in no listing,
//! as if it had gone a moment before; what stands in its place instead is told as that.

use std::collections::HashMap;
use std::io::Result;
use std::sync::Mutex;

use rustix::fs::Stat;

use super::links::LinkName;
use super::{Job, Scan, Shared, lock, reason};
use crate::model::sync::LeftOut;
use crate::sys::dir::{Dir, DirName, is_gone, split_last};
use crate::sys::mapped::Mapped;
use crate::tree::entry::{Entry, Meta};
use crate::tree::filter::Stand;
use crate::tree::read::look_at;
use crate::tree::records::{Records, Rows};
use crate::tree::view::{DirNode, Item, View};

/// How often a folder is looked for anew when it is replaced while it is read.
const TRIES: u32 = 3;

/// What a parent has to say of a directory in it, otherwise than when it was read.
pub(super) enum Amend {
    /// It is not there; `protected`: what stands there now is left out by the rules.
    Gone { protected: bool },
    /// It is something else by now: with its device and inode, if that has other names.
    Became(Box<Item>, Option<(u64, u64)>),
    /// It cannot be told.
    LeftOut(String),
    /// Another directory has taken its place, and is the one that was read.
    Replaced(Box<Entry>),
}

/// An open directory and its names.
pub(super) struct Listed {
    pub dir: Dir,
    pub own: Stat,
    pub names: Vec<DirName>,
}

impl Scan<'_> {
    /// Reads one directory.
    pub(super) fn one_dir(
        &self,
        mut job: Job,
        shared: &Mutex<Shared>,
        records: &Records,
        before: (&Rows, &Mapped),
    ) -> Result<()> {
        let mut replaced = None;
        for attempt in 1..=TRIES {
            match list(self.root, &mut job) {
                // A file system that gives a directory another number each time is taken as it is.
                Ok(listed) if id(&listed.own) == job.id || job.path.is_empty() || attempt == TRIES => {
                    let found = self.entries(&job, &listed, records, before)?;
                    if !found.is_removed {
                        self.put(&job, &listed.own, found, replaced.map(Amend::Replaced), shared);
                        return Ok(());
                    }
                }
                Ok(_) => {}
                Err(error) if job.path.is_empty() => return Err(error),
                Err(error) if is_gone(&error) => {}
                Err(error) => return lose(job, Amend::LeftOut(reason("read", &error)), shared),
            }
            match self.look_again(&mut job) {
                Ok(entry) => replaced = Some(Box::new(entry)),
                Err(amend) => return lose(job, amend, shared),
            }
        }
        lose(job, Amend::LeftOut("it was replaced each time it was read".into()), shared)
    }

    /// Looks at what stands where a directory was: the entry of another one, or what its parent has to say instead.
    fn look_again(&self, job: &mut Job) -> std::result::Result<Entry, Amend> {
        let (above, name) = split_last(&job.path);
        let looked = self.root.open_beneath(above).and_then(|dir| match dir.stat_if_there(name)? {
            Some(stat) => Ok(look_at(&dir, name, &stat, false)?.map(|item| (item, stat))),
            None => Ok(None),
        });
        let (item, stat) = match looked {
            Ok(Some(found)) => found,
            Ok(None) => return Err(Amend::Gone { protected: false }),
            Err(error) if is_gone(&error) => return Err(Amend::Gone { protected: false }),
            Err(error) => return Err(Amend::LeftOut(reason("read", &error))),
        };
        let stand = self.filter.stand(&job.path, item.entry.is_dir());
        match stand {
            Stand::In | Stand::Above if item.entry.is_dir() => {
                job.id = id(&stat);
                let meta = if stand == Stand::Above { Meta::default() } else { item.entry.meta };
                Ok(Entry { meta, ..item.entry })
            }
            Stand::In => Err(Amend::Became(Box::new(item), (stat.st_nlink > 1).then(|| id(&stat)))),
            stand => Err(Amend::Gone { protected: stand == Stand::Protected }),
        }
    }
}

fn id(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn list(root: &Dir, job: &mut Job) -> Result<Listed> {
    let dir = match job.open.take() {
        Some(dir) => dir,
        None => root.open_beneath(&job.path)?,
    };
    Ok(Listed { own: dir.stat_self()?, names: dir.names()?, dir })
}

fn lose(job: Job, amend: Amend, shared: &Mutex<Shared>) -> Result<()> {
    let mut held = lock(shared);
    if let Amend::LeftOut(reason) = &amend {
        held.findings.left_out.push(LeftOut { path: job.path, reason: reason.clone() });
    }
    held.amends.push((job.dir, amend));
    Ok(())
}

/// Lets parents say of their directories what became of them. Positions and numbers that change thereby are changed in
/// `links` and `unread`, too.
pub(super) fn amend(
    view: &mut View,
    mut amends: Vec<(u32, Amend)>,
    links: &mut Vec<LinkName>,
    unread: &mut Vec<u32>,
) -> Result<()> {
    if amends.is_empty() {
        return Ok(());
    }
    amends.sort_by_key(|(dir, _)| (view.dirs[*dir as usize].parent, *dir));
    let mut lost = vec![false; view.dirs.len()];
    let mut removed: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut amends = amends.into_iter().peekable();
    while let Some((_, parent)) = amends.peek().map(|(dir, _)| (*dir, view.dirs[*dir as usize].parent)) {
        let mut said = HashMap::new();
        while let Some((dir, amend)) = amends.next_if(|(dir, _)| view.dirs[*dir as usize].parent == parent) {
            lost[dir as usize] = !matches!(amend, Amend::Replaced(_));
            said.insert(view.dirs[dir as usize].name.clone(), amend);
        }
        let items = view.items(parent)?;
        let mut kept = Vec::with_capacity(items.len());
        let before = items.len();
        for (at, item) in (0u32..).zip(items) {
            match said.remove(&item.entry.name) {
                None => kept.push(item),
                Some(Amend::Replaced(entry)) => {
                    kept.push(Item { entry: Entry { name: item.entry.name, ..*entry }, ..item });
                }
                Some(Amend::Became(item, id)) => {
                    view.bytes += item.entry.size();
                    if item.is_unread() {
                        unread.push(parent);
                    }
                    links.extend(id.map(|id| LinkName { id, dir: parent, at }));
                    kept.push(*item);
                }
                Some(amend) => {
                    view.dirs[parent as usize].protected |= matches!(amend, Amend::Gone { protected: true });
                    removed.entry(parent).or_default().push(at);
                }
            }
        }
        view.entries -= (before - kept.len()) as u64;
        view.set_items(parent, &kept)?;
    }
    for link in links.iter_mut() {
        if let Some(removed) = removed.get(&link.dir) {
            link.at -= removed.partition_point(|at| *at < link.at) as u32;
        }
    }
    let numbers = renumber(&mut view.dirs, &lost);
    links.iter_mut().for_each(|link| link.dir = numbers[link.dir as usize]);
    unread.iter_mut().for_each(|dir| *dir = numbers[*dir as usize]);
    Ok(())
}

/// Takes lost directories, which have none in them, out of the table; returns the new number of each.
fn renumber(dirs: &mut Vec<DirNode>, lost: &[bool]) -> Vec<u32> {
    let mut numbers = Vec::with_capacity(lost.len() + 1);
    let mut next = 0;
    for lost in lost {
        numbers.push(next);
        next += u32::from(!lost);
    }
    numbers.push(next);
    let mut lost = lost.iter();
    dirs.retain(|_| !lost.next().copied().unwrap_or(false));
    for node in dirs.iter_mut() {
        node.parent = numbers[node.parent as usize];
        // The first that is left of its children, or a directory that is none of them.
        node.first_child = numbers[node.first_child as usize];
    }
    numbers
}
