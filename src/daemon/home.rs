//! The folder in which a daemon keeps everything, and what one process says there to others: that it runs, and where.
//!
//! Whoever can read it is the host's admin, so it is its owner's alone.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::model::host::VolumeRef;
use crate::model::{Error, Kind, Result, TenantName};
use crate::transport::identity::private_dir;

/// A daemon's folder.
#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
}

/// What a running daemon says about itself, for clients of the same machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub pid: u32,
    pub listen: SocketAddr,
    /// The host's public key, hexadecimal.
    pub host_key: String,
}

impl Running {
    /// Where a client of this machine finds it.
    pub fn reach(&self) -> SocketAddr {
        let ip = match self.listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, self.listen.port())
    }
}

/// Held as long as a daemon has its home to itself.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

/// The longest name of a volume's folder that is made from its path; longer paths are hashed.
const READABLE_NAME: usize = 200;

impl Home {
    pub fn at(dir: &Path) -> Home {
        Home { dir: dir.to_owned() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn host_key(&self) -> PathBuf {
        self.dir.join("keys/host.key")
    }

    /// The key of whoever can read this home.
    pub fn admin_key(&self) -> PathBuf {
        self.dir.join("keys/admin.key")
    }

    /// Certificates with their keys, and the accounts at CAs.
    pub fn certs(&self) -> PathBuf {
        self.dir.join("certs")
    }

    pub fn database(&self) -> PathBuf {
        self.dir.join("state.db")
    }

    pub fn tenant(&self, tenant: &TenantName) -> PathBuf {
        self.dir.join("tenants").join(tenant.as_str())
    }

    pub fn root_volume(&self, tenant: &TenantName) -> PathBuf {
        self.tenant(tenant).join("root")
    }

    /// The folder of a volume, unless it is a root volume that lives elsewhere.
    pub fn volume(&self, volume: &VolumeRef) -> PathBuf {
        match &volume.data {
            None => self.root_volume(&volume.tenant),
            Some(data) => self
                .tenant(&volume.tenant)
                .join("volumes")
                .join(data.service.as_str())
                .join(file_name_of(data.path.as_str())),
        }
    }

    pub fn indexes(&self, tenant: &TenantName) -> PathBuf {
        self.dir.join("index").join(tenant.as_str())
    }

    pub fn index(&self, volume: &VolumeRef) -> PathBuf {
        let name = match &volume.data {
            None => "root.idx".to_owned(),
            Some(data) => format!("{}.{}.idx", data.service, file_name_of(data.path.as_str())),
        };
        self.indexes(&volume.tenant).join(name)
    }

    /// Where the views of frozen volumes are, on the file system of the volumes.
    pub fn frozen(&self) -> PathBuf {
        self.dir.join("frozen")
    }

    /// Makes the folder and takes it for this process alone.
    pub fn take(&self) -> Result<HomeLock> {
        private_dir(&self.dir)?;
        let shown = self.dir.display();
        fs::set_permissions(&self.dir, Permissions::from_mode(0o700))
            .map_err(|error| Error::io(format!("cannot make the home {shown} private"), error))?;
        let cannot = |error: std::io::Error| Error::io(format!("cannot lock the home {shown}"), error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.dir.join("lock"))
            .map_err(cannot)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(HomeLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let who = match self.running() {
                    Ok(running) => format!("process {}, listening at {}", running.pid, running.listen),
                    Err(_) => "another process, which is still starting".to_owned(),
                };
                Err(Error::new(Kind::Busy, format!("a daemon already runs in {shown}: {who}"))
                    .hint("one daemon a home: stop that one, or give this one another --home"))
            }
            Err(error) => Err(cannot(error.into())),
        }
    }

    fn running_file(&self) -> PathBuf {
        self.dir.join("running.json")
    }

    pub fn say_running(&self, running: &Running) -> Result<()> {
        let text =
            serde_json::to_vec(running).map_err(|error| Error::failed("cannot say where I listen").because(error))?;
        let (file, fresh) = (self.running_file(), self.dir.join("running.json.new"));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut opened| opened.write_all(&text))
            .and_then(|()| fs::rename(&fresh, &file));
        written.map_err(|error| Error::io(format!("cannot write {}", file.display()), error))
    }

    pub fn say_stopped(&self) {
        let _ = fs::remove_file(self.running_file());
    }

    /// The daemon that runs here, as far as its last word goes.
    pub fn running(&self) -> Result<Running> {
        let file = self.running_file();
        let text = fs::read(&file).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                Error::new(Kind::Unreachable, format!("no daemon runs here (its home would be {})", self.dir.display()))
                    .hint("start one with `mcloud server`, or name a host with -h HOST")
            }
            ErrorKind::PermissionDenied => {
                Error::new(Kind::Unreachable, format!("the daemon's home {} may not be read", self.dir.display()))
                    .hint("who can read it is the host's admin; others need an invite, and name the host with -h HOST")
            }
            _ => Error::io(format!("cannot read {}", file.display()), error),
        })?;
        serde_json::from_slice(&text).map_err(|error| {
            Error::new(Kind::Corrupt, format!("{} is damaged", file.display()))
                .hint("restart the daemon")
                .because(error)
        })
    }
}

/// A path as one name: `/` and `%` are escaped, the leading slash is dropped.
fn file_name_of(path: &str) -> String {
    let name = path.trim_start_matches('/').replace('%', "%25").replace('/', "%2F");
    match name.len() {
        0..=READABLE_NAME => name,
        _ => format!("%{}", blake3::hash(path.as_bytes()).to_hex()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_has_one_daemon_and_the_second_hears_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        assert_eq!(home.running().unwrap_err().kind, Kind::Unreachable);
        let lock = home.take().unwrap();
        assert_eq!(fs::metadata(home.dir()).unwrap().permissions().mode() & 0o777, 0o700);
        let running = Running { pid: 42, listen: "0.0.0.0:7".parse().unwrap(), host_key: "k".into() };
        home.say_running(&running).unwrap();
        assert_eq!(home.running().unwrap(), running);
        assert_eq!(running.reach().to_string(), "127.0.0.1:7");
        let error = home.take().unwrap_err();
        assert_eq!(error.kind, Kind::Busy);
        assert!(error.message.contains("42") && error.message.contains("0.0.0.0:7"), "{error}");
        drop(lock);
        home.take().unwrap();
    }

    #[test]
    fn paths_of_volumes_become_names_that_differ_and_lead_nowhere() {
        assert_eq!(file_name_of("/data"), "data");
        assert_eq!(file_name_of("/var/lib/x"), "var%2Flib%2Fx");
        assert_ne!(file_name_of("/a/b"), file_name_of("/a%2Fb"));
        let long = format!("/{}", "x/".repeat(1000));
        assert!(file_name_of(&long).len() < 100);
        assert_ne!(file_name_of(&long), file_name_of(&format!("{long}y")));
    }
}
