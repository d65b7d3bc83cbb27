//! A sync in this process: both ends on threads, no command line, no daemon, no wire.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use mcloud::model::sync::{Event, Plan, Report, SyncOptions};
use mcloud::model::{Error, Result};
use mcloud::sync::{LiveDir, Observer, run, serve};
use mcloud::tree::link::pair;

/// Two folders, each with an index or none, and what the last sync between them told.
pub struct Engine {
    pub source: PathBuf,
    pub target: PathBuf,
    pub indexes: Option<PathBuf>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    events: Mutex<Vec<Event>>,
    refuse: AtomicBool,
}

impl Observer for Seen {
    fn event(&self, event: Event) {
        self.events.lock().expect("events").push(event);
    }

    fn confirm(&self, _: &Plan) -> Result<bool> {
        Ok(!self.refuse.load(std::sync::atomic::Ordering::Relaxed))
    }
}

impl Engine {
    /// Below `dir`: `source`, `target` and the indexes.
    pub fn below(dir: &Path) -> Engine {
        let [source, target, indexes] = ["source", "target", "indexes"].map(|name| dir.join(name));
        for path in [&source, &target, &indexes] {
            std::fs::create_dir_all(path).expect("a folder");
        }
        Engine { source, target, indexes: Some(indexes), seen: Arc::default() }
    }

    pub fn sync(&self, options: &SyncOptions) -> Result<Report> {
        self.seen.events.lock().expect("events").clear();
        let live = |root: &Path, name: &str| LiveDir {
            root: root.to_path_buf(),
            index: self.indexes.as_ref().map(|dir| dir.join(name)),
            label: name.to_owned(),
        };
        let (target_end, source_end) = pair();
        let source = live(&self.source, "source.idx");
        let serving = std::thread::spawn(move || serve(&source, source_end));
        let target = live(&self.target, "target.idx");
        let report = run(&target, target_end, options, self.seen.clone(), Arc::new(AtomicBool::new(false)));
        let served = serving.join().map_err(|_| Error::failed("the source panicked"))?;
        if report.is_ok() {
            served?;
        }
        report
    }

    /// A sync that has to come off, and to prove it.
    #[track_caller]
    pub fn proves(&self, options: &SyncOptions, context: &str) -> Report {
        match self.sync(options) {
            Ok(report) => {
                assert!(report.root_source.is_some(), "{context}: no root name");
                assert_eq!(report.root_source, report.root_target, "{context}");
                report
            }
            Err(error) => panic!("{context}: {} ({:?})", error.chain(), error.hint),
        }
    }

    /// What was told of the last sync.
    pub fn events(&self) -> Vec<Event> {
        self.seen.events.lock().expect("events").clone()
    }

    pub fn refuse(&self, so: bool) {
        self.seen.refuse.store(so, std::sync::atomic::Ordering::Relaxed);
    }
}

/// No halt rule in the way.
pub fn forced() -> SyncOptions {
    SyncOptions { force: true, ..SyncOptions::default() }
}
