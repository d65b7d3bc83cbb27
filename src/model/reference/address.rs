//! Where a daemon is to be found.

use std::fmt;
use std::str::FromStr;

use super::label::{LABEL_MAX, is_label_char, name_of_char};
use crate::model::{Error, Result};

/// The UDP port of a daemon when none is said.
pub const DEFAULT_PORT: u16 = 7080;

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A host name, an IPv4 address or an IPv6 address (without brackets).
    pub host: String,
    pub port: Option<u16>,
}

impl Address {
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(DEFAULT_PORT)
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address> {
        let shown = text.escape_debug();
        if let Some(rest) = text.strip_prefix('[') {
            let Some((inside, after)) = rest.split_once(']') else {
                return Err(Error::usage(format!("the host `{shown}` has a `[` without its `]`"))
                    .hint("an IPv6 address is written [2001:db8::7] or [2001:db8::7]:7080"));
            };
            let address = inside.parse::<std::net::Ipv6Addr>().map_err(|_| {
                Error::usage(format!("`{}` is not an IPv6 address", inside.escape_debug()))
                    .hint("brackets are for IPv6 addresses: [2001:db8::7]")
            })?;
            let port = match after {
                "" => None,
                after => Some(parse_port(after.strip_prefix(':').unwrap_or(after), text)?),
            };
            return Ok(Address { host: address.to_string(), port });
        }
        if text.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(Error::usage(format!("the IPv6 address `{shown}` has no brackets"))
                .hint(format!("write it as [{shown}] or [{shown}]:{DEFAULT_PORT}")));
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(parse_port(port, text)?)),
            None => (text, None),
        };
        check_host(host)?;
        Ok(Address { host: host.to_owned(), port })
    }
}

fn check_host(host: &str) -> Result<()> {
    let shown = host.escape_debug();
    let wrong = if host.is_empty() {
        "the host is missing".to_owned()
    } else if host.len() > 253 {
        format!("the host name `{shown}` is longer than 253 characters")
    } else if let Some(bad) = host.chars().find(|c| !is_label_char(*c) && *c != '.') {
        format!("the host name `{shown}` has a {} in it", name_of_char(bad))
    } else if host.split('.').any(|label| label.is_empty() || label.len() > LABEL_MAX || label.starts_with('-')) {
        format!("`{shown}` is not a host name")
    } else if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') && host.parse::<std::net::Ipv4Addr>().is_err() {
        format!("`{shown}` is not an IPv4 address")
    } else {
        return Ok(());
    };
    Err(Error::usage(wrong)
        .hint("a host is a name, an IPv4 address, or an IPv6 address in brackets; this machine is `me`"))
}

fn parse_port(text: &str, whole: &str) -> Result<u16> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && !text.starts_with('+') => Ok(port),
        _ => Err(Error::usage(format!("`{}` in `{}` is not a port", text.escape_debug(), whole.escape_debug()))
            .hint("a port is a number from 1 to 65535")),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Which daemon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// The daemon of this machine.
    Me,
    At(Address),
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(text: &str) -> Result<Host> {
        if text == "me" { Ok(Host::Me) } else { text.parse().map(Host::At) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Me => f.write_str("me"),
            Host::At(address) => address.fmt(f),
        }
    }
}
