//! File systems of a chosen kind and size, on loop devices.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::sh;

/// A mounted file system. Dropped, it is unmounted.
pub struct Disk {
    pub root: PathBuf,
    _dir: tempfile::TempDir,
}

impl Disk {
    /// `kind`: ext4, xfs, btrfs, tmpfs; ext4-seconds, with room for whole seconds; ntfs, without modes and owners; ntfs-lower,
    /// which makes all names small; exfat, which has no links and takes upper and lower case for the same.
    pub fn new(kind: &str, mib: u64) -> Disk {
        let dir = super::scratch();
        let root = dir.path().join("mounted");
        fs::create_dir(&root).expect("a mount point");
        let at = root.to_str().expect("a plain path");
        if kind == "tmpfs" {
            sh("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs", at]);
        } else {
            let image = dir.path().join("image");
            File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
            let image = image.to_str().expect("a plain path");
            match kind {
                "ext4" => sh("mkfs.ext4", &["-q", "-F", "-m", "0", image]),
                "ext4-seconds" => sh("mkfs.ext4", &["-q", "-F", "-m", "0", "-I", "128", image]),
                "exfat" => sh("mkfs.exfat", &[image]),
                "ntfs" | "ntfs-lower" => sh("mkfs.ntfs", &["-F", "-Q", "-q", image]),
                "xfs" => sh("mkfs.xfs", &["-q", "-f", image]),
                "btrfs" => sh("mkfs.btrfs", &["-q", "-f", image]),
                other => panic!("no file system {other}"),
            };
            match kind {
                "ntfs" => sh("ntfs-3g", &[image, at]),
                "ntfs-lower" => sh("lowntfs-3g", &["-o", "ignore_case", image, at]),
                "exfat" => sh("mount", &["-t", "exfat-fuse", "-o", "loop", image, at]),
                _ => sh("mount", &["-o", "loop", image, at]),
            };
        }
        Disk { root, _dir: dir }
    }

    /// Changes a bit of the one place on the device that holds `needle`, as a bad disk would: no stat tells.
    pub fn flip(&self, needle: &[u8]) {
        let at = self.root.to_str().expect("a plain path");
        let image = self._dir.path().join("image");
        sh("umount", &[at]);
        let mut bytes = fs::read(&image).expect("the image");
        let place = bytes.windows(needle.len().min(64)).position(|part| part == &needle[..needle.len().min(64)]);
        bytes[place.expect("the needle on the disk") + 17] ^= 4;
        fs::write(&image, bytes).expect("the image");
        sh("mount", &["-o", "loop", image.to_str().expect("a plain path"), at]);
    }

    /// Mounts it read-only, or writable again.
    pub fn read_only(&self, so: bool) {
        let option = if so { "remount,ro" } else { "remount,rw" };
        sh("mount", &["-o", option, self.root.to_str().expect("a plain path")]);
    }

    pub fn free_bytes(&self) -> u64 {
        free_bytes(&self.root)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.root).status();
    }
}

/// A folder that lies over others. Dropped, it is unmounted.
pub struct Overlay {
    pub root: PathBuf,
}

impl Overlay {
    /// What is in `lower`, and what is written into the folder `upper`; mounted beside `upper`.
    pub fn over(lower: &Path, upper: &Path) -> Overlay {
        let (work, root) = (upper.with_extension("work"), upper.with_extension("mounted"));
        for folder in [upper, &work, &root] {
            fs::create_dir_all(folder).expect("a folder");
        }
        let layers = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        sh("mount", &["-t", "overlay", "overlay", "-o", &layers, root.to_str().expect("a plain path")]);
        Overlay { root }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.root).status();
    }
}

/// What the file system of `path` has free.
pub fn free_bytes(path: &Path) -> u64 {
    let status = rustix::fs::statvfs(path).expect("a file system");
    status.f_bavail * status.f_frsize
}
