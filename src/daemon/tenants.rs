//! Tenants as data: their folders, and which of them a reference means.
//!
//! What lies below a volume's root belongs to the tenant and is never reached by a path; what lies above belongs to the
//! daemon, whose home nobody else can write.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::home::Home;
use super::state::{State, TenantRow};
use crate::model::host::{DataVolume, NewTenant, Tenant, VolumeRef};
use crate::model::{Error, Kind, Result, TenantName};
use crate::sync::LiveDir;
use crate::sys::dir::Dir;
use crate::transport::identity::private_dir;

/// The longest mcloud.yml that is taken.
const CONFIG_BYTES: usize = 1 << 20;

const CONFIG_FILE: &str = "mcloud.yml";

/// Makes a tenant: its folders first, then its row, so that a row always has its folders.
pub fn init(home: &Home, state: &State, new: &NewTenant, now: u64) -> Result<Tenant> {
    let name = &new.name;
    if state.tenant(name)?.is_some() {
        return Err(Error::failed(format!("the tenant `{name}` exists already"))
            .hint(format!("`mcloud update {name}` gives it a new mcloud.yml")));
    }
    if new.config.len() > CONFIG_BYTES {
        return Err(Error::usage(format!(
            "the mcloud.yml of `{name}` has {} bytes, {CONFIG_BYTES} is the most",
            new.config.len()
        )));
    }
    if new.config.trim().is_empty() && new.path.is_none() {
        return Err(Error::usage(format!("there is no mcloud.yml for `{name}`"))
            .hint("name the file or the folder that holds it, or with --path a folder of the host"));
    }
    let root = match &new.path {
        Some(path) => own_folder(home, state, path)?,
        None => home.root_volume(name),
    };
    let config = match new.config.trim().is_empty() {
        true => config_in(&root)?.unwrap_or_default(),
        false => new.config.clone(),
    };
    let volumes = data_volumes(&config, new.env.as_deref())?;
    make(home, name, new.path.is_none().then_some(&root), &volumes)?;
    if !config.is_empty() {
        keep_config(&root, &config)?;
    }
    let path =
        root.to_str().ok_or_else(|| Error::usage(format!("the folder {} is not valid UTF-8", root.display())))?;
    let tenant = Tenant { name: name.clone(), env: new.env.clone(), path: path.to_owned(), volumes, created_unix: now };
    state.add_tenant(&TenantRow { tenant: tenant.clone(), config, external: new.path.is_some() })?;
    Ok(tenant)
}

/// The volumes that `data:` names, in their order.
pub fn data_volumes(config: &str, env: Option<&str>) -> Result<Vec<DataVolume>> {
    if config.trim().is_empty() {
        return Ok(Vec::new());
    }
    let config = crate::tenant::config::parse(config, env)?;
    let volumes = config.services.into_iter().flat_map(|service| {
        let name = service.name;
        service.data.into_iter().map(move |path| DataVolume { service: name.clone(), path })
    });
    let mut unique = Vec::new();
    for volume in volumes {
        if !unique.contains(&volume) {
            unique.push(volume);
        }
    }
    Ok(unique)
}

/// Forgets a tenant; with `scrub_data` what lies in our home goes, too. A folder given with `--path` is never deleted.
pub fn remove(home: &Home, state: &State, row: &TenantRow, scrub_data: bool) -> Result<()> {
    let name = &row.tenant.name;
    state.remove_tenant(name)?;
    let mut gone = vec![home.indexes(name)];
    if scrub_data {
        gone.push(home.tenant(name));
    }
    for dir in gone {
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(
                    format!("`{name}` is forgotten, but its folder {} could not be deleted", dir.display()),
                    error,
                )
                .hint("delete it by hand"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The row of a tenant. The error names those there are, as far as `sees` lets them be named.
pub fn find(state: &State, name: &TenantName, sees: impl Fn(&TenantName) -> bool) -> Result<TenantRow> {
    if let Some(row) = state.tenant(name)? {
        return Ok(row);
    }
    let names = state.tenants()?.into_iter().map(|row| row.tenant.name).filter(sees).map(|name| name.to_string());
    let there = match names.collect::<Vec<_>>() {
        names if names.is_empty() => "it has none yet: `mcloud init` makes one".to_owned(),
        names => format!("it has {}", names.join(", ")),
    };
    Err(Error::new(Kind::NotFound, format!("this host has no tenant `{name}`")).hint(there))
}

/// The folder of one volume of a tenant, which is made if somebody deleted it.
pub fn live(home: &Home, row: &TenantRow, volume: &VolumeRef) -> Result<LiveDir> {
    let tenant = &row.tenant;
    let root = match &volume.data {
        None => PathBuf::from(&tenant.path),
        Some(data) => {
            check_volume(tenant, data)?;
            home.volume(volume)
        }
    };
    if volume.data.is_some() || !row.external {
        volume_dir(home, &root)?;
    }
    private_dir(&home.indexes(&tenant.name))?;
    Ok(LiveDir { root, index: Some(home.index(volume)), label: volume.to_string() })
}

/// All volumes of a tenant: the root volume first.
pub fn all_volumes(tenant: &Tenant) -> Vec<VolumeRef> {
    let data = tenant.volumes.iter().cloned().map(Some);
    std::iter::once(None).chain(data).map(|data| VolumeRef { tenant: tenant.name.clone(), data }).collect()
}

fn check_volume(tenant: &Tenant, data: &DataVolume) -> Result<()> {
    if tenant.volumes.contains(data) {
        return Ok(());
    }
    let of_service: Vec<String> = tenant
        .volumes
        .iter()
        .filter(|volume| volume.service == data.service)
        .map(|volume| volume.path.to_string())
        .collect();
    let name = &tenant.name;
    let (message, there) = if of_service.is_empty() {
        let all: Vec<String> =
            tenant.volumes.iter().map(|volume| format!("{}.{name}:{}", volume.service, volume.path)).collect();
        (format!("`{name}` has no service `{}` with data volumes", data.service), all)
    } else {
        let there = of_service.iter().map(|path| format!("{}.{name}:{path}", data.service)).collect();
        (format!("the service `{}` of `{name}` has no data volume {}", data.service, data.path), there)
    };
    let hint = match there.is_empty() {
        true => "its mcloud.yml names none with `data:`".to_owned(),
        false => format!("there is {}", there.join(", ")),
    };
    Err(Error::new(Kind::NotFound, message).hint(hint))
}

/// A folder of the host as root volume: absolute, there, and nobody else's.
fn own_folder(home: &Home, state: &State, path: &str) -> Result<PathBuf> {
    let given = Path::new(path);
    if !given.is_absolute() {
        return Err(Error::usage(format!("--path {} is not absolute", path.escape_debug()))
            .hint("it is a folder of the host: /srv/shop"));
    }
    let cannot = |error| Error::io(format!("cannot use the host's folder {}", path.escape_debug()), error);
    let root = fs::canonicalize(given).map_err(cannot)?;
    if !fs::metadata(&root).map_err(cannot)?.is_dir() {
        return Err(Error::usage(format!("{} is not a folder", root.display())));
    }
    let ours = fs::canonicalize(home.dir()).map_err(cannot)?;
    if root.starts_with(&ours) || ours.starts_with(&root) {
        return Err(Error::usage(format!(
            "{} and the daemon's home {} lie in one another",
            root.display(),
            ours.display()
        ))
        .hint("take a folder beside it"));
    }
    for row in state.tenants()? {
        let other = Path::new(&row.tenant.path);
        if row.external && (root.starts_with(other) || other.starts_with(&root)) {
            return Err(Error::usage(format!(
                "{} and the root volume {} of `{}` lie in one another",
                root.display(),
                other.display(),
                row.tenant.name
            )));
        }
    }
    Ok(root)
}

fn make(home: &Home, name: &TenantName, root: Option<&PathBuf>, volumes: &[DataVolume]) -> Result<()> {
    if let Some(root) = root {
        volume_dir(home, root)?;
    }
    for data in volumes {
        volume_dir(home, &home.volume(&VolumeRef { tenant: name.clone(), data: Some(data.clone()) }))?;
    }
    private_dir(&home.indexes(name))
}

/// Makes a volume's folder in our home: private down to the tenant's own folder, its own mode 0755.
pub fn volume_dir(home: &Home, dir: &Path) -> Result<()> {
    let cannot = |error| Error::io(format!("cannot make the volume {}", dir.display()), error);
    private_dir(&home.dir().join("tenants"))?;
    if let Some(parent) = dir.parent() {
        private_dir(parent)?;
    }
    match DirBuilder::new().mode(0o755).create(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        // The mode of a folder is cut by the umask; a volume's is what it says.
        Ok(()) => fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(cannot),
        Err(error) => Err(cannot(error)),
    }
}

fn root_handle(root: &Path) -> Result<fs::File> {
    fs::File::open(root).map_err(|error| Error::io(format!("cannot open the root volume {}", root.display()), error))
}

/// The mcloud.yml in a root volume, opened beneath it and through no link.
fn config_in(root: &Path) -> Result<Option<String>> {
    use std::io::Read;
    let dir = root_handle(root)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let cannot = |error: std::io::Error| Error::io(format!("cannot read {CONFIG_FILE} in {}", root.display()), error);
    let file = match rustix::fs::openat2(&dir, CONFIG_FILE, flags, Mode::empty(), resolve) {
        Ok(file) => fs::File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(cannot(error.into())),
    };
    let mut text = String::new();
    file.take(CONFIG_BYTES as u64).read_to_string(&mut text).map_err(cannot)?;
    Ok(Some(text))
}

/// Puts the mcloud.yml into the root volume, if there is none.
fn keep_config(root: &Path, config: &str) -> Result<()> {
    let dir = root_handle(root)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let cannot =
        |error: std::io::Error| Error::io(format!("cannot write {CONFIG_FILE} into {}", root.display()), error);
    match rustix::fs::openat2(&dir, CONFIG_FILE, flags, Mode::from_raw_mode(0o644), resolve) {
        Ok(file) => {
            let mut file = fs::File::from(file);
            file.write_all(config.as_bytes()).and_then(|()| file.sync_all()).map_err(cannot)
        }
        Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(cannot(error.into())),
    }
}

/// Puts another mcloud.yml into the root volume, in one step.
pub fn replace_config(row: &TenantRow, config: &str) -> Result<()> {
    const FRESH: &[u8] = b".mcloud.yml.new";
    let dir = Dir::open(Path::new(&row.tenant.path));
    let replace = |dir: Dir| -> std::io::Result<()> {
        let _ = dir.remove_file(FRESH);
        let mut file = dir.create(FRESH, 0o644)?;
        file.write_all(config.as_bytes())?;
        file.sync_all()?;
        dir.rename(FRESH, &dir, CONFIG_FILE.as_bytes())
    };
    dir.and_then(replace)
        .map_err(|error| Error::io(format!("cannot write {CONFIG_FILE} into {}", row.tenant.path), error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::model::{ServiceName, VolumePath};

    const CONFIG: &str = "redis:\n    image: redis\n    data: [/data, /var/lib/x]\nweb:\n    image: python\n";

    struct Host {
        dir: tempfile::TempDir,
        home: Home,
        state: State,
    }

    fn host() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        private_dir(home.dir()).unwrap();
        let state = State::open(&home.database()).unwrap();
        Host { dir, home, state }
    }

    fn new(name: &str, config: &str, path: Option<&Path>) -> NewTenant {
        let path = path.map(|path| path.to_str().unwrap().to_owned());
        NewTenant { name: TenantName::new(name).unwrap(), config: config.into(), env: None, path }
    }

    fn data(service: &str, path: &str) -> DataVolume {
        DataVolume { service: ServiceName::new(service).unwrap(), path: VolumePath::new(path).unwrap() }
    }

    #[test]
    fn a_new_tenant_has_its_folders_and_its_config_in_its_root_volume() {
        let host = host();
        let tenant = init(&host.home, &host.state, &new("shop", CONFIG, None), 5).unwrap();
        assert_eq!(tenant.volumes, [data("redis", "/data"), data("redis", "/var/lib/x")]);
        let row = find(&host.state, &tenant.name, |_| true).unwrap();
        for volume in all_volumes(&tenant) {
            let live = live(&host.home, &row, &volume).unwrap();
            assert_eq!(fs::metadata(&live.root).unwrap().permissions().mode() & 0o777, 0o755, "{volume}");
        }
        assert_eq!(fs::read_to_string(Path::new(&tenant.path).join("mcloud.yml")).unwrap(), CONFIG);
        assert_eq!(fs::metadata(host.home.dir().join("tenants")).unwrap().permissions().mode() & 0o777, 0o700);
        let error = init(&host.home, &host.state, &new("shop", CONFIG, None), 5).unwrap_err();
        assert!(error.message.contains("exists") && error.hint.unwrap().contains("update"));
        let error = init(&host.home, &host.state, &new("other", "", None), 5).unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
    }

    #[test]
    fn what_is_not_there_is_answered_with_what_is() {
        let host = host();
        let tenant = init(&host.home, &host.state, &new("shop", CONFIG, None), 5).unwrap();
        let error = find(&host.state, &TenantName::new("shup").unwrap(), |_| true).unwrap_err();
        assert_eq!(error.kind, Kind::NotFound);
        assert!(error.hint.unwrap().contains("shop"));
        let error = find(&host.state, &TenantName::new("shup").unwrap(), |_| false).unwrap_err();
        assert!(!error.hint.unwrap().contains("shop"), "not to those who may not see it");
        let row = find(&host.state, &tenant.name, |_| true).unwrap();
        let of = |data| VolumeRef { tenant: tenant.name.clone(), data: Some(data) };
        let error = live(&host.home, &row, &of(data("redis", "/dta"))).unwrap_err();
        assert!(error.message.contains("/dta") && error.hint.unwrap().contains("redis.shop:/data"));
        let error = live(&host.home, &row, &of(data("web", "/data"))).unwrap_err();
        assert!(error.message.contains("web") && error.hint.unwrap().contains("redis.shop:/data"));
    }

    #[test]
    fn remove_keeps_the_volumes_unless_they_are_scrubbed_and_init_finds_them_again() {
        let host = host();
        let tenant = init(&host.home, &host.state, &new("shop", CONFIG, None), 5).unwrap();
        let kept = Path::new(&tenant.path).join("code.py");
        fs::write(&kept, "x").unwrap();
        let row = || find(&host.state, &tenant.name, |_| true).unwrap();
        remove(&host.home, &host.state, &row(), false).unwrap();
        assert!(kept.exists() && host.state.tenants().unwrap().is_empty());
        init(&host.home, &host.state, &new("shop", CONFIG, None), 6).unwrap();
        assert!(kept.exists());
        remove(&host.home, &host.state, &row(), true).unwrap();
        assert!(!host.home.tenant(&tenant.name).exists());
    }

    #[test]
    fn a_folder_of_the_host_is_used_as_it_is_and_never_deleted() {
        let host = host();
        let folder = host.dir.path().join("srv");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("mcloud.yml"), CONFIG).unwrap();
        let tenant = init(&host.home, &host.state, &new("shop", "", Some(&folder)), 5).unwrap();
        assert_eq!(tenant.volumes.len(), 2);
        for (path, what) in [
            (Path::new("relative"), "absolute"),
            (&host.dir.path().join("gone"), "cannot use"),
            (&folder.join("mcloud.yml"), "not a folder"),
            (host.home.dir(), "one another"),
            (Path::new("/"), "one another"),
            (&folder, "one another"),
        ] {
            let error = init(&host.home, &host.state, &new("b", CONFIG, Some(path)), 5).unwrap_err();
            assert!(error.message.contains(what), "{error}");
        }
        let row = find(&host.state, &tenant.name, |_| true).unwrap();
        remove(&host.home, &host.state, &row, true).unwrap();
        assert!(folder.join("mcloud.yml").exists());
    }

    #[test]
    fn a_root_volume_with_a_link_for_its_config_leads_nowhere() {
        let host = host();
        let folder = host.dir.path().join("srv");
        fs::create_dir(&folder).unwrap();
        let outside = host.dir.path().join("outside");
        std::os::unix::fs::symlink(&outside, folder.join("mcloud.yml")).unwrap();
        let _ = init(&host.home, &host.state, &new("shop", CONFIG, Some(&folder)), 5);
        assert!(!outside.exists());
        fs::write(&outside, CONFIG).unwrap();
        assert!(init(&host.home, &host.state, &new("blog", "", Some(&folder)), 5).is_err());
    }
}
