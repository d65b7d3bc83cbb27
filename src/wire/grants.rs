//! Grants as messages.

use bytes::Bytes;

use super::{nonsense, proto};
use crate::model::host::{FarHost, Grant, GrantTerms};
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

pub fn far_out(far: &FarHost) -> Result<proto::FarHost> {
    let host_key = hex_in(&far.host_key)?;
    Ok(proto::FarHost { host_key, addresses: far.addresses.clone(), grant: far.grant })
}

pub fn far_in(far: proto::FarHost) -> FarHost {
    let host_key = far.host_key.iter().map(|byte| format!("{byte:02x}")).collect();
    FarHost { host_key, addresses: far.addresses, grant: far.grant }
}

fn hex_in(hex: &str) -> Result<Bytes> {
    let digits = |at: usize| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(digits).collect();
    bytes.map(Bytes::from).ok_or_else(|| nonsense("a key that is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_host_comes_out_as_it_went_in_and_a_key_that_is_none_does_not() {
        let far = FarHost { host_key: "0a".repeat(32), addresses: vec!["203.0.113.9:7080".into()], grant: 7 };
        assert_eq!(far_in(far_out(&far).unwrap()), far);
        assert!(hex_in("0g").is_err() && hex_in("abc").is_err());
    }
}
