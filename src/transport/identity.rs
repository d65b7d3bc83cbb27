//! Ed25519 keys: what a host and a client are known by, and the files they are kept in.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::str::FromStr;

use ring::rand::SecureRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::model::{Error, Kind, Result};

/// Bytes of a public key and of the seed of a private one.
pub const KEY_BYTES: usize = 32;

/// An Ed25519 public key. Its text is 64 hexadecimal digits: good to select, to shorten and to pass as an argument.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; KEY_BYTES]);

/// The SubjectPublicKeyInfo of an Ed25519 key (RFC 8410) before its 32 bytes.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The PKCS#8 v1 of an Ed25519 key (RFC 8410) before its 32 bytes of seed.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

impl PublicKey {
    pub fn from_slice(bytes: &[u8]) -> Option<PublicKey> {
        bytes.try_into().ok().map(PublicKey)
    }

    /// The first digits, to tell keys apart in messages.
    pub fn short(&self) -> String {
        self.to_string()[..16].to_owned()
    }

    /// Whether `signature` over `message` was made with this key.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }

    pub(super) fn spki(&self) -> Vec<u8> {
        [SPKI_PREFIX.as_slice(), &self.0].concat()
    }

    pub(super) fn from_spki(spki: &[u8]) -> Option<PublicKey> {
        PublicKey::from_slice(spki.strip_prefix(&SPKI_PREFIX)?)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<PublicKey> {
        from_hex(text).map(PublicKey).ok_or_else(|| {
            Error::usage(format!("`{}` is not a key", text.escape_debug())).hint("a key is 64 hexadecimal digits")
        })
    }
}

/// A key pair.
pub struct Identity {
    seed: [u8; KEY_BYTES],
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.public)
    }
}

impl Identity {
    pub fn generate() -> Result<Identity> {
        Identity::from_seed(random()?)
    }

    pub fn from_seed(seed: [u8; KEY_BYTES]) -> Result<Identity> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| Error::failed("a key's seed is unusable"))?;
        let public =
            PublicKey::from_slice(pair.public_key().as_ref()).ok_or_else(|| Error::failed("a key is unusable"))?;
        Ok(Identity { seed, pair, public })
    }

    pub fn seed(&self) -> &[u8; KEY_BYTES] {
        &self.seed
    }

    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    pub(super) fn pkcs8(&self) -> Vec<u8> {
        [PKCS8_PREFIX.as_slice(), &self.seed].concat()
    }

    /// The key in `file`. `Kind::NotFound` when there is none; refused when others may read it.
    pub fn load(file: &Path) -> Result<Identity> {
        let shown = file.display();
        let opened = fs::File::open(file).map_err(|error| Error::io(format!("cannot read the key {shown}"), error))?;
        let meta = opened.metadata().map_err(|error| Error::io(format!("cannot read the key {shown}"), error))?;
        if meta.mode() & 0o077 != 0 {
            return Err(Error::new(Kind::Refused, format!("the key {shown} can be read by others"))
                .hint(format!("chmod 600 {shown}, and think of it as known if others use this machine")));
        }
        let mut text = String::new();
        opened
            .take(4096)
            .read_to_string(&mut text)
            .map_err(|error| Error::io(format!("cannot read the key {shown}"), error))?;
        let seed = text.strip_prefix(FILE_PREFIX).and_then(|rest| from_hex(rest.trim_end()));
        let damaged = || {
            Error::new(Kind::Corrupt, format!("{shown} is not a key file"))
                .hint("move it away to have a new key made; it will have to be invited again")
        };
        Identity::from_seed(seed.ok_or_else(damaged)?)
    }

    /// The key in `file`; a new one where there is none. Of several processes that make it at once, all get the same.
    pub fn load_or_create(file: &Path) -> Result<Identity> {
        match Identity::load(file) {
            Err(error) if error.kind == Kind::NotFound => {}
            done => return done,
        }
        let dir = file.parent().unwrap_or(Path::new("."));
        private_dir(dir)?;
        let new = Identity::generate()?;
        let fresh = dir.join(format!(".key.{}", to_hex(&random::<8>()?)));
        let cannot = |error: std::io::Error| Error::io(format!("cannot write the key {}", file.display()), error);
        let written = write_private(&fresh, format!("{FILE_PREFIX}{}\n", to_hex(&new.seed)).as_bytes());
        let linked = written.and_then(|()| fs::hard_link(&fresh, file));
        let _ = fs::remove_file(&fresh);
        match linked {
            Ok(()) => {
                fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(cannot)?;
                Ok(new)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Identity::load(file),
            Err(error) => Err(cannot(error)),
        }
    }
}

const FILE_PREFIX: &str = "mcloud-ed25519-seed 1 ";

/// Makes `dir`, and what is missing above it, for its owner alone.
pub fn private_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Error::io(format!("cannot make the folder {}", dir.display()), error))
}

fn write_private(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Random bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::failed("the system gives no random numbers"))?;
    Ok(bytes)
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let digit = |c: u8| (c as char).to_digit(16).map(|digit| digit as u8);
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_is_made_once_private_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys/host.key");
        let made = Identity::load_or_create(&file).unwrap();
        assert_eq!(Identity::load_or_create(&file).unwrap().public(), made.public());
        assert_eq!(Identity::load(&file).unwrap().public(), made.public());
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing else is left there");

        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(Identity::load(&file).unwrap_err().kind, Kind::Refused);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, "junk").unwrap();
        assert_eq!(Identity::load_or_create(&file).unwrap_err().kind, Kind::Corrupt);
    }

    #[test]
    fn keys_have_a_text_and_sign() {
        let identity = Identity::generate().unwrap();
        let public: PublicKey = identity.public().to_string().parse().unwrap();
        assert_eq!(public, identity.public());
        assert_eq!(PublicKey::from_spki(&public.spki()), Some(public));
        let signature = identity.sign(b"this");
        assert!(public.verifies(b"this", &signature) && !public.verifies(b"that", &signature));
        assert!("xyz".parse::<PublicKey>().is_err() && "+1".repeat(32).parse::<PublicKey>().is_err());
    }
}
