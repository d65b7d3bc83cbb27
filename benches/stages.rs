//! The stages of a sync, one at a time: chunk, list nodes, scan, plan, commit. (`compare/` has the whole, beside others.)
//!
//!     cargo bench --bench stages -- scan

#![allow(clippy::expect_used, clippy::unwrap_used)] // a bench whose ground gives way ends

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mcloud::model::sync::{Event, Plan, SyncOptions};
use mcloud::model::{Name, Result};
use mcloud::sync::{LiveDir, Observer, run, serve};
use mcloud::sys::clock::Time;
use mcloud::tree::chunk::{all_chunks, cut};
use mcloud::tree::entry::{Entry, EntryKind, Meta};
use mcloud::tree::link::{Ask, Open, Tell, pair};
use mcloud::tree::node::{ListBuilder, ListKind, decode_entries};

const FOLDERS: usize = 50;
const FILES: usize = 60;

/// Bytes without a pattern (SplitMix64).
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A tree of 3,000 files of 8 KiB in 50 folders, in memory where the machine has it.
struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Ground {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder");
        let ground = Ground { dir };
        let bytes = noise(8192 + FOLDERS * FILES, 1);
        for folder in 0..FOLDERS {
            let path = ground.source().join(format!("d{folder:02}"));
            fs::create_dir_all(&path).expect("a folder");
            for file in 0..FILES {
                let at = folder * FILES + file;
                fs::write(path.join(format!("f{file:02}")), &bytes[at..at + 8192]).expect("a file");
            }
        }
        fs::create_dir(ground.target()).expect("a folder");
        ground
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    fn live(&self, name: &str, index: bool) -> LiveDir {
        let index = index.then(|| self.dir.path().join(format!("{name}.idx")));
        LiveDir { root: self.dir.path().join(name), index, label: name.into() }
    }

    /// One sync of source to target, both with an index.
    fn sync(&self, options: &SyncOptions) {
        let (target_end, source_end) = pair();
        let source = self.live("source", true);
        let serving = std::thread::spawn(move || serve(&source, source_end));
        let never = Arc::new(AtomicBool::new(false));
        run(&self.live("target", true), target_end, options, Arc::new(Silent), never).expect("a sync");
        serving.join().expect("a source").expect("a source");
    }

    /// One scan of the source, by what a source does when it is asked for one.
    fn scan(&self, index: bool) {
        let (mut target_end, source_end) = pair();
        let source = self.live("source", index);
        let serving = std::thread::spawn(move || serve(&source, source_end));
        target_end.ask.send(Ask::Open(Open::default())).expect("a source");
        target_end.ask.send(Ask::Scan).expect("a source");
        loop {
            match target_end.tell.blocking_recv().expect("a source that answers") {
                Tell::Scanned { entries, .. } => {
                    black_box(entries);
                    break;
                }
                Tell::Failed(error) => panic!("{}", error.chain()),
                _ => {}
            }
        }
        target_end.ask.send(Ask::Finish).expect("a source");
        while let Some(told) = target_end.tell.blocking_recv() {
            if matches!(told, Tell::Root { .. }) {
                break;
            }
        }
        drop(target_end);
        let _ = serving.join().expect("a source");
    }
}

struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event) {}

    fn confirm(&self, _: &Plan) -> Result<bool> {
        Ok(true)
    }
}

fn chunk(c: &mut Criterion) {
    let bytes = noise(16 << 20, 2);
    let mut group = c.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(bytes.len() as u64)).sample_size(20);
    group.bench_function("cut", |b| {
        b.iter(|| {
            let mut at = 0;
            while at < bytes.len() {
                at += cut(&bytes[at..]);
            }
            black_box(at)
        });
    });
    group.bench_function("cut_and_name", |b| b.iter(|| black_box(all_chunks(&bytes))));
    group.finish();
}

fn list_nodes(c: &mut Criterion) {
    let entries: Vec<Entry> = (0..20_000u32)
        .map(|number| Entry {
            name: format!("file-{number:06}").into_bytes().into(),
            meta: Meta {
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: Time { seconds: 1_700_000_000, nanos: number },
                xattrs: Vec::new(),
            },
            kind: EntryKind::File { size: 4096, content: Name::of(&number.to_le_bytes()) },
        })
        .collect();
    let build = || {
        let mut leaves = Vec::new();
        let mut builder = ListBuilder::new(ListKind::Entries, |_, bytes| leaves.push(bytes));
        entries.iter().for_each(|entry| builder.push_entry(entry));
        let name = builder.finish();
        (name, leaves)
    };
    let leaves = build().1;
    let mut group = c.benchmark_group("list_nodes");
    group.throughput(Throughput::Elements(entries.len() as u64)).sample_size(20);
    group.bench_function("build", |b| b.iter(|| black_box(build())));
    group.bench_function("read", |b| {
        b.iter(|| leaves.iter().map(|leaf| decode_entries(leaf).map_or(0, |found| found.len())).sum::<usize>());
    });
    group.finish();
}

fn scan(c: &mut Criterion) {
    let ground = Ground::new();
    let mut group = c.benchmark_group("scan");
    group.throughput(Throughput::Elements((FOLDERS * FILES) as u64)).sample_size(20);
    group.bench_function("reading_everything", |b| b.iter(|| ground.scan(false)));
    ground.sync(&SyncOptions::default());
    ground.sync(&SyncOptions::default());
    group.bench_function("with_its_index", |b| b.iter(|| ground.scan(true)));
    group.finish();
}

fn plan(c: &mut Criterion) {
    let ground = Ground::new();
    ground.sync(&SyncOptions::default());
    for folder in 0..FOLDERS {
        let path = ground.source().join(format!("d{folder:02}"));
        fs::rename(path.join("f00"), path.join("moved")).expect("a move");
        fs::write(path.join("f01"), "changed").expect("a change");
        fs::remove_file(path.join("f02")).expect("a removal");
    }
    let dry = SyncOptions { dry_run: true, ..SyncOptions::default() };
    ground.sync(&dry);
    let mut group = c.benchmark_group("plan");
    group.throughput(Throughput::Elements((FOLDERS * FILES) as u64)).sample_size(20);
    group.bench_function("moved_changed_and_removed_files", |b| b.iter(|| ground.sync(&dry)));
    group.finish();
}

fn commit(c: &mut Criterion) {
    let ground = Ground::new();
    ground.sync(&SyncOptions::default());
    let mut turn = 0u32;
    let mut group = c.benchmark_group("commit");
    group.throughput(Throughput::Elements((FOLDERS * FILES) as u64)).sample_size(10);
    // Every file moves to a folder of another name: no content is sent or staged, the commit is what takes the time.
    group.bench_function("every_file_moves", |b| {
        b.iter_batched(
            || {
                for folder in 0..FOLDERS {
                    let old = ground.source().join(name_in(turn, folder));
                    let new = ground.source().join(name_in(turn + 1, folder));
                    fs::create_dir(&new).expect("a folder");
                    for file in fs::read_dir(&old).expect("a folder") {
                        let file = file.expect("a file");
                        fs::rename(file.path(), new.join(file.file_name())).expect("a move");
                    }
                    fs::remove_dir(&old).expect("an empty folder");
                }
                turn += 1;
            },
            |()| ground.sync(&SyncOptions { force: true, ..SyncOptions::default() }),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn name_in(turn: u32, folder: usize) -> String {
    if turn == 0 { format!("d{folder:02}") } else { format!("t{turn}-{folder:02}") }
}

criterion_group!(benches, chunk, list_nodes, scan, plan, commit);
criterion_main!(benches);
