//! Where each object is: sorted segments of fixed-size rows, each with a table of where a name's first bits begin
//! (docs/formats.md, Store index). Opening reads the tables only; a look-up is one read of a few kilobytes in each segment.
//!
//! The index is a memory of what the packs' footers say: lost, it is built anew from them.

use std::fs::File;
use std::io::{BufReader, BufWriter, Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pack::PackKind;
use super::place::put_durably;
use crate::model::Name;
use crate::sys::dir::private_file;

const MAGIC: &[u8; 16] = b"mcloud segment 1";
const HEAD: usize = 32;
const PACK_ROW: usize = 41;
const ROW: usize = 52;
/// Rows that share their first bits, on average.
const BUCKET: u64 = 64;
/// More segments than this are merged into one.
const SEGMENTS: usize = 8;

/// Where an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub name: Name,
    /// The pack's number in its segment.
    pub pack: u32,
    /// The frame: its place in the pack, and its length there.
    pub offset: u32,
    pub stored: u32,
    /// The object: its place in the unpacked frame, and its length.
    pub at: u32,
    pub len: u32,
}

/// A pack that entries refer to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pack {
    pub name: Name,
    pub len: u64,
    pub kind: PackKind,
}

/// One sorted file of entries.
#[derive(Debug)]
pub struct Segment {
    path: PathBuf,
    file: File,
    pub packs: Vec<Pack>,
    pub count: u64,
    bits: u32,
    starts: Vec<u32>,
    rows: u64,
}

fn damaged() -> Error {
    Error::new(ErrorKind::InvalidData, "the store's index is damaged")
}

/// The first `bits` bits of a name, so that names in order have them in order.
fn bucket(name: &Name, bits: u32) -> usize {
    if bits == 0 {
        return 0;
    }
    let first = name.0.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    (first >> (64 - bits)) as usize
}

fn bits_for(count: u64) -> u32 {
    (count / BUCKET).max(1).ilog2().min(28)
}

impl Segment {
    pub fn open(path: &Path) -> Result<Segment> {
        let file = File::open(path)?;
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, 0)?;
        let number =
            |at: usize, len: usize| head[at..at + len].iter().rev().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
        let (packs, bits, count) = (number(16, 4), number(20, 4), number(24, 8));
        if head[..16] != MAGIC[..] || bits > 28 || count > u64::from(u32::MAX) {
            return Err(damaged());
        }
        let (bits, buckets) = (bits as u32, 1u64 << bits);
        let tables = packs * PACK_ROW as u64 + (buckets + 1) * 4;
        let rows = HEAD as u64 + tables + 32;
        if file.metadata()?.len() != rows + count * ROW as u64 + 32 {
            return Err(damaged());
        }
        let mut bytes = vec![0; tables as usize + 32];
        file.read_exact_at(&mut bytes, HEAD as u64)?;
        let sum = bytes.split_off(tables as usize);
        let mut hasher = blake3::Hasher::new();
        if hasher.update(&head).update(&bytes).finalize().as_bytes()[..] != sum[..] {
            return Err(damaged());
        }
        let (pack_rows, fanout) = bytes.split_at(packs as usize * PACK_ROW);
        let packs =
            pack_rows.chunks_exact(PACK_ROW).map(decode_pack).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
        let starts: Vec<u32> = fanout.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        if !starts.is_sorted() || starts.last().map(|last| u64::from(*last)) != Some(count) {
            return Err(damaged());
        }
        Ok(Segment { path: path.to_owned(), file, packs, count, bits, starts, rows })
    }

    /// Finds a name: its row's number, and its entry.
    pub fn find(&self, name: &Name) -> Result<Option<(u64, Entry)>> {
        let bucket = bucket(name, self.bits);
        let (from, to) = (self.starts[bucket] as usize, self.starts[bucket + 1] as usize);
        let mut bytes = vec![0; (to - from) * ROW];
        self.file.read_exact_at(&mut bytes, self.rows + (from * ROW) as u64)?;
        let rows = bytes.as_chunks::<ROW>().0;
        let Ok(at) = rows.binary_search_by(|row| row[..32].cmp(&name.0[..])) else { return Ok(None) };
        let entry = decode(&rows[at]);
        if entry.pack as usize >= self.packs.len() {
            return Err(damaged());
        }
        Ok(Some(((from + at) as u64, entry)))
    }

    /// All entries, in the order of their names, read as they are wanted.
    pub fn entries(&self) -> Result<impl Iterator<Item = Result<Entry>> + use<'_>> {
        let mut file = self.reader();
        let packs = self.packs.len();
        Ok((0..self.count).map(move |_| {
            let mut row = [0; ROW];
            file.read_exact(&mut row)?;
            Some(decode(&row)).filter(|entry| (entry.pack as usize) < packs).ok_or_else(damaged)
        }))
    }

    /// Whether every row is as it was written.
    pub fn is_whole(&self) -> Result<bool> {
        let mut file = self.reader();
        let mut hasher = blake3::Hasher::new();
        std::io::copy(&mut Read::take(&mut file, self.count * ROW as u64), &mut hasher)?;
        let mut sum = [0; 32];
        file.read_exact(&mut sum)?;
        Ok(*hasher.finalize().as_bytes() == sum)
    }

    fn reader(&self) -> BufReader<Rows<'_>> {
        BufReader::with_capacity(1 << 20, Rows { file: &self.file, at: self.rows })
    }

    pub fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// Reads on from a place, whoever else reads the same open file.
struct Rows<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Rows<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

fn decode_pack(row: &[u8]) -> Option<Pack> {
    let (name, rest) = row.split_first_chunk::<32>()?;
    let (len, kind) = rest.split_first_chunk::<8>()?;
    Some(Pack { name: Name(*name), len: u64::from_le_bytes(*len), kind: PackKind::from_byte(*kind.first()?)? })
}

fn decode(row: &[u8; ROW]) -> Entry {
    let number = |at: usize| row[at..at + 4].iter().rev().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
    let mut name = [0; 32];
    name.copy_from_slice(&row[..32]);
    Entry {
        name: Name(name),
        pack: number(32),
        offset: number(36),
        stored: number(40),
        at: number(44),
        len: number(48),
    }
}

fn encode(entry: &Entry) -> [u8; ROW] {
    let mut row = [0; ROW];
    row[..32].copy_from_slice(&entry.name.0);
    let numbers = [entry.pack, entry.offset, entry.stored, entry.at, entry.len];
    for (at, number) in numbers.into_iter().enumerate() {
        row[32 + at * 4..36 + at * 4].copy_from_slice(&number.to_le_bytes());
    }
    row
}

/// Writes a segment, entry by entry in the order of their names.
struct SegmentWriter {
    path: PathBuf,
    file: BufWriter<File>,
    packs: Vec<Pack>,
    bits: u32,
    starts: Vec<u32>,
    count: u64,
    hasher: blake3::Hasher,
    last: Option<Name>,
}

impl SegmentWriter {
    /// `most`: no more entries than this will come.
    fn new(path: PathBuf, packs: Vec<Pack>, most: u64) -> Result<SegmentWriter> {
        let bits = bits_for(most);
        let file = private_file().create(true).truncate(true).open(path.with_extension("draft"))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        let rows = HEAD as u64 + packs.len() as u64 * PACK_ROW as u64 + ((1u64 << bits) + 1) * 4 + 32;
        file.seek(SeekFrom::Start(rows))?;
        let starts = Vec::with_capacity((1 << bits) + 1);
        Ok(SegmentWriter { path, file, packs, bits, starts, count: 0, hasher: blake3::Hasher::new(), last: None })
    }

    /// Of several entries with one name the first counts.
    fn push(&mut self, entry: &Entry) -> Result<()> {
        if self.last == Some(entry.name) {
            return Ok(());
        }
        self.last = Some(entry.name);
        let bucket = bucket(&entry.name, self.bits);
        while self.starts.len() <= bucket {
            self.starts.push(u32::try_from(self.count).map_err(|_| ErrorKind::FileTooLarge)?);
        }
        let row = encode(entry);
        self.hasher.update(&row);
        self.count += 1;
        self.file.write_all(&row)
    }

    /// Makes it durable under its name.
    fn finish(mut self) -> Result<Segment> {
        let count = u32::try_from(self.count).map_err(|_| ErrorKind::FileTooLarge)?;
        self.starts.resize((1 << self.bits) + 1, count);
        self.file.write_all(self.hasher.finalize().as_bytes())?;
        let mut head = Vec::with_capacity(HEAD + self.packs.len() * PACK_ROW + self.starts.len() * 4 + 32);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&(self.packs.len() as u32).to_le_bytes());
        head.extend_from_slice(&self.bits.to_le_bytes());
        head.extend_from_slice(&self.count.to_le_bytes());
        for pack in &self.packs {
            head.extend_from_slice(&pack.name.0);
            head.extend_from_slice(&pack.len.to_le_bytes());
            head.push(pack.kind as u8);
        }
        self.starts.iter().for_each(|start| head.extend_from_slice(&start.to_le_bytes()));
        let sum = blake3::hash(&head);
        head.extend_from_slice(sum.as_bytes());
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.write_all_at(&head, 0)?;
        file.sync_all()?;
        std::fs::rename(self.path.with_extension("draft"), &self.path)?;
        Segment::open(&self.path)
    }
}

/// The segments that count, the newest first. A value: a change makes another one.
#[derive(Debug, Default)]
pub struct Index {
    pub segments: Vec<Arc<Segment>>,
}

/// Where a name was found: the segment's number and the row's, the entry, and its pack.
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    pub segment: usize,
    pub row: u64,
    pub entry: Entry,
    pub pack: Pack,
}

const LIST: &str = "mcloud store index 1";

impl Index {
    /// The index in a folder; `None` if there is none, or what there is is damaged.
    pub fn open(dir: &Path) -> Result<Option<Index>> {
        let text = match std::fs::read_to_string(dir.join("current")) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => return Ok(None),
            other => other?,
        };
        let Some((list, sum)) = text.trim_end().rsplit_once('\n') else { return Ok(None) };
        let mut lines = list.lines();
        if sum != blake3::hash(list.as_bytes()).to_hex().as_str() || lines.next() != Some(LIST) {
            return Ok(None);
        }
        let mut segments = Vec::new();
        for name in lines {
            match Segment::open(&dir.join(name)) {
                Ok(segment) => segments.push(Arc::new(segment)),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::InvalidData | ErrorKind::UnexpectedEof
                    ) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        let index = Index { segments };
        index.sweep(dir)?;
        Ok(Some(index))
    }

    pub fn find(&self, name: &Name) -> Result<Option<Hit>> {
        for (number, segment) in self.segments.iter().enumerate() {
            if let Some((row, entry)) = segment.find(name)? {
                let pack = segment.packs[entry.pack as usize];
                return Ok(Some(Hit { segment: number, row, entry, pack }));
            }
        }
        Ok(None)
    }

    pub fn count(&self) -> u64 {
        self.segments.iter().map(|segment| segment.count).sum()
    }

    /// This index and these objects in front of it. Durable when it returns.
    pub fn with(&self, dir: &Path, packs: Vec<Pack>, mut entries: Vec<Entry>) -> Result<Index> {
        entries.sort_unstable_by_key(|entry| entry.name);
        let mut writer = SegmentWriter::new(self.fresh_path(dir), packs, entries.len() as u64)?;
        entries.iter().try_for_each(|entry| writer.push(entry))?;
        let segment = Arc::new(writer.finish()?);
        let segments: Vec<_> = std::iter::once(segment).chain(self.segments.iter().cloned()).collect();
        let index = Index { segments };
        let index = match index.run_to_merge() {
            0 | 1 => index,
            run => index.merged_front(dir, run)?,
        };
        index.save(dir)?;
        Ok(index)
    }

    /// How many of the newest segments are to become one: those that together outweigh the next, so that each entry is
    /// written again a few times only in its life.
    fn run_to_merge(&self) -> usize {
        if self.segments.len() <= SEGMENTS {
            return 0;
        }
        let mut sum = 0;
        for (number, segment) in self.segments.iter().enumerate() {
            if number > 1 && segment.count > 2 * sum {
                return number;
            }
            sum += segment.count;
        }
        self.segments.len()
    }

    fn merged_front(&self, dir: &Path, run: usize) -> Result<Index> {
        let front = Index { segments: self.segments[..run].to_vec() };
        let merged = front.merged(self.fresh_path(dir), |_, _, _| true, |_| true)?;
        let rest = self.segments[run..].iter().cloned();
        Ok(Index { segments: std::iter::once(Arc::new(merged)).chain(rest).collect() })
    }

    /// One segment with all that `keeps(segment, row, entry)` of the packs that are kept. Durable when it returns.
    pub fn only(
        &self,
        dir: &Path,
        keeps: impl FnMut(usize, u64, &Entry) -> bool,
        keeps_pack: impl Fn(&Pack) -> bool,
    ) -> Result<Index> {
        let index = Index { segments: vec![Arc::new(self.merged(self.fresh_path(dir), keeps, keeps_pack)?)] };
        index.save(dir)?;
        Ok(index)
    }

    /// What is left of this index, and new objects. Durable when it returns.
    pub fn replaced(
        &self,
        dir: &Path,
        (packs, mut entries): (Vec<Pack>, Vec<Entry>),
        keeps: impl Fn(usize, u64) -> bool,
        keeps_pack: impl Fn(&Pack) -> bool,
    ) -> Result<Index> {
        entries.sort_unstable_by_key(|entry| entry.name);
        let mut writer = SegmentWriter::new(self.fresh_path(dir), packs, entries.len() as u64)?;
        entries.iter().try_for_each(|entry| writer.push(entry))?;
        let fresh = Arc::new(writer.finish()?);
        let index = Index { segments: std::iter::once(fresh).chain(self.segments.iter().cloned()).collect() };
        index.only(dir, |segment, row, _| segment.checked_sub(1).is_none_or(|old| keeps(old, row)), keeps_pack)
    }

    fn merged(
        &self,
        path: PathBuf,
        mut keeps: impl FnMut(usize, u64, &Entry) -> bool,
        keeps_pack: impl Fn(&Pack) -> bool,
    ) -> Result<Segment> {
        let mut packs: Vec<Pack> = Vec::new();
        let mut numbers = std::collections::HashMap::new();
        let maps: Vec<Vec<u32>> = self
            .segments
            .iter()
            .map(|segment| {
                let number = |pack: &Pack| {
                    if !keeps_pack(pack) {
                        return u32::MAX;
                    }
                    *numbers.entry(pack.name).or_insert_with(|| {
                        packs.push(*pack);
                        packs.len() as u32 - 1
                    })
                };
                segment.packs.iter().map(number).collect()
            })
            .collect();
        let mut heads = std::collections::BinaryHeap::new();
        let mut readers = Vec::new();
        for (number, segment) in self.segments.iter().enumerate() {
            let mut entries = segment.entries()?.enumerate();
            if let Some((row, entry)) = entries.next() {
                heads.push(std::cmp::Reverse(Head { entry: entry?, segment: number, row: row as u64 }));
            }
            readers.push(entries);
        }
        let mut writer = SegmentWriter::new(path, packs, self.count())?;
        while let Some(std::cmp::Reverse(Head { entry, segment, row })) = heads.pop() {
            if let Some((row, entry)) = readers[segment].next() {
                heads.push(std::cmp::Reverse(Head { entry: entry?, segment, row: row as u64 }));
            }
            let pack = maps[segment][entry.pack as usize];
            if pack != u32::MAX && keeps(segment, row, &entry) {
                writer.push(&Entry { pack, ..entry })?;
            }
        }
        writer.finish()
    }

    /// Makes this the index of the folder.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let names = self.segments.iter().map(|segment| segment.name());
        let list = std::iter::once(LIST.to_owned()).chain(names).collect::<Vec<_>>().join("\n");
        let sum = blake3::hash(list.as_bytes()).to_hex();
        put_durably(&dir.join("current"), format!("{list}\n{sum}\n").as_bytes())?;
        self.sweep(dir)
    }

    /// Removes segments that do not count.
    fn sweep(&self, dir: &Path) -> Result<()> {
        let counts: std::collections::HashSet<String> = self.segments.iter().map(|segment| segment.name()).collect();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if (name.ends_with(".segment") || name.ends_with(".draft")) && !counts.contains(&name) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn fresh_path(&self, dir: &Path) -> PathBuf {
        let number = |segment: &Arc<Segment>| u64::from_str_radix(segment.name().split('.').next()?, 16).ok();
        let mut next = self.segments.iter().filter_map(number).max().unwrap_or(0) + 1;
        loop {
            let path = dir.join(format!("{next:016x}.segment"));
            if !path.exists() {
                return path;
            }
            next += 1;
        }
    }
}

/// The next entry of one segment; by name, then the newer segment first.
struct Head {
    entry: Entry,
    segment: usize,
    row: u64,
}

impl Ord for Head {
    fn cmp(&self, other: &Head) -> std::cmp::Ordering {
        (self.entry.name, self.segment).cmp(&(other.entry.name, other.segment))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn pack(number: u8) -> Pack {
        Pack { name: Name([number; 32]), len: 1000, kind: PackKind::Chunks }
    }

    fn entry(number: u32, pack: u32) -> Entry {
        let name = Name::of(&number.to_le_bytes());
        Entry { name, pack, offset: number, stored: 2, at: number.wrapping_mul(3), len: 4 }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn an_index_finds_what_was_put_in_and_nothing_else(
            batches in proptest::collection::vec(proptest::collection::vec(0u32..3000, 0..400), 1..14),
            dropped in 0u32..3,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut index = Index::default();
            let mut model = BTreeMap::new();
            for (number, batch) in batches.iter().enumerate() {
                let packs = vec![pack(number as u8), pack(100 + number as u8)];
                let mut entries: Vec<Entry> = batch.iter().map(|&n| entry(n, n % 2)).collect();
                entries.sort_by_key(|entry| entry.name);
                entries.dedup_by_key(|entry| entry.name);
                model.extend(entries.iter().map(|e| (e.name, (e.offset, packs[e.pack as usize].name))));
                index = index.with(dir.path(), packs, entries).unwrap();
            }
            prop_assert!(index.segments.len() <= SEGMENTS + 1);
            if dropped > 0 {
                index.only(dir.path(), |_, _, entry| entry.offset % 3 != dropped, |_| true).unwrap();
                model.retain(|_, (offset, _)| *offset % 3 != dropped);
            }
            let index = Index::open(dir.path()).unwrap().unwrap();
            for number in 0..3000 {
                let name = Name::of(&u32::to_le_bytes(number));
                let hit = index.find(&name).unwrap().map(|hit| (hit.entry.offset, hit.pack.name));
                prop_assert_eq!(hit, model.get(&name).copied());
            }
            for segment in &index.segments {
                prop_assert!(segment.is_whole().unwrap());
                prop_assert_eq!(segment.entries().unwrap().count() as u64, segment.count);
            }
        }
    }

    #[test]
    fn a_damaged_index_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Index::open(dir.path()).unwrap().is_none());
        let entries = (0..500).map(|number| entry(number, 0)).collect();
        let index = Index::default().with(dir.path(), vec![pack(1)], entries).unwrap();
        let path = index.segments[0].path.clone();
        let whole = std::fs::read(&path).unwrap();
        for at in [0, 20, 40, 60, 100] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert!(Index::open(dir.path()).unwrap().is_none(), "byte {at}");
        }
        let mut bytes = whole.clone();
        bytes[whole.len() - 100] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(!Index::open(dir.path()).unwrap().unwrap().segments[0].is_whole().unwrap());
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(Index::open(dir.path()).unwrap().is_none());
    }
}
