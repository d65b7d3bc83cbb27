//! Folders and files of a tenant at paths that the tenant cannot bend.
//!
//! Docker is given a path and resolves it whenever it starts a container, also by itself. A path through a root volume is
//! the tenant's: a folder of it can become a link to anywhere. So what such a path means is opened beneath the root and
//! through no link, bound to a place below `/run`, and that is the path Docker gets (docs/design/binds.md). After a reboot
//! there is nothing at that place until it is bound again, so Docker refuses to start what this daemon has not looked at.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::model::{Error, Result, TenantName};
use crate::sys::mount;
use crate::tenant::config::LocalPath;
use crate::transport::identity::private_dir;

/// Gone with the machine's next start, and root's.
const BELOW: &str = "/run/mcloud";

pub struct Binds {
    base: PathBuf,
    /// One at a time, so that nobody sees the moment between two.
    lock: Mutex<()>,
}

impl Binds {
    /// Those of the daemon that is called so.
    pub fn of(owner: &str) -> Binds {
        Binds { base: Path::new(BELOW).join(owner), lock: Mutex::default() }
    }

    /// Where `what`, which `local` meant just now, is found from now on. `direct` is its path in the root volume: a daemon
    /// that is not root cannot bind, and gives that.
    pub fn pin(&self, tenant: &TenantName, local: &LocalPath, what: impl AsFd, direct: &Path) -> Result<PathBuf> {
        if !rustix::process::geteuid().is_root() {
            return Ok(direct.to_owned());
        }
        let _held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let name = blake3::hash(local.as_str().as_bytes()).to_hex();
        let at = self.base.join(tenant.as_str()).join(&name[..16]);
        let cannot = |error: io::Error| {
            Error::io(format!("the path `{local}` of the tenant's folder cannot be bound to {}", at.display()), error)
                .hint("the daemon has to be allowed to mount (CAP_SYS_ADMIN), where Docker sees it")
        };
        let found = rustix::fs::fstat(what.as_fd()).map_err(|error| cannot(error.into()))?;
        let same = |there: fs::Metadata| there.dev() == found.st_dev && there.ino() == found.st_ino;
        if fs::symlink_metadata(&at).is_ok_and(same) {
            return Ok(at);
        }
        private_dir(&self.base.join(tenant.as_str()))?;
        clear(&at).map_err(cannot)?;
        let made = match crate::sys::dir::is_dir(&found) {
            true => fs::create_dir(&at),
            false => fs::File::create_new(&at).map(drop),
        };
        made.and_then(|()| mount::bind(what, &at)).map_err(cannot)?;
        if !fs::symlink_metadata(&at).is_ok_and(same) {
            return Err(cannot(io::Error::other("something else is there")));
        }
        Ok(at)
    }

    /// Takes away what is bound for a tenant. What runs keeps it.
    pub fn release(&self, tenant: &TenantName) {
        let _held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        release(&self.base.join(tenant.as_str()));
        // With the last one; one that still holds something stays.
        let _ = fs::remove_dir(&self.base);
    }

    /// Takes away what is bound for tenants that are not among these.
    pub fn keep_only(&self, tenants: &[&TenantName]) {
        let _held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in fs::read_dir(&self.base).into_iter().flatten().flatten() {
            if !tenants.iter().any(|tenant| entry.file_name() == tenant.as_str()) {
                release(&entry.path());
            }
        }
        let _ = fs::remove_dir(&self.base);
    }
}

fn release(dir: &Path) {
    let cleared = fs::read_dir(dir).into_iter().flatten().flatten().try_for_each(|entry| clear(&entry.path()));
    match cleared.and_then(|()| fs::remove_dir(dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{} cannot be removed: {error}", dir.display());
        }
        _ => {}
    }
}

/// Removes a place. What is bound there is let go of first; its content is never touched: a folder that is not empty stays.
fn clear(at: &Path) -> io::Result<()> {
    mount::unbind(at)?;
    match fs::symlink_metadata(at) {
        Ok(there) if there.is_dir() => fs::remove_dir(at),
        Ok(_) => fs::remove_file(at),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::dir::Dir;
    use crate::tenant::config;

    struct Stage {
        dir: tempfile::TempDir,
        binds: Binds,
        tenant: TenantName,
    }

    /// A root volume with a folder and a file.
    fn stage() -> Stage {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/conf")).unwrap();
        fs::write(dir.path().join("root/conf/a"), "one").unwrap();
        let binds = Binds { base: dir.path().join("run"), lock: Mutex::default() };
        Stage { dir, binds, tenant: TenantName::new("shop").unwrap() }
    }

    impl Stage {
        fn root(&self) -> PathBuf {
            self.dir.path().join("root")
        }

        fn pin(&self, path: &str, what: impl AsFd) -> PathBuf {
            let yml = format!("web: {{image: x, volumes: {{'{path}': /x}}}}");
            let local = config::parse(&yml, None).unwrap().services[0].volumes[0].local.clone();
            self.binds.pin(&self.tenant, &local, what, &self.root().join(path)).unwrap()
        }

        fn mounts(&self) -> usize {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            mounts.lines().filter(|line| line.contains(self.dir.path().to_str().unwrap())).count()
        }
    }

    impl Drop for Stage {
        fn drop(&mut self) {
            self.binds.keep_only(&[]);
        }
    }

    #[test]
    fn a_path_means_what_it_meant_whatever_becomes_of_its_names() {
        let stage = stage();
        let conf = || Dir::open(&stage.root().join("conf")).unwrap();
        let at = stage.pin("conf", conf());
        assert!(at.starts_with(stage.dir.path().join("run/shop")), "bound by root, and these tests are root's");
        fs::rename(stage.root().join("conf"), stage.root().join("old")).unwrap();
        symlink("/etc", stage.root().join("conf")).unwrap();
        assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "one");

        fs::remove_file(stage.root().join("conf")).unwrap();
        fs::create_dir(stage.root().join("conf")).unwrap();
        fs::write(stage.root().join("conf/a"), "two").unwrap();
        assert_eq!(stage.pin("conf", conf()), at, "another folder of that name is found at the same place");
        assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "two");
        assert_eq!((stage.pin("conf", conf()), stage.mounts()), (at, 1), "and bound once");
    }

    #[test]
    fn a_file_is_bound_as_well_and_all_is_let_go_of_without_touching_it() {
        let stage = stage();
        let file = stage.pin("conf/a", fs::File::open(stage.root().join("conf/a")).unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "one");
        stage.pin("conf", Dir::open(&stage.root().join("conf")).unwrap());
        assert_eq!(stage.mounts(), 2);
        stage.binds.keep_only(&[&stage.tenant]);
        assert_eq!(stage.mounts(), 2);
        stage.binds.release(&stage.tenant);
        assert_eq!((stage.mounts(), stage.dir.path().join("run/shop").exists()), (0, false));
        assert_eq!(fs::read_to_string(stage.root().join("conf/a")).unwrap(), "one");
    }
}
