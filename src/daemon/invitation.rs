//! An invitation as text: `mcloud1/HOST-KEY/SEED/ADDR@PORT,…`. No character of it means anything to a shell.

use std::net::SocketAddr;

use crate::model::{Error, Result};
use crate::transport::PublicKey;
use crate::transport::identity::{from_hex, to_hex};

#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    pub host_key: PublicKey,
    /// Of the key that logs in.
    pub seed: [u8; 32],
    pub addresses: Vec<SocketAddr>,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invitation({:?}, {:?})", self.host_key, self.addresses)
    }
}

const FORM: &str = "mcloud1";

impl Invitation {
    pub fn to_text(&self) -> String {
        let addresses: Vec<String> =
            self.addresses.iter().map(|address| format!("{}@{}", address.ip(), address.port())).collect();
        format!("{FORM}/{}/{}/{}", self.host_key, to_hex(&self.seed), addresses.join(","))
    }

    pub fn parse(text: &str) -> Result<Invitation> {
        let parts: Vec<&str> = text.trim().split('/').collect();
        let parsed = match parts[..] {
            [FORM, key, seed, addresses] => {
                let address = |text: &str| {
                    let (ip, port) = text.split_once('@')?;
                    Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
                };
                let addresses: Option<Vec<SocketAddr>> = addresses.split(',').map(address).collect();
                from_hex(key).zip(from_hex(seed)).zip(addresses)
            }
            _ => None,
        };
        let ((key, seed), addresses) = parsed.ok_or_else(|| {
            Error::usage("this is not an invitation")
                .hint("`mcloud invite` on the host prints the whole `mcloud login …` line; copy all of it")
        })?;
        Ok(Invitation { host_key: PublicKey(key), seed, addresses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_survives_being_text() {
        let invitation = Invitation {
            host_key: PublicKey([7; 32]),
            seed: [8; 32],
            addresses: vec!["192.0.2.1:7080".parse().unwrap(), "[2001:db8::1]:9".parse().unwrap()],
        };
        let text = invitation.to_text();
        assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || "/@.:,".contains(c)), "{text}");
        assert_eq!(Invitation::parse(&format!(" {text}\n")).unwrap(), invitation);
        for wrong in
            ["", "mcloud1", &text[..text.len() - 5], &text.replace("mcloud1", "mcloud2"), &text.replace('@', "#")]
        {
            assert!(Invitation::parse(wrong).is_err(), "{wrong}");
        }
        assert!(!format!("{invitation:?}").contains("0808"), "the seed is a secret");
    }
}
