//! Copying an entry, with all below it, to where a rename does not lead: another file system that is mounted in the tree, a
//! subvolume, or from a lower layer of an overlay.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;

use super::place;
use crate::sys::copy::{data_from, reflink};
use crate::sys::dir::{Dir, is_dir};
use crate::sys::meta;
use crate::tree::entry::{Entry, EntryKind};
use crate::tree::read::look_at;
use crate::tree::view::join;

/// The name under which a copy is made beside its place. One that a crash left is made anew by the next try.
const DRAFT: &[u8] = b".mcloud-stage.copy";

/// Makes `to_name` in `to` a copy of `name` in `from`, in the place of a file that is there, in one step. What is copied is
/// durable when it comes into its place. Returns what of its metadata was refused.
pub fn transplant(from: &Dir, name: &[u8], to: &Dir, to_name: &[u8]) -> Result<Vec<String>> {
    to.remove_all(DRAFT)?;
    let copied = copy_into_place(from, name, to, to_name);
    if copied.is_err() {
        // What stays in the tree would be part of it.
        to.remove_all(DRAFT)?;
    }
    copied
}

fn copy_into_place(from: &Dir, name: &[u8], to: &Dir, to_name: &[u8]) -> Result<Vec<String>> {
    let mut refusals = Vec::new();
    copy_tree(from, name, to, &mut refusals)?;
    to.sync_fs()?;
    match to.stat_if_there(to_name)? {
        // A folder does not give way, not even an empty one.
        Some(there) if is_dir(&there) => Err(ErrorKind::IsADirectory.into()),
        _ => to.rename(DRAFT, to, to_name).map(|()| refusals),
    }
}

/// Copies everything, folders first; their metadata comes last, from the deepest up.
fn copy_tree(from: &Dir, name: &[u8], to: &Dir, refusals: &mut Vec<String>) -> Result<()> {
    let Some(stat) = from.stat_if_there(name)? else { return Err(ErrorKind::NotFound.into()) };
    if !is_dir(&stat) {
        return copy_one(from, name, to, DRAFT, refusals);
    }
    // Paths below the copied folder, in the order in which they were made.
    let mut folders: Vec<Vec<u8>> = vec![Vec::new()];
    to.make_dir(DRAFT, 0o700)?;
    let mut at = 0;
    while at < folders.len() {
        let path = folders[at].clone();
        let (source, copy) = (from.open_beneath(&below(name, &path))?, to.open_beneath(&below(DRAFT, &path))?);
        for entry in source.names()? {
            let Some(stat) = source.stat_if_there(&entry.name)? else { continue };
            if is_dir(&stat) {
                copy.make_dir(&entry.name, 0o700)?;
                folders.push(join(&path, &entry.name));
            } else {
                copy_one(&source, &entry.name, &copy, &entry.name, refusals)?;
            }
        }
        at += 1;
    }
    for path in folders.iter().rev() {
        let (source, copy) = (from.open_beneath(&below(name, path))?, to.open_beneath(&below(DRAFT, path))?);
        let mut item = look_at_self(&source)?;
        item.meta.xattrs = meta::xattrs_of(&source)?;
        refusals.extend(place::dress(&copy, &item, false)?);
    }
    Ok(())
}

fn below(name: &[u8], path: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { join(name, path) }
}

fn look_at_self(dir: &Dir) -> Result<Entry> {
    let stat = dir.stat_self()?;
    let (mtime, _) = meta::stamps(&stat);
    let meta = crate::tree::entry::Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime,
        xattrs: Vec::new(),
    };
    let kind = EntryKind::Dir { content: crate::model::Name::UNKNOWN };
    Ok(Entry { name: Box::default(), meta, kind })
}

/// Copies what is not a folder.
fn copy_one(from: &Dir, name: &[u8], to: &Dir, to_name: &[u8], refusals: &mut Vec<String>) -> Result<()> {
    let stat = from.stat(name)?;
    let Some(item) = look_at(from, name, &stat, false)? else {
        return Err(Error::new(ErrorKind::Unsupported, "it is of a kind that cannot be copied"));
    };
    let mut entry = item.entry;
    if !matches!(entry.kind, EntryKind::File { .. }) {
        refusals.extend(place::make(to, to_name, &entry)?);
        return Ok(());
    }
    let source = from.read(name)?;
    entry.meta.xattrs = meta::xattrs_of(&source)?;
    let copy = place::create(to, to_name, entry.meta.mode)?;
    let size = entry.size();
    if size > 0 && !reflink(&source, &copy)? {
        copy_data(&source, &copy, size)?;
    }
    copy.set_len(size)?;
    refusals.extend(place::dress(&copy, &entry, true)?);
    Ok(())
}

/// Copies the ranges that hold data into a file that is all hole.
fn copy_data(from: &File, to: &File, size: u64) -> Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut at = 0;
    while let Some(range) = data_from(from, at)?.filter(|range| range.start < size) {
        let end = range.end.min(size);
        at = range.start;
        while at < end {
            let step = (end - at).min(buffer.len() as u64) as usize;
            from.read_exact_at(&mut buffer[..step], at)?;
            to.write_all_at(&buffer[..step], at)?;
            at += step as u64;
        }
    }
    Ok(())
}
