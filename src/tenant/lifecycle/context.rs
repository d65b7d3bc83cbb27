//! What an image is built from, as a tar: a folder of the tenant, read beneath it and through no link, or a Dockerfile alone.

use std::fs::File;
use std::io::{Read, Seek, Write};

use crate::model::{Error, Kind, Result};
use crate::sys::dir::Dir;
use crate::tenant::config::LocalPath;

/// How a Dockerfile that stands in mcloud.yml is called in its context.
pub const INLINE_DOCKERFILE: &str = "Dockerfile";

const BLOCK: usize = 512;

/// Where an image comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context<'a> {
    Folder(&'a LocalPath),
    /// The text of a Dockerfile.
    Inline(&'a str),
}

/// Writes the context to `to`, which is left at its start. `root` is the tenant's folder.
pub fn pack(root: &Dir, from: Context<'_>, mut to: File) -> Result<File> {
    {
        let mut out = std::io::BufWriter::new(&mut to);
        match from {
            Context::Inline(text) => {
                let bytes = text.as_bytes();
                header(&mut out, INLINE_DOCKERFILE.as_bytes(), 0o644, b'0', bytes.len() as u64, b"").map_err(cannot)?;
                body(&mut out, &mut &*bytes, bytes.len() as u64).map_err(cannot)?;
            }
            Context::Folder(dir) => {
                let folder = root.open_beneath(dir.as_str().as_bytes()).map_err(|error| {
                    Error::io(format!("the folder `{dir}` that the image is built from cannot be opened"), error).hint(
                        "`build:` names a folder of the tenant with a Dockerfile in it: has its code been synced?",
                    )
                })?;
                if folder.stat_if_there(b"Dockerfile").map_err(cannot)?.is_none() {
                    return Err(Error::failed(format!("there is no Dockerfile in the folder `{dir}`")).hint(
                        "`build:` names a folder of the tenant with a Dockerfile in it: has its code been synced?",
                    ));
                }
                walk(&folder, b"", &mut out)?;
            }
        }
        out.write_all(&[0; 2 * BLOCK]).and_then(|()| out.flush()).map_err(cannot)?;
    }
    to.rewind().map_err(cannot)?;
    Ok(to)
}

fn cannot(error: std::io::Error) -> Error {
    let error = Error::io("what the image is built from cannot be gathered", error);
    match error.kind {
        Kind::NoSpace => error
            .hint("it is gathered in the daemon's home: make room there, or give `build:` a folder with less in it"),
        _ => error,
    }
}

fn walk(dir: &Dir, prefix: &[u8], out: &mut impl Write) -> Result<()> {
    for entry in dir.names().map_err(cannot)? {
        let name: &[u8] = &entry.name;
        let stat = dir.stat(name).map_err(cannot)?;
        let path = [prefix, name].concat();
        let mode = stat.st_mode & 0o7777;
        match stat.st_mode & 0o170_000 {
            0o040_000 => {
                let path = [&path[..], b"/"].concat();
                header(out, &path, mode, b'5', 0, b"").map_err(cannot)?;
                walk(&dir.open_beneath(name).map_err(cannot)?, &path, out)?;
            }
            0o120_000 => {
                let target = dir.read_link(name).map_err(cannot)?;
                header(out, &path, 0o777, b'2', 0, target.to_bytes()).map_err(cannot)?;
            }
            0o100_000 => {
                let mut file = dir.read(name).map_err(cannot)?;
                let len = u64::try_from(stat.st_size).unwrap_or(0);
                header(out, &path, mode, b'0', len, b"").map_err(cannot)?;
                body(out, &mut file, len).map_err(cannot)?;
            }
            // Devices, sockets and pipes are nothing that an image is built from.
            _ => {}
        }
    }
    Ok(())
}

/// `len` bytes, whatever the file has meanwhile: a tar says before what comes.
fn body(out: &mut impl Write, from: &mut impl Read, len: u64) -> std::io::Result<()> {
    let copied = std::io::copy(&mut from.take(len), out)?;
    let padded = len.next_multiple_of(BLOCK as u64);
    std::io::copy(&mut std::io::repeat(0).take(padded - copied), out).map(drop)
}

/// A header after POSIX.1-1988 ("ustar") with GNU's way for long names.
fn header(out: &mut impl Write, path: &[u8], mode: u32, kind: u8, len: u64, link: &[u8]) -> std::io::Result<()> {
    for (name, kind) in [(link, b'K'), (path, b'L')] {
        if name.len() > 100 {
            block(out, b"././@LongLink", 0o644, kind, name.len() as u64 + 1, b"")?;
            let mut named = name.to_vec();
            named.push(0);
            body(out, &mut &named[..], named.len() as u64)?;
        }
    }
    block(out, &path[..path.len().min(100)], mode, kind, len, &link[..link.len().min(100)])
}

fn block(out: &mut impl Write, path: &[u8], mode: u32, kind: u8, len: u64, link: &[u8]) -> std::io::Result<()> {
    let mut block = [0u8; BLOCK];
    block[..path.len()].copy_from_slice(path);
    let mut put = |at: usize, text: String| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(100, format!("{mode:07o}"));
    put(108, format!("{:07o}", 0));
    put(116, format!("{:07o}", 0));
    put(136, format!("{:011o}", 0));
    put(257, "ustar  ".to_owned());
    if len < 1 << 33 {
        put(124, format!("{len:011o}"));
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&len.to_be_bytes());
    }
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    out.write_all(&block)
}
