//! Who uses a data volume just now: asked of the container engine, never remembered.
//!
//! Its service's container is stopped or frozen for what is done to the volume. Any other that can write it stands in the
//! way: a command of `mcloud run`, and what somebody else gave the volume's folder to. What only reads it, or was given a
//! folder above it (a backup of the whole machine), does not, like any other program of the host.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Daemon;
use super::copies::joined;
use super::lives::Crew;
use super::state::TenantRow;
use crate::model::host::VolumeRef;
use crate::model::{Error, Kind, Result, ServiceName, TenantName};
use crate::tenant::runtime::{Lively, label};

/// An engine of which a tenant never needed anything is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Containers that use a volume and are not at rest.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Services of the tenant, which can be stopped.
    pub services: Vec<ServiceName>,
    pub others: Vec<Other>,
}

/// What is not ours to stop.
#[derive(Debug, PartialEq, Eq)]
pub struct Other {
    name: String,
    /// A container of this tenant: a command, or of a service that its mcloud.yml names no more.
    is_own: bool,
}

impl Uses {
    /// An error where something is there that is not ours to stop.
    pub fn no_other(&self, volume: &VolumeRef) -> Result<()> {
        self.others.first().map_or(Ok(()), |other| Err(other.in_the_way(volume)))
    }

    pub fn names(&self, tenant: &TenantName) -> Vec<String> {
        let services = self.services.iter().map(|service| format!("{service}.{tenant}"));
        services.chain(self.others.iter().map(|other| other.name.clone())).collect()
    }
}

impl Other {
    fn in_the_way(&self, volume: &VolumeRef) -> Error {
        let Other { name, is_own } = self;
        let (what, hint) = match is_own {
            true => ("", format!("let it end, or end it: `mcloud ps` and `mcloud kill`, or `docker stop {name}`")),
            false => (", which is not this tenant's,", format!("stop it first: `docker stop {name}`")),
        };
        Error::new(Kind::Busy, format!("the container {name}{what} writes to {volume}")).hint(hint)
    }
}

/// Who uses a data volume; nobody uses a root volume that way, whose files are replaced under what runs.
pub async fn of(daemon: &Arc<Daemon>, crew: &Crew, volume: &VolumeRef) -> Result<Uses> {
    let tenant = &crew.row.tenant.name;
    let asked = async {
        let mut uses = Uses::default();
        for one in lively_in(daemon, volume).await? {
            let is_own = is_of(daemon, tenant, &one);
            let service = one.labels.get(label::SERVICE).filter(|_| is_own && !one.labels.contains_key(label::ONCE));
            let known =
                crew.config.services.iter().find(|known| Some(known.name.as_str()) == service.map(String::as_str));
            match known {
                Some(service) => uses.services.push(service.name.clone()),
                None => uses.others.push(Other { name: one.name, is_own }),
            }
        }
        Ok(uses)
    };
    as_needed(daemon, tenant, asked).await
}

/// An error where a container that is not the tenant's can write one of its data volumes: freezing the tenant would not
/// make it stand still.
pub async fn no_stranger(daemon: &Arc<Daemon>, row: &TenantRow, volumes: &[VolumeRef]) -> Result<()> {
    let tenant = &row.tenant.name;
    let asked = async {
        for volume in volumes {
            let all = lively_in(daemon, volume).await?;
            if let Some(stranger) = all.into_iter().find(|one| !is_of(daemon, tenant, one)) {
                return Err(Other { name: stranger.name, is_own: false }.in_the_way(volume));
            }
        }
        Ok(())
    };
    match as_needed(daemon, tenant, async { Ok(Some(asked.await)) }).await? {
        Some(Err(error)) if error.kind == Kind::Busy || !daemon.state.wanted(tenant)?.is_empty() => Err(error),
        _ => Ok(()),
    }
}

/// What an engine tells. One that does not answer tells nothing of a tenant that needs none, since nothing is asked of its
/// services and no container of it is there.
async fn as_needed<T: Default>(
    daemon: &Daemon,
    tenant: &TenantName,
    asked: impl Future<Output = Result<T>>,
) -> Result<T> {
    if !daemon.state.wanted(tenant)?.is_empty() {
        return asked.await;
    }
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(told)) => Ok(told),
        Ok(Err(error)) => {
            tracing::debug!("{tenant}: {}", error.chain());
            Ok(T::default())
        }
        Err(_) => Ok(T::default()),
    }
}

fn is_of(daemon: &Daemon, tenant: &TenantName, one: &Lively) -> bool {
    let is = |name: &str, value: &str| one.labels.get(name).is_some_and(|known| known == value);
    is(label::OWNER, &daemon.owner()) && is(label::TENANT, tenant.as_str())
}

/// The containers that use a data volume and, looked at one by one, are not at rest.
async fn lively_in(daemon: &Arc<Daemon>, volume: &VolumeRef) -> Result<Vec<Lively>> {
    let Some(data) = volume.data.clone() else { return Ok(Vec::new()) };
    let all = daemon.runtime.lively().await?;
    let (looking, volume) = (daemon.clone(), volume.clone());
    let look = move || {
        let folder = looking.home.volume(&volume);
        let is_service =
            |one: &Lively| one.labels.get(label::SERVICE).is_some_and(|name| *name == data.service.as_str());
        let uses = |one: &Lively| {
            let is_its_own = is_of(&looking, &volume.tenant, one) && is_service(one);
            is_its_own || one.writes.iter().any(|path| is_inside(path, &folder))
        };
        Ok(all.into_iter().filter(uses).collect::<Vec<_>>())
    };
    let mut found = Vec::new();
    for one in joined(tokio::task::spawn_blocking(look).await)? {
        // The list of all may be a moment old.
        if daemon.runtime.inspect(&one.id).await?.is_some_and(|there| !there.state.is_at_rest()) {
            found.push(one);
        }
    }
    Ok(found)
}

/// Whether `path` is `folder` or lies in it, by whatever names.
fn is_inside(path: &Path, folder: &Path) -> bool {
    let (Ok(path), Ok(folder)) = (path.canonicalize(), folder.canonicalize()) else { return false };
    let id = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    path.starts_with(&folder) || id(&path).is_some_and(|one| Some(one) == id(&folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_known_by_any_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, link) = (dir.path().join("folder"), dir.path().join("link"));
        std::fs::create_dir_all(folder.join("inner")).unwrap();
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        for inside in [folder.clone(), folder.join("inner"), link.join("inner"), folder.join("inner/..")] {
            assert!(is_inside(&inside, &folder) && is_inside(&inside, &link), "{inside:?}");
        }
        for outside in [dir.path().to_owned(), dir.path().join("folder2"), dir.path().join("gone")] {
            assert!(!is_inside(&outside, &folder), "{outside:?}");
        }
    }
}
