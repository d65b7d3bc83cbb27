//! The folders of the host that a tenant's containers see: data volumes, and what lies in its root volume.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::binds::Binds;
use super::home::Home;
use super::state::{State, TenantRow};
use super::{Daemon, tenants};
use crate::model::host::{DataVolume, VolumeRef};
use crate::model::{Error, Result, ServiceName, TenantName, VolumePath};
use crate::sys::dir::{Dir, is_dir};
use crate::tenant::config::LocalPath;
use crate::tenant::lifecycle::{self, Context};

/// The folders of one tenant.
pub struct Folders {
    home: Home,
    state: Arc<State>,
    tenant: TenantName,
    root: PathBuf,
    binds: Arc<Binds>,
    known: Vec<DataVolume>,
}

impl Folders {
    pub fn of(daemon: &Daemon, row: &TenantRow) -> Folders {
        Folders {
            home: daemon.home.clone(),
            state: daemon.state.clone(),
            tenant: row.tenant.name.clone(),
            root: row.tenant.path.clone().into(),
            binds: daemon.binds.clone(),
            known: row.tenant.volumes.clone(),
        }
    }
}

impl lifecycle::Folders for Folders {
    fn data(&self, service: &ServiceName, path: &VolumePath) -> Result<PathBuf> {
        let data = DataVolume { service: service.clone(), path: path.clone() };
        if !self.known.contains(&data) {
            self.state.add_volume_of_image(&self.tenant, &data)?;
        }
        let dir = self.home.volume(&VolumeRef { tenant: self.tenant.clone(), data: Some(data) });
        tenants::volume_dir(&self.home, &dir)?;
        if !fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir()) {
            return Err(Error::failed(format!("the volume {path} is no folder: {}", dir.display()))
                .hint("something else was put there: move it away"));
        }
        Ok(dir)
    }

    fn local(&self, path: &LocalPath) -> Result<PathBuf> {
        let cannot = |error: std::io::Error| {
            let error = Error::io(format!("the path `{path}` of the tenant's folder cannot be used"), error);
            error.hint("a volume's left side is a folder or file below the root volume, and leads through no link")
        };
        if path.as_str().is_empty() {
            return Ok(self.root.clone());
        }
        let direct = self.root.join(path.as_str());
        let mut dir = Dir::open(&self.root).map_err(cannot)?;
        let mut names = path.as_str().split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let name = name.as_bytes();
            let there = dir.stat_if_there(name).map_err(cannot)?;
            let is_file = there.is_some_and(|stat| stat.st_mode & 0o170_000 == 0o100_000);
            if is_file && names.peek().is_none() {
                return self.binds.pin(&self.tenant, path, dir.read(name).map_err(cannot)?, &direct);
            }
            dir = match there {
                None => dir.ensure_dir(name, 0o755),
                Some(stat) if is_dir(&stat) => dir.open_beneath(name),
                Some(_) => Err(std::io::Error::other("a link, a device or a file is in the way")),
            }
            .map_err(cannot)?;
        }
        self.binds.pin(&self.tenant, path, dir, &direct)
    }

    fn context(&self, from: Context<'_>) -> Result<File> {
        let cannot = |error: std::io::Error| Error::io("what the image is built from cannot be gathered", error);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(self.home.dir(), flags, Mode::from_raw_mode(0o600))
            .map_err(|error| cannot(error.into()))?;
        lifecycle::pack(&Dir::open(&self.root).map_err(cannot)?, from, file.into())
    }
}
