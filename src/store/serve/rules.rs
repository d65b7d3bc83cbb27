//! The ignore rules that a snapshot holds.

use crate::model::{Kind, Name, Result};
use crate::store::Store;
use crate::store::snapshot::Volume;
use crate::tree::entry::{Entry, EntryKind};
use crate::tree::filter::{RULES_FILE, RULES_MAX, no_rules, too_long};

/// The `.mcignore` of the tree. What cannot be read as rules stops it, as with a live source, but for an empty target:
/// there is nothing that rules could protect, and a snapshot cannot be mended.
pub fn rules(store: &Store, volume: &Volume, label: &str, fresh: bool) -> Result<Vec<u8>> {
    let mut entry = at(store, volume, RULES_FILE)?;
    if let Some(Entry { kind: EntryKind::Link { first }, .. }) = &entry {
        entry = at(store, volume, first)?;
    }
    let Some(entry) = entry else { return Ok(Vec::new()) };
    let read = match entry.kind {
        EntryKind::File { size, content } if size <= RULES_MAX as u64 => read_all(store, &content, size),
        EntryKind::File { .. } => Err(too_long(label)),
        EntryKind::Symlink { .. } => Err(no_rules(label, "a symbolic link")),
        EntryKind::Dir { .. } => Err(no_rules(label, "a folder")),
        _ => Err(no_rules(label, "no regular file")),
    };
    match read {
        Err(error) if matches!(error.kind, Kind::Failed | Kind::Usage | Kind::Corrupt) => match fresh {
            true => Ok(Vec::new()),
            false => Err(error.hint("restore it into a folder that is new or empty")),
        },
        rules => rules,
    }
}

/// The entry at a path of the tree.
fn at(store: &Store, volume: &Volume, path: &[u8]) -> Result<Option<Entry>> {
    let mut at = volume.root.clone();
    for name in path.split(|byte| *byte == b'/') {
        let EntryKind::Dir { content } = at.kind else { return Ok(None) };
        let found = store.entries(&content)?.into_iter().find(|entry| *entry.name == *name);
        let Some(found) = found else { return Ok(None) };
        at = found;
    }
    Ok(Some(at))
}

pub fn read_all(store: &Store, content: &Name, size: u64) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    for chunk in store.chunks(content, size)? {
        data.extend_from_slice(&store.chunk(&chunk)?);
    }
    Ok(data)
}
