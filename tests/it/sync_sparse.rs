//! Sparse files on disks that are smaller than they are: holes stay holes, whatever a new version is built from.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::common::disks::Disk;
use crate::common::host::Client;
use crate::common::scratch;

const MIB: u64 = 1 << 20;

struct Small {
    disk: Disk,
    dir: tempfile::TempDir,
    source: PathBuf,
    target: PathBuf,
}

impl Small {
    fn new(kind: &str) -> Small {
        let disk = Disk::new(kind, 128);
        let (source, target) = (disk.root.join("source"), disk.root.join("target"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        Small { disk, dir: scratch(), source, target }
    }

    fn client(&self) -> Client {
        Client::new(&self.dir.path().join("client"))
    }

    /// A try that ends with everything staged and nothing changed.
    fn breaks_off(&self) {
        let client = self.client().var("FAILPOINTS", "commit.before_log=return");
        let outcome = client.sync(&self.source, &self.target, &["--force"]);
        assert!(!outcome.status.success(), "{outcome}");
    }

    /// A try that comes off, and takes no more room than the source does.
    fn comes_off(&self, of: &str) {
        crate::common::sh("sync", &[]);
        let before = self.disk.free_bytes();
        self.client().sync(&self.source, &self.target, &["--force"]).ok().proves();
        crate::common::sh("sync", &[]);
        for name in ["index", "image"] {
            let [source, target] = [&self.source, &self.target].map(|root| root.join(name));
            if !source.exists() {
                continue;
            }
            let [source_blocks, target_blocks] =
                [&source, &target].map(|path| fs::metadata(path).unwrap().blocks() * 512);
            assert!(target_blocks <= source_blocks + MIB, "{of}: {name} takes {target_blocks}, not {source_blocks}");
            // Ends and middles; all of it is hashed for the names.
            let len = fs::metadata(&source).unwrap().len();
            for at in [0, len / 2, len.saturating_sub(4096)] {
                assert_eq!(piece(&source, at), piece(&target, at), "{of}: {name} at {at}");
            }
        }
        let taken = before.saturating_sub(self.disk.free_bytes());
        assert!(taken < 20 * MIB, "{of}: {taken} bytes more are taken");
    }
}

fn piece(path: &Path, at: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

/// A file that is all hole but for its last page, which says `end`.
fn image(path: &Path, len: u64, end: u8) {
    let _ = fs::remove_file(path);
    let file = File::create(path).unwrap();
    file.set_len(len).unwrap();
    file.write_all_at(&[end; 4096], len - 4096).unwrap();
}

/// The same, with its zeros written.
fn dense(path: &Path, len: u64, end: u8) {
    let _ = fs::remove_file(path);
    let mut bytes = vec![0; len as usize];
    bytes[len as usize - 4096..].fill(end);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_second_try_leaves_the_holes_of_a_sparse_file_as_the_first_did() {
    let small = Small::new("ext4");
    File::create(small.source.join("index")).unwrap().set_len(10 * MIB).unwrap();
    image(&small.source.join("image"), 100 * MIB, 1);
    small.breaks_off();
    // What was staged has the zeros of this one in it, and is not it.
    image(&small.source.join("image"), 256 * MIB, 2);
    small.comes_off("a second try");
}

#[test]
fn zeros_that_an_earlier_try_wrote_become_holes_where_the_source_has_them() {
    let small = Small::new("ext4");
    dense(&small.source.join("image"), 40 * MIB, 1);
    small.breaks_off();
    image(&small.source.join("image"), 256 * MIB, 2);
    small.comes_off("zeros that are staged");
}

#[test]
fn zeros_of_the_old_version_are_not_written_out_where_the_new_one_has_holes() {
    let small = Small::new("ext4");
    dense(&small.target.join("image"), 40 * MIB, 1);
    image(&small.source.join("image"), 256 * MIB, 2);
    small.comes_off("a dense old version");
    // And a sparse one that grows, changes and shrinks.
    for (len, end) in [(300, 3), (300, 4), (150, 5)] {
        image(&small.source.join("image"), len * MIB, end);
        small.comes_off(&format!("{len} MiB of it"));
    }
}

#[test]
fn a_file_without_holes_has_none_after_a_second_try() {
    let small = Small::new("ext4");
    image(&small.source.join("image"), 60 * MIB, 1);
    small.breaks_off();
    dense(&small.source.join("image"), 30 * MIB, 2);
    small.client().sync(&small.source, &small.target, &["--force"]).ok().proves();
    let blocks = fs::metadata(small.target.join("image")).unwrap().blocks() * 512;
    assert!(blocks >= 30 * MIB, "{blocks}");
}
