//! Data that is written as fast as it goes, copied again and again: what `--force` copies is whole, and of one moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::disks::Disk;
use crate::common::docker::{IMAGE, Port};
use crate::common::host::Outcome;
use crate::common::oracle::assert_equal;
use crate::common::{scratch, sh};

/// How often each is copied; `MCLOUD_FORCED_COPIES` for more.
fn copies() -> usize {
    std::env::var("MCLOUD_FORCED_COPIES").ok().and_then(|text| text.parse().ok()).unwrap_or(50)
}

/// Copies without `--force`, of which some are of no one moment.
const LIVE_COPIES: usize = 10;

/// Numbers in ascending order into SQLite, then into Redis, then acknowledged: what is acknowledged is in both.
const WRITER: &str = r#"
import sqlite3, time, redis
db = sqlite3.connect("/db/numbers.db", isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("PRAGMA synchronous=OFF")
db.execute("CREATE TABLE IF NOT EXISTS numbers (number INTEGER PRIMARY KEY, filler TEXT)")
number = db.execute("SELECT coalesce(max(number), 0) FROM numbers").fetchone()[0]
server = redis.Redis(host="redis")
with open("/app/acknowledged", "a") as acknowledged:
    while True:
        number += 1
        db.execute("INSERT INTO numbers VALUES (?, ?)", (number, "x" * 200))
        server.rpush("numbers", number)
        acknowledged.write(f"{number}\n")
        acknowledged.flush()
        # Or the data outgrows the test.
        time.sleep(0.0002)
"#;

const CHECK: &str = r#"
import sqlite3, sys
try:
    db = sqlite3.connect(sys.argv[1])
    ok = db.execute("PRAGMA integrity_check").fetchone()[0]
    count, last = db.execute("SELECT count(*), coalesce(max(number), 0) FROM numbers").fetchone()
    print(ok.splitlines()[0], count, last)
except sqlite3.Error as error:
    print("broken", error, 0)
"#;

struct Written {
    port: Port,
    from: String,
    to: String,
}

impl Written {
    fn new(port: Port) -> Written {
        Written::with(port, |_| ())
    }

    /// `prepare` is given the source's volumes before anything is written to them.
    fn with(port: Port, prepare: impl Fn(&Path)) -> Written {
        let yml = format!(
            "redis:\n    image: {IMAGE}\n    cmd: redis-server --dir /data --appendonly yes --appendfsync no --auto-aof-rewrite-percentage 0 --save '' \
             --bind 0.0.0.0 --protected-mode no\n    data: [/data]\n    wait: 30s for \"Ready to accept connections\"\n\
             writer:\n    image: {IMAGE}\n    cmd: python3 -u /app/write.py\n    volumes: {{.: /app}}\n    data: [/db]\n"
        );
        let (from, to) = (port.init("from", &yml), port.init("to", &yml));
        let code = port.dir.path().join("code");
        fs::create_dir(&code).unwrap();
        fs::write(code.join("write.py"), WRITER).unwrap();
        fs::write(code.join("mcloud.yml"), &yml).unwrap();
        port.admin.sync(&code, port.daemon.at(&from), &["--yes"]).ok();
        let volumes = port.daemon.home.join("tenants").join(&from).join("volumes");
        ["redis/data", "writer/db"].iter().for_each(|volume| prepare(&volumes.join(volume)));
        port.run(&["start", &from]).ok();
        let written = Written { port, from, to };
        let began = Instant::now();
        while written.acknowledged() < 100 {
            assert!(began.elapsed() < Duration::from_secs(30), "nothing is written");
            std::thread::sleep(Duration::from_millis(50));
        }
        written
    }

    fn tenant(&self, name: &str) -> PathBuf {
        self.port.daemon.home.join("tenants").join(name)
    }

    /// The last number that was acknowledged.
    fn acknowledged(&self) -> u64 {
        let text = fs::read_to_string(self.tenant(&self.from).join("root/acknowledged")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.rsplit('\n').next().and_then(|line| line.parse().ok()).unwrap_or(0)
    }

    /// What the copy holds: whether SQLite is whole, how many numbers and the last one; the numbers in Redis.
    fn copied(&self) -> (bool, u64, u64, Result<u64, String>) {
        let volumes = self.tenant(&self.to).join("volumes");
        let look = scratch();
        // Looking must not change the copy.
        sh("cp", &["-a", volumes.join("writer/db").to_str().unwrap(), look.path().join("db").to_str().unwrap()]);
        let file = look.path().join("db/numbers.db");
        let out = Command::new("python3").args(["-c", CHECK, file.to_str().unwrap()]).output().expect("python3 runs");
        let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        let number = |at: usize| text.rsplit(' ').nth(at).and_then(|word| word.parse().ok()).unwrap_or(0);
        (text.starts_with("ok "), number(1), number(0), redis_numbers(&volumes.join("redis/data")))
    }
}

/// How many numbers an append-only file holds, which have to be 1, 2, 3 … and whole to the last byte.
fn redis_numbers(data: &Path) -> Result<u64, String> {
    let mut files: Vec<PathBuf> = fs::read_dir(data.join("appendonlydir"))
        .map_err(|error| error.to_string())?
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".incr.aof"))
        .collect();
    files.sort();
    let bytes = fs::read(files.pop().ok_or("no append-only file")?).map_err(|error| error.to_string())?;
    let mut words = Vec::new();
    let mut at = 0;
    let line = |at: &mut usize| -> Result<String, String> {
        let rest = &bytes[*at..];
        let end = rest.windows(2).position(|two| two == b"\r\n").ok_or("it ends in the middle of a command")?;
        *at += end + 2;
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    };
    while at < bytes.len() {
        let count: usize = line(&mut at)?.trim_start_matches('*').parse().map_err(|_| "not a command")?;
        let mut command = Vec::new();
        for _ in 0..count {
            line(&mut at)?;
            command.push(line(&mut at)?);
        }
        words.push(command);
    }
    let mut last = 0;
    for command in words.iter().filter(|command| command[0].eq_ignore_ascii_case("rpush")) {
        let number: u64 = command[2].parse().map_err(|_| "not a number")?;
        if number != last + 1 {
            return Err(format!("{number} comes after {last}"));
        }
        last = number;
    }
    Ok(last)
}

impl Written {
    /// Has `copy` fill the target from the source as it was at one moment, again and again, and looks at each.
    fn all_are_whole(&self, times: usize, mut copy: impl FnMut() -> Outcome) {
        for number in 0..times {
            let before = self.acknowledged();
            let report = copy().ok();
            let after = self.acknowledged();
            let (whole, count, last, redis) = self.copied();
            let said = format!(
                "copy {number}: SQLite {whole}, {count} to {last}, Redis {redis:?}, {before}..{after}\n{report}"
            );
            assert!(whole, "{said}");
            assert_eq!(count, last, "{said}");
            assert!(last >= before && last <= after + 1, "{said}");
            let redis = redis.unwrap_or_else(|error| panic!("{error}: {said}"));
            assert!(redis == last || redis + 1 == last, "both are of one moment: {said}");
        }
    }

    /// What was frozen goes on, and no view is left but the last one on its way out.
    fn goes_on(&self) {
        let now = self.acknowledged();
        let began = Instant::now();
        while self.acknowledged() == now {
            assert!(began.elapsed() < Duration::from_secs(20), "what was frozen writes on");
            std::thread::sleep(Duration::from_millis(20));
        }
        for service in ["redis", "writer"] {
            assert_eq!(self.port.state("from", service), "running");
        }
        let left = fs::read_dir(self.port.daemon.home.join("frozen")).map_or(0, Iterator::count);
        assert!(left <= 1, "views are removed when they are not needed any more, {left} are there");
    }
}

fn forced_copies_are_whole(port: Port) {
    let written = Written::new(port);
    let (from, to) = (written.port.daemon.at(&written.from), written.port.daemon.at(&written.to));
    written.all_are_whole(copies(), || {
        let report = written.port.admin.sync(&from, &to, &["--force"]).ok();
        assert!(report.done()["paused_ms"].as_u64().unwrap() > 0, "{report}");
        report
    });
    written.goes_on();

    // Without --force a copy is of many moments: the one database is copied a while after the other.
    let mut torn = 0;
    for _ in 0..LIVE_COPIES {
        let report = written.port.admin.sync(&from, &to, &["--yes"]);
        // Files that never stood still are told of.
        assert!(matches!(report.status.code(), Some(0 | 5)), "{report}");
        assert_eq!(report.done()["paused_ms"], 0);
        let (whole, count, last, redis) = written.copied();
        let of_one_moment = redis.is_ok_and(|redis| redis == last || redis + 1 == last);
        torn += usize::from(!whole || count != last || !of_one_moment);
    }
    println!("without --force {torn} of {LIVE_COPIES} copies were not what the services had at any moment");
    assert!(torn > 0, "without --force something is torn, or this test shows nothing");
}

#[test]
fn forced_copies_of_databases_that_are_written_are_whole_where_files_cannot_be_cloned() {
    forced_copies_are_whole(Port::new());
}

#[test]
fn forced_copies_of_databases_that_are_written_are_whole_where_files_can_be_cloned() {
    let disk = Disk::new("xfs", 600);
    forced_copies_are_whole(Port::at(scratch(), &disk.root.join("host")));
}

#[test]
fn forced_snapshots_of_databases_that_are_written_are_whole_when_they_are_restored() {
    let disk = Disk::new("btrfs", 1500);
    let written = Written::with(Port::at(scratch(), &disk.root.join("host")), be_subvolume);
    let (from, to) = (written.from.clone(), written.port.daemon.at(&written.to));
    written.all_are_whole(copies(), || {
        let taken = written.port.run(&["snapshot", "create", &from, "--force"]).ok();
        assert!(
            taken.done()["how"] == "frozen" && taken.done()["freeze_ms"].as_u64().is_some_and(|ms| ms > 0),
            "{taken}"
        );
        let id = taken.done()["snapshot"].as_str().expect("an id").to_owned();
        written.port.run(&["snapshot", "restore", &id, &to, "--force"]).ok();
        taken
    });
    written.goes_on();
    written.port.run(&["snapshot", "verify", "--read-data"]).ok();
}

/// Makes an empty folder a btrfs subvolume.
fn be_subvolume(folder: &Path) {
    fs::remove_dir(folder).unwrap();
    sh("btrfs", &["subvolume", "create", folder.to_str().unwrap()]);
}

#[test]
fn a_volume_that_is_a_subvolume_is_snapshotted_and_no_snapshot_outlives_a_killed_daemon() {
    use std::os::unix::fs::MetadataExt;
    let disk = Disk::new("btrfs", 600);
    let mut port = Port::at(scratch(), &disk.root.join("host"));
    let yml = format!("web:\n    image: {IMAGE}\n    cmd: exec sleep 1000\n    data: [/data]\n");
    let tenant = port.init("sub", &yml);
    let volume = port.daemon.home.join("tenants").join(&tenant).join("volumes/web/data");
    be_subvolume(&volume);
    for number in 0..200 {
        fs::write(volume.join(format!("f{number}")), vec![7; number * 100]).unwrap();
    }
    port.run(&["start", &tenant]).ok();
    let target = port.dir.path().join("target");
    let from = |port: &Port| format!("web.{}:/data", port.daemon.at(&tenant));
    let copy = |port: &Port| port.admin.sync(from(port), &target, &["--force"]);
    copy(&port).ok().proves();
    assert_equal(&volume, &target, "the first copy");
    fs::write(volume.join("f3"), "changed").unwrap();
    let again = copy(&port).ok();
    assert_eq!(again.count("files_updated"), 1, "{again}");
    assert!(again.count("bytes_read") < 50_000, "what is known of the volume is known of its snapshot: {again}");

    port.daemon.kill();
    port.daemon.vars = vec![("FAILPOINTS".to_owned(), "freeze.thawed=return".to_owned())];
    port.daemon.again();
    let running = port.admin.start(&["sync", &from(&port), target.to_str().unwrap(), "--force"]);
    let began = Instant::now();
    while std::net::TcpStream::connect(&port.daemon.http).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(30), "it comes to where it dies");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(running);
    let frozen = port.daemon.home.join("frozen");
    let view = fs::read_dir(&frozen).unwrap().next().expect("a view").unwrap().path();
    assert_eq!(fs::metadata(view.join("0/snapshot")).expect("a snapshot").ino(), 256, "a subvolume");
    port.daemon.vars.clear();
    port.daemon.again();
    assert_eq!(fs::read_dir(&frozen).map_or(0, Iterator::count), 0, "what was left is removed");

    // A snapshot would show what is in it as an empty folder: it is copied in another way.
    sh("btrfs", &["subvolume", "create", volume.join("inner").to_str().unwrap()]);
    fs::write(volume.join("inner/file"), "inner").unwrap();
    copy(&port).ok().proves();
    assert_equal(&volume, &target, "with a subvolume in it");
}

#[test]
fn forced_copies_and_snapshots_on_a_schedule_are_whole() {
    let written = Written::new(Port::new());
    let (from, to) = (written.from.clone(), written.port.daemon.at(&written.to));
    let yearly = "0 0 1 1 *";
    let live = written.port.daemon.at(&from);
    written.port.run(&["schedule", "add", yearly, &live, &to, "--force", "--name", "copy"]).ok();
    written.port.run(&["schedule", "add", yearly, "--snapshot", &from, "--force", "--name", "keep"]).ok();
    written.all_are_whole(4, || written.port.run(&["schedule", "run", "copy"]));
    written.all_are_whole(4, || {
        let kept = written.port.run(&["schedule", "run", "keep"]).ok();
        let id = kept.done()["snapshot"].as_str().expect("an id").to_owned();
        written.port.run(&["snapshot", "restore", &id, &to, "--force"]).ok();
        kept
    });
    written.goes_on();
}
