//! What was taken: one small record for each snapshot, named by its bytes (docs/formats.md, Snapshot).

use crate::model::host::DataVolume;
use crate::model::{Error, Kind, Name, Result, ServiceName, TenantName, VolumePath};
use crate::tree::entry::{Entry, put, put_bytes, take, take_bytes, take_name, take_u32};

use super::holes::Holes;
use super::pack::name_from_hex;

/// A record that knows of holes, and one of the version before, which does not.
const MAGIC: &[u8; 18] = b"mcloud snapshot 2\n";
const MAGIC_1: &[u8; 18] = b"mcloud snapshot 1\n";
const TEXT_MAX: usize = 1 << 16;
/// The most volumes or tags of one snapshot.
const MANY: u64 = 65_536;

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Milliseconds since 1970 at which it was begun.
    pub taken_ms: u64,
    pub tenant: TenantName,
    /// What was asked for: the reference, without a host.
    pub of: String,
    pub how: How,
    /// Ascending, each once.
    pub tags: Vec<String>,
    /// Who took it, as the host knows him.
    pub by: String,
    pub volumes: Vec<Volume>,
}

/// How it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// While what it is of went on.
    Live,
    /// While it stood still.
    Frozen { freeze_ms: u64 },
}

/// One tree of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// `None`: the root volume.
    pub data: Option<DataVolume>,
    /// Its root directory, without a name.
    pub root: Entry,
    pub entries: u64,
    pub bytes: u64,
    /// Entries that are not as they were, or not there at all.
    pub left_out: u64,
    pub holes: Holes,
}

impl Volume {
    /// The name of the list of its root directory.
    pub fn content(&self) -> Name {
        self.root.content().unwrap_or(Name::UNKNOWN)
    }

    /// How people call it within its snapshot: `root`, or `SERVICE:/PATH`.
    pub fn label(&self) -> String {
        label(self.data.as_ref())
    }
}

pub fn label(data: Option<&DataVolume>) -> String {
    data.map_or_else(|| "root".to_owned(), |data| format!("{}:{}", data.service, data.path))
}

impl Snapshot {
    pub fn encode(&self) -> Vec<u8> {
        // What knows no more than a record of the version before is one: it goes on having the same id.
        let knows = self.volumes.iter().any(|volume| volume.holes != Holes::Unknown);
        let mut out = if knows { MAGIC.to_vec() } else { MAGIC_1.to_vec() };
        put(&mut out, self.taken_ms);
        put_bytes(&mut out, self.tenant.as_str().as_bytes());
        put_bytes(&mut out, self.of.as_bytes());
        match self.how {
            How::Live => put(&mut out, 0),
            How::Frozen { freeze_ms } => {
                put(&mut out, 1);
                put(&mut out, freeze_ms);
            }
        }
        put(&mut out, self.tags.len() as u64);
        self.tags.iter().for_each(|tag| put_bytes(&mut out, tag.as_bytes()));
        put_bytes(&mut out, self.by.as_bytes());
        put(&mut out, self.volumes.len() as u64);
        for volume in &self.volumes {
            let (service, path) = match &volume.data {
                None => ("", ""),
                Some(data) => (data.service.as_str(), data.path.as_str()),
            };
            put_bytes(&mut out, service.as_bytes());
            put_bytes(&mut out, path.as_bytes());
            put(&mut out, volume.entries);
            put(&mut out, volume.bytes);
            put(&mut out, volume.left_out);
            volume.root.encode(&mut out);
            if knows {
                put_holes(&mut out, volume.holes);
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Snapshot> {
        let (knows, mut rest) = match bytes.strip_prefix(MAGIC) {
            Some(rest) => (true, rest),
            None => (false, bytes.strip_prefix(MAGIC_1)?),
        };
        let rest = &mut rest;
        let text = |rest: &mut &[u8]| String::from_utf8(take_bytes(rest, TEXT_MAX)?.to_vec()).ok();
        let taken_ms = take(rest)?;
        let tenant = TenantName::new(&text(rest)?).ok()?;
        let of = text(rest)?;
        let how = match take_u32(rest)? {
            0 => How::Live,
            1 => How::Frozen { freeze_ms: take(rest)? },
            _ => return None,
        };
        let tags = (0..take(rest).filter(|count| *count < MANY)?).map(|_| text(rest)).collect::<Option<Vec<_>>>()?;
        let by = text(rest)?;
        let mut volumes = Vec::new();
        for _ in 0..take(rest).filter(|count| *count < MANY)? {
            let (service, path) = (text(rest)?, text(rest)?);
            let data = match (service.as_str(), path.as_str()) {
                ("", "") => None,
                (service, path) => {
                    Some(DataVolume { service: ServiceName::new(service).ok()?, path: VolumePath::new(path).ok()? })
                }
            };
            let (entries, bytes, left_out) = (take(rest)?, take(rest)?, take(rest)?);
            let root = Entry::decode(rest).filter(|root| root.is_dir() && root.name.is_empty())?;
            let holes = if knows { take_holes(rest)? } else { Holes::Unknown };
            volumes.push(Volume { data, root, entries, bytes, left_out, holes });
        }
        rest.is_empty().then_some(Snapshot { taken_ms, tenant, of, how, tags, by, volumes })
    }

    pub fn entries(&self) -> u64 {
        self.volumes.iter().map(|volume| volume.entries).sum()
    }

    pub fn bytes(&self) -> u64 {
        self.volumes.iter().map(|volume| volume.bytes).sum()
    }
}

fn put_holes(out: &mut Vec<u8>, holes: Holes) {
    match holes {
        Holes::Unknown => out.push(0),
        Holes::Nowhere => out.push(1),
        Holes::Below(list) => {
            out.push(2);
            out.extend_from_slice(&list.0);
        }
    }
}

fn take_holes(bytes: &mut &[u8]) -> Option<Holes> {
    match take(bytes)? {
        0 => Some(Holes::Unknown),
        1 => Some(Holes::Nowhere),
        2 => take_name(bytes).map(Holes::Below),
        _ => None,
    }
}

/// Where a snapshot's record lies in its place.
pub fn path_of(id: Name) -> String {
    format!("snapshots/{id}")
}

/// Which snapshot a word means: an id, cut to where it is unique, or `latest:REF`. `all` are oldest first.
pub fn meant<'a>(word: &str, all: &'a [(Name, Snapshot)]) -> Result<&'a (Name, Snapshot)> {
    let not_found =
        |message: String| Error::new(Kind::NotFound, message).hint("`mcloud snapshot list` shows those there are");
    if let Some(of) = word.strip_prefix("latest:") {
        let newest = all.iter().rev().find(|(_, snapshot)| snapshot.of == of);
        return newest.ok_or_else(|| not_found(format!("there is no snapshot of `{}`", of.escape_debug())));
    }
    let is_id = word.len() >= 4 && word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_id {
        return Err(Error::usage(format!("`{}` is not a snapshot", word.escape_debug())).hint(
            "name it by its id, cut to where it is unique (4 digits at least), or the newest of something by latest:REF",
        ));
    }
    let word = word.to_ascii_lowercase();
    let found = match name_from_hex(&word) {
        Some(id) => all.iter().filter(|(own, _)| *own == id).collect::<Vec<_>>(),
        None => all.iter().filter(|(id, _)| id.to_string().starts_with(&word)).collect(),
    };
    match found[..] {
        [] => Err(not_found(format!("there is no snapshot {word}"))),
        [one] => Ok(one),
        _ => Err(Error::usage(format!("{} snapshots begin with {word}", found.len()))
            .hint("write more digits of the one you mean")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::entry::{EntryKind, Meta};

    pub fn sample(number: u64) -> Snapshot {
        let root = |n: u8| Entry {
            name: Box::default(),
            meta: Meta { mode: 0o755, ..Meta::default() },
            kind: EntryKind::Dir { content: Name([n; 32]) },
        };
        let data = DataVolume { service: ServiceName::new("redis").unwrap(), path: VolumePath::new("/data").unwrap() };
        let holes = match number % 3 {
            0 => (Holes::Unknown, Holes::Unknown),
            1 => (Holes::Nowhere, Holes::Below(Name([9; 32]))),
            _ => (Holes::Below(Name([8; 32])), Holes::Unknown),
        };
        Snapshot {
            taken_ms: number,
            tenant: TenantName::new("shop").unwrap(),
            of: "shop".into(),
            how: if number.is_multiple_of(2) { How::Live } else { How::Frozen { freeze_ms: 7 } },
            tags: vec!["a".into(), "b c".into()],
            by: "ann".into(),
            volumes: vec![
                Volume { data: None, root: root(1), entries: 3, bytes: 4, left_out: 0, holes: holes.0 },
                Volume { data: Some(data), root: root(2), entries: 5, bytes: 6, left_out: 1, holes: holes.1 },
            ],
        }
    }

    #[test]
    fn a_record_reads_back_and_is_nothing_else() {
        for number in 0..6 {
            let snapshot = sample(number);
            let bytes = snapshot.encode();
            assert_eq!(Snapshot::decode(&bytes).as_ref(), Some(&snapshot));
            for len in 0..bytes.len() {
                assert!(Snapshot::decode(&bytes[..len]).is_none());
            }
            let longer = [&bytes[..], b"x"].concat();
            assert!(Snapshot::decode(&longer).is_none());
        }
    }

    #[test]
    fn a_word_means_one_snapshot() {
        let all: Vec<(Name, Snapshot)> = (0..40).map(|n| (Name::of(&sample(n).encode()), sample(n))).collect();
        for (id, _) in &all {
            assert_eq!(meant(&id.to_string(), &all).unwrap().0, *id);
            assert_eq!(meant(&id.to_string()[..16].to_uppercase(), &all).unwrap().0, *id);
        }
        assert_eq!(meant("latest:shop", &all).unwrap().1.taken_ms, 39);
        assert_eq!(meant("latest:blog", &all).unwrap_err().kind, Kind::NotFound);
        assert_eq!(meant("beef", &[]).unwrap_err().kind, Kind::NotFound);
        for word in ["", "abc", "zzzz", "latest", &"a".repeat(65)] {
            assert_eq!(meant(word, &all).unwrap_err().kind, Kind::Usage, "{word}");
        }
        let twice = vec![all[0].clone(), all[0].clone()];
        assert_eq!(meant(&all[0].0.to_string()[..5], &twice).unwrap_err().kind, Kind::Usage);
    }
}
