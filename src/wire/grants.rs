//! Grants as messages.

use bytes::Bytes;

use super::proto;
use crate::model::host::{Grant, GrantTerms};
use crate::model::{Result, TenantName};

/// `keys`: the host's and the giver's, as bytes.
pub fn grant_out(grant: &Grant, keys: (Bytes, Bytes)) -> proto::GrantEntry {
    let terms = &grant.terms;
    proto::GrantEntry {
        number: grant.number,
        host_key: keys.0,
        host: terms.host.clone(),
        role: terms.role.word().to_owned(),
        tenant: terms.tenant.to_string(),
        purpose: terms.purpose.clone(),
        by_key: keys.1,
        by: grant.by.clone(),
        created_unix: grant.created_unix,
        expires_unix: terms.expires_unix,
        last_seen_unix: grant.last_seen_unix,
    }
}

/// `keys`: the host's and the giver's, hexadecimal.
pub fn grant_in(grant: proto::GrantEntry, keys: (String, String)) -> Result<Grant> {
    Ok(Grant {
        number: grant.number,
        terms: GrantTerms {
            host_key: keys.0,
            host: grant.host,
            role: grant.role.parse()?,
            tenant: TenantName::new(&grant.tenant)?,
            purpose: grant.purpose,
            expires_unix: grant.expires_unix,
        },
        by_key: keys.1,
        by: grant.by,
        created_unix: grant.created_unix,
        last_seen_unix: grant.last_seen_unix,
    })
}
