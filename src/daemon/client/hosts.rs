//! Which daemon a client means, where it is, and which key it has to prove: the hosts that were pinned at `login`, and the
//! daemon of this machine, for whoever can read its home.

use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;

use super::ClientConfig;
use crate::daemon::home::{Home, Running};
use crate::model::reference::Address;
use crate::model::{Error, Kind, Result};
use crate::transport::identity::{private_dir, random, to_hex};
use crate::transport::{Identity, PublicKey, resolve};

/// A daemon as it is to be dialled.
#[derive(Debug)]
pub struct Found {
    pub addresses: Vec<SocketAddr>,
    pub host_key: PublicKey,
    /// Whom we are there.
    pub identity: Identity,
    /// How people know it.
    pub label: String,
    /// The daemon's process, where it is of this machine and we own its home.
    pub neighbour: Option<u32>,
}

pub async fn find(config: &ClientConfig, host: Option<&Address>) -> Result<Found> {
    let Some(host) = host else {
        let running = Home::at(&config.home).running()?;
        return local(config, &running, vec![running.reach()], "the daemon of this machine".to_owned());
    };
    let addresses = resolve(host).await?;
    let label = host.to_string();
    let known = read_known(config)?;
    let named = format!("{}:{}", host.host, host.port_or_default());
    let pinned = std::iter::once(named)
        .chain(addresses.iter().map(|address| format!("{}:{}", address.ip(), address.port())))
        .find_map(|name| known.iter().find(|(known, _)| *known == name).map(|(_, key)| *key));
    if let Some(host_key) = pinned {
        let identity = Identity::load_or_create(&config.key())?;
        return Ok(Found { addresses, host_key, identity, label, neighbour: None });
    }
    // Not pinned, but maybe it is this machine's, whose home tells its key.
    if let Ok(running) = Home::at(&config.home).running()
        && let Some(address) = addresses.iter().find(|address| is_own(address, &running))
    {
        return local(config, &running, vec![*address], label);
    }
    Err(Error::new(
        Kind::Unreachable,
        format!("no key is pinned for {label}: there is no telling that it is the right host"),
    )
    .hint("ask an admin of that host for an invite (`mcloud invite`), then `mcloud login` with it"))
}

fn local(config: &ClientConfig, running: &Running, addresses: Vec<SocketAddr>, label: String) -> Result<Found> {
    let home = Home::at(&config.home);
    let identity = Identity::load(&home.admin_key()).map_err(|error| {
        Error::new(Kind::Unreachable, format!("the daemon's home {} does not let us in", home.dir().display()))
            .hint("who can read it is the host's admin; others need an invite, and name the host with -h HOST")
            .because(error)
    })?;
    let neighbour = Some(running.pid).filter(|pid| crate::sys::process::is_neighbour(*pid));
    Ok(Found { addresses, host_key: running.host_key.parse()?, identity, label, neighbour })
}

/// Whether an address is one of this machine's, at the port on which its daemon listens.
fn is_own(address: &SocketAddr, running: &Running) -> bool {
    let heard = running.listen.ip().is_unspecified() || running.listen.ip() == address.ip();
    // Only an own address can be bound.
    let own = |ip: IpAddr| ip.is_loopback() || std::net::UdpSocket::bind((ip, 0)).is_ok();
    heard && address.port() == running.listen.port() && own(address.ip())
}

type Known = Vec<(String, PublicKey)>;

/// Lines of `HOST:PORT KEY`; `#` begins a comment.
fn read_known(config: &ClientConfig) -> Result<Known> {
    let file = config.known_hosts();
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Known::new()),
        Err(error) => return Err(Error::io(format!("cannot read {}", file.display()), error)),
    };
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            let parsed = line
                .split_once(char::is_whitespace)
                .and_then(|(host, key)| Some((host.to_owned(), key.trim().parse().ok()?)));
            parsed.ok_or_else(|| {
                Error::new(Kind::Corrupt, format!("{}, line {number}: this is not HOST:PORT KEY", file.display()))
                    .hint("mend or delete that line")
            })
        })
        .collect()
}

/// Pins a host's key at all its addresses.
pub fn pin(config: &ClientConfig, addresses: &[SocketAddr], key: PublicKey) -> Result<()> {
    let mut known = read_known(config)?;
    for address in addresses {
        let name = format!("{}:{}", address.ip(), address.port());
        known.retain(|(host, _)| *host != name);
        known.push((name, key));
    }
    let mut text = String::new();
    for (host, key) in &known {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{host} {key}");
    }
    private_dir(&config.config_dir)?;
    let (file, fresh) =
        (config.known_hosts(), config.config_dir.join(format!(".known_hosts.{}", to_hex(&random::<8>()?))));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut opened| opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all()))
        .and_then(|()| fs::rename(&fresh, &file));
    written.map_err(|error| {
        let _ = fs::remove_file(&fresh);
        Error::io(format!("cannot write {}", file.display()), error)
    })
}

/// How this client calls itself where it is enrolled: `USER@MACHINE`.
pub fn own_label() -> String {
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "somebody".to_owned());
    format!("{user}@{machine}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &tempfile::TempDir) -> ClientConfig {
        ClientConfig { config_dir: dir.path().join("config"), home: dir.path().join("home") }
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_pinned_host_is_found_by_its_address_and_pinning_again_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        let error = find(&config, Some(&address("127.0.0.1:5"))).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unreachable);
        assert!(error.hint.unwrap().contains("login"));
        let (one, two) = (PublicKey([1; 32]), PublicKey([2; 32]));
        pin(&config, &["127.0.0.1:5".parse().unwrap(), "[::1]:5".parse().unwrap()], one).unwrap();
        pin(&config, &["127.0.0.1:6".parse().unwrap()], two).unwrap();
        let key = async |text: &str| find(&config, Some(&address(text))).await.unwrap().host_key;
        assert_eq!((key("127.0.0.1:5").await, key("[::1]:5").await, key("127.0.0.1:6").await), (one, one, two));
        pin(&config, &["127.0.0.1:5".parse().unwrap()], two).unwrap();
        assert_eq!(key("127.0.0.1:5").await, two);
        assert_eq!(read_known(&config).unwrap().len(), 3);
        fs::write(config.known_hosts(), "# fine\n\nnonsense\n").unwrap();
        assert!(read_known(&config).unwrap_err().message.contains("line 3"));
    }

    #[tokio::test]
    async fn the_daemon_of_this_machine_is_found_by_who_can_read_its_home() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        assert!(find(&config, None).await.unwrap_err().hint.unwrap().contains("mcloud server"));
        let home = Home::at(&config.home);
        let _lock = home.take().unwrap();
        let admin = Identity::load_or_create(&home.admin_key()).unwrap().public();
        let host_key = PublicKey([3; 32]);
        let listen = "0.0.0.0:7".parse().unwrap();
        home.say_running(&Running { pid: 1, listen, host_key: host_key.to_string() }).unwrap();
        for host in [None, Some(address("127.0.0.1:7"))] {
            let found = find(&config, host.as_ref()).await.unwrap();
            assert_eq!((found.host_key, found.identity.public()), (host_key, admin));
            assert_eq!(found.addresses[0].to_string(), "127.0.0.1:7");
        }
        assert!(find(&config, Some(&address("127.0.0.1:8"))).await.is_err(), "another port");
        assert!(find(&config, Some(&address("192.0.2.1:7"))).await.is_err(), "another machine");
    }
}
