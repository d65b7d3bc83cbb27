//! What a daemon knows: its tenants, and who may do what with them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Error, Result, ServiceName, TenantName, VolumePath};

/// What somebody may do at a host. Each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads the tenants that match his globs.
    Viewer,
    /// Acts on the tenants that match his globs.
    Deployer,
    /// Everything.
    Admin,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Viewer, Role::Deployer, Role::Admin];

    pub fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Deployer => "deployer",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Role> {
        Role::ALL.into_iter().find(|role| role.word() == text).ok_or_else(|| {
            Error::usage(format!("`{}` is not a role", text.escape_debug())).hint("a role is admin, deployer or viewer")
        })
    }
}

/// A pattern of tenant names: `*` stands for any run of characters, `?` for one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantGlob(String);

impl TenantGlob {
    pub fn new(text: &str) -> Result<TenantGlob> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '*' | '?');
        if text.is_empty() || text.len() > 63 || !text.chars().all(good) {
            return Err(Error::usage(format!("`{}` cannot match any tenant's name", text.escape_debug()))
                .hint("a tenant glob is letters, digits, `_`, `-`, `*` and `?`, such as shop-*"));
        }
        Ok(TenantGlob(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Linear: on a mismatch only the last star takes one more character.
    pub fn matches(&self, name: &str) -> bool {
        let (glob, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut seen) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while seen < name.len() {
            match glob.get(at) {
                Some(b'*') => {
                    star = Some((at, seen));
                    at += 1;
                }
                Some(&c) if c == b'?' || c == name[seen] => {
                    at += 1;
                    seen += 1;
                }
                _ => match star {
                    Some((star_at, taken)) => {
                        star = Some((star_at, taken + 1));
                        at = star_at + 1;
                        seen = taken + 1;
                    }
                    None => return false,
                },
            }
        }
        glob[at..].iter().all(|c| *c == b'*')
    }
}

impl fmt::Display for TenantGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for TenantGlob {
    type Err = Error;

    fn from_str(text: &str) -> Result<TenantGlob> {
        TenantGlob::new(text)
    }
}

/// Who a daemon takes us for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Our public key, hexadecimal.
    pub key: String,
    pub label: String,
    pub role: Role,
    /// Which tenants the role is good for; an admin's list is empty and means all.
    pub tenants: Vec<TenantGlob>,
    /// The host's public key, hexadecimal.
    pub host_key: String,
    /// The version of the daemon's program.
    pub version: String,
}

/// What an invitation is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteTerms {
    pub role: Role,
    pub tenants: Vec<TenantGlob>,
    pub expires: Duration,
}

/// One enrolled key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Public key, hexadecimal.
    pub key: String,
    pub label: String,
    pub role: Role,
    pub tenants: Vec<TenantGlob>,
    pub created_unix: u64,
    pub last_seen_unix: Option<u64>,
}

/// A right that somebody who has it gave to another host: to act on one tenant, for one purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub number: u64,
    pub terms: GrantTerms,
    /// Who gave it: public key, hexadecimal, and label.
    pub by_key: String,
    pub by: String,
    pub created_unix: u64,
    pub last_seen_unix: Option<u64>,
}

/// What a grant is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantTerms {
    /// The other host's public key, hexadecimal.
    pub host_key: String,
    /// How people know that host.
    pub host: String,
    /// Viewer or deployer.
    pub role: Role,
    pub tenant: TenantName,
    /// In words: `schedule nightly on live.example`.
    pub purpose: String,
    /// `None` is until it is taken back.
    pub expires_unix: Option<u64>,
}

/// A grant as the one who gave it needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub number: u64,
    /// The public key of the host that gave it, hexadecimal.
    pub host_key: String,
    /// Where that host's daemon may be found, `ADDR:PORT`, best first.
    pub addresses: Vec<String>,
}

/// Another host that somebody here has to do with, and the right that it granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FarHost {
    /// Public key, hexadecimal.
    pub host_key: String,
    /// `ADDR:PORT`, best first.
    pub addresses: Vec<String>,
    /// The number of the grant there.
    pub grant: u64,
}

/// Something somebody did at a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    pub at_unix: u64,
    /// Public key, hexadecimal.
    pub key: String,
    pub label: String,
    /// The verb: `init`, `sync`, `invite`, …
    pub what: String,
    /// What it was done to; empty for the host itself.
    pub on: String,
    /// `ok`, `started`, or what went wrong.
    pub result: String,
}

/// What a new tenant is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTenant {
    pub name: TenantName,
    /// The text of its mcloud.yml; empty only with `path`.
    pub config: String,
    pub env: Option<String>,
    /// A folder of the host as its root volume: absolute, at the host.
    pub path: Option<String>,
}

/// A tenant as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    pub name: TenantName,
    pub env: Option<String>,
    /// The folder of its root volume, at the host.
    pub path: String,
    pub volumes: Vec<DataVolume>,
    pub created_unix: u64,
}

/// A volume with live data: of which service, and where it appears in its containers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataVolume {
    pub service: ServiceName,
    pub path: VolumePath,
}

impl fmt::Display for DataVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.path)
    }
}

/// One volume of one tenant at one host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VolumeRef {
    pub tenant: TenantName,
    /// `None` is the root volume.
    pub data: Option<DataVolume>,
}

impl fmt::Display for VolumeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.data {
            Some(data) => write!(f, "{}.{}:{}", data.service, self.tenant, data.path),
            None => self.tenant.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_people_expect() {
        let matches = |glob: &str, name: &str| TenantGlob::new(glob).expect(glob).matches(name);
        assert!(matches("*", "shop"));
        assert!(matches("shop", "shop"));
        assert!(!matches("shop", "shop2"));
        assert!(matches("shop*", "shop2"));
        assert!(matches("*-prod", "shop-eu-prod"));
        assert!(matches("s?op", "shop"));
        assert!(!matches("s?op", "sop"));
        assert!(matches("a*b*c", "aXbXbXc"));
        assert!(!matches("a*b*c", "aXbXbX"));
        assert!(!matches(&"*a".repeat(20), &"b".repeat(60)));
        assert!(TenantGlob::new("").is_err() && TenantGlob::new("a b").is_err());
    }

    #[test]
    fn roles_are_ordered_and_have_words() {
        assert!(Role::Viewer < Role::Deployer && Role::Deployer < Role::Admin);
        for role in Role::ALL {
            assert_eq!(role.word().parse::<Role>().ok(), Some(role));
        }
        assert!("root".parse::<Role>().is_err());
    }
}
