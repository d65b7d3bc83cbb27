//! `mcloud mount`: a tree as a folder. In the background it is a process of its own, which tells this one when it is mounted.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::context::{self, Context};
use super::show;
use super::sync::whose;
use crate::daemon::client::{Client, ClientConfig, Tree};
use crate::fuse::adapter::{self, Mounted};
use crate::fuse::fs::{CACHE_BYTES, Fs};
use crate::fuse::table;
use crate::model::{Error, Host, Kind, Reference, Result};

/// Show a snapshot or a volume as a folder of this machine, read-only
///
/// A snapshot of several volumes has a folder for each; all snapshots of a tenant have one each, called by its time. A volume is shown
/// as it is at each moment: a change there is seen here within a second. Reading fails with an input/output error when the host
/// does not answer in time, and works again when it is back. SIGTERM and Ctrl-C unmount, as `mcloud unmount` does.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud mount 3f2a91c0 /mnt/then               a snapshot, by its id
  mcloud mount latest:shop@203.0.113.5 /mnt/then
  mcloud mount all:shop@203.0.113.5 /mnt/shop   all of its snapshots: /mnt/shop/2026-11-23T02:00:00Z/…
  mcloud mount redis.shop@203.0.113.5:/data /mnt/redis
  mcloud mount shop@203.0.113.5 /mnt/code       the tenant's own folder
  mcloud mount --foreground shop /mnt/code      until Ctrl-C
  mcloud unmount /mnt/redis")]
pub struct Mount {
    /// A snapshot's id or latest:REF, all:REF for all snapshots, or a volume: [SERVICE.]TENANT[@HOST][:/VOLUME]
    #[arg(value_name = "WHAT")]
    what: String,
    /// An empty folder
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Stay, and unmount at the end
    #[arg(long)]
    foreground: bool,
    /// How long a reader waits for a host that does not answer
    #[arg(long, value_name = "SECS", env = "MCLOUD_MOUNT_TIMEOUT", default_value = "30", value_parser = clap::value_parser!(u32).range(1..=3600))]
    timeout: u32,
    /// The process in the background: tell on standard output, then go on alone
    #[arg(long, hide = true)]
    detached: bool,
}

pub fn run(arguments: &Mount, context: &Context) -> Result<u8> {
    let (tree, host, source) = meant(&arguments.what, context)?;
    let dir = check(&arguments.dir)?;
    if !arguments.foreground && !arguments.detached {
        return in_background(arguments, &host, &dir, context);
    }
    if arguments.detached {
        crate::sys::process::leave_session();
    }
    let config = absolute(context::client_config()?)?;
    let patience = Duration::from_secs(arguments.timeout.into());
    context::block_on(async {
        let address = match &host {
            Host::Me => None,
            Host::At(address) => Some(address),
        };
        let look = Client::look(&config, address, tree, patience).await?;
        let mounting = {
            let (dir, source) = (dir.clone(), source.clone());
            move || adapter::mount(Fs::new(Arc::new(look), CACHE_BYTES)?, &dir, &source)
        };
        let mounting = tokio::task::spawn_blocking(mounting).await;
        let mut mounted = mounting.map_err(|cause| Error::failed("the mount broke").because(cause))??;
        if !tell(arguments, &source, &dir, context) {
            return mounted.unmount();
        }
        serve(&mut mounted).await?;
        mounted.unmount()
    })?;
    if !arguments.detached {
        context.out.done(json!({"dir": dir, "source": source}));
    }
    Ok(0)
}

/// What is to be mounted, of which host, and how it is called.
fn meant(what: &str, context: &Context) -> Result<(Tree, Host, String)> {
    if let Some(of) = what.strip_prefix("all:") {
        let of: Reference = of.parse()?;
        let host = context.host_of(&of)?;
        return Ok((
            Tree::Snapshots(of.clone()),
            host.clone(),
            format!("all:{}", Reference { host: Some(host), ..of }),
        ));
    }
    // An id is hexadecimal, and so may a tenant's name be: with a host behind it, a short one is taken for a name.
    let id = what.split_once('@').map_or(what, |(id, _)| id);
    let least = if id.len() < what.len() { 12 } else { 4 };
    let is_id = (least..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id || what.starts_with("latest:") {
        let (word, host) = whose(what, context)?;
        let source = format!("{word}@{host}");
        return Ok((Tree::Snapshot(word), host, source));
    }
    let reference: Reference = what.parse()?;
    let host = context.host_of(&reference)?;
    let source = Reference { host: Some(host.clone()), ..reference.clone() }.to_string();
    Ok((Tree::Volume(reference), host, source))
}

/// Says that it is mounted. False if nobody is there to hear it any more.
fn tell(arguments: &Mount, source: &str, dir: &Path, context: &Context) -> bool {
    if !arguments.detached {
        context.out.say(format!("{source} is mounted at {}; Ctrl-C unmounts", show::text(&dir.to_string_lossy())));
        context.out.event(&json!({"event": "mounted", "dir": dir, "source": source}));
        return true;
    }
    let mounted = json!({"event": "mounted", "dir": dir, "source": source, "pid": std::process::id()});
    let mut out = std::io::stdout().lock();
    let told = writeln!(out, "{mounted}").and_then(|()| out.flush()).is_ok();
    drop(out);
    told && crate::sys::process::leave_terminal().is_ok()
}

/// Until somebody unmounts it, or this process is told to end.
async fn serve(mounted: &mut Mounted) -> Result<()> {
    let hear = |kind| signal(kind).map_err(|cause| Error::io("cannot listen to signals", cause));
    let (mut term, mut interrupt) = (hear(SignalKind::terminate())?, hear(SignalKind::interrupt())?);
    let mut hangup = hear(SignalKind::hangup())?;
    tokio::select! {
        () = mounted.over() => {}
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// Starts the process that serves the mount, and waits until it does.
fn in_background(arguments: &Mount, host: &Host, dir: &Path, context: &Context) -> Result<u8> {
    let program = std::env::current_exe().map_err(|cause| Error::io("this program cannot be found", cause))?;
    let mut command = Command::new(program);
    command.arg("--json");
    if let Host::At(address) = host {
        command.arg("--host").arg(address.to_string());
    }
    let timeout = arguments.timeout.to_string();
    command.args(["mount", "--detached", "--timeout", &timeout, "--"]).arg(&arguments.what).arg(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let cannot = |cause| Error::io("the process that serves the mount cannot be started", cause);
    let mut child = command.spawn().map_err(cannot)?;
    let mut told = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut told).map_err(cannot)?;
    }
    let told: Value = serde_json::from_str(&told).unwrap_or_default();
    let text = |field: &str| told[field].as_str().map(str::to_owned);
    match text("event").as_deref() {
        Some("mounted") => {
            let source = text("source").unwrap_or_default();
            context.out.line(format!("{source} is mounted at {}", show::text(&dir.to_string_lossy())));
            context.out.detail(format!("process {} serves it; `mcloud unmount` ends it", child.id()));
            context.out.done(json!({"dir": dir, "source": source, "pid": child.id()}));
            Ok(0)
        }
        Some("error") => {
            let kind = Kind::from_word(&text("kind").unwrap_or_default());
            let mut error = Error::new(kind, text("message").unwrap_or_default());
            error.hint = text("hint");
            Err(error)
        }
        _ => Err(Error::failed("the process that serves the mount ended before it was mounted")
            .hint("`mcloud mount --foreground` shows more")),
    }
}

/// The folder, if something can be mounted there.
fn check(dir: &Path) -> Result<PathBuf> {
    let resolved = table::resolve(dir)?;
    let shown = show::text(&dir.to_string_lossy());
    if let Some(mount) = table::find(&resolved)?.filter(table::Mount::is_ours) {
        let what = mount.source.trim_start_matches(table::SOURCE).to_owned();
        return Err(Error::new(Kind::Busy, format!("{} is mounted at {shown} already", show::text(&what)))
            .hint("`mcloud unmount` takes it away"));
    }
    let mut entries = std::fs::read_dir(&resolved).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotADirectory => Error::usage(format!("{shown} is not a folder")),
        _ => Error::io(format!("cannot look into {shown}"), cause),
    })?;
    if entries.next().is_some() {
        return Err(Error::new(Kind::Refused, format!("{shown} is not empty: what is in it would be hidden"))
            .hint("mount at an empty folder"));
    }
    Ok(resolved)
}

/// The process may leave this folder.
fn absolute(config: ClientConfig) -> Result<ClientConfig> {
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).map_err(|cause| Error::io(format!("there is no {}", path.display()), cause))
    };
    Ok(ClientConfig { config_dir: absolute(config.config_dir)?, home: absolute(config.home)? })
}
