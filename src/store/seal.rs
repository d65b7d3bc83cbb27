//! Encryption at rest: XChaCha20-Poly1305 with a key from a file. Whoever holds the place without the key learns how much is
//! in it and when it came, and can change nothing unnoticed.

use std::io::Write;
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ring::rand::SecureRandom;

use crate::model::{Error, Kind, Result};
use crate::sys::dir::private_file;

/// Bytes before the text: a nonce drawn at random for each piece.
const NONCE: usize = 24;
/// Bytes that sealing adds.
pub const OVERHEAD: usize = NONCE + 16;

/// How a key file starts; then 64 hexadecimal digits and a line end.
const KEY_FILE: &str = "mcloud-store-key 1 ";

/// The key of a store.
pub struct Key(XChaCha20Poly1305, [u8; 8]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    pub fn new(bytes: &[u8; 32]) -> Key {
        let check = blake3::derive_key("mcloud v1 store key check", bytes);
        let mut short = [0; 8];
        short.copy_from_slice(&check[..8]);
        Key(XChaCha20Poly1305::new(bytes.into()), short)
    }

    /// What tells this key from others without telling it.
    pub fn check(&self) -> [u8; 8] {
        self.1
    }

    /// Seals a piece. What it is (`what`) is bound to it: one kind cannot pass for another.
    pub fn seal(&self, what: &[u8], bytes: &[u8]) -> Result<Vec<u8>> {
        let nonce: [u8; NONCE] = random()?;
        let sealed = self.0.encrypt(&XNonce::from(nonce), Payload { msg: bytes, aad: what });
        let sealed = sealed.map_err(|_| Error::failed("a piece of the store cannot be sealed"))?;
        let mut out = Vec::with_capacity(NONCE + sealed.len());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Opens what was sealed; `None` if it is not that.
    pub fn open(&self, what: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE>()?;
        self.0.decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: what }).ok()
    }

    /// The key in a file, which is made, with a new key in it, where there is none.
    pub fn in_file(path: &Path) -> Result<Key> {
        let shown = path.display();
        match std::fs::read_to_string(path) {
            Ok(text) => parse(&text).map(|bytes| Key::new(&bytes)).ok_or_else(|| {
                Error::new(Kind::Corrupt, format!("{shown} is not the key of a store"))
                    .hint("it is one line: `mcloud-store-key 1` and 64 hexadecimal digits")
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let bytes: [u8; 32] = random()?;
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let write = || {
                    if let Some(folder) = path.parent() {
                        super::place::make_folder(folder)?;
                    }
                    let mut file = private_file().create_new(true).open(path)?;
                    writeln!(file, "{KEY_FILE}{hex}")?;
                    file.sync_all()
                };
                write().map_err(|error| Error::io(format!("the key {shown} of the store cannot be made"), error))?;
                Ok(Key::new(&bytes))
            }
            Err(error) => Err(Error::io(format!("the key {shown} of the store cannot be read"), error)),
        }
    }
}

fn parse(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix(KEY_FILE)?.trim_end();
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::failed("the system gives no random numbers"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_key_as_what_it_is_and_unchanged() {
        let (key, other) = (Key::new(&[1; 32]), Key::new(&[2; 32]));
        let sealed = key.seal(b"frame", b"text").unwrap();
        assert_eq!(sealed.len(), 4 + OVERHEAD);
        assert_eq!(key.open(b"frame", &sealed).as_deref(), Some(&b"text"[..]));
        assert!(key.open(b"footer", &sealed).is_none() && other.open(b"frame", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert!(key.open(b"frame", &flipped).is_none());
        }
        assert!(key.open(b"frame", b"short").is_none());
    }

    #[test]
    fn a_key_file_is_made_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.key");
        let (made, read) = (Key::in_file(&path).unwrap(), Key::in_file(&path).unwrap());
        assert_eq!(made.check(), read.check());
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(Key::in_file(&path).unwrap_err().kind, Kind::Corrupt);
    }
}
