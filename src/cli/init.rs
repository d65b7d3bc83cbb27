//! `mcloud init`.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::model::host::NewTenant;
use crate::model::{Error, Kind, Result, TenantName};
use crate::tenant::config;

use super::context::{self, Context};
use super::list;

const CONFIG_NAME: &str = "mcloud.yml";

/// Make a tenant from an mcloud.yml
///
/// Its code comes with `mcloud sync DIR TENANT@HOST`, its data is made by its services or comes with a sync as well.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud -h 203.0.113.5 init shop                     the mcloud.yml of this folder
  mcloud -h 203.0.113.5 init shop deploy/mcloud.yml
  mcloud init shop --env prod --path /srv/shop        a folder of this host as its root volume (admins only)")]
pub struct Init {
    /// The tenant's name; default: this folder's
    tenant: Option<String>,
    /// Its mcloud.yml, or the folder that holds one; default: this folder
    #[arg(value_name = "FILE|DIR")]
    config: Option<PathBuf>,
    /// Its env: which `~env` blocks of the mcloud.yml hold
    #[arg(long, value_name = "ENV")]
    env: Option<String>,
    /// A folder of the host as its root volume (admins only); it need not have an mcloud.yml
    #[arg(long, value_name = "DIR")]
    path: Option<String>,
}

pub fn run(arguments: &Init, context: &Context) -> Result<u8> {
    let (name, host) = context.tenant(arguments.tenant.as_deref())?;
    if let Some(path) = &arguments.path
        && !path.starts_with('/')
    {
        return Err(Error::usage(format!("--path is a folder of the host, and `{path}` is not absolute"))
            .hint("write the whole path, from / on"));
    }
    let text = match read(arguments.config.as_deref()) {
        Ok(text) => text,
        Err(error) if error.kind == Kind::NotFound && arguments.config.is_none() && arguments.path.is_some() => {
            String::new()
        }
        Err(error) => return Err(error),
    };
    // The host checks it again; here a mistake is told without a way there and back.
    if !text.is_empty() || arguments.path.is_none() {
        config::parse(&text, arguments.env.as_deref())?;
    }
    let new = NewTenant { name, config: text, env: arguments.env.clone(), path: arguments.path.clone() };
    let tenant = context::block_on(async { context::connect(&host).await?.tenant_init(&new).await })?;
    context.out.line(format!("made the tenant {}, its code lives in {}", tenant.name, tenant.path));
    for volume in &tenant.volumes {
        context.out.line(format!("  data  {}.{}:{}", volume.service, tenant.name, volume.path));
    }
    context.out.done(list::fields(&tenant));
    Ok(0)
}

/// The tenant that this folder's mcloud.yml makes.
pub fn from_folder(name: &TenantName) -> Result<NewTenant> {
    let text = read(None)?;
    config::parse(&text, None)?;
    Ok(NewTenant { name: name.clone(), config: text, env: None, path: None })
}

/// The text of the mcloud.yml that is meant.
pub fn read(meant: Option<&Path>) -> Result<String> {
    let meant = meant.unwrap_or(Path::new("."));
    let file = if meant.is_dir() { meant.join(CONFIG_NAME) } else { meant.to_path_buf() };
    let shown = file.display().to_string();
    let opened = std::fs::File::open(&file).map_err(|cause| {
        let missing = cause.kind() == std::io::ErrorKind::NotFound;
        let error = Error::io(format!("{shown} cannot be read"), cause);
        if missing { error.hint("name the mcloud.yml or its folder behind the tenant's name") } else { error }
    })?;
    let mut bytes = Vec::new();
    let most = u64::try_from(config::SIZE_MAX).unwrap_or(u64::MAX);
    opened
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|cause| Error::io(format!("{shown} cannot be read"), cause))?;
    String::from_utf8(bytes).map_err(|cause| {
        let bytes = cause.as_bytes();
        let line = bytes[..cause.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::usage(format!("{shown}, line {line}: not UTF-8")).hint("save the file as UTF-8")
    })
}
