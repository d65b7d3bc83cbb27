//! What a verb needs of its surroundings: where to print, which host is meant, where this client keeps what it is.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use crate::daemon::client::{Client, ClientConfig};
use crate::model::reference::Address;
use crate::model::{Error, Host, Reference, Result, ServiceName, TenantName};

use super::output::Output;

pub struct Context {
    pub out: Arc<Output>,
    /// `-h`, as typed.
    host: Option<String>,
}

impl Context {
    pub fn new(out: Arc<Output>, host: Option<String>) -> Context {
        Context { out, host }
    }

    /// `-h`, else `MCLOUD_HOST`, else this machine.
    pub fn host(&self) -> Result<Host> {
        if let Some(host) = &self.host {
            return host.parse();
        }
        match std::env::var("MCLOUD_HOST") {
            Ok(host) if !host.is_empty() => host
                .parse()
                .map_err(|error: Error| Error { message: format!("MCLOUD_HOST: {}", error.message), ..error }),
            _ => Ok(Host::Me),
        }
    }

    /// The daemon that this command is about.
    pub async fn connect(&self) -> Result<Client> {
        connect(&self.host()?).await
    }

    /// A tenant, or one service of it, as an argument; left out, the tenant is called as this folder is.
    pub fn service(&self, typed: Option<&str>) -> Result<(TenantName, Option<ServiceName>, Host)> {
        let service = match typed.map(str::parse::<Reference>).transpose()? {
            Some(Reference { service: Some(service), tenant, host, volume: None }) => {
                let (tenant, host) =
                    self.tenant(Some(&Reference { service: None, tenant, host, volume: None }.to_string()))?;
                return Ok((tenant, Some(service), host));
            }
            _ => None,
        };
        self.tenant(typed).map(|(tenant, host)| (tenant, service, host))
    }

    /// `SERVICE.TENANT` as an argument.
    pub fn one_service(&self, typed: &str) -> Result<(TenantName, ServiceName, Host)> {
        match self.service(Some(typed))? {
            (tenant, Some(service), host) => Ok((tenant, service, host)),
            (tenant, None, _) => Err(Error::usage(format!("`{tenant}` names no service"))
                .hint(format!("write SERVICE.{tenant}; `mcloud status {tenant}` lists its services"))),
        }
    }

    /// A tenant as an argument, which may name its host, too; left out, it is called as this folder is.
    pub fn tenant(&self, typed: Option<&str>) -> Result<(TenantName, Host)> {
        let Some(typed) = typed else {
            return Ok((tenant_of_this_folder()?, self.host()?));
        };
        let reference: Reference = typed.parse()?;
        if let Some(service) = &reference.service {
            return Err(Error::usage(format!(
                "this is about a tenant, and `{reference}` names the service `{service}` of one"
            ))
            .hint(format!("write `{}`", reference.tenant)));
        }
        if reference.volume.is_some() {
            return Err(Error::usage(format!("this is about a tenant, and `{reference}` names a volume of one"))
                .hint(format!("write `{}`", reference.tenant)));
        }
        let host = self.host_of(&reference)?;
        Ok((reference.tenant, host))
    }

    /// The host that a reference names, else the one that this command is about.
    pub fn host_of(&self, reference: &Reference) -> Result<Host> {
        match (reference.host.clone(), &self.host) {
            (None, _) => self.host(),
            (Some(host), None) => Ok(host),
            (Some(host), Some(_)) if host == self.host()? => Ok(host),
            (Some(host), Some(other)) => {
                Err(Error::usage(format!("two hosts are named: {host}, and {} with -h", super::show::text(other)))
                    .hint("name the host once"))
            }
        }
    }
}

fn tenant_of_this_folder() -> Result<TenantName> {
    let folder = std::env::current_dir().map_err(|cause| Error::io("this folder cannot be named", cause))?;
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    TenantName::new(&name).map_err(|error| {
        Error::usage(format!("no tenant is named, and this folder's name cannot be one: {}", error.message))
            .hint("name the tenant as an argument")
    })
}

/// A connection to one daemon.
pub async fn connect(host: &Host) -> Result<Client> {
    let address: Option<&Address> = match host {
        Host::Me => None,
        Host::At(address) => Some(address),
    };
    Client::connect(&client_config()?, address).await
}

pub fn client_config() -> Result<ClientConfig> {
    let config_dir = match variable("MCLOUD_CONFIG_DIR") {
        Some(dir) => dir,
        None => home_dir().map(|home| home.join(".config/mcloud")).ok_or_else(|| no_home("MCLOUD_CONFIG_DIR"))?,
    };
    Ok(ClientConfig { config_dir, home: daemon_home()? })
}

/// `MCLOUD_HOME`, or where the daemon of this user keeps its state.
pub fn daemon_home() -> Result<PathBuf> {
    if let Some(home) = variable("MCLOUD_HOME") {
        return Ok(home);
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/mcloud"));
    }
    home_dir().map(|home| home.join(".local/share/mcloud")).ok_or_else(|| no_home("MCLOUD_HOME"))
}

/// Where what is remembered of folders is kept; `None` where there is no home.
pub fn cache_dir() -> Option<PathBuf> {
    variable("MCLOUD_CACHE_DIR")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("mcloud")))
        .or_else(|| home_dir().map(|home| home.join(".cache/mcloud")))
        .filter(|dir| dir.is_absolute())
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn home_dir() -> Option<PathBuf> {
    variable("HOME").filter(|home| home.is_absolute())
}

fn no_home(variable: &str) -> Error {
    Error::usage("this user has no home folder (HOME is not set)").hint(format!("set HOME or {variable}"))
}

/// Runs what a verb awaits to its end.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|cause| Error::io("the program cannot start its threads", cause))?;
    let result = runtime.block_on(future);
    // A thread may still wait for an answer at the terminal; nobody waits for it.
    runtime.shutdown_background();
    result
}
