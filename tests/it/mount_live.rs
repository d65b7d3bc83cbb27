//! A live volume as a folder: it is what it is at the host, as the existing witnesses see it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::common::Rng;
use crate::common::host::Stage;
use crate::common::mounts::{Mount, is_mounted, until};
use crate::common::oracle::{assert_equal, likeness};
use crate::common::trees::{Shape, grow};

/// Data and holes, as `lseek` tells.
fn holes(path: &Path) -> Vec<u64> {
    let file = File::open(path).unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(data)).unwrap();
        found.extend([data, at]);
    }
    found
}

#[test]
fn a_mount_is_equal_to_its_source_in_everything() {
    let stage = Stage::new();
    for seed in 0..4 {
        let volume = stage.folder(&format!("grown{seed}"));
        grow(&volume, &mut Rng::new(seed), &Shape::USUAL);
        let sparse = File::create(volume.join("holes")).unwrap();
        sparse.set_len(3 << 20).unwrap();
        sparse.write_all_at(&[7; 4096], 1 << 20).unwrap();
        let tenant = format!("grown{seed}");
        stage.init(&tenant, &volume);
        let mount = Mount::of(&stage, &stage.daemon.at(&tenant), &format!("mount{seed}"), &[]);
        assert_equal(&volume, &mount.dir, &format!("seed {seed}"));
        assert_eq!(holes(&mount.at("holes")), holes(&volume.join("holes")));
        let (own, shown) = (sparse.metadata().unwrap(), mount.at("holes").metadata().unwrap());
        assert_eq!((own.blocks(), own.ino()), (shown.blocks(), shown.ino()));
        stage.admin.run(&["unmount", mount.dir.to_str().unwrap()]).ok();
        until("the process ends with its mount", || !mount.is_running());
    }
}

#[test]
fn a_directory_of_a_hundred_thousand_names_is_listed_whole() {
    let stage = Stage::new();
    let names: Vec<String> = (0..100_000).map(|at| format!("{at:06}")).collect();
    for name in &names {
        File::create(stage.volume.join(name)).unwrap();
    }
    let mount = Mount::of(&stage, &stage.shop(), "mount", &[]);
    let mut found: Vec<String> =
        fs::read_dir(&mount.dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert!(found == names, "{} names", found.len());
    assert!(mount.at("099999").is_file() && !mount.at("100000").exists());
}

#[test]
fn many_readers_at_once_each_get_what_is_there() {
    let stage = Stage::new();
    let mut content = vec![0; 24 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    fs::write(stage.volume.join("large"), &content).unwrap();
    grow(&stage.volume, &mut Rng::new(9), &Shape::SMALL);
    let mount = Mount::of(&stage, &stage.shop(), "mount", &[]);
    std::thread::scope(|scope| {
        for reader in 0..12u64 {
            let (mount, content) = (&mount, &content);
            scope.spawn(move || {
                let mut rng = Rng::new(reader);
                let file = File::open(mount.at("large")).unwrap();
                for _ in 0..40 {
                    let at = rng.below(content.len() as u64) as usize;
                    let len = (rng.below(700_000) as usize).min(content.len() - at);
                    let mut buffer = vec![0; len];
                    file.read_exact_at(&mut buffer, at as u64).unwrap();
                    assert!(buffer == content[at..at + len], "{len} bytes at {at}");
                }
            });
        }
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(likeness(&mount.dir), likeness(&stage.volume)));
        }
    });
}

#[test]
fn a_reader_is_not_stuck_when_the_host_is_gone_and_goes_on_when_it_is_back() {
    let mut stage = Stage::new();
    for name in ["one", "two", "three"] {
        fs::write(stage.volume.join(name), name).unwrap();
    }
    let mount = Mount::of(&stage, &stage.shop(), "mount", &["--timeout", "2"]);
    assert_eq!(fs::read(mount.at("one")).unwrap(), b"one");
    let fails = |name: &str| {
        let began = Instant::now();
        let error = fs::read(mount.at(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    };
    // Killed, and started again.
    stage.daemon.kill();
    fails("two");
    stage.daemon.again();
    until("it is read again", || fs::read(mount.at("two")).is_ok_and(|read| read == b"two"));
    // Cut off: nothing is answered, nothing is refused.
    kill_process(stage.daemon.pid(), Signal::STOP).unwrap();
    fails("three");
    kill_process(stage.daemon.pid(), Signal::CONT).unwrap();
    until("it is read again", || fs::read(mount.at("three")).is_ok_and(|read| read == b"three"));
    // Away while it ends: nothing keeps it.
    stage.daemon.kill();
    mount.signal(Signal::TERM);
    until("it ends", || !mount.is_running() && !is_mounted(&mount.dir));
}

#[test]
fn a_mount_ends_with_its_process_and_its_process_with_it() {
    let stage = Stage::new();
    fs::write(stage.volume.join("file"), "content").unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let mount = Mount::of(&stage, &stage.shop(), "mount", &[]);
        let open = File::open(mount.at("file")).unwrap();
        mount.signal(signal);
        until("the process is gone", || !mount.is_running());
        drop(open);
        until("nothing is mounted any more", || {
            if signal == Signal::KILL && is_mounted(&mount.dir) {
                // Where fusermount3 did not look after it, this does.
                stage.admin.run(&["unmount", "--force", mount.dir.to_str().unwrap()]);
            }
            !is_mounted(&mount.dir)
        });
        assert_eq!(fs::read_dir(&mount.dir).unwrap().count(), 0);
    }
    let mount = Mount::of(&stage, &stage.shop(), "mount", &[]);
    let dir = mount.dir.to_str().unwrap();
    let mut open = File::open(mount.at("file")).unwrap();
    stage.admin.run(&["unmount", dir]).fails(1, "busy");
    assert_eq!(fs::read(mount.at("file")).unwrap(), b"content");
    stage.admin.run(&["unmount", "--force", dir]).ok();
    assert!(!is_mounted(&mount.dir));
    let mut content = String::new();
    open.read_to_string(&mut content).unwrap();
    assert_eq!(content, "content", "what is open stays so");
    drop(open);
    until("the process ends", || !mount.is_running());
    stage.admin.run(&["unmount", dir]).fails(1, "not_found");
}

#[test]
fn nothing_that_is_tried_on_a_mount_changes_what_it_shows() {
    let stage = Stage::new();
    grow(&stage.volume, &mut Rng::new(3), &Shape::SMALL);
    fs::write(stage.volume.join("file"), "content").unwrap();
    let before = likeness(&stage.volume);
    let mount = Mount::of(&stage, &stage.shop(), "mount", &[]);
    let removed = std::process::Command::new("rm").arg("-rf").arg(&mount.dir).output().unwrap();
    assert!(!removed.status.success());
    let denied = |done: std::io::Result<()>| assert_eq!(done.unwrap_err().raw_os_error(), Some(libc::EROFS));
    denied(fs::write(mount.at("new"), "x"));
    denied(fs::write(mount.at("file"), "x"));
    denied(fs::remove_file(mount.at("file")));
    denied(fs::create_dir(mount.at("dir")));
    denied(fs::rename(mount.at("file"), mount.at("other")));
    denied(symlink("x", mount.at("link")));
    denied(fs::hard_link(mount.at("file"), mount.at("link")));
    denied(fs::set_permissions(mount.at("file"), fs::metadata("/").unwrap().permissions()));
    assert_eq!(likeness(&stage.volume), before);
    assert_eq!(likeness(&mount.dir), before);
}

#[test]
fn a_volume_that_changes_is_shown_as_it_is() {
    let stage = Stage::new();
    let file = stage.volume.join("file");
    fs::write(&file, "first").unwrap();
    fs::create_dir(stage.volume.join("dir")).unwrap();
    fs::write(stage.volume.join("dir/inner"), "inner").unwrap();
    let mount = Mount::of(&stage, &stage.shop(), "mount", &[]);
    let shows = |name: &str, content: &str| {
        until(&format!("{name} becomes {content:?}"), || {
            fs::read(mount.at(name)).is_ok_and(|read| read == content.as_bytes())
        });
    };
    shows("file", "first");
    shows("dir/inner", "inner");
    fs::write(&file, "rewritten").unwrap();
    shows("file", "rewritten");
    fs::write(stage.volume.join("next"), "replaced").unwrap();
    fs::rename(stage.volume.join("next"), &file).unwrap();
    shows("file", "replaced");
    fs::write(&file, "same siz").unwrap();
    shows("file", "same siz");
    fs::write(stage.volume.join("new"), "new").unwrap();
    shows("new", "new");
    fs::remove_dir_all(stage.volume.join("dir")).unwrap();
    until("the folder is gone", || !mount.at("dir").exists());
    fs::write(stage.volume.join("dir"), "a file now").unwrap();
    shows("dir", "a file now");
    // Written while it is read: whatever comes is of the file, and nothing breaks.
    let big = stage.volume.join("big");
    fs::write(&big, vec![b'a'; 3 << 20]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..20u8 {
                fs::write(&big, vec![b'a' + round; (3 << 20) - 1000 * usize::from(round)]).unwrap();
            }
        });
        for _ in 0..20 {
            let read = fs::read(mount.at("big")).unwrap_or_default();
            assert!(read.iter().all(|byte| byte.is_ascii_lowercase() || *byte == 0));
        }
    });
    fs::write(&big, "at rest").unwrap();
    shows("big", "at rest");
}

#[test]
fn what_leads_outside_is_shown_and_never_followed() {
    let stage = Stage::new();
    let outside = stage.folder("outside");
    fs::write(outside.join("secret"), "secret").unwrap();
    symlink(&outside, stage.volume.join("out")).unwrap();
    symlink("../outside/secret", stage.volume.join("file")).unwrap();
    fs::create_dir(stage.volume.join("dir")).unwrap();
    fs::write(stage.volume.join("dir/secret"), "harmless").unwrap();
    let mount = Mount::of(&stage, &stage.shop(), "deep/mount", &[]);
    assert_eq!(fs::read_link(mount.at("out")).unwrap(), outside);
    assert_eq!(fs::read_link(mount.at("file")).unwrap(), Path::new("../outside/secret"));
    let open = File::open(mount.at("dir/secret")).unwrap();
    // A folder becomes a link to the outside while it is looked at.
    for _ in 0..30 {
        fs::rename(stage.volume.join("dir"), stage.volume.join("aside")).unwrap();
        symlink(&outside, stage.volume.join("dir")).unwrap();
        let mut buffer = [0; 20];
        if let Ok(count) = open.read_at(&mut buffer, 0) {
            assert_eq!(&buffer[..count], b"harmless");
        }
        if fs::symlink_metadata(mount.at("dir")).is_ok_and(|seen| seen.is_dir())
            && let Ok(read) = fs::read(mount.at("dir/secret"))
        {
            // Between the two looks it may have become the link, which is then followed here, by this process.
            assert!(read == b"harmless" || fs::read_link(mount.at("dir")).is_ok());
        }
        fs::remove_file(stage.volume.join("dir")).unwrap();
        fs::rename(stage.volume.join("aside"), stage.volume.join("dir")).unwrap();
    }
}

#[test]
fn what_cannot_be_mounted_is_said() {
    let stage = Stage::new();
    let empty = stage.folder("empty");
    let (empty, volume) = (empty.to_str().unwrap(), stage.volume.to_str().unwrap());
    fs::write(stage.volume.join("file"), "").unwrap();
    let shop = stage.shop();
    stage.admin.run(&["mount", &shop, volume]).fails(3, "refused");
    stage.admin.run(&["mount", &shop, &format!("{empty}/none")]).fails(1, "not_found");
    stage.admin.run(&["mount", &shop, &format!("{volume}/file")]).fails(2, "usage");
    stage.admin.run(&["mount", &stage.daemon.at("none"), empty]).fails(1, "not_found");
    stage.admin.run(&["mount", &format!("redis.{shop}:/none"), empty]).fails(1, "not_found");
    stage.admin.run(&["mount", &format!("redis.{shop}"), empty]).fails(2, "usage");
    stage.admin.run(&["unmount", empty]).fails(1, "not_found");
    stage.admin.run(&["unmount", "/proc"]).fails(3, "refused");
    let mount = Mount::of(&stage, &shop, "mount", &[]);
    stage.admin.run(&["mount", &shop, mount.dir.to_str().unwrap()]).fails(1, "busy");
    // A viewer of another tenant sees nothing.
    let invite = stage.admin.run(&["-h", &stage.daemon.address, "invite", "--role", "viewer", "--tenant", "blog"]).ok();
    let text = invite.last()["invitation"].as_str().unwrap_or_default().to_owned();
    assert!(!text.is_empty(), "{invite}");
    let viewer = crate::common::host::Client::new(&stage.dir.path().join("viewer"));
    viewer.run(&["login", &text]).ok();
    viewer.run(&["mount", &shop, empty]).fails(3, "refused");
}
