//! Syncs in every direction through real daemons: what arrives, what is said, who may, and what happens when somebody goes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Condvar;

use super::client::{Client, sync_between};
use super::tests::{Host, new_tenant};
use super::*;
use crate::model::between::Between;
use crate::model::host::VolumeRef;
use crate::model::sync::{Event, Plan, Report, SyncOptions};
use crate::model::{Kind, Reference, TenantName};
use crate::sync::{Cancel, LiveDir, Observer};

/// Hears everything, and answers `yes` when it is let.
struct Ears {
    events: Mutex<Vec<Event>>,
    answer: bool,
    /// Whether the question may be answered.
    open: Mutex<bool>,
    opened: Condvar,
    asked: AtomicU64,
}

impl Ears {
    fn new(answer: bool, open: bool) -> Arc<Ears> {
        let (open, opened, asked) = (Mutex::new(open), Condvar::new(), AtomicU64::new(0));
        Arc::new(Ears { events: Mutex::default(), answer, open, opened, asked })
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    async fn until_asked(&self) {
        while self.asked.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn notes(&self) -> Vec<String> {
        let notes = |event: &Event| match event {
            Event::Note(note) => Some(note.clone()),
            _ => None,
        };
        self.events.lock().unwrap().iter().filter_map(notes).collect()
    }
}

impl Observer for Ears {
    fn event(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    fn confirm(&self, _plan: &Plan) -> Result<bool> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        drop(self.opened.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap());
        Ok(self.answer)
    }
}

fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, LiveDir) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    fs::create_dir(&root).unwrap();
    for (name, content) in files {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), content).unwrap();
    }
    (dir, LiveDir { root, index: None, label: "the folder".into() })
}

/// All files below a folder.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut rest = vec![root.to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                rest.push(path);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn at(text: &str) -> Reference {
    text.parse().unwrap()
}

fn volume(host: &Host, reference: &str) -> PathBuf {
    let reference = at(reference);
    let data =
        reference.service.zip(reference.volume).map(|(service, path)| crate::model::host::DataVolume { service, path });
    host.started.daemon.home.volume(&VolumeRef { tenant: reference.tenant, data })
}

async fn push(client: &Client, from: &LiveDir, to: &str, ears: &Arc<Ears>) -> Result<Report> {
    client.sync_push(from, &at(to), &SyncOptions::default(), ears.clone(), Cancel::default()).await
}

async fn pull(client: &Client, from: &str, to: &LiveDir) -> Result<Report> {
    client.sync_pull(&at(from), to, &SyncOptions::default(), Ears::new(true, true), Cancel::default()).await
}

async fn between(
    source: &Client,
    target: &Client,
    from: &str,
    to: &str,
    code: bool,
    ears: &Arc<Ears>,
) -> Result<Report> {
    let between = Between { from: at(from), to: at(to), code };
    sync_between(source, target, &between, &SyncOptions::default(), ears.clone(), Cancel::default()).await
}

const SOME: [(&str, &str); 3] = [("a.txt", "alpha"), ("deep/er/b.txt", "beta"), ("c", "")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_goes_to_a_tenant_and_comes_back() {
    let host = Host::start().await;
    let admin = host.admin().await;
    admin.tenant_init(&new_tenant("shop")).await.unwrap();
    let (_dir, from) = folder(&SOME);
    let ears = Ears::new(true, true);
    let report = push(&admin, &from, "shop", &ears).await.unwrap();
    assert_eq!(files(&volume(&host, "shop")), files(&from.root));
    assert_eq!((report.files_created, report.files_removed), (3, 1), "the mcloud.yml of init is not in the folder");
    assert!(report.root_source.is_some() && report.root_source == report.root_target);
    assert!(report.bytes_sent > 0 && report.bytes_received > 0);
    assert!(
        ears.events.lock().unwrap().iter().any(|event| matches!(event, Event::Planned(plan) if plan.created.count > 0))
    );
    assert_eq!(ears.asked.load(Ordering::SeqCst), 1);

    let again = push(&admin, &from, "shop", &Ears::new(true, true)).await.unwrap();
    assert_eq!((again.files_created, again.files_updated), (0, 0));

    let (_dir, back) = folder(&[("old", "gone soon")]);
    let report = pull(&admin, "shop", &back).await.unwrap();
    assert_eq!(files(&back.root), files(&from.root));
    assert!(report.bytes_sent > 0 && report.bytes_received > 0);

    push(&admin, &from, "redis.shop:/data", &Ears::new(true, true)).await.unwrap();
    assert_eq!(files(&volume(&host, "redis.shop:/data")), files(&from.root));
    let audit = admin.audit(None, 0).await.unwrap();
    assert_eq!(audit.iter().filter(|entry| entry.what == "sync" && entry.result == "ok").count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_and_a_wrong_reference_change_nothing() {
    let host = Host::start().await;
    let admin = host.admin().await;
    admin.tenant_init(&new_tenant("shop")).await.unwrap();
    let (_dir, from) = folder(&SOME);
    let before = files(&volume(&host, "shop"));
    assert_eq!(push(&admin, &from, "shop", &Ears::new(false, true)).await.unwrap_err().kind, Kind::Refused);
    assert_eq!(files(&volume(&host, "shop")), before);

    let wrong = async |to: &str| push(&admin, &from, to, &Ears::new(true, true)).await.unwrap_err();
    let error = wrong("shup").await;
    assert!(error.kind == Kind::NotFound && error.hint.unwrap().contains("shop"));
    let error = wrong("redis.shop:/dta").await;
    assert!(error.kind == Kind::NotFound && error.hint.unwrap().contains("redis.shop:/data"));
    assert_eq!(wrong("redis.shop").await.kind, Kind::Usage);
    let (_dir, to) = folder(&[]);
    assert_eq!(pull(&admin, "shup", &to).await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_reads_and_does_not_write() {
    let host = Host::start().await;
    let admin = host.admin().await;
    admin.tenant_init(&new_tenant("shop")).await.unwrap();
    admin.tenant_init(&new_tenant("blog")).await.unwrap();
    let (_dir, from) = folder(&SOME);
    push(&admin, &from, "shop", &Ears::new(true, true)).await.unwrap();
    let vic = host.enrol("vic", Role::Viewer, &["shop"]).await;
    let (_dir, to) = folder(&[]);
    pull(&vic, "shop", &to).await.unwrap();
    assert_eq!(files(&to.root), files(&from.root));
    let error = push(&vic, &from, "shop", &Ears::new(true, true)).await.unwrap_err();
    assert!(error.kind == Kind::Refused && error.message.contains("deployer"), "{}", error.chain());
    assert_eq!(pull(&vic, "blog", &to).await.unwrap_err().kind, Kind::Refused);

    let dan = host.enrol("dan", Role::Deployer, &["blog"]).await;
    let here = Ears::new(true, true);
    assert!(
        between(&dan, &dan, "redis.shop:/data", "redis.blog:/data", false, &here).await.is_err(),
        "no right on the source"
    );
    assert!(
        between(&vic, &vic, "redis.shop:/data", "redis.blog:/data", false, &here).await.is_err(),
        "no right on the target"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenants_data_goes_to_another_on_one_host() {
    let host = Host::start().await;
    let admin = host.admin().await;
    for name in ["a", "b"] {
        admin.tenant_init(&new_tenant(name)).await.unwrap();
    }
    let (_dir, from) = folder(&SOME);
    push(&admin, &from, "redis.a:/data", &Ears::new(true, true)).await.unwrap();
    push(&admin, &from, "a", &Ears::new(true, true)).await.unwrap();
    let code_before = files(&volume(&host, "b"));
    let report = between(&admin, &admin, "a", "b", false, &Ears::new(true, true)).await.unwrap();
    assert_eq!(files(&volume(&host, "redis.b:/data")), files(&from.root));
    assert_eq!(files(&volume(&host, "b")), code_before, "B's code stays");
    assert_eq!((report.files_created, report.bytes_sent), (3, 0));

    let ears = Ears::new(true, true);
    between(&admin, &admin, "a", "b", true, &ears).await.unwrap();
    assert_eq!(files(&volume(&host, "b")), files(&from.root));
    assert_eq!(ears.notes().iter().filter(|note| note.contains('→')).count(), 2);
    let same = between(&admin, &admin, "redis.a:/data", "redis.a:/data", false, &ears).await.unwrap_err();
    assert_eq!(same.kind, Kind::Refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_hosts_data_goes_straight_to_another_host() {
    let (one, two) = (Host::start().await, Host::start().await);
    let (first, second) = (one.admin().await, two.admin().await);
    first.tenant_init(&new_tenant("a")).await.unwrap();
    second.tenant_init(&new_tenant("b")).await.unwrap();
    let (_dir, from) = folder(&SOME);
    push(&first, &from, "redis.a:/data", &Ears::new(true, true)).await.unwrap();
    let ears = Ears::new(true, true);
    let report = between(&first, &second, "a", "b", false, &ears).await.unwrap();
    assert_eq!(files(&volume(&two, "redis.b:/data")), files(&from.root));
    assert_eq!(report.files_created, 3);
    assert!(report.bytes_sent > 0 && report.bytes_received > 0);
    assert!(report.root_source.is_some() && report.root_source == report.root_target);
    assert!(ears.events.lock().unwrap().iter().any(|event| matches!(event, Event::Planned(_))));
    let read = first.audit(Some(&TenantName::new("a").unwrap()), 0).await.unwrap();
    assert!(read.iter().any(|entry| entry.what == "ticket" && entry.result == "ok"));

    // The ticket is used up, and the other host's key alone opens nothing.
    let key = second.whoami().host_key.parse().unwrap();
    assert_eq!(one.started.daemon.state.standing(&key, now_unix()).unwrap(), Standing::Unknown);

    let vic = one.enrol("vic", Role::Viewer, &["other"]).await;
    let error = between(&vic, &second, "redis.a:/data", "redis.b:/data", false, &ears).await.unwrap_err();
    assert!(matches!(error.kind, Kind::Refused | Kind::NotFound), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sync_into_a_volume_waits_and_says_so() {
    let host = Host::start().await;
    let (first, second) = (host.admin().await, host.admin().await);
    first.tenant_init(&new_tenant("shop")).await.unwrap();
    let (_one, from_one) = folder(&[("f", "one")]);
    let (_two, from_two) = folder(&[("f", "two"), ("g", "two")]);
    let (slow, quick) = (Ears::new(true, false), Ears::new(true, true));
    let waited = async {
        slow.until_asked().await;
        let removing = first.tenant_remove(&TenantName::new("shop").unwrap(), true).await.unwrap_err();
        assert_eq!(removing.kind, Kind::Busy);
        let opening = async {
            while quick.notes().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            slow.open();
        };
        tokio::join!(push(&second, &from_two, "shop", &quick), opening).0
    };
    let (one, two) = tokio::join!(push(&first, &from_one, "shop", &slow), waited);
    one.unwrap();
    two.unwrap();
    assert!(quick.notes()[0].contains("waiting"), "{:?}", quick.notes());
    assert_eq!(files(&volume(&host, "shop")), files(&from_two.root));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_is_stopped_or_whose_client_is_gone_leaves_the_target_as_it_was() {
    let host = Host::start().await;
    let admin = host.admin().await;
    admin.tenant_init(&new_tenant("shop")).await.unwrap();
    let before = files(&volume(&host, "shop"));
    let (_dir, from) = folder(&SOME);

    // Ctrl-C at the question.
    let (ears, cancel) = (Ears::new(true, false), Cancel::default());
    let stopping = async {
        ears.until_asked().await;
        cancel.store(true, Ordering::SeqCst);
    };
    let (to, options) = (at("shop"), SyncOptions::default());
    let pushing = admin.sync_push(&from, &to, &options, ears.clone(), cancel.clone());
    let (stopped, ()) = tokio::join!(pushing, stopping);
    assert_eq!(stopped.unwrap_err().kind, Kind::Cancelled);
    ears.open();

    // The client dies at the question.
    let ears = Ears::new(true, false);
    let doomed = host.admin().await;
    let pushing = push(&doomed, &from, "shop", &ears);
    tokio::select! {
        _ = pushing => panic!("nobody answered"),
        () = ears.until_asked() => {}
    }
    doomed.close().await;
    ears.open();
    while Arc::strong_count(&host.started.daemon.running) > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(files(&volume(&host, "shop")), before);
    push(&admin, &from, "shop", &Ears::new(true, true)).await.unwrap();
    assert_eq!(files(&volume(&host, "shop")), files(&from.root));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_stops_ends_its_syncs_where_they_are() {
    let host = Host::start().await;
    let admin = host.admin().await;
    admin.tenant_init(&new_tenant("shop")).await.unwrap();
    let before = files(&volume(&host, "shop"));
    let (_dir, from) = folder(&SOME);
    let ears = Ears::new(true, false);
    let stopping = async {
        ears.until_asked().await;
        drain(&host.started.daemon).await;
    };
    let (stopped, ()) = tokio::join!(push(&admin, &from, "shop", &ears), stopping);
    ears.open();
    let error = stopped.unwrap_err();
    assert!(error.kind == Kind::Unreachable && error.message.contains("stops"), "{}", error.chain());
    assert_eq!(files(&volume(&host, "shop")), before);
}
