//! What `sync --watch` promises: it sees every change of what the path leads to, or says that it does not, and a round that
//! fails is tried again until it succeeds.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::host::{Client, Running, Stage};
use crate::common::mounts::until;
use crate::common::oracle::differences;
use crate::common::{scratch, sh};

/// Two folders and somebody who watches one of them.
struct Watch {
    dir: tempfile::TempDir,
    source: PathBuf,
    target: PathBuf,
}

impl Watch {
    fn new() -> Watch {
        let dir = scratch();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        fs::create_dir(&source).unwrap();
        Watch { dir, source, target }
    }

    fn client(&self) -> Client {
        Client::new(&self.dir.path().join("client"))
    }

    /// Watches `source`; returns when the first round is over.
    fn start(&self, more: &[&str]) -> Running {
        let words: Vec<&str> = ["--watch"].iter().chain(more).copied().collect();
        let mut running = self.client().start_sync(&self.source, &self.target, &words);
        assert!(running.saw("\"synced\""), "{}", running.finish());
        running
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits until both are equal.
    #[track_caller]
    fn follows(&self, what: &str) {
        until(what, || are_equal(&self.source, &self.target));
    }

    /// A change somewhere in the tree, alone, after all else was synced.
    #[track_caller]
    fn sees(&self, path: &str, what: &str) {
        self.follows(what);
        put(&self.source, path, what);
        self.follows(&format!("a later change after {what}"));
    }
}

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Whether two trees are equal, one of them under way. The oracle wants trees that stand still, so a look at names and
/// contents comes first.
fn are_equal(source: &Path, target: &Path) -> bool {
    let Ok(source) = source.canonicalize() else { return false };
    let (there, here) = (contents(&source, &source), contents(target, target));
    matches!((there, here), (Some(there), Some(here)) if there == here) && differences(&source, target).is_empty()
}

/// Every path below a folder with what is in it; `None` where it changes meanwhile.
fn contents(root: &Path, folder: &Path) -> Option<Vec<(PathBuf, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).ok()? {
        let entry = entry.ok()?;
        let (path, kind) = (entry.path(), entry.file_type().ok()?);
        let below = path.strip_prefix(root).ok()?.to_owned();
        if kind.is_dir() {
            found.push((below, Vec::new()));
            found.extend(contents(root, &path)?);
        } else if kind.is_file() {
            found.push((below, fs::read(&path).ok()?));
        } else {
            found.push((below, fs::read_link(&path).ok()?.into_os_string().into_encoded_bytes()));
        }
    }
    found.sort();
    Some(found)
}

/// The watches that the kernel keeps for a process.
fn watches(running: &Running) -> usize {
    let infos = fs::read_dir(format!("/proc/{}/fdinfo", running.pid().as_raw_nonzero())).unwrap();
    let texts = infos.filter_map(|info| fs::read_to_string(info.ok()?.path()).ok());
    texts.map(|text| text.lines().filter(|line| line.starts_with("inotify wd")).count()).sum()
}

/// A command without `--json`'s ways. Dropped, it is killed.
struct Started(std::process::Child);

impl Started {
    fn stop(&mut self) {
        kill_process(Pid::from_child(&self.0), Signal::INT).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A mount point that nothing stays mounted at.
struct MountPoint<'a>(&'a Path);

impl Drop for MountPoint<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

fn stop(running: Running) -> crate::common::host::Outcome {
    running.signal(Signal::INT);
    running.finish()
}

#[test]
fn a_failed_round_is_tried_again_by_itself() {
    let watch = Watch::new();
    put(&watch.source, "f", "1");
    let mut running = watch.start(&["--yes"]);
    fs::remove_dir_all(&watch.target).unwrap();
    fs::write(&watch.target, "in the way").unwrap();
    put(&watch.source, "f", "2");
    assert!(running.saw("\"failed\""));
    // Nothing changes in the source any more.
    fs::remove_file(&watch.target).unwrap();
    watch.follows("the end of the trouble");
    let outcome = stop(running).ok();
    assert_eq!(outcome.done()["files_created"], 2, "{outcome}");
}

#[test]
fn a_host_that_was_away_gets_what_it_missed() {
    let mut stage = Stage::new();
    let source = stage.folder("source");
    put(&source, "f", "1");
    let mut running = stage.admin.start_sync(&source, stage.shop(), &["--watch"]);
    assert!(running.saw("\"synced\""));
    stage.daemon.kill();
    put(&source, "f", "2");
    assert!(running.saw("\"failed\""));
    let since = stage.daemon.address.clone();
    stage.daemon.again();
    assert_eq!(since, stage.daemon.address);
    let volume = stage.volume.clone();
    until("the change made meanwhile", || are_equal(&source, &volume));
    assert!(running.is_running());
    // Stopped while all is well: the sums are told, once.
    let outcome = stop(running).ok();
    assert_eq!(outcome.events.iter().filter(|event| event["event"] == "done").count(), 1, "{outcome}");
    let failed = outcome.events.iter().find(|event| event["event"] == "failed").unwrap();
    assert_eq!(failed["kind"], "unreachable", "{outcome}");
}

#[test]
fn a_host_that_is_down_at_first_is_waited_for() {
    let mut stage = Stage::new();
    let source = stage.folder("source");
    put(&source, "f", "1");
    stage.daemon.kill();
    let mut running = stage.admin.start_sync(&source, stage.shop(), &["--watch"]);
    assert!(running.saw("\"failed\""), "{}", running.finish());
    stage.daemon.again();
    let volume = stage.volume.clone();
    until("the first round", || are_equal(&source, &volume));
    stop(running).ok();
}

#[test]
fn interrupted_it_ends_at_once_also_while_the_host_is_silent() {
    let stage = Stage::new();
    let source = stage.folder("source");
    put(&source, "f", "1");
    let mut running = stage.admin.start_sync(&source, stage.shop(), &["--watch"]);
    assert!(running.saw("\"synced\""));
    kill_process(stage.daemon.pid(), Signal::STOP).unwrap();
    put(&source, "f", "2");
    // On its way to a host that says nothing.
    std::thread::sleep(Duration::from_millis(700));
    let began = Instant::now();
    let outcome = stop(running);
    kill_process(stage.daemon.pid(), Signal::CONT).unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}\n{outcome}", began.elapsed());
}

#[test]
fn ended_after_a_round_that_failed_it_says_so() {
    let mut stage = Stage::new();
    let source = stage.folder("source");
    put(&source, "f", "1");
    let mut running = stage.admin.start_sync(&source, stage.shop(), &["--watch"]);
    assert!(running.saw("\"synced\""));
    stage.daemon.kill();
    put(&source, "f", "2");
    assert!(running.saw("\"failed\""));
    stop(running).fails(4, "unreachable");
}

#[test]
fn what_the_command_line_gets_wrong_ends_it() {
    let watch = Watch::new();
    put(&watch.target, "kept", "x");
    let (client, none) = (watch.client(), watch.at("none"));
    client.sync(&watch.source, &watch.target, &["--watch"]).fails(3, "refused");
    client.sync(&none, &watch.target, &["--watch"]).fails(1, "not_found");
    client.sync(&watch.source, &watch.target, &["--watch", "--path", "../x"]).fails(2, "usage");
    assert!(watch.target.join("kept").exists());
}

#[test]
fn the_root_is_what_its_path_leads_to() {
    let watch = Watch::new();
    put(&watch.source, "deep/er/f", "1");
    let running = watch.start(&["--force"]);
    watch.sees("deep/er/g", "the first round");
    // Swapped by a rename.
    put(&watch.at("next"), "deep/er/f", "2");
    fs::rename(&watch.source, watch.at("old")).unwrap();
    fs::rename(watch.at("next"), &watch.source).unwrap();
    watch.sees("deep/er/g", "a swap");
    // Made anew.
    fs::remove_dir_all(&watch.source).unwrap();
    put(&watch.source, "deep/er/f", "3");
    watch.sees("deep/er/h", "a root made anew");
    // What was there before is nobody's any more.
    let all = watches(&running);
    put(&watch.at("old"), "more/and/more/f", "x");
    assert_eq!((all, watches(&running)), (3, 3));
    stop(running).ok();
}

#[test]
fn a_link_that_is_switched_and_a_parent_that_moves_are_followed() {
    let watch = Watch::new();
    fs::remove_dir(&watch.source).unwrap();
    put(&watch.at("one"), "deep/f", "1");
    put(&watch.at("above/two"), "deep/f", "2");
    symlink("one", &watch.source).unwrap();
    let mut running = watch.start(&[]);
    symlink("above/two", watch.at("link")).unwrap();
    fs::rename(watch.at("link"), &watch.source).unwrap();
    watch.sees("deep/g", "the switched link");
    assert!(fs::read_to_string(watch.target.join("deep/f")).is_ok_and(|text| text == "2"));
    // A folder above goes away: said, and waited for.
    fs::rename(watch.at("above"), watch.at("away")).unwrap();
    assert!(running.saw("\"failed\""));
    assert!(watch.target.join("deep/g").exists(), "a root that is away is not an empty one");
    put(&watch.at("away"), "two/deep/h", "3");
    fs::rename(watch.at("away"), watch.at("above")).unwrap();
    watch.sees("deep/i", "the way back");
    let outcome = stop(running).ok();
    let failed = outcome.events.iter().find(|event| event["event"] == "failed").unwrap();
    assert_eq!(failed["kind"], "not_found", "{outcome}");
}

#[test]
fn the_folder_that_it_was_started_in_is_a_path_too() {
    let watch = Watch::new();
    put(&watch.source, "f", "1");
    let mut command = watch.client().command(&["--json", "sync", ".", "../target", "--watch", "--force"]);
    let mut child = Started(command.current_dir(&watch.source).stdout(std::process::Stdio::null()).spawn().unwrap());
    watch.follows("the first round");
    fs::remove_dir_all(&watch.source).unwrap();
    put(&watch.source, "new/f", "2");
    watch.sees("new/g", "the folder made anew");
    child.stop();
}

#[test]
fn an_unmounted_source_empties_nothing_and_is_followed_when_it_is_back() {
    let watch = Watch::new();
    let image = watch.at("image");
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let (image, at) = (image.to_str().unwrap(), watch.source.to_str().unwrap());
    sh("mkfs.ext4", &["-q", "-F", image]);
    sh("mount", &["-o", "loop", image, at]);
    let _outer = MountPoint(&watch.source);
    put(&watch.source, "deep/f", "1");
    let mut running = watch.start(&["--force"]);
    watch.sees("deep/g", "the first round");
    sh("umount", &[at]);
    assert!(running.saw("not the folder that was synced before"), "{}", stop(running));
    assert!(watch.target.join("deep/g").exists(), "the empty mount point was synced");
    sh("mount", &["-o", "loop", image, at]);
    watch.sees("deep/h", "mounted again");
    // Below the root, too.
    let inner = watch.source.join("inner");
    fs::create_dir(&inner).unwrap();
    sh("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", inner.to_str().unwrap()]);
    let mounted = MountPoint(&inner);
    put(&watch.source, "inner/sub/f", "1");
    watch.sees("inner/sub/g", "a mount in the tree");
    drop(mounted);
    watch.sees("inner/f", "what was below it");
    let outcome = stop(running).ok();
    let failed = outcome.events.iter().find(|event| event["event"] == "failed").unwrap();
    assert_eq!(failed["kind"], "refused", "{outcome}");
}

#[test]
fn a_source_that_is_emptied_on_purpose_is_followed_with_force_only() {
    for forced in [false, true] {
        let watch = Watch::new();
        put(&watch.source, "f", "1");
        let mut running = watch.start(if forced { &["--force"] } else { &[] });
        fs::remove_file(watch.source.join("f")).unwrap();
        if forced {
            watch.follows("all removed");
        } else {
            assert!(running.saw("\"refused\""));
            assert!(watch.target.join("f").exists());
            put(&watch.source, "g", "2");
            watch.follows("filled again");
        }
        stop(running).ok();
    }
}

#[test]
fn folders_made_while_events_were_lost_are_watched() {
    let watch = Watch::new();
    for number in 0..200 {
        put(&watch.source, &format!("d{number}/f"), "1");
    }
    let running = watch.start(&[]);
    running.signal(Signal::STOP);
    let most: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    // Each write is three events; one in another folder each time, so that none is like the one before.
    for number in 0..most / 3 + 500 {
        fs::write(watch.source.join(format!("d{}/g{}", number % 200, number / 200)), "2").unwrap();
    }
    put(&watch.source, "deep/er/z", "3");
    running.signal(Signal::CONT);
    watch.sees("deep/er/y", "lost events");
    watch.sees("d7/y", "lost events, in a folder that was there");
    stop(running).ok();
}

#[test]
fn links_are_not_followed() {
    let watch = Watch::new();
    put(&watch.source, "a/f", "1");
    for number in 0..8 {
        let modules = watch.source.join(format!("p{number}/modules"));
        fs::create_dir_all(&modules).unwrap();
        for other in 0..8 {
            symlink(format!("../../p{other}"), modules.join(format!("p{other}"))).unwrap();
        }
    }
    symlink("/", watch.source.join("all")).unwrap();
    symlink(".", watch.source.join("self")).unwrap();
    let running = watch.start(&[]);
    assert_eq!(watches(&running), 1 + 1 + 8 * 2);
    watch.sees("p3/modules/f", "links to each other");
    stop(running).ok();
}

#[test]
fn what_is_left_out_is_not_watched_and_new_rules_are() {
    let watch = Watch::new();
    put(&watch.source, ".mcignore", "node_modules/\n");
    put(&watch.source, "a/f", "1");
    for number in 0..50 {
        put(&watch.source, &format!("node_modules/m{number}/f"), "1");
        put(&watch.source, &format!("out/m{number}/f"), "1");
    }
    let mut running = watch.start(&["--exclude", "/out"]);
    assert_eq!(watches(&running), 2);
    // Rules that cannot be used are told; it goes on when they can.
    put(&watch.source, ".mcignore", &"# ours\n".repeat(200_000));
    assert!(running.saw("larger than 1 MiB"));
    put(&watch.source, ".mcignore", "other/\n");
    until("the renewed watches", || watches(&running) == 2 + 1 + 50);
    until("what is not left out any more", || watch.target.join("node_modules/m7/f").exists());
    put(&watch.source, "node_modules/m7/g", "2");
    until("a change in it", || watch.target.join("node_modules/m7/g").exists());
    put(&watch.source, ".mcignore", "node_modules/\n");
    until("the watches given back", || watches(&running) == 2);
    assert!(!watch.target.join("out").exists());
    stop(running).ok();
}

#[test]
fn only_the_part_asked_for_is_watched() {
    let watch = Watch::new();
    put(&watch.source, "a/b/c/f", "1");
    put(&watch.source, "x/y/f", "1");
    let running = watch.start(&["--path", "a/b"]);
    // The root, the folder above, and the part.
    assert_eq!(watches(&running), 4);
    put(&watch.source, "a/b/c/g", "2");
    until("a change in the part", || watch.target.join("a/b/c/g").exists());
    assert!(!watch.target.join("x").exists());
    stop(running).ok();
}

#[test]
fn without_watches_it_says_so_and_looks() {
    let watch = Watch::new();
    for number in 0..20 {
        put(&watch.source, &format!("d{number}/f"), "1");
    }
    let limited = "echo 9 > /proc/sys/user/max_inotify_watches && exec \"$@\"";
    let client = watch.client().under(&["unshare", "--user", "--map-root-user", "sh", "-c", limited, "sh"]);
    let mut running = client.start_sync(&watch.source, &watch.target, &["--watch"]);
    assert!(running.saw("the limit of watches is reached"), "{}", running.finish());
    assert_eq!(watches(&running), 0, "the others' watches are taken for nothing");
    watch.sees("d7/g", "no watches");
    stop(running).ok();
}

#[test]
fn a_round_is_a_line_with_the_time_and_the_names() {
    let watch = Watch::new();
    put(&watch.source, "app.py", "1");
    let out = fs::File::create(watch.at("out")).unwrap();
    let mut command = watch.client().command(&["--no-color", "sync"]);
    command.arg(&watch.source).arg(&watch.target).arg("--watch").stdout(out).stderr(std::process::Stdio::null());
    let mut child = Started(command.spawn().unwrap());
    watch.follows("the first round");
    put(&watch.source, "app.py", "22");
    let said = || fs::read_to_string(watch.at("out")).unwrap();
    until("the second round", || said().contains("1 changed: app.py ("));
    child.stop();
    let text = said();
    assert!(text.lines().count() >= 2 && text.lines().next().unwrap().contains("1 new: app.py ("), "{text}");
    for line in text.lines() {
        let time = line.split_once("  ").map_or("", |(time, _)| time);
        assert_eq!(time.bytes().map(|byte| u8::from(byte == b':')).sum::<u8>(), 2, "{text}");
        assert!(line.len() < 80, "{text}");
    }
}

#[test]
fn a_checkout_of_many_files_and_saves_by_rename_come_over() {
    let watch = Watch::new();
    put(&watch.source, "keep", "1");
    let running = watch.start(&["--yes"]);
    for version in 0..3 {
        for number in 0..3000 {
            let (folder, file) = (format!("v{}", number % 40), format!("f{}", number / 40));
            let folder = watch.source.join(format!("{folder}/{}", number % 7));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("tmp"), format!("{version} {number}")).unwrap();
            fs::rename(folder.join("tmp"), folder.join(&file)).unwrap();
        }
        if version == 1 {
            for number in 0..20 {
                fs::remove_dir_all(watch.source.join(format!("v{number}"))).unwrap();
            }
        }
    }
    watch.follows("a checkout");
    watch.sees("v3/3/f1", "a save");
    stop(running).ok();
}
