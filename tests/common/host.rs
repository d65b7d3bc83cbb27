//! mcloud as its users run it: daemons with homes of their own, clients with a clean environment, what they print.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The program under test: the one this test run built, or the one named by `MCLOUD_TEST_BINARY`.
pub fn binary() -> OsString {
    std::env::var_os("MCLOUD_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_mcloud").into())
}

/// Longer than any command of the tests may take.
const PATIENCE: Duration = Duration::from_secs(240);

/// Somebody who runs mcloud: an environment with nothing of this machine's user in it.
#[derive(Clone, Debug)]
pub struct Client {
    /// Where the client keeps what it keeps.
    pub home: PathBuf,
    /// The `MCLOUD_HOME` it sees; that of a daemon here makes it that daemon's admin.
    pub mcloud_home: PathBuf,
    /// The network namespace it lives in.
    pub net: Option<String>,
    /// The numeric user it runs as; `None` is root.
    pub user: Option<u32>,
    pub vars: Vec<(String, String)>,
    /// Words before the program: something that runs it.
    pub under: Vec<OsString>,
}

impl Client {
    /// A client that knows no daemon.
    pub fn new(home: &Path) -> Client {
        fs::create_dir_all(home).expect("a client's home");
        Client {
            home: home.to_path_buf(),
            mcloud_home: home.join("none"),
            net: None,
            user: None,
            vars: Vec::new(),
            under: Vec::new(),
        }
    }

    /// A client on the daemon's own machine.
    pub fn of(daemon: &Daemon, home: &Path) -> Client {
        Client { mcloud_home: daemon.home.clone(), net: daemon.net.clone(), ..Client::new(home) }
    }

    pub fn var(mut self, name: &str, value: &str) -> Client {
        self.vars.push((name.into(), value.into()));
        self
    }

    /// The same client with its program run by another: `strace -f …`.
    pub fn under(mut self, words: &[&str]) -> Client {
        self.under = words.iter().map(OsString::from).collect();
        self
    }

    /// The same client as an unprivileged user, who owns its home.
    pub fn by_user(mut self, id: u32) -> Client {
        self.user = Some(id);
        std::os::unix::fs::chown(&self.home, Some(id), Some(id)).expect("a home of its own");
        self
    }

    pub fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(net) = &self.net {
            words.extend(["ip", "netns", "exec", net].map(OsString::from));
        }
        if let Some(id) = self.user {
            words.extend(["setpriv".into(), format!("--reuid={id}").into(), format!("--regid={id}").into()]);
            words.extend(["--clear-groups", "--inh-caps=-all"].map(OsString::from));
        }
        words.extend(self.under.iter().cloned());
        words.push(binary());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(arguments).current_dir(&self.home).env_clear();
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .env("MCLOUD_HOME", &self.mcloud_home)
            .env("MCLOUD_CONFIG_DIR", self.home.join("config"))
            .env("XDG_CACHE_HOME", self.home.join("cache"))
            // What is tested is the wire; a test of the way without one takes this back.
            .env("MCLOUD_WIRE", "always")
            .envs(self.vars.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command with `--json` to its end.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Outcome {
        self.start(arguments).finish()
    }

    /// Starts a command with `--json`.
    pub fn start<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Running {
        let words: Vec<&OsStr> =
            [OsStr::new("--json")].into_iter().chain(arguments.iter().map(AsRef::as_ref)).collect();
        let (out, err) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
        let shown = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let child = self
            .command(&words)
            .stdout(out.try_clone().expect("a handle"))
            .stderr(err.try_clone().expect("a handle"))
            .spawn()
            .expect("mcloud starts");
        Running { child, out, err, shown, ended: false }
    }

    /// Runs a command as people do, without `--json`: whether it succeeded, and what it printed to standard output.
    pub fn plain<A: AsRef<OsStr>>(&self, arguments: &[A]) -> (bool, String) {
        let out = self.command(arguments).output().expect("mcloud starts");
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// `mcloud sync SOURCE TARGET`, with more options.
    pub fn sync(&self, source: impl AsRef<OsStr>, target: impl AsRef<OsStr>, more: &[&str]) -> Outcome {
        self.run(&sync_words(source, target, more))
    }

    pub fn start_sync(&self, source: impl AsRef<OsStr>, target: impl AsRef<OsStr>, more: &[&str]) -> Running {
        self.start(&sync_words(source, target, more))
    }

    /// Where the client remembers what it saw.
    pub fn cache(&self) -> PathBuf {
        self.home.join("cache")
    }
}

fn sync_words(source: impl AsRef<OsStr>, target: impl AsRef<OsStr>, more: &[&str]) -> Vec<OsString> {
    let mut words = vec![OsString::from("sync"), source.as_ref().into(), target.as_ref().into()];
    words.extend(more.iter().map(OsString::from));
    words
}

/// A command under way. Dropped, it is killed.
pub struct Running {
    pub child: Child,
    out: File,
    err: File,
    shown: String,
    ended: bool,
}

impl Running {
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until something like `text` was printed to standard output; false when the command ended without.
    pub fn saw(&mut self, text: &str) -> bool {
        let began = Instant::now();
        loop {
            let running = self.is_running();
            if read_all(&mut self.out).contains(text) {
                return true;
            }
            if !running {
                return false;
            }
            assert!(began.elapsed() < PATIENCE, "`mcloud {}` never said {text:?}", self.shown);
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Peak resident memory so far, bytes; 0 once it has ended.
    pub fn peak_memory(&self) -> u64 {
        peak_memory(self.child.id()).unwrap_or(0)
    }

    pub fn finish(mut self) -> Outcome {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            if began.elapsed() > PATIENCE {
                let err = read_all(&mut self.err);
                panic!("`mcloud {}` did not end in {PATIENCE:?}\n{err}", self.shown);
            }
            std::thread::sleep(Duration::from_millis(if began.elapsed() < Duration::from_secs(1) { 1 } else { 10 }));
        };
        self.ended = true;
        let (stdout, stderr) = (read_all(&mut self.out), read_all(&mut self.err));
        let events = stdout
            .lines()
            .filter(|line| status.code().is_some() || line.ends_with('}'))
            .map(|line| {
                serde_json::from_str(line)
                    .unwrap_or_else(|_| panic!("`mcloud {}` printed {line:?}\n{stderr}", self.shown))
            })
            .collect();
        Outcome { status, events, stderr, shown: std::mem::take(&mut self.shown) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read_all(file: &mut File) -> String {
    // The child writes through the same open file, so its place is put back where the child left it: at the end.
    let mut bytes = Vec::new();
    let mut copy = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file))).expect("a handle");
    copy.rewind().expect("a file");
    copy.read_to_end(&mut bytes).expect("bytes");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub events: Vec<Value>,
    pub stderr: String,
    shown: String,
}

impl Outcome {
    /// Fails unless the command ended with this exit status.
    #[track_caller]
    pub fn exits(self, code: i32) -> Outcome {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    #[track_caller]
    pub fn ok(self) -> Outcome {
        self.exits(0)
    }

    /// The last event.
    #[track_caller]
    pub fn last(&self) -> &Value {
        self.events.last().unwrap_or_else(|| panic!("no event\n{self}"))
    }

    #[track_caller]
    pub fn done(&self) -> &Value {
        assert_eq!(self.last()["event"], "done", "{self}");
        self.last()
    }

    /// A number of `done`.
    #[track_caller]
    pub fn count(&self, field: &str) -> u64 {
        self.done()[field].as_u64().unwrap_or_else(|| panic!("no number {field}\n{self}"))
    }

    /// Bytes on the wire, both ways.
    #[track_caller]
    pub fn wire(&self) -> u64 {
        self.count("bytes_sent") + self.count("bytes_received")
    }

    /// Fails unless the command was refused with this kind of error and exit status.
    #[track_caller]
    pub fn fails(self, code: i32, kind: &str) -> Outcome {
        assert_eq!(self.status.code(), Some(code), "{self}");
        assert_eq!((&self.last()["event"], &self.last()["kind"]), (&"error".into(), &kind.into()), "{self}");
        self
    }

    /// The proof: both root names are told and equal.
    #[track_caller]
    pub fn proves(self) -> Outcome {
        let (source, target) = (&self.done()["root_source"], &self.done()["root_target"]);
        assert!(source.as_str().is_some_and(|root| root.len() >= 32), "no root name\n{self}");
        assert_eq!(source, target, "{self}");
        self
    }

    /// All that was printed, for a look at words.
    pub fn text(&self) -> String {
        self.to_string()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "`mcloud {}` ended with {}", self.shown, self.status)?;
        let skip = self.events.len().saturating_sub(12);
        for event in self.events.iter().skip(skip) {
            writeln!(f, "  {event}")?;
        }
        for line in self.stderr.lines() {
            writeln!(f, "  | {line}")?;
        }
        Ok(())
    }
}

/// A running `mcloud server`. Dropped, it is killed.
pub struct Daemon {
    pub home: PathBuf,
    pub net: Option<String>,
    /// `ADDR:PORT` of its QUIC listener.
    pub address: String,
    pub admin: String,
    /// What it is started with the next time.
    pub vars: Vec<(String, String)>,
    /// `ADDR:PORT` of the tenants' pages.
    pub http: String,
    pub https: String,
    child: Child,
}

impl Daemon {
    /// Starts a daemon with its home in `home` and waits until it serves.
    pub fn start(home: &Path) -> Daemon {
        Daemon::start_in(home, None, "127.0.0.1:0", &[])
    }

    pub fn start_in(home: &Path, net: Option<&str>, listen: &str, vars: &[(String, String)]) -> Daemon {
        let client =
            Client { net: net.map(str::to_owned), vars: vars.to_vec(), ..Client::new(&home.with_extension("env")) };
        let free = "127.0.0.1:0";
        let mut command = client.command(&["server", "--home"]);
        command.arg(home).args(["--listen", listen, "--http", free, "--https", free, "--admin", free]);
        let log = File::options().append(true).create(true).open(home.with_extension("log")).expect("a log");
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("mcloud server starts");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("its output"));
        out.read_line(&mut line).expect("a line");
        let words = line.split_whitespace().filter_map(|word| word.split_once('='));
        let find = |name: &str| words.clone().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
        let (Some(address), true) = (find("listen"), line.starts_with("ready ")) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!(
                "mcloud server said {line:?}\n{}",
                fs::read_to_string(home.with_extension("log")).unwrap_or_default()
            );
        };
        // Its output stays read, so that it never meets a closed pipe.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        Daemon {
            home: home.to_path_buf(),
            net: net.map(str::to_owned),
            address,
            admin: find("admin").unwrap_or_default(),
            http: find("http").unwrap_or_default(),
            https: find("https").unwrap_or_default(),
            vars: vars.to_vec(),
            child,
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM; how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        let _ = kill_process(self.pid(), Signal::TERM);
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "the daemon does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts again, on the same address and home, after `kill` or `stop`.
    pub fn again(&mut self) {
        *self = Daemon::start_in(
            &self.home.clone(),
            self.net.clone().as_deref(),
            &self.address.clone(),
            &self.vars.clone(),
        );
    }

    /// `TENANT@HOST:PORT`.
    pub fn at(&self, tenant: &str) -> String {
        format!("{tenant}@{}", self.address)
    }

    /// Peak resident memory so far, bytes.
    pub fn peak_memory(&self) -> u64 {
        peak_memory(self.child.id()).expect("a process")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.home.with_extension("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon of {}:\n{}", self.home.display(), self.log());
        }
        self.kill();
    }
}

/// What a page says; fails unless its status is 200.
pub fn http(ip: &str, port: u16, path: &str) -> String {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect((ip, port)).unwrap_or_else(|error| panic!("{ip}:{port}: {error}"));
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    assert!(head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.0 200"), "{head}");
    body.to_owned()
}

fn peak_memory(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// A daemon, a tenant of it whose root volume is a folder that the test can see, and its admin.
pub struct Stage {
    pub admin: Client,
    pub daemon: Daemon,
    /// The tenant `shop`'s root volume.
    pub volume: PathBuf,
    pub dir: tempfile::TempDir,
}

impl Stage {
    pub fn new() -> Stage {
        Stage::with(&[])
    }

    /// With variables in the daemon's environment.
    pub fn with(vars: &[(String, String)]) -> Stage {
        let dir = super::scratch();
        let volume = dir.path().join("volume");
        fs::create_dir(&volume).expect("a folder");
        let daemon = Daemon::start_in(&dir.path().join("host"), None, "127.0.0.1:0", vars);
        let admin = Client::of(&daemon, &dir.path().join("admin"));
        let stage = Stage { admin, daemon, volume, dir };
        stage.init("shop", &stage.volume);
        stage
    }

    /// A tenant with a folder of the host as its root volume.
    pub fn init(&self, tenant: &str, volume: &Path) {
        let path = volume.to_str().expect("a plain path");
        self.admin.run(&["-h", &self.daemon.address, "init", tenant, "--path", path]).ok();
    }

    /// The tenant's reference.
    pub fn shop(&self) -> String {
        self.daemon.at("shop")
    }

    /// A fresh folder of the test.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).expect("a folder");
        path
    }
}
