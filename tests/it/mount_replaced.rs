//! A live volume in which files and folders are replaced as they are looked at: a reader gets the old one or the new one, whole,
//! and never an error.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::host::Stage;
use crate::common::mounts::{Mount, until};

/// Does `replace` again and again while `look` looks, for a while.
fn meanwhile(pause: Duration, mut replace: impl FnMut(u64) + Send, mut look: impl FnMut()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !over.load(Ordering::Relaxed) {
                round += 1;
                replace(round);
                std::thread::sleep(pause);
            }
        });
        let began = Instant::now();
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while began.elapsed() < Duration::from_secs(4) {
                look();
            }
        }));
        over.store(true, Ordering::Relaxed);
        looked.unwrap();
    });
}

fn put(path: &Path, content: &[u8]) {
    let next = path.with_extension("next");
    fs::write(&next, content).unwrap();
    fs::rename(next, path).unwrap();
}

/// Content of which it shows when it is put together of two.
fn content(round: u64, len: usize) -> Vec<u8> {
    round.to_le_bytes().repeat(len / 8)
}

fn assert_whole(read: &[u8], what: &str) {
    let first = &read[..8];
    assert!(read.chunks(8).all(|part| part == first), "{what}: parts of two");
}

#[test]
fn a_file_that_is_replaced_all_the_time_is_read_whole_each_time() {
    let stage = Stage::new();
    let file = stage.volume.join("file");
    put(&file, &content(0, 8000));
    let mount = Mount::of(&stage, &stage.shop(), "mount", &[]);
    for pause in [2, 20] {
        let mut reads = 0;
        meanwhile(
            Duration::from_millis(pause),
            |round| put(&file, &content(round, 8000)),
            || {
                let read = fs::read(mount.at("file")).unwrap_or_else(|error| panic!("read {reads}: {error}"));
                assert_eq!(read.len(), 8000);
                assert_whole(&read, "a small file");
                if reads % 5 == 0 {
                    mount.at("file").metadata().unwrap();
                    fs::read_dir(&mount.dir).unwrap().for_each(drop);
                }
                reads += 1;
                std::thread::sleep(Duration::from_millis(2));
            },
        );
        assert!(reads > 50, "{reads} reads");
    }
    put(&file, b"the last one of all");
    until("the last one is seen", || fs::read(mount.at("file")).unwrap() == b"the last one of all");
}

#[test]
fn a_large_file_is_read_to_its_end_though_another_has_its_place() {
    let stage = Stage::new();
    let file = stage.volume.join("file");
    let len = 6 << 20;
    put(&file, &content(0, len));
    let mount = Mount::of(&stage, &stage.shop(), "mount", &[]);
    meanwhile(
        Duration::from_millis(40),
        |round| put(&file, &content(round, len)),
        || {
            let mut open = fs::File::open(mount.at("file")).unwrap();
            let mut read = vec![0; len];
            for part in read.chunks_mut(1 << 20) {
                open.read_exact(part).unwrap();
                std::thread::sleep(Duration::from_millis(15));
            }
            assert_eq!(open.metadata().unwrap().len(), len as u64);
            assert_whole(&read, "a large file");
        },
    );
}

#[test]
fn a_file_in_a_folder_that_is_swapped_all_the_time_is_always_there() {
    let stage = Stage::new();
    let (folder, other) = (stage.volume.join("folder"), stage.volume.join("other"));
    for dir in [&folder, &other] {
        fs::create_dir_all(dir.join("in/ner")).unwrap();
        fs::write(dir.join("in/ner/file"), content(1, 800)).unwrap();
    }
    let mount = Mount::of(&stage, &stage.shop(), "mount", &[]);
    let swap = |_| {
        let (cwd, flags) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
        rustix::fs::renameat_with(cwd, &folder, cwd, &other, flags).unwrap();
    };
    meanwhile(Duration::from_millis(25), swap, || {
        assert_whole(&fs::read(mount.at("folder/in/ner/file")).unwrap(), "a file");
        assert_eq!(fs::read_dir(mount.at("folder/in")).unwrap().count(), 1);
        std::thread::sleep(Duration::from_millis(3));
    });
}
