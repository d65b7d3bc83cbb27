//! A tenant, and where it lives: at this host, or at another one.

use std::fmt;
use std::str::FromStr;

use super::reference::Address;
use super::{Error, Host, Reference, Result, TenantName};

/// `shop`, or `shop@203.0.113.9`. A name alone may be that of two tenants: one here, one there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat {
    pub tenant: TenantName,
    /// The other host, as people here know it; `None` is this one.
    pub host: Option<Address>,
}

impl Seat {
    pub fn here(tenant: &TenantName) -> Seat {
        Seat { tenant: tenant.clone(), host: None }
    }

    /// The tenant, if it lives at this host.
    pub fn if_here(&self) -> Option<&TenantName> {
        self.host.is_none().then_some(&self.tenant)
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => f.pad(&format!("{}@{host}", self.tenant)),
            None => self.tenant.fmt(f),
        }
    }
}

impl FromStr for Seat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Seat> {
        match text.parse()? {
            Reference { service: None, tenant, host: None, volume: None } => Ok(Seat { tenant, host: None }),
            Reference { service: None, tenant, host: Some(Host::At(host)), volume: None } => {
                Ok(Seat { tenant, host: Some(host) })
            }
            _ => Err(Error::usage(format!("`{}` is no tenant of this host or of another", text.escape_debug()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_and_its_host_are_read_as_they_are_shown() {
        for text in ["shop", "shop@203.0.113.9", "shop@203.0.113.9:7081", "shop@[2001:db8::7]:7081", "shop@h.example"] {
            assert_eq!(text.parse::<Seat>().unwrap().to_string(), text);
        }
        for text in ["shop@me", "web.shop", "shop:/data", "", "shop@"] {
            assert!(text.parse::<Seat>().is_err(), "{text}");
        }
        assert_ne!("shop".parse::<Seat>().unwrap(), "shop@h".parse().unwrap());
    }
}
