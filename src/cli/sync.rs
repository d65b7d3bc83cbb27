//! `mcloud sync`: what is copied where, and how it is told.

mod local;
mod observer;
mod plan;
mod rate;
mod watch;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde_json::{Value, json};

use crate::daemon::client::{Client, Restore, restore_to_tenant, sync_between};
use crate::model::between::{Between, Sum};
use crate::model::sync::{Report, SyncOptions};
use crate::model::{Error, Host, Kind, Place, Reference, Result};
use crate::sync::Cancel;

use super::context::{self, Context};
use super::output::Output;
use super::show;
pub use observer::Watching;

/// Make one tree equal to another
///
/// The target becomes equal to the source: new, changed, moved and removed entries, with all their metadata. What is
/// equal is not read again, what was moved is not sent again. On a terminal the plan is shown and a question asked.
///
/// SRC and DST are folders, or references: [SERVICE.]TENANT@HOST[:PORT][:/VOLUME]; SRC can be a snapshot, too, by its id or as
/// latest:REF (see `mcloud help snapshot`). A tenant without a volume means its code,
/// when the other one is a folder, and its data volumes when the other one is a tenant, too.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud sync . shop@203.0.113.5                         code to a tenant
  mcloud sync shop@203.0.113.5 ./copy                    and back
  mcloud sync redis.shop@203.0.113.5:/data ./data        one data volume
  mcloud sync shop@203.0.113.5 next@203.0.113.5          all data of one tenant to another
  mcloud sync latest:shop ./copy                         a snapshot
  mcloud sync /srv/a /srv/b --dry-run                    two folders, no daemon; only show what would be done
  mcloud sync . shop@me --watch --exclude '*.log'        again after each change")]
pub struct Sync {
    /// What is copied
    #[arg(value_name = "SRC")]
    source: OsString,
    /// What becomes equal to it
    #[arg(value_name = "DST")]
    target: OsString,
    /// No question, no halt rule
    #[arg(long)]
    force: bool,
    /// Only show the plan
    #[arg(long)]
    dry_run: bool,
    /// No question
    #[arg(long)]
    yes: bool,
    /// Keep what the source lacks
    #[arg(long)]
    no_remove: bool,
    /// Only this part of both trees
    #[arg(long, value_name = "SUB")]
    path: Option<OsString>,
    /// Leave out, and leave alone at the target, what matches (gitignore syntax); may be given again
    #[arg(long, value_name = "PAT")]
    exclude: Vec<String>,
    /// Read every file again, whatever is remembered of it
    #[arg(long)]
    checksum: bool,
    /// Between tenants: copy the code (the root volume), too
    #[arg(long)]
    code: bool,
    /// Go on: sync again after each change of the source folder, until Ctrl-C
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
    /// At most so many bytes a second: 500K, 10M, 1.5G (powers of 1000) or 64MiB (of 1024)
    #[arg(long, value_name = "RATE")]
    bwlimit: Option<String>,
    /// Leave services that use a target volume running
    #[arg(long)]
    no_restart: bool,
}

/// Between what.
enum Way {
    Folders(PathBuf, PathBuf),
    Push(PathBuf, Reference),
    Pull(Reference, PathBuf),
    Tenants(Between),
    Restore(Restore, Host, Place),
}

/// How a snapshot is restored.
#[derive(Args, Debug, Default)]
pub struct RestoreOptions {
    /// No question, no halt rule
    #[arg(long)]
    force: bool,
    /// Only show the plan
    #[arg(long)]
    dry_run: bool,
    /// No question
    #[arg(long)]
    yes: bool,
    /// Keep what the snapshot lacks
    #[arg(long)]
    no_remove: bool,
    /// Only this part of both trees
    #[arg(long, value_name = "SUB")]
    path: Option<OsString>,
    /// Leave out, and leave alone at the target, what matches (gitignore syntax); may be given again
    #[arg(long, value_name = "PAT")]
    exclude: Vec<String>,
    /// Read every file of the target again, whatever is remembered of it
    #[arg(long)]
    checksum: bool,
    /// To a tenant: the code (the root volume), too
    #[arg(long)]
    code: bool,
    /// Only this volume of the snapshot: `root`, or SERVICE:/PATH
    #[arg(long, value_name = "VOLUME")]
    volume: Option<String>,
    /// At most so many bytes a second: 500K, 10M, 1.5G (powers of 1000) or 64MiB (of 1024)
    #[arg(long, value_name = "RATE")]
    bwlimit: Option<String>,
    /// Leave services that use a target volume running
    #[arg(long)]
    no_restart: bool,
}

pub fn run(arguments: Sync, context: Context) -> Result<u8> {
    if let Some(word) = arguments.source.to_str().filter(|word| is_snapshot(word)) {
        if arguments.watch {
            return Err(Error::usage("--watch follows a folder of this machine, and the source is a snapshot")
                .hint("a snapshot does not change: sync it once"));
        }
        let word = word.to_owned();
        let Sync { target, force, dry_run, yes, no_remove, path, exclude, checksum, code, bwlimit, no_restart, .. } =
            arguments;
        let options = RestoreOptions {
            force,
            dry_run,
            yes,
            no_remove,
            path,
            exclude,
            checksum,
            code,
            volume: None,
            bwlimit,
            no_restart,
        };
        return restore(&word, &target, &options, context);
    }
    let options = options(&arguments)?;
    let mut source = Place::parse(&arguments.source)?;
    let mut target = Place::parse(&arguments.target)?;
    if arguments.watch {
        // `.` is a path, too: what is there later, not the folder that was there at first, wherever it went.
        for place in [&mut source, &mut target] {
            if let Place::Folder(folder) = place {
                *folder = std::path::absolute(&*folder)
                    .map_err(|cause| Error::io(format!("{} cannot be named", folder.display()), cause))?;
            }
        }
    }
    let way = match (source, target) {
        (Place::Folder(from), Place::Folder(to)) => Way::Folders(from, to),
        (Place::Folder(from), Place::Tenant(to)) => Way::Push(from, to),
        (Place::Tenant(from), Place::Folder(to)) => Way::Pull(from, to),
        (Place::Tenant(from), Place::Tenant(to)) => Way::Tenants(Between { from, to, code: arguments.code }),
    };
    if arguments.code && !matches!(way, Way::Tenants(_)) {
        return Err(Error::usage("--code is for a sync from one tenant to another")
            .hint("between a folder and a tenant it is the code that is copied: leave --code out"));
    }
    let watched = match &way {
        _ if !arguments.watch => None,
        Way::Folders(from, _) | Way::Push(from, _) => Some(from.clone()),
        Way::Pull(..) | Way::Tenants(_) | Way::Restore(..) => {
            return Err(Error::usage("--watch follows a folder of this machine, and the source is a tenant")
                .hint("run it where the folder is, or sync again from time to time"));
        }
    };
    context::block_on(finish(way, options, watched, context))
}

async fn finish(way: Way, options: SyncOptions, watched: Option<PathBuf>, context: Context) -> Result<u8> {
    let watching = Arc::new(Watching::new(context.out.clone(), options.clone()));
    let cancel = Cancel::default();
    stop_on_signals(context.out.clone(), cancel.clone(), watching.clone());
    let job = Job { way, options, watching, cancel, out: context.out };
    match watched {
        None => {
            let report = job.once().await?;
            job.out.done(fields(&report));
            Ok(if report.left_out > 0 { 5 } else { 0 })
        }
        Some(folder) => watch::run(&job, &folder).await,
    }
}

/// Whether a source is meant as a snapshot: `latest:REF`, or an id, where there is no folder of this name.
fn is_snapshot(word: &str) -> bool {
    // With a host behind it, a short id could be a tenant's name: `db01@host`.
    let (id, least) = word.split_once('@').map_or((word, 4), |(id, _)| (id, 12));
    let is_id = id.len() >= least && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    word.starts_with("latest:")
        || is_id && id.bytes().any(|byte| byte.is_ascii_digit()) && !PathBuf::from(word).exists()
}

/// A snapshot to wherever it is to be.
pub fn restore(word: &str, target: &OsString, arguments: &RestoreOptions, context: Context) -> Result<u8> {
    let options = SyncOptions {
        force: arguments.force,
        yes: arguments.yes,
        dry_run: arguments.dry_run,
        no_remove: arguments.no_remove,
        checksum: arguments.checksum,
        path: arguments.path.as_ref().map_or(Ok(Vec::new()), |path| sub_path(path.as_bytes()))?,
        exclude: arguments.exclude.clone(),
        bytes_per_second: arguments.bwlimit.as_deref().map_or(Ok(0), rate::parse)?,
        no_restart: arguments.no_restart,
    };
    let to = Place::parse(target)?;
    let (word, host) = whose(word, &context)?;
    context::block_on(async move {
        let found = context::connect(&host).await?.snapshot_find(&[word]).await?;
        let Some((id, snapshot)) = found.into_iter().next() else {
            return Err(Error::failed("the daemon does not say which snapshot that is"));
        };
        let what = Restore { id, snapshot, volume: arguments.volume.clone(), code: arguments.code };
        if let Place::Folder(folder) = &to {
            // Said before anything is made.
            let several = what.folders()?.len() > 1;
            if several && !options.dry_run {
                std::fs::create_dir_all(folder)
                    .map_err(|cause| Error::io(format!("{} cannot be made", folder.display()), cause))?;
            }
        }
        finish(Way::Restore(what, host, to), options, None, context).await
    })
}

/// The host behind a snapshot's `@`, else the one that the command is about.
pub(super) fn whose(word: &str, context: &Context) -> Result<(String, Host)> {
    if let Some(of) = word.strip_prefix("latest:") {
        let mut reference: Reference = of.parse()?;
        let host = reference.host.take().map_or_else(|| context.host(), Ok)?;
        return Ok((format!("latest:{reference}"), host));
    }
    match word.split_once('@') {
        Some((id, host)) => Ok((id.to_owned(), host.parse()?)),
        None => Ok((word.to_owned(), context.host()?)),
    }
}

/// Several volumes, each to a folder of its own; one alone is the folder itself.
async fn restore_to_folders(what: &Restore, host: &Host, folder: &std::path::Path, job: &Job) -> Result<Report> {
    let client = job.connect(host).await?;
    let mut sum = Sum::default();
    for (volume, below) in what.folders()? {
        let folder = below.map_or_else(|| folder.to_owned(), |below| folder.join(below));
        let to = local::live_dir(&folder, &job.out);
        sum.add(
            client.snapshot_pull(what.id, &volume, &to, &job.options, job.watching.clone(), job.cancel.clone()).await?,
        );
    }
    Ok(sum.report)
}

/// A sync that can be done again.
struct Job {
    way: Way,
    options: SyncOptions,
    watching: Arc<Watching>,
    cancel: Cancel,
    out: Arc<Output>,
}

impl Job {
    /// Does it, and tells people what was done.
    async fn once(&self) -> Result<Report> {
        let report = self.round().await?;
        self.watching.list_left_out();
        if !self.out.quiet {
            self.out.line(plan::summary(&report, self.options.dry_run));
        }
        Ok(report)
    }

    /// Does it.
    async fn round(&self) -> Result<Report> {
        self.watching.begin();
        let report = self.attempt().await;
        self.watching.end();
        report.map_err(|error| {
            if self.cancel.load(Ordering::Relaxed) && error.kind == Kind::Cancelled {
                Error { message: "stopped; the target is as it was".to_owned(), ..error }
            } else {
                error
            }
        })
    }

    /// A connection to one daemon; Ctrl-C does not wait for it.
    async fn connect(&self, host: &Host) -> Result<Client> {
        let mut stopped = std::pin::pin!(self.watching.stopped.notified());
        stopped.as_mut().enable();
        if !self.cancel.load(Ordering::Relaxed) {
            tokio::select! {
                client = context::connect(host) => return client,
                () = stopped => {}
            }
        }
        Err(Error::new(Kind::Cancelled, "stopped; the target is as it was"))
    }

    async fn attempt(&self) -> Result<Report> {
        let (options, observer, cancel) = (&self.options, self.watching.clone(), self.cancel.clone());
        match &self.way {
            Way::Folders(from, to) => local::run(from, to, options, observer, cancel, &self.out).await,
            Way::Push(from, to) => {
                let client = self.connect(host_of(to)).await?;
                client.sync_push(&local::live_dir(from, &self.out), to, options, observer, cancel).await
            }
            Way::Pull(from, to) => {
                let client = self.connect(host_of(from)).await?;
                client.sync_pull(from, &local::live_dir(to, &self.out), options, observer, cancel).await
            }
            Way::Tenants(between) => {
                let (from, to) = (host_of(&between.from), host_of(&between.to));
                let source = self.connect(from).await?;
                if from == to {
                    return sync_between(&source, &source, between, options, observer, cancel).await;
                }
                let target = self.connect(to).await?;
                sync_between(&source, &target, between, options, observer, cancel).await
            }
            Way::Restore(what, host, Place::Folder(folder)) => restore_to_folders(what, host, folder, self).await,
            Way::Restore(what, host, Place::Tenant(to)) => {
                let source = self.connect(host).await?;
                if host == host_of(to) {
                    return restore_to_tenant(&source, &source, what, to, options, observer, cancel).await;
                }
                let target = self.connect(host_of(to)).await?;
                restore_to_tenant(&source, &target, what, to, options, observer, cancel).await
            }
        }
    }
}

fn host_of(reference: &Reference) -> &Host {
    reference.host.as_ref().unwrap_or(&Host::Me)
}

fn options(arguments: &Sync) -> Result<SyncOptions> {
    Ok(SyncOptions {
        force: arguments.force,
        yes: arguments.yes,
        dry_run: arguments.dry_run,
        no_remove: arguments.no_remove,
        checksum: arguments.checksum,
        path: arguments.path.as_ref().map_or(Ok(Vec::new()), |path| sub_path(path.as_bytes()))?,
        exclude: arguments.exclude.clone(),
        bytes_per_second: arguments.bwlimit.as_deref().map_or(Ok(0), rate::parse)?,
        no_restart: arguments.no_restart,
    })
}

/// `--path`: relative, beneath the root.
fn sub_path(path: &[u8]) -> Result<Vec<u8>> {
    let wrong = |what: &str| {
        Error::usage(format!("--path `{}` {what}", show::path(path)))
            .hint("it is a path inside both trees, such as uploads or var/www")
    };
    if path.starts_with(b"/") {
        return Err(wrong("is absolute"));
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(wrong("has `..` in it")),
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

/// The first Ctrl-C asks the engine to stop at the next safe place, the second one ends the program.
fn stop_on_signals(out: Arc<Output>, cancel: Cancel, watching: Arc<Watching>) {
    use tokio::signal::unix::{SignalKind, signal};
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        let seen = AtomicBool::new(false);
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if seen.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            cancel.store(true, Ordering::Relaxed);
            watching.stopped.notify_waiters();
            if watching.is_asking() {
                // The engine waits for the answer, and the answer for a line that will not come.
                let error = Error::new(Kind::Cancelled, "stopped; the target is as it was");
                out.end_line();
                out.error(&error);
                std::process::exit(i32::from(error.kind.exit_status()));
            }
            out.say("stopping (Ctrl-C again ends at once) …");
        }
    });
}

/// Who watches a sync that somebody else does.
pub fn watching(out: Arc<Output>) -> Arc<Watching> {
    let watching = Watching::new(out, SyncOptions::default());
    watching.begin();
    // Nobody is asked.
    watching.agree();
    Arc::new(watching)
}

/// What a sync did, in a line.
pub fn summary(report: &Report) -> String {
    plan::summary(report, false)
}

/// What `done` carries.
pub fn fields(report: &Report) -> Value {
    let root =
        |name: Option<crate::model::Name>| name.filter(crate::model::Name::is_known).map(|name| name.to_string());
    json!({
        "files_created": report.files_created,
        "files_updated": report.files_updated,
        "files_moved": report.files_moved,
        "files_removed": report.files_removed,
        "entries_total": report.entries_total,
        "bytes_total": report.bytes_total,
        "bytes_read": report.bytes_read,
        "bytes_sent": report.bytes_sent,
        "bytes_received": report.bytes_received,
        "seconds": report.seconds,
        "paused_ms": report.paused_ms,
        "held_requests": report.held_requests,
        "root_source": root(report.root_source),
        "root_target": root(report.root_target),
    })
}

#[cfg(test)]
mod tests {
    use super::sub_path;

    #[test]
    fn a_tenant_with_a_host_is_no_snapshot() {
        use super::is_snapshot;
        assert!(is_snapshot("latest:shop") && is_snapshot("3f2a") && is_snapshot("3f2a91c03f2a@me"));
        assert!(
            !is_snapshot("db01@203.0.113.5")
                && !is_snapshot("cafe1@me")
                && !is_snapshot("shop@me")
                && !is_snapshot("./3f2a")
        );
    }

    #[test]
    fn a_part_of_the_tree_is_beneath_its_root() {
        assert_eq!(sub_path(b"a/b/").ok().as_deref(), Some(&b"a/b"[..]));
        assert_eq!(sub_path(b"./a//b").ok().as_deref(), Some(&b"a/b"[..]));
        assert_eq!(sub_path(b".").ok().as_deref(), Some(&b""[..]));
        assert!(sub_path(b"/a").is_err() && sub_path(b"../a").is_err() && sub_path(b"a/../../b").is_err());
    }
}
