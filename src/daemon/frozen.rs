//! Views of a tenant's volumes as of one moment: the frozen source of `sync --force`, of snapshots and of schedules.
//!
//! Everything that can write one of the volumes is frozen together, all of them are cloned, and everything goes on; what is
//! copied is copied from the clones. Where the file system cannot clone, a live copy is made first, and just what has
//! changed since is copied during the freeze. What does not run is seen as it is, and kept from being started meanwhile.
//! What is frozen is written down before it is: a daemon that was killed thaws it when it starts again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::access::Principal;
use super::copies::{self, Stop, joined};
use super::lives::{self, Crew, Say};
use super::{Daemon, door, now_unix, tenants, uses};
use crate::model::host::{Role, VolumeRef};
use crate::model::running::Wanted;
use crate::model::sync::{Event, Plan, SyncOptions};
use crate::model::{Error, Kind, Result, Seat, TenantName};
use crate::release::clone::{self, Cloned, Snapshotted};
use crate::release::crash_point;
use crate::release::freeze::{Freezer, Held, Limits, Seen, thaw};
use crate::sync::{self, Cancel, LiveDir, Observer};
use crate::sys::dir::Dir;
use crate::sys::mapped::Mapped;
use crate::tenant::config::Service;
use crate::tenant::runtime::{State, label};
use crate::transport::identity::{private_dir, random, to_hex};
use crate::tree::index::{Twin, carry_over, doubt};

/// Views, for as long as this lives.
#[derive(Default)]
pub struct Frozen {
    /// In the order in which they were asked for.
    pub views: Vec<View>,
    /// How long the freeze lasted; zero where nothing had to be frozen.
    pub paused: Duration,
    pub held: Held,
    /// How often the engine refused to freeze a container before it did.
    refusals: u32,
    folder: Option<PathBuf>,
    /// Nothing of the tenant is started while its volumes are themselves the views.
    _still: Option<OwnedMutexGuard<()>>,
}

/// One volume as of that moment.
pub struct View {
    pub volume: VolumeRef,
    pub tree: LiveDir,
    /// The index of the volume itself, and by what it can learn from the view's.
    learns: Option<(PathBuf, Vec<Twin>)>,
}

impl Frozen {
    /// The view of a volume.
    pub fn view(&self, volume: &VolumeRef) -> Result<LiveDir> {
        let found = self.views.iter().find(|view| view.volume == *volume);
        found.map(|view| view.tree.clone()).ok_or_else(|| Error::failed(format!("{volume} is not among the views")))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let views = std::mem::take(&mut self.views);
        let Some(folder) = self.folder.take() else { return };
        let clear = move || {
            // What was learnt of a clone is known of its volume, too: the next view need not be read again.
            for view in views {
                if let (Some((index, twins)), Some(known)) = (view.learns, view.tree.index)
                    && let Err(error) = carry_over(&known, &index, &twins, &Mapped::default())
                {
                    tracing::debug!("{}: what was learnt is forgotten: {error}", view.volume);
                }
            }
            remove(&folder);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(clear)),
            Err(_) => clear(),
        }
    }
}

/// What a snapshot of a subvolume is called, in the folder of its view.
const SNAPSHOT: &str = "snapshot";

fn remove(folder: &std::path::Path) {
    for view in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if let Ok(view) = Dir::open(&view.path()) {
            clone::remove_snapshot(&view, SNAPSHOT.as_bytes());
        }
    }
    let parent = folder.parent().zip(folder.file_name());
    let removed =
        parent.map(|(parent, name)| Dir::open(parent).and_then(|dir| dir.remove_all(name.as_encoded_bytes())));
    if let Some(Err(error)) = removed {
        tracing::warn!("{} could not be removed: {error}", folder.display());
    }
}

/// Takes views of these volumes, all of one tenant, and notes in the audit log what came of it. `apart`: the views have to
/// be copies even where nothing runs, since the caller is going to write to another volume of this very tenant.
pub async fn frozen(
    daemon: &Arc<Daemon>,
    who: &Principal,
    tenant: &TenantName,
    volumes: Vec<VolumeRef>,
    apart: bool,
    say: Arc<Say>,
    cancel: Cancel,
) -> Result<Frozen> {
    // In a task of its own: whoever waits for it may go away, and what is frozen has to be thawed.
    let (daemon, who, tenant) = (daemon.clone(), who.clone(), tenant.clone());
    let running = daemon.running.clone();
    let taking = tokio::spawn(async move {
        let taken = noted(&daemon, &who, &tenant, volumes, apart, &*say, cancel).await;
        drop(running);
        taken
    });
    joined(taking.await)
}

async fn noted(
    daemon: &Arc<Daemon>,
    who: &Principal,
    tenant: &TenantName,
    volumes: Vec<VolumeRef>,
    apart: bool,
    say: &Say,
    cancel: Cancel,
) -> Result<Frozen> {
    let on = tenant.to_string();
    let number = daemon.state.audit_begin(&who.key, &who.label(), "freeze", &on, &on, now_unix())?;
    let taken = async {
        // Holding somebody's requests is more than reading.
        who.may(Role::Deployer, tenant)?;
        for volume in &volumes {
            copies::live(daemon, who, volume).await?;
        }
        take(daemon, tenant, volumes, apart, say, cancel).await
    }
    .await;
    let result = match &taken {
        Ok(Frozen { paused, refusals: 0, .. }) => format!("ok, frozen for {} ms", paused.as_millis()),
        Ok(Frozen { paused, refusals, .. }) => {
            format!("ok, frozen for {} ms; refused {refusals} times before", paused.as_millis())
        }
        Err(error) => format!("{}: {}", error.kind.word(), error.chain()),
    };
    daemon.state.audit_end(number, &result)?;
    taken
}

async fn take(
    daemon: &Arc<Daemon>,
    tenant: &TenantName,
    volumes: Vec<VolumeRef>,
    apart: bool,
    say: &Say,
    cancel: Cancel,
) -> Result<Frozen> {
    let still = life_of(daemon, tenant, say).await;
    let crew = lives::crew(daemon, None, tenant).await?;
    let live: Vec<LiveDir> = {
        let (home, row, volumes) = (daemon.home.clone(), crew.row.clone(), volumes.clone());
        let look = move || volumes.iter().map(|volume| tenants::live(&home, &row, volume)).collect();
        joined(tokio::task::spawn_blocking(look).await)?
    };
    let site = crew.site(say);
    let door = door::of(daemon, &Seat::here(tenant));
    let freezer = Freezer::new(&site, writers(&crew, &volumes), &*door, limits(daemon));
    let lives = lives_at_all(daemon, tenant).await?;
    let runs = lives && !freezer.seen().await?.running().is_empty();
    uses::no_stranger(daemon, &crew.row, &volumes).await?;
    if !runs && !apart {
        let as_it_is = volumes.into_iter().zip(live).map(|(volume, tree)| View { volume, tree, learns: None });
        let mut seen = Frozen::default();
        (seen.views, seen._still) = (as_it_is.collect(), Some(still));
        return Ok(seen);
    }
    let folder = daemon.home.frozen().join(to_hex(&random::<8>()?));
    let mut taken = Frozen::default();
    taken.folder = Some(folder.clone());
    let pairs: Vec<(VolumeRef, LiveDir)> = volumes.iter().cloned().zip(live).collect();
    let prepared = {
        let (folder, frozen, stop) = (folder, daemon.home.frozen(), cancel.clone());
        let prepare = move || {
            private_dir(&frozen)?;
            private_dir(&folder)?;
            pairs.into_iter().enumerate().map(|(number, pair)| Making::begin(&folder, number, pair, &stop)).collect()
        };
        joined(tokio::task::spawn_blocking(prepare).await)?
    };
    // That took a while: what is frozen is what runs now.
    let seen = if lives { freezer.seen().await? } else { Seen::default() };
    let (making, paused, held) = freeze(daemon, &freezer, tenant, &seen, prepared, &cancel).await?;
    uses::no_stranger(daemon, &crew.row, &volumes).await?;
    drop(still);
    let finish = move || making.into_iter().map(Making::finish).collect::<Result<Vec<View>>>();
    taken.views = joined(tokio::task::spawn_blocking(finish).await)?;
    (taken.paused, taken.held, taken.refusals) = (paused, held, freezer.refusals());
    Ok(taken)
}

/// Holds, freezes, looks, thaws, lets go; each with its way back.
async fn freeze(
    daemon: &Arc<Daemon>,
    freezer: &Freezer<'_>,
    tenant: &TenantName,
    seen: &Seen,
    making: Vec<Making>,
    cancel: &Cancel,
) -> Result<(Vec<Making>, Duration, Held)> {
    let containers = seen.running();
    if containers.is_empty() {
        let looked = tokio::task::spawn_blocking({
            let cancel = cancel.clone();
            move || look(making, &cancel)
        });
        return Ok((joined(looked.await)?, Duration::ZERO, Held::default()));
    }
    let number = daemon.state.freeze_begin(tenant, &containers, now_unix())?;
    crash_point!("freeze.noted");
    let left = freezer.hold().await;
    crash_point!("freeze.held");
    if left > 0 {
        (freezer.site.say)(None, format!("{left} requests have not ended yet; they wait out the freeze"));
    }
    let frozen = async {
        freezer.before().await?;
        crash_point!("freeze.hooked");
        let given_up = Cancel::default();
        let stop = Stop { cancel: cancel.clone(), stopping: daemon.stopping.clone() };
        let looking = given_up.clone();
        let looks = async move {
            let mut look = tokio::task::spawn_blocking(move || look(making, &looking));
            tokio::select! {
                looked = &mut look => joined(looked),
                () = stop.asked() => Err(stop.why()),
            }
        };
        let looked = freezer.during(seen, looks).await;
        given_up.store(true, Ordering::SeqCst);
        freezer.after(freezer.services.len()).await;
        looked
    }
    .await;
    let held = freezer.door.let_go();
    // What could not be thawed stays noted, and is thawed when Docker answers again.
    if thaw(freezer.site.runtime, &containers).await.is_ok() {
        daemon.state.freeze_end(number)?;
    }
    let (making, paused) = frozen?;
    Ok((making, paused, held))
}

/// Looks at all volumes, at once.
fn look(making: Vec<Making>, cancel: &Cancel) -> Result<Vec<Making>> {
    let mapped = Mapped::now();
    std::thread::scope(|scope| {
        let looks: Vec<_> = making.into_iter().map(|one| scope.spawn(|| one.look(&mapped, cancel))).collect();
        let broke = |_| Err(Error::failed("a thread of the daemon broke"));
        looks.into_iter().map(|look| look.join().unwrap_or_else(broke)).collect()
    })
}

/// A view on its way.
struct Making {
    volume: VolumeRef,
    /// The volume as it lives.
    live: LiveDir,
    view: LiveDir,
    how: How,
    mapped: Mapped,
}

enum How {
    Clone,
    Cloned(Cloned),
    /// A snapshot of a btrfs subvolume; what it was made of, once it is made.
    Snapshot(Option<Snapshotted>),
    /// A copy of its own, with an index of its own of the volume.
    Shadow(LiveDir),
}

impl Making {
    /// What can be done while the volume lives.
    fn begin(
        folder: &std::path::Path,
        number: usize,
        (volume, live): (VolumeRef, LiveDir),
        cancel: &Cancel,
    ) -> Result<Making> {
        let root = folder.join(number.to_string());
        private_dir(&root)?;
        let mut view =
            LiveDir { index: Some(folder.join(format!("{number}.idx"))), root, label: format!("{volume} (frozen)") };
        // What waits to be written would be written during the freeze.
        let flushed = Dir::open(&live.root).and_then(|dir| dir.sync_fs());
        flushed.map_err(|error| Error::io(format!("{volume} cannot be read"), error))?;
        let how = if clone::is_snapshot_possible(&live.root, &view.root) {
            view.root.push(SNAPSHOT);
            How::Snapshot(None)
        } else if clone::is_possible(&live.root, &view.root) {
            How::Clone
        } else {
            let index = folder.join(format!("{number}.source.idx"));
            if let Some(known) = live.index.as_ref().filter(|known| known.exists()) {
                // A memory that may be torn is found to be.
                let _ = std::fs::copy(known, &index);
            }
            let source = LiveDir { index: Some(index), ..live.clone() };
            // What does not stand still now will.
            shadow(&source, &view, cancel)?;
            How::Shadow(source)
        };
        Ok(Making { volume, live, view, how, mapped: Mapped::default() })
    }

    /// What has to be done while it stands still.
    fn look(mut self, mapped: &Mapped, cancel: &Cancel) -> Result<Making> {
        let cannot = |error| Error::io(format!("{} could not be cloned", self.volume), error);
        match &self.how {
            How::Shadow(source) => {
                if let Some(index) = &source.index {
                    doubt(index, mapped).map_err(cannot)?;
                }
                let left_out = shadow(source, &self.view, cancel)?;
                if left_out > 0 {
                    let volume = &self.volume;
                    return Err(Error::failed(format!("{left_out} entries of {volume} could not be copied"))
                        .hint("without --force they are listed, and left out"));
                }
            }
            How::Snapshot(_) => {
                self.how = How::Snapshot(Some(clone::snapshot_tree(&self.live.root, &self.view.root).map_err(cannot)?));
                self.mapped = mapped.clone();
            }
            How::Clone | How::Cloned(_) => {
                self.how = How::Cloned(clone::clone_tree(&self.live.root, &self.view.root, cancel).map_err(cannot)?);
                self.mapped = mapped.clone();
            }
        }
        Ok(self)
    }

    fn finish(self) -> Result<View> {
        let Making { volume, live, view, how, mapped } = self;
        let cannot = |error| Error::io(format!("{volume} could not be cloned"), error);
        let twins = match how {
            How::Cloned(cloned) => Some(cloned.finish(&view.root).map_err(cannot)?),
            How::Snapshot(Some(made)) => Some(made.finish(&view.root).map_err(cannot)?),
            How::Clone | How::Snapshot(None) | How::Shadow(_) => None,
        };
        let learns = match (twins, &view.index, live.index) {
            (Some(twins), Some(index), Some(known)) => {
                if let Err(error) = carry_over(&known, index, &twins, &mapped) {
                    tracing::debug!("{volume}: its clone is read whole: {error}");
                }
                let back =
                    twins.iter().filter_map(Twin::back).filter(|twin| !mapped.contains(twin.is.device, twin.is.ino));
                Some((known, back.collect()))
            }
            _ => None,
        };
        Ok(View { volume, tree: view, learns })
    }
}

/// Makes the shadow equal to the volume. Gives how many entries could not be.
fn shadow(volume: &LiveDir, shadow: &LiveDir, cancel: &Cancel) -> Result<u64> {
    let options = SyncOptions { force: true, ..SyncOptions::default() };
    let copied = sync::local(volume, shadow, &options, Arc::new(Quiet(volume.label.clone())), cancel.clone());
    let report = copied.map_err(|error| match error.kind {
        Kind::NoSpace => {
            let hint = "where the file system cannot clone, a frozen copy needs as much room as the volume; a tenant that \
                        is paused is copied without one";
            Error::new(Kind::NoSpace, format!("there is no room for a frozen copy of {}", volume.label)).hint(hint).because(error)
        }
        _ => error,
    })?;
    Ok(report.left_out)
}

struct Quiet(String);

impl Observer for Quiet {
    fn event(&self, event: Event) {
        if let Event::LeftOut(left) = event {
            tracing::debug!("{}: {:?}: {}", self.0, String::from_utf8_lossy(&left.path), left.reason);
        }
    }

    fn confirm(&self, _plan: &Plan) -> Result<bool> {
        Ok(true)
    }
}

/// Files that are written through memory have no stamps that could be believed: of what stands still now they are read anew.
pub async fn doubt_mapped(daemon: &Arc<Daemon>, volumes: Vec<VolumeRef>) -> Result<()> {
    let home = daemon.home.clone();
    let doubting = tokio::task::spawn_blocking(move || {
        let mapped = Mapped::now();
        for volume in &volumes {
            doubt(&home.index(volume), &mapped)
                .map_err(|error| Error::io(format!("the index of {volume} cannot be written"), error))?;
        }
        Ok(())
    });
    joined(doubting.await)
}

/// The lock by which nobody else starts or stops the tenant's services.
pub async fn life_of(daemon: &Arc<Daemon>, tenant: &TenantName, say: &Say) -> OwnedMutexGuard<()> {
    let lock = daemon.life_lock(tenant);
    match lock.clone().try_lock_owned() {
        Ok(held) => held,
        Err(_) => {
            say(None, format!("waiting: something else is done to {tenant}"));
            lock.lock_owned().await
        }
    }
}

pub fn limits(daemon: &Daemon) -> Limits {
    Limits { hold: daemon.hold, patience: daemon.hold / 3, freeze: daemon.freeze_limit }
}

/// The services that can write one of these volumes.
pub fn writers<'c>(crew: &'c Crew, volumes: &[VolumeRef]) -> Vec<&'c Service> {
    let writes = |service: &Service, volume: &VolumeRef| match &volume.data {
        Some(data) => data.service == service.name,
        None => !service.volumes.is_empty(),
    };
    let services = crew.config.services.iter();
    services.filter(|service| volumes.iter().any(|volume| writes(service, volume))).collect()
}

/// Whether anything is asked of its services; one that never lived needs no Docker to be looked at.
async fn lives_at_all(daemon: &Daemon, tenant: &TenantName) -> Result<bool> {
    Ok(!daemon.state.wanted(tenant)?.is_empty())
}

/// Thaws what a daemon froze that was killed, and removes what it was to look at. What the user paused stays so.
pub async fn recover(daemon: &Arc<Daemon>, is_meant: impl Fn(&TenantName) -> bool) -> Result<()> {
    for row in daemon.state.freezes()?.into_iter().filter(|row| is_meant(&row.tenant)) {
        let wanted = daemon.state.wanted(&row.tenant).unwrap_or_default();
        let mut ours = Vec::new();
        for id in row.containers {
            let Some(there) = daemon.runtime.inspect(&id).await? else { continue };
            let service = there.labels.get(label::SERVICE).cloned().unwrap_or_default();
            let once = there.labels.contains_key(label::ONCE);
            if there.state == State::Paused && (once || wanted.get(&service) != Some(&Wanted::Paused)) {
                ours.push(id);
            }
        }
        thaw(&*daemon.runtime, &ours).await?;
        if !ours.is_empty() {
            tracing::info!("{}: thawed what was frozen when the daemon ended", row.tenant);
        }
        daemon.state.freeze_end(row.number)?;
    }
    Ok(())
}

/// Removes the views that a daemon left which was killed.
pub fn clear(daemon: &Daemon) {
    for left in std::fs::read_dir(daemon.home.frozen()).into_iter().flatten().flatten() {
        remove(&left.path());
    }
}
