//! Who may do what at a daemon, asked by a client: enrolled keys, and what was granted to other hosts.

use bytes::Bytes;

use super::{Client, unexpected};
use crate::model::Result;
use crate::model::host::{Access, Grant, GrantTerms, Granted};
use crate::transport::PublicKey;
use crate::transport::identity::to_hex;
use crate::wire::proto::{self, request, response};
use crate::wire::{grants as wire_grants, host as wire};

/// Keys, and grants to other hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    pub keys: Vec<Access>,
    pub grants: Vec<Grant>,
}

impl Client {
    pub async fn access_list(&self) -> Result<Rights> {
        self.rights(request::What::AccessList(proto::AccessList {})).await
    }

    /// `key` may be cut to where it is unique, or be a label, or name a grant (`g12`). Returns what was revoked.
    pub async fn access_revoke(&self, key: &str) -> Result<Rights> {
        self.rights(request::What::AccessRevoke(proto::AccessRevoke { key: key.to_owned() })).await
    }

    /// Lets another host act on a tenant of this daemon, by a right that we have.
    pub async fn grant(&self, terms: &GrantTerms) -> Result<Granted> {
        let host_key: PublicKey = terms.host_key.parse()?;
        let grant = proto::GrantHost {
            host_key: Bytes::copy_from_slice(&host_key.0),
            host: terms.host.clone(),
            role: terms.role.word().to_owned(),
            tenant: terms.tenant.to_string(),
            purpose: terms.purpose.clone(),
            expires_unix: terms.expires_unix,
        };
        match self.ask(request::What::GrantHost(grant)).await? {
            response::What::Granted(granted) => Ok(Granted {
                number: granted.number,
                host_key: self.who.host_key.clone(),
                addresses: self.reachable(granted.addresses),
            }),
            _ => Err(unexpected()),
        }
    }

    /// Takes back what we granted.
    pub async fn grant_revoke(&self, number: u64) -> Result<()> {
        self.rights(request::What::GrantRevoke(proto::GrantRevoke { number })).await.map(drop)
    }

    /// Where another host is to look for this daemon, given where it says it is: where we reach it is most likely where
    /// others do, unless that is this very machine.
    pub(super) fn reachable(&self, mut addresses: Vec<String>) -> Vec<String> {
        let reached = self.connection.remote_address();
        addresses.retain(|address| *address != reached.to_string());
        let place = if reached.ip().is_loopback() { addresses.len() } else { 0 };
        addresses.insert(place, reached.to_string());
        addresses
    }

    async fn rights(&self, what: request::What) -> Result<Rights> {
        let response::What::Access(access) = self.ask(what).await? else { return Err(unexpected()) };
        let key = |access: proto::AccessEntry| -> Result<Access> {
            Ok(Access {
                key: to_hex(&access.key),
                label: access.label,
                role: wire::role_in(&access.role)?,
                tenants: wire::globs_in(&access.tenants)?,
                created_unix: access.created_unix,
                last_seen_unix: access.last_seen_unix,
            })
        };
        let grant = |grant: proto::GrantEntry| {
            let keys = (to_hex(&grant.host_key), to_hex(&grant.by_key));
            wire_grants::grant_in(grant, keys)
        };
        Ok(Rights {
            keys: access.entries.into_iter().map(key).collect::<Result<_>>()?,
            grants: access.grants.into_iter().map(grant).collect::<Result<_>>()?,
        })
    }
}
