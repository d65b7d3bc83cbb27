//! Memory is bounded at both ends: nothing grows with the bytes, little with the files. (`benches/compare` has a million files.)

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::Rng;
use crate::common::host::Stage;
use crate::common::oracle::assert_equal;

/// Copies `source` to the tenant; the peaks of client and daemon.
fn peaks(stage: &Stage, source: &Path) -> (u64, u64) {
    let mut running = stage.admin.start_sync(source, stage.shop(), &["--force"]);
    let mut client = 0;
    while running.is_running() {
        client = client.max(running.peak_memory());
        std::thread::sleep(Duration::from_millis(2));
    }
    running.finish().ok().proves();
    (client, stage.daemon.peak_memory())
}

#[test]
fn a_big_file_does_not_grow_the_memory_of_either_end() {
    let stage = Stage::new();
    let source = stage.folder("source");
    let mut rng = Rng::new(1);
    let block = rng.bytes(1 << 20);
    let mut bytes = Vec::with_capacity(600 << 20);
    for number in 0..600u64 {
        bytes.extend_from_slice(&block);
        let at = bytes.len() - block.len();
        // Each its own: a repeated block would be one chunk, sent once.
        for place in 0..64 {
            let at = at + place * 16_384;
            bytes[at..at + 8].copy_from_slice(&(number * 64 + place as u64).to_le_bytes());
        }
    }
    fs::write(source.join("big"), &bytes).unwrap();
    drop(bytes);
    let (client, daemon) = peaks(&stage, &source);
    println!("client {} MB, daemon {} MB", client / 1_000_000, daemon / 1_000_000);
    assert!(client < 220_000_000, "the client took {client} bytes");
    assert!(daemon < 260_000_000, "the daemon took {daemon} bytes");
    assert_equal(&source, &stage.volume, "a big file");
}

#[test]
fn many_files_grow_the_memory_of_either_end_by_little() {
    let stage = Stage::new();
    let source = stage.folder("source");
    const FILES: u64 = 60_000;
    for number in 0..FILES {
        let folder = source.join(format!("{:03}", number / 500));
        if number % 500 == 0 {
            fs::create_dir(&folder).unwrap();
        }
        fs::write(folder.join(format!("file-{number}")), number.to_le_bytes().repeat(20)).unwrap();
    }
    let (client, daemon) = peaks(&stage, &source);
    println!("client {} MB, daemon {} MB", client / 1_000_000, daemon / 1_000_000);
    // A tenth of what a million files may take, above what a program takes at all.
    assert!(client < 100_000_000, "the client took {client} bytes");
    assert!(daemon < 110_000_000, "the daemon took {daemon} bytes");
}
