//! Trees in versions, whose every file says all through which version it is, so that a torn one is seen.

use std::fs;
use std::path::Path;

use super::Rng;
use super::trees::walk;

/// How much there is of a version.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub folders: u64,
    pub files: u64,
    /// Pages of 150,000 bytes in its big file.
    pub pages: u64,
}

pub const USUAL: Scale = Scale { folders: 6, files: 10, pages: 40 };
pub const SMALL: Scale = Scale { folders: 2, files: 5, pages: 8 };

/// Writes version `v` to `root`. Some files move, come and go between versions; one is big.
pub fn version(root: &Path, v: u64) {
    version_of(root, v, USUAL);
}

pub fn version_of(root: &Path, v: u64, scale: Scale) {
    let _ = fs::remove_dir_all(root);
    let mut rng = Rng::new(40);
    for folder in 0..scale.folders {
        let dir = root.join(if v.is_multiple_of(2) { format!("even{folder}") } else { format!("odd{folder}") });
        let still = root.join(format!("still{folder}"));
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir_all(&still).unwrap();
        for file in 0..scale.files {
            let len = rng.within(100, 60_000) as usize;
            // The moved ones keep their bytes through all versions.
            fs::write(dir.join(format!("m{file}")), whole(1000 + folder * 10 + file, len)).unwrap();
            fs::write(still.join(format!("f{file}")), whole(v, len)).unwrap();
        }
        fs::write(still.join(format!("only-in-{v}")), whole(v, 5000)).unwrap();
        std::os::unix::fs::symlink(format!("v{v}"), still.join("link")).unwrap();
        fs::hard_link(still.join("f0"), dir.join("linked")).unwrap();
    }
    let mut big = Rng::new(41).bytes((scale.pages * PAGE) as usize + 300_000);
    for page in 0..scale.pages {
        let at = (page * PAGE) as usize;
        big[at..at + 8].copy_from_slice(&v.to_le_bytes());
    }
    fs::write(root.join("big"), big).unwrap();
}

const PAGE: u64 = 150_000;

fn whole(v: u64, len: usize) -> Vec<u8> {
    v.to_le_bytes().into_iter().cycle().take(len).collect()
}

/// Fails when a file below `root` is neither wholly of one version nor wholly of another.
#[track_caller]
pub fn nothing_is_torn(root: &Path, context: &str) {
    if !root.is_dir() {
        return;
    }
    for path in walk(root) {
        // What a sync has beside the tree is nobody's to see.
        let staged = path.strip_prefix(root).is_ok_and(|inner| inner.to_string_lossy().starts_with(".mcloud-stage"));
        if staged || path.is_symlink() || !path.is_file() {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        if path.ends_with("big") {
            let told: Vec<&[u8]> =
                bytes[..bytes.len() - 300_000].chunks(PAGE as usize).map(|page| &page[..8]).collect();
            assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{context}: {path:?} is torn");
            let end = &Rng::new(41).bytes(bytes.len())[bytes.len() - 300_000..];
            assert!(bytes.ends_with(end), "{context}: {path:?} is torn at its end");
        } else {
            let v = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert!(bytes == whole(v, bytes.len()), "{context}: {path:?} is torn");
        }
    }
}
