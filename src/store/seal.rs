//! Encryption at rest: XChaCha20-Poly1305 with a key from a file. Whoever holds the place without the key learns how much is
//! in it and when it came, and can change nothing unnoticed.

use std::fs::File;
use std::io::{ErrorKind, Write};
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

    /// The key in a file, which is made, with a new key in it, where there is none. Of several that make it at once all get
    /// the same one. What is there is never written over, whatever it is: it may be all that opens a store.
    pub fn in_file(path: &Path) -> Result<Key> {
        let shown = path.display();
        loop {
            match std::fs::read_to_string(path) {
                Ok(text) => return parse(&text).map(|bytes| Key::new(&bytes)).ok_or_else(|| no_key(path, &text)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(format!("the key {shown} of the store cannot be read"), error)),
            }
            let bytes: [u8; 32] = random()?;
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            match put_new(path, format!("{KEY_FILE}{hex}\n").as_bytes()) {
                Ok(()) => return Ok(Key::new(&bytes)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(format!("the key {shown} of the store cannot be made"), error)),
            }
        }
    }
}

fn no_key(path: &Path, text: &str) -> Error {
    let error = Error::new(Kind::Corrupt, format!("{} is not the key of a store", path.display()));
    match text.is_empty() {
        true => error.hint(
            "it is empty: put the key there; or, if the store has no snapshots yet, remove it and a new one is made",
        ),
        false => error.hint("it is one line: `mcloud-store-key 1` and 64 hexadecimal digits"),
    }
}

/// Writes a file of our own that is not there yet: under another name, durable, and then linked to its own, which fails where
/// something is there. So whoever finds it finds all of it, also after a crash.
fn put_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    super::place::make_folder(folder)?;
    let number = random::<8>().map_err(std::io::Error::other)?.map(|byte| format!("{byte:02x}")).concat();
    let draft = folder.join(format!(".store-key.{number}"));
    let written = || -> std::io::Result<()> {
        let mut file = private_file().create_new(true).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::hard_link(&draft, path)
    };
    let written = written();
    let _ = std::fs::remove_file(&draft);
    written?;
    File::open(folder)?.sync_all()
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
        let all = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(all.collect::<Vec<_>>(), ["store.key"], "and nothing else");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        for wrong in ["nonsense", ""] {
            std::fs::write(&path, wrong).unwrap();
            assert_eq!(Key::in_file(&path).unwrap_err().kind, Kind::Corrupt);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), wrong, "it is not written over");
        }
    }

    #[test]
    fn a_key_that_is_there_is_never_written_over_and_all_who_make_one_at_once_have_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder/store.key");
        let made: Vec<[u8; 8]> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| Key::in_file(&path).unwrap().check())).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(made.iter().all(|check| *check == made[0]));
        let error = put_new(&path, b"another").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(Key::in_file(&path).unwrap().check(), made[0]);
    }
}
