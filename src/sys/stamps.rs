//! What a file's stamps can vouch for. A change leaves another change time where the kernel itself stamps it, by a clock that
//! has moved on since; not every file system has such stamps, and some only have whole seconds of them.
//!
//! Nothing is asked of a tree but its kind: what it can resolve shows in the stamps themselves.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, Stat};

use super::clock::{Time, file_clock};
use super::dir::Dir;
use super::meta;

/// File stamps move on at clock ticks, of at most 10 ms; what is younger than two of them may be followed by its like.
const TICK_MS: u32 = 20;
/// How far the clock of a file server may be behind ours, with the 2 s that the coarsest of them resolve.
const SERVER_SECONDS: i64 = 60;

/// Whose the change times of a file system are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamps {
    /// Of this kernel's clock: each change of a file, of its content or of anything else, sets it.
    Kernel,
    /// Of a server, which has a clock of its own.
    Server,
    /// Of a server that may have none, and then it is the time of last modification.
    PerhapsServer,
    /// Nobody's: made up from something that can be set back, or from nothing.
    Nobody,
}

/// The kinds of file systems whose change times are more than made up, by the number that `statfs` tells. All others (FUSE,
/// where they are what a program says, images, FAT) have none that could be believed.
const KINDS: &[(u32, Stamps)] = &[
    (0x0000_ef53, Stamps::Kernel),        // ext2, ext3, ext4
    (0x5846_5342, Stamps::Kernel),        // xfs
    (0x9123_683e, Stamps::Kernel),        // btrfs
    (0x0102_1994, Stamps::Kernel),        // tmpfs
    (0x8584_58f6, Stamps::Kernel),        // ramfs
    (0x794c_7630, Stamps::Kernel),        // overlayfs: those of what it lies over
    (0x2fc1_2fc1, Stamps::Kernel),        // zfs
    (0xf2f5_2010, Stamps::Kernel),        // f2fs
    (0xca45_1a4e, Stamps::Kernel),        // bcachefs
    (0x3153_464a, Stamps::Kernel),        // jfs
    (0x5265_4973, Stamps::Kernel),        // reiserfs
    (0x0000_3434, Stamps::Kernel),        // nilfs2
    (0x2405_1905, Stamps::Kernel),        // ubifs
    (0x0000_482b, Stamps::Kernel),        // hfs+
    (0x7366_746e, Stamps::Kernel),        // ntfs3
    (0x0000_6969, Stamps::Server),        // nfs
    (0x00c3_6400, Stamps::Server),        // ceph
    (0x0bd0_0bd0, Stamps::Server),        // lustre
    (0x0116_1970, Stamps::Server),        // gfs2
    (0x7461_636f, Stamps::Server),        // ocfs2
    (0xff53_4d42, Stamps::PerhapsServer), // cifs
    (0xfe53_4d42, Stamps::PerhapsServer), // smb2
    (0x0102_1997, Stamps::PerhapsServer), // 9p
];

impl Stamps {
    /// Those of the file system of an open file or directory.
    pub fn of(file: impl AsFd) -> Stamps {
        // As wide as a register, of which 32 bits count.
        let kind = rustix::fs::fstatfs(file).map(|status| (status.f_type as u64 & 0xffff_ffff) as u32);
        kind.map_or(Stamps::Nobody, Stamps::of_kind)
    }

    /// Those of the file system of `name` in `dir`, which may be another than the directory's: something is mounted there.
    pub fn at(dir: &Dir, name: &[u8]) -> Stamps {
        let held = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        held.map_or(Stamps::Nobody, Stamps::of)
    }

    fn of_kind(kind: u32) -> Stamps {
        KINDS.iter().find(|(known, _)| *known == kind).map_or(Stamps::Nobody, |(_, stamps)| *stamps)
    }

    /// Whether every change from `now` on leaves other stamps than these.
    pub fn are_past(self, stat: &Stat, now: Time) -> bool {
        let (modified, changed) = meta::stamps(stat);
        match self {
            Stamps::Kernel => is_past(changed, now),
            Stamps::Server => changed.seconds < now.seconds - SERVER_SECONDS,
            Stamps::PerhapsServer => changed != modified && changed.seconds < now.seconds - SERVER_SECONDS,
            Stamps::Nobody => false,
        }
    }

    /// Like [`Stamps::are_past`], with a margin for clocks whose ticks are not the kernel's own.
    pub fn are_settled(self, stat: &Stat, now: Time) -> bool {
        self.are_past(stat, now.minus_ms(TICK_MS))
    }

    /// Whether stamps that were settled when something was learnt of a file still vouch for it.
    pub fn vouch(self, stat: &Stat, now: Time) -> bool {
        let (modified, changed) = meta::stamps(stat);
        match self {
            // The clock was set back behind a whole second: it comes again, and with it the same stamp.
            Stamps::Kernel => changed.nanos != 0 || is_past(changed, now),
            Stamps::Server => true,
            Stamps::PerhapsServer => changed != modified,
            Stamps::Nobody => false,
        }
    }
}

/// A stamp without a fraction of a second is of a file system that keeps none (or of an inode that has no room for one, or is one in
/// a billion): it stays the same as long as the second lasts.
fn is_past(changed: Time, now: Time) -> bool {
    if changed.nanos == 0 { changed.seconds < now.seconds } else { changed < now }
}

/// Waits until what is changed from now on gets a later stamp than what was changed before, where stamps move on with each tick.
pub fn next_tick() {
    let start = file_clock();
    // A clock that is set back meanwhile must not be waited for.
    while file_clock() == start {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(modified: (i64, u64), changed: (i64, u64)) -> Stat {
        let mut stat = rustix::fs::stat("/").unwrap();
        (stat.st_mtime, stat.st_mtime_nsec) = modified;
        (stat.st_ctime, stat.st_ctime_nsec) = changed;
        stat
    }

    fn now(seconds: i64, nanos: u32) -> Time {
        Time { seconds, nanos }
    }

    #[test]
    fn a_stamp_is_settled_once_the_clock_that_made_it_has_moved_on() {
        let fine = stat((1000, 5), (1000, 500_000_000));
        assert!(!Stamps::Kernel.are_past(&fine, now(1000, 500_000_000)), "the tick itself");
        assert!(Stamps::Kernel.are_past(&fine, now(1000, 500_000_001)));
        assert!(!Stamps::Kernel.are_settled(&fine, now(1000, 519_000_000)));
        assert!(Stamps::Kernel.are_settled(&fine, now(1000, 520_000_001)));
        assert!(!Stamps::Kernel.are_settled(&fine, now(999, 0)), "a stamp in the future");
    }

    #[test]
    fn a_stamp_of_a_whole_second_is_settled_when_the_second_is_over() {
        let coarse = stat((1000, 0), (1000, 0));
        assert!(!Stamps::Kernel.are_past(&coarse, now(1000, 999_999_999)));
        assert!(Stamps::Kernel.are_past(&coarse, now(1001, 0)));
        assert!(!Stamps::Kernel.are_settled(&coarse, now(1001, 19_000_000)));
        assert!(Stamps::Kernel.are_settled(&coarse, now(1001, 20_000_000)));
        // Set back since: the second is still to come.
        assert!(Stamps::Kernel.vouch(&coarse, now(1001, 0)));
        assert!(!Stamps::Kernel.vouch(&coarse, now(900, 0)));
        // The bytes of a file may well be given a whole second; the change is stamped all the same.
        assert!(Stamps::Kernel.are_past(&stat((1000, 0), (1000, 1)), now(1000, 2)));
    }

    #[test]
    fn a_server_may_be_behind_and_what_is_made_up_vouches_for_nothing() {
        let old = stat((900, 1), (1000, 1));
        assert!(!Stamps::Server.are_settled(&old, now(1059, 0)));
        assert!(Stamps::Server.are_settled(&old, now(1070, 0)));
        assert!(
            Stamps::PerhapsServer.are_settled(&old, now(1070, 0)) && Stamps::PerhapsServer.vouch(&old, now(1070, 0))
        );
        let made_up = stat((1000, 1), (1000, 1));
        assert!(!Stamps::PerhapsServer.are_settled(&made_up, now(9000, 0)));
        assert!(!Stamps::PerhapsServer.vouch(&made_up, now(9000, 0)));
        assert!(!Stamps::Nobody.are_past(&old, now(9000, 0)) && !Stamps::Nobody.vouch(&old, now(9000, 0)));
    }

    #[test]
    fn what_is_not_known_to_stamp_changes_is_not_believed() {
        const FUSE: u32 = 0x6573_5546;
        const SQUASHFS: u32 = 0x7371_7368;
        const FAT: u32 = 0x4d44;
        for kind in [FUSE, SQUASHFS, FAT, 0, u32::MAX] {
            assert_eq!(Stamps::of_kind(kind), Stamps::Nobody);
        }
        let (root, proc) = (Dir::open("/".as_ref()).unwrap(), Dir::open("/proc".as_ref()).unwrap());
        assert_eq!(Stamps::of(&proc), Stamps::Nobody);
        assert_eq!(Stamps::at(&root, b"proc"), Stamps::Nobody, "what is mounted there, not what it is mounted on");
        assert_eq!(Stamps::at(&root, b"not there"), Stamps::Nobody);
    }
}
