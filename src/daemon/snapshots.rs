//! Snapshots as they are asked for: taken of volumes of this host, listed, served as sources, removed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::access::Principal;
use super::copies::{Linked, joined};
use super::frozen::{Frozen, frozen};
use super::{Daemon, StoreConfig, now_unix, requests, tenants};
use crate::model::host::{DataVolume, Role, Tenant, VolumeRef};
use crate::model::sync::{Event, LeftOut};
use crate::model::{Error, Kind, Name, Result, ServiceName, TenantName, VolumePath};
use crate::store::place::Place;
use crate::store::save::save;
use crate::store::seal::Key;
use crate::store::snapshot::{How, Snapshot, Volume, meant};
use crate::store::{Pin, Store, serve};
use crate::sync::{self, Cancel, LiveDir};
use crate::transport::source::Cut;
use crate::transport::{Receiver, Stream};
use crate::tree::link::{Open, SourceEnd, pair};
use crate::wire::proto::{self, response};
use crate::wire::{host as wire, nonsense, sync as wire_sync};

/// Events on their way to a client; more make the work wait.
const EVENTS: usize = 64;
/// The longest tag, and the most of them.
const TAG_BYTES: usize = 64;
const TAGS: usize = 32;

/// The host's store, opened when it is needed first.
pub struct Kept {
    config: StoreConfig,
    open: Mutex<Option<Arc<Store>>>,
}

impl Kept {
    pub fn at(config: StoreConfig) -> Kept {
        Kept { config, open: Mutex::default() }
    }
}

impl Daemon {
    /// The store. Blocks while it is opened for the first time.
    pub(super) fn store(&self) -> Result<Arc<Store>> {
        let mut open = self.store.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = &*open {
            return Ok(store.clone());
        }
        let StoreConfig { url, key, plain } = &self.store.config;
        let (place, cache) = match url {
            None => {
                let dir = self.home.dir().join("store");
                (Place::Folder(dir.clone()), dir.join("index"))
            }
            Some(url) => {
                let place = Place::bucket(url, tokio::runtime::Handle::current())?;
                (place, self.home.dir().join("store-cache").join(Name::of(url.as_bytes()).to_string()))
            }
        };
        let key = match key {
            Some(path) => Some(Key::in_file(path)?),
            None if url.is_some() && !plain => Some(Key::in_file(&self.home.dir().join("keys/store.key"))?),
            None => None,
        };
        let store = Arc::new(Store::open(place, &cache, key)?);
        *open = Some(store.clone());
        Ok(store)
    }

    /// All snapshots that `who` may see, the oldest first.
    pub(super) fn snapshots_for(&self, who: &Principal) -> Result<Vec<(Name, Snapshot)>> {
        let mut all = self.store()?.snapshots()?;
        all.retain(|(_, snapshot)| who.sees(&snapshot.tenant));
        Ok(all)
    }
}

/// What a ticket's secret is good for: a snapshot's volume is not the volume as it lives.
pub fn ticket(secret: &[u8], snapshot: &[u8]) -> Vec<u8> {
    [secret, snapshot].concat()
}

pub fn list(daemon: &Daemon, who: &Principal) -> Result<response::What> {
    who.is_enrolled()?;
    Ok(answer(daemon.snapshots_for(who)?))
}

/// The snapshots that these words mean.
pub fn find(daemon: &Daemon, who: &Principal, words: &[String]) -> Result<response::What> {
    Ok(answer(meant_by(daemon, who, words)?))
}

/// The same, for us.
pub fn meant_by(daemon: &Daemon, who: &Principal, words: &[String]) -> Result<Vec<(Name, Snapshot)>> {
    who.is_enrolled()?;
    let all = daemon.snapshots_for(who)?;
    words.iter().map(|word| meant(word, &all).cloned()).collect()
}

/// Removes the snapshots that these words mean, all or none of them.
pub fn remove(daemon: &Daemon, who: &Principal, words: &[String]) -> Result<response::What> {
    let all = daemon.snapshots_for(who)?;
    let mut found = words.iter().map(|word| meant(word, &all).cloned()).collect::<Result<Vec<_>>>()?;
    found.sort_by_key(|(id, _)| *id);
    found.dedup_by_key(|(id, _)| *id);
    for (_, snapshot) in &found {
        who.may(Role::Deployer, &snapshot.tenant)?;
    }
    for (id, snapshot) in &found {
        let on = format!("{id} of {}", snapshot.of);
        requests::note(daemon, who, "snapshot remove", snapshot.tenant.as_str(), &on, &mut || {
            daemon.store()?.remove(&[*id])?;
            Ok(response::What::Done(proto::Done {}))
        })?;
    }
    Ok(answer(found))
}

fn answer(snapshots: Vec<(Name, Snapshot)>) -> response::What {
    response::What::Snapshots(proto::Snapshots { snapshots: entries(&snapshots), ..Default::default() })
}

pub fn entries(snapshots: &[(Name, Snapshot)]) -> Vec<proto::SnapshotEntry> {
    let entry = |(id, snapshot): &(Name, Snapshot)| proto::SnapshotEntry {
        id: Bytes::copy_from_slice(&id.0),
        record: snapshot.encode().into(),
    };
    snapshots.iter().map(entry).collect()
}

/// A volume of a snapshot that stays readable while this lives.
pub struct KeptVolume {
    store: Arc<Store>,
    volume: Volume,
    label: String,
    _pin: Pin,
}

impl KeptVolume {
    /// Serves it as a source. Blocks.
    pub fn serve(self, end: SourceEnd) -> Result<()> {
        serve(&self.store, &self.volume, &self.label, end)
    }
}

/// A volume in a snapshot, by the snapshot's id.
pub fn found(daemon: &Daemon, id: &[u8], volume: &VolumeRef) -> Result<KeptVolume> {
    let id = Name::from_slice(id).ok_or_else(|| nonsense("a snapshot's id that is none"))?;
    let store = daemon.store()?;
    let (snapshot, pin) = store.hold(id)?;
    let volumes: Vec<String> = snapshot.volumes.iter().map(Volume::label).collect();
    let found = snapshot.volumes.into_iter().find(|kept| kept.data == volume.data && snapshot.tenant == volume.tenant);
    let kept = found.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("the snapshot {} has no volume {volume}", short(id)))
            .hint(format!("it has {}", volumes.join(", ")))
    })?;
    let label = format!("{volume} in the snapshot {}", short(id));
    Ok(KeptVolume { store, volume: kept, label, _pin: pin })
}

/// As [`found`], for somebody who has to be allowed to read it.
pub fn volume(daemon: &Daemon, who: &Principal, id: &[u8], volume: &VolumeRef) -> Result<KeptVolume> {
    who.may(Role::Viewer, &volume.tenant)?;
    found(daemon, id, volume)
}

/// As people write an id.
fn short(id: Name) -> String {
    id.to_string()[..12].to_owned()
}

/// A link to a volume of a snapshot of this daemon, and how the audit log calls it.
pub fn link(
    daemon: &Arc<Daemon>,
    who: &Principal,
    from: proto::SnapshotSource,
) -> Result<(String, BoxFuture<'static, Result<Linked>>)> {
    let of = wire::volume_in(from.volume)?;
    let id = Name::from_slice(&from.id).ok_or_else(|| nonsense("a snapshot's id that is none"))?;
    let label = format!("{of} in the snapshot {}", short(id));
    let (daemon, who) = (daemon.clone(), who.clone());
    let link = async move {
        let looking = daemon.clone();
        let kept = tokio::task::spawn_blocking(move || volume(&looking, &who, &id.0, &of)).await;
        let kept = joined(kept)?;
        let (end, source) = pair();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = kept.serve(source) {
                tracing::info!("a snapshot as a source: {}", error.chain());
            }
        });
        Ok(Linked { end, cut: Cut::default(), connection: None })
    };
    Ok((label, Box::pin(link)))
}

/// What a snapshot is to be of.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub tenant: TenantName,
    pub service: Option<ServiceName>,
    pub volume: Option<VolumePath>,
    pub tags: Vec<String>,
    /// While all that it is of stands still.
    pub frozen: bool,
}

impl Wanted {
    /// The reference, without a host.
    pub fn of(&self) -> String {
        let service = self.service.as_ref().map_or(String::new(), |service| format!("{service}."));
        let volume = self.volume.as_ref().map_or(String::new(), |volume| format!(":{volume}"));
        format!("{service}{}{volume}", self.tenant)
    }

    /// The volumes that this means, the root volume first.
    fn volumes(&self, tenant: &Tenant) -> Result<Vec<VolumeRef>> {
        let all = tenants::all_volumes(tenant);
        let Some(service) = &self.service else {
            if let Some(volume) = &self.volume {
                return Err(Error::usage(format!("`{}` names a volume but not its service", self.of()))
                    .hint(format!("such as SERVICE.{}:{volume}", self.tenant)));
            }
            return Ok(all);
        };
        let wanted =
            |data: &DataVolume| data.service == *service && self.volume.as_ref().is_none_or(|path| data.path == *path);
        let found: Vec<VolumeRef> =
            all.iter().filter(|volume| volume.data.as_ref().is_some_and(wanted)).cloned().collect();
        if found.is_empty() {
            let there: Vec<String> = all.iter().skip(1).map(ToString::to_string).collect();
            let hint = match there.is_empty() {
                true => format!("{} has no data volumes; `{}` alone means its own folder", self.tenant, self.tenant),
                false => format!("there is {}", there.join(", ")),
            };
            return Err(Error::new(Kind::NotFound, format!("there is no data volume {}", self.of())).hint(hint));
        }
        Ok(found)
    }
}

/// A snapshot that was taken.
pub struct Taken {
    pub id: Name,
    pub snapshot: Snapshot,
    pub bytes_new: u64,
    pub bytes_stored: u64,
    pub bytes_read: u64,
    pub seconds: f64,
}

/// Takes a snapshot. `hear` hears events; it is called on threads that may block.
pub async fn take(
    daemon: &Arc<Daemon>,
    who: &Principal,
    wanted: Wanted,
    hear: Arc<dyn Fn(Event) + Send + Sync>,
    cancel: Cancel,
) -> Result<Taken> {
    let running = daemon.running.clone();
    let kill = cancel.clone();
    let of = wanted.of();
    let _listed = daemon.tasks.begin("snapshot", &of, &who.label(), move || kill.store(true, Ordering::SeqCst));
    // Noted before anything is frozen for it: one that failed in its freeze is in the audit log, too.
    let (noting, key, label, on) = (daemon.clone(), who.key, who.label(), of.clone());
    let tenant = wanted.tenant.to_string();
    let begin = move || noting.state.audit_begin(&key, &label, "snapshot", &tenant, &on, now_unix());
    let number = joined(tokio::task::spawn_blocking(begin).await)?;
    let done = taken(daemon, who, wanted, hear, cancel).await;
    let result = match &done {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{}: {}", error.kind.word(), error.chain()),
    };
    let noting = daemon.clone();
    joined(tokio::task::spawn_blocking(move || noting.state.audit_end(number, &result)).await)?;
    drop(running);
    done
}

async fn taken(
    daemon: &Arc<Daemon>,
    who: &Principal,
    wanted: Wanted,
    hear: Arc<dyn Fn(Event) + Send + Sync>,
    cancel: Cancel,
) -> Result<Taken> {
    let still = match wanted.frozen {
        true => Some(freeze(daemon, who, &wanted, hear.clone(), cancel.clone()).await?),
        false => None,
    };
    let (daemon, who) = (daemon.clone(), who.clone());
    let work = move || take_blocking(&daemon, &who, &wanted, still.as_ref(), &*hear, &cancel);
    joined(tokio::task::spawn_blocking(work).await)
}

fn take_blocking(
    daemon: &Arc<Daemon>,
    who: &Principal,
    wanted: &Wanted,
    still: Option<&Frozen>,
    hear: &(dyn Fn(Event) + Send + Sync),
    cancel: &Cancel,
) -> Result<Taken> {
    who.may(Role::Deployer, &wanted.tenant)?;
    let row = tenants::find(&daemon.state, &wanted.tenant, |name| who.sees(name))?;
    let store = daemon.store()?;
    let known = store.snapshots()?;
    let mut sources = Vec::new();
    for volume in wanted.volumes(&row.tenant)? {
        let before = known.iter().any(|(_, snapshot)| {
            snapshot.tenant == volume.tenant && snapshot.volumes.iter().any(|kept| kept.data == volume.data)
        });
        let dir = match still {
            Some(still) => still.view(&volume)?,
            None => tenants::live(&daemon.home, &row, &volume)?,
        };
        sources.push(Source { dir, data: volume.data, fresh: !before });
    }
    let mut record = Snapshot {
        taken_ms: now_ms(),
        tenant: wanted.tenant.clone(),
        of: wanted.of(),
        how: match still {
            Some(still) => How::Frozen { freeze_ms: still.paused.as_millis() as u64 },
            None => How::Live,
        },
        tags: wanted.tags.clone(),
        by: who.label(),
        volumes: Vec::new(),
    };
    // Two of one moment are still told apart, and the later one is the later one.
    if let Some((_, last)) = known.last() {
        record.taken_ms = record.taken_ms.max(last.taken_ms + 1);
    }
    let began = Instant::now();
    let (mut bytes_read, mut bytes_new, mut bytes_stored) = (0, 0, 0);
    let (id, snapshot) = store.snapshot(&|text| hear(Event::Note(text)), |writer| {
        for source in &sources {
            if sources.len() > 1 {
                hear(Event::Note(format!("{} …", source.dir.label)));
            }
            let (volume, read) = take_one(writer, source, hear, cancel)?;
            bytes_read += read;
            record.volumes.push(volume);
        }
        writer.settle()?;
        (bytes_new, bytes_stored) = writer.bytes();
        Ok(record)
    })?;
    Ok(Taken { id, snapshot, bytes_new, bytes_stored, bytes_read, seconds: began.elapsed().as_secs_f64() })
}

/// Freezes what a snapshot is to be of.
async fn freeze(
    daemon: &Arc<Daemon>,
    who: &Principal,
    wanted: &Wanted,
    hear: Arc<dyn Fn(Event) + Send + Sync>,
    cancel: Cancel,
) -> Result<Frozen> {
    who.may(Role::Deployer, &wanted.tenant)?;
    let (looking, meant, by) = (daemon.clone(), wanted.clone(), who.clone());
    let volumes = move || {
        let row = tenants::find(&looking.state, &meant.tenant, |name| by.sees(name))?;
        meant.volumes(&row.tenant)
    };
    let volumes = joined(tokio::task::spawn_blocking(volumes).await)?;
    // It is said on threads of the runtime, where nobody may wait.
    let say = move |service: Option<&ServiceName>, text: String| {
        let note = service.map_or_else(|| text.clone(), |service| format!("{service}: {text}"));
        let hear = hear.clone();
        tokio::task::spawn_blocking(move || hear(Event::Note(note)));
    };
    frozen(daemon, who, &wanted.tenant, volumes, false, Arc::new(say), cancel).await
}

/// A tree that is to be taken.
struct Source {
    dir: LiveDir,
    data: Option<DataVolume>,
    /// It was never taken before: its contents are read as they are sent, not before.
    fresh: bool,
}

fn take_one(
    writer: &crate::store::Writer<'_>,
    source: &Source,
    hear: &(dyn Fn(Event) + Send + Sync),
    cancel: &Cancel,
) -> Result<(Volume, u64)> {
    let (target, end) = pair();
    let (saved, served) = std::thread::scope(|scope| {
        let serving = scope.spawn(|| sync::serve(&source.dir, end));
        let open = Open { fresh: source.fresh, holes: true, ..Open::default() };
        let saved = save(writer, target, open, hear, cancel);
        (saved, serving.join())
    });
    let saved = match (saved, served) {
        // What stopped the source explains more than that it stopped.
        (Err(error), Ok(Err(why))) if error.kind == Kind::Unreachable => return Err(why),
        (saved, _) => saved?,
    };
    let left_out = saved.left_out.len() as u64;
    for LeftOut { path, reason } in saved.left_out {
        hear(Event::LeftOut(LeftOut { path, reason }));
    }
    let root = saved.root;
    let (entries, bytes, holes) = (saved.entries, saved.bytes, saved.holes);
    let volume = Volume { data: source.data.clone(), root, entries, bytes, left_out, holes };
    Ok((volume, saved.bytes_read))
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let now = crate::sys::clock::file_clock();
    u64::try_from(now.seconds).unwrap_or(0) * 1000 + u64::from(now.nanos) / 1_000_000
}

/// Tags as they may be: short, printable, each once, in order.
fn tags(mut tags: Vec<String>) -> Result<Vec<String>> {
    let good = |tag: &String| !tag.is_empty() && tag.len() <= TAG_BYTES && !tag.chars().any(char::is_control);
    if let Some(wrong) = tags.iter().find(|tag| !good(tag)) {
        return Err(Error::usage(format!("`{}` cannot be a tag", wrong.escape_debug()))
            .hint(format!("a tag is a word of up to {TAG_BYTES} bytes")));
    }
    tags.sort();
    tags.dedup();
    match tags.len() <= TAGS {
        true => Ok(tags),
        false => Err(Error::usage(format!("a snapshot has {TAGS} tags at the most"))),
    }
}

/// Takes a snapshot for a client, and tells it of it on this stream.
pub async fn create(daemon: Arc<Daemon>, who: Principal, stream: Stream, create: proto::SnapshotCreate) {
    let Stream { mut sender, receiver } = stream;
    let (events, mut outbox) = mpsc::channel(EVENTS);
    let cancel = Cancel::default();
    let hearing = tokio::spawn(hear_stop(receiver, cancel.clone()));
    let stopping = tokio::spawn(stop_with(daemon.clone(), cancel.clone()));
    let working = async {
        let hear = Arc::new(move |event| {
            // A client that is gone does not hear it; the work learns of that through `cancel`.
            let _ = events.blocking_send(response::What::SyncEvent(wire_sync::event_out(event)));
        });
        take(&daemon, &who, wanted_in(create)?, hear, cancel).await
    };
    let telling = async {
        while let Some(what) = outbox.recv().await {
            if sender.send(&proto::Response { what: Some(what) }).await.is_err() {
                break;
            }
        }
        // Nobody hears any more: what is still said goes nowhere.
        while outbox.recv().await.is_some() {}
        sender
    };
    let (mut sender, done) = tokio::join!(telling, working);
    hearing.abort();
    stopping.abort();
    let what = match done {
        Ok(taken) => response::What::Snapshots(proto::Snapshots {
            snapshots: entries(&[(taken.id, taken.snapshot)]),
            bytes_new: taken.bytes_new,
            bytes_stored: taken.bytes_stored,
            bytes_read: taken.bytes_read,
            seconds: taken.seconds,
        }),
        Err(error) => response::What::Failure(wire_sync::failure_out(&error)),
    };
    if sender.send(&proto::Response { what: Some(what) }).await.is_ok() {
        sender.finish();
        sender.delivered().await;
    }
}

fn wanted_in(create: proto::SnapshotCreate) -> Result<Wanted> {
    let proto::SnapshotCreate { tenant, service, path, force, tags: given } = create;
    Ok(Wanted {
        tenant: TenantName::new(&tenant)?,
        service: if service.is_empty() { None } else { Some(ServiceName::new(&service)?) },
        volume: if path.is_empty() { None } else { Some(VolumePath::new(&path)?) },
        tags: tags(given)?,
        frozen: force,
    })
}

/// A stream that ends or breaks is a client that is gone; either way the work is to end.
pub async fn hear_stop(mut receiver: Receiver, cancel: Cancel) {
    let _ = receiver.receive::<proto::SyncControl>().await;
    cancel.store(true, Ordering::SeqCst);
}

async fn stop_with(daemon: Arc<Daemon>, cancel: Cancel) {
    while !daemon.stopping.load(Ordering::SeqCst) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    cancel.store(true, Ordering::SeqCst);
}
