//! Whose keys are let in, and what was granted to other hosts: listed, given, taken away.
//!
//! A grant lets another host's daemon act here when nobody's client is there to vouch for it: a schedule that copies at
//! night, a release across hosts. It is for one tenant, one role and one purpose. Nobody grants more than he has by his own
//! key, and it is as good as his standing is when it is used.

use std::net::SocketAddr;

use bytes::Bytes;

use super::access::Principal;
use super::requests::note;
use super::{Daemon, now_unix, tenants};
use crate::model::host::{Access, Grant, GrantTerms, Role};
use crate::model::{Error, Kind, Result, TenantName};
use crate::transport::PublicKey;
use crate::wire::proto::{self, response};
use crate::wire::{grants as wire_grants, host as wire, nonsense};

/// The longest purpose, and the longest name of a host.
const WORDS_CHARS: usize = 200;

/// Gives another host a right on one tenant. `addresses` is where this daemon may be found.
pub fn give(
    daemon: &Daemon,
    who: &Principal,
    grant: &proto::GrantHost,
    addresses: Vec<SocketAddr>,
) -> Result<response::What> {
    let on = format!("{} to {}: {}", grant.role, words(&grant.host), words(&grant.purpose));
    note(daemon, who, "grant", &grant.tenant, &on, &mut || {
        let (tenant, role) = (TenantName::new(&grant.tenant)?, wire::role_in(&grant.role)?);
        who.may_by_himself(role, &tenant)?;
        if role == Role::Admin {
            return Err(Error::usage("a host is granted the role deployer or viewer, on one tenant"));
        }
        tenants::find(&daemon.state, &tenant, |name| who.sees(name))?;
        let host = PublicKey::from_slice(&grant.host_key).ok_or_else(|| nonsense("a host's key that is none"))?;
        if host == daemon.identity.public() {
            return Err(Error::usage("a host needs no grant at itself"));
        }
        let now = now_unix();
        if grant.expires_unix.is_some_and(|expires| expires <= now || i64::try_from(expires).is_err()) {
            return Err(Error::usage("a grant expires in the future, or never"));
        }
        let terms = GrantTerms {
            host_key: host.to_string(),
            host: words(&grant.host),
            role,
            tenant,
            purpose: words(&grant.purpose),
            expires_unix: grant.expires_unix,
        };
        let number = daemon.state.add_grant(&host, &terms, &who.key, now)?;
        let addresses = addresses.iter().map(SocketAddr::to_string).collect();
        Ok(response::What::Granted(proto::Granted { number, addresses }))
    })
}

/// Takes a grant back: an admin any, others what they gave; and the host that has it may give it back.
pub fn take_back(daemon: &Daemon, who: &Principal, number: u64) -> Result<response::What> {
    let found = daemon.state.grants(now_unix())?.into_iter().find(|grant| grant.number == number);
    let key = who.key.to_string();
    let found =
        found.filter(|grant| [&grant.by_key, &grant.terms.host_key].contains(&&key) || who.may_administrate().is_ok());
    let tenant = found.as_ref().map(|grant| grant.terms.tenant.to_string()).unwrap_or_default();
    note(daemon, who, "revoke", &tenant, &name_of(number), &mut || match &found {
        None => Err(Error::new(Kind::NotFound, format!("there is no grant {} of yours", name_of(number)))
            .hint("`mcloud access list` shows an admin all that there are")),
        // Who gives back his own is still to hear that it is done.
        Some(grant) if grant.terms.host_key == key => {
            daemon.state.remove_grant(number)?;
            entries(&[], std::slice::from_ref(grant))
        }
        Some(grant) => revoke_one(daemon, grant),
    })
}

pub fn list(daemon: &Daemon) -> Result<response::What> {
    entries(&daemon.state.keys()?, &daemon.state.grants(now_unix())?)
}

/// Takes away what `wanted` means: a grant (`g12`), or a key by its beginning or its label, with all that it was granted
/// and that it granted. Says what went.
pub fn revoke(daemon: &Daemon, wanted: &str) -> Result<response::What> {
    let (keys, grants) = (daemon.state.keys()?, daemon.state.grants(now_unix())?);
    if let Some(grant) = grants.iter().find(|grant| name_of(grant.number) == wanted) {
        return revoke_one(daemon, grant);
    }
    let is = |key: &str, label: &str| label == wanted || wanted.len() >= 4 && key.starts_with(wanted);
    let enrolled = keys.iter().filter(|access| is(&access.key, &access.label)).map(|access| &access.key);
    let granted = grants.iter().map(|grant| &grant.terms).filter(|terms| is(&terms.host_key, &terms.host));
    let mut meant: Vec<&String> = enrolled.chain(granted.map(|terms| &terms.host_key)).collect();
    meant.sort_unstable();
    meant.dedup();
    let shown = wanted.escape_debug();
    let key: PublicKey = match meant[..] {
        [one] => one.parse()?,
        [] => {
            return Err(Error::new(Kind::NotFound, format!("no key begins with `{shown}` or is called so"))
                .hint("`mcloud access list` shows them; four digits of a key are the least"));
        }
        _ => {
            let keys: Vec<&str> = meant.iter().filter_map(|key| key.get(..16)).collect();
            return Err(Error::usage(format!("`{shown}` means {} keys", meant.len()))
                .hint(format!("it is one of {}", keys.join(", "))));
        }
    };
    if key == daemon.local_key {
        return Err(Error::new(Kind::Refused, "this is the key of the host's own home")
            .hint("whoever can read the home is the host's admin; nothing here can change that"));
    }
    daemon.state.revoke(&key, now_unix())?;
    let hex = key.to_string();
    let gone: Vec<Grant> =
        grants.into_iter().filter(|grant| grant.by_key == hex || grant.terms.host_key == hex).collect();
    close(daemon, &hex);
    gone.iter().for_each(|grant| close(daemon, &grant.terms.host_key));
    let access: Vec<Access> = keys.into_iter().filter(|access| access.key == hex).collect();
    entries(&access, &gone)
}

fn revoke_one(daemon: &Daemon, grant: &Grant) -> Result<response::What> {
    daemon.state.remove_grant(grant.number)?;
    close(daemon, &grant.terms.host_key);
    entries(&[], std::slice::from_ref(grant))
}

/// Whoever still has a right comes back.
fn close(daemon: &Daemon, key: &str) {
    for connection in daemon.connections().values().filter(|connection| connection.peer().to_string() == key) {
        connection.close_revoked();
    }
}

/// How people name a grant.
fn name_of(number: u64) -> String {
    format!("g{number}")
}

fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORDS_CHARS).collect()
}

fn entries(keys: &[Access], grants: &[Grant]) -> Result<response::What> {
    let bytes = |key: &str| key.parse().map(|key: PublicKey| Bytes::copy_from_slice(&key.0));
    let access = |access: &Access| -> Result<proto::AccessEntry> {
        Ok(proto::AccessEntry {
            key: bytes(&access.key)?,
            label: access.label.clone(),
            role: access.role.word().to_owned(),
            tenants: wire::globs_out(&access.tenants),
            created_unix: access.created_unix,
            last_seen_unix: access.last_seen_unix,
        })
    };
    let grant = |grant: &Grant| -> Result<proto::GrantEntry> {
        Ok(wire_grants::grant_out(grant, (bytes(&grant.terms.host_key)?, bytes(&grant.by_key)?)))
    };
    Ok(response::What::Access(proto::AccessEntries {
        entries: keys.iter().map(access).collect::<Result<_>>()?,
        grants: grants.iter().map(grant).collect::<Result<_>>()?,
    }))
}
