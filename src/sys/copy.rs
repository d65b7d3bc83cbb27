//! Bytes from file to file without passing through here: reflinks, `copy_file_range`, and holes.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Makes `to` (empty) share all of `from`'s blocks. False where the file system cannot.
pub fn reflink(from: &File, to: &File) -> Result<bool> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS | Errno::PERM | Errno::ACCESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Copies a range, sharing blocks where the file system can. Fails with `UnexpectedEof` if `from` is too short.
pub fn copy_range(from: &File, mut from_at: u64, to: &File, mut to_at: u64, mut len: u64) -> Result<()> {
    while len > 0 {
        let want = usize::try_from(len).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), want) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => len -= count as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                return copy_by_hand(from, from_at, to, to_at, len);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, mut from_at: u64, to: &File, mut to_at: u64, mut len: u64) -> Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    while len > 0 {
        let step = usize::try_from(len).unwrap_or(usize::MAX).min(buffer.len());
        from.read_exact_at(&mut buffer[..step], from_at)?;
        to.write_all_at(&buffer[..step], to_at)?;
        from_at += step as u64;
        to_at += step as u64;
        len -= step as u64;
    }
    Ok(())
}

/// Where the next data at or after `offset` starts; `None` if only a hole is left.
pub fn next_data(file: &File, offset: u64) -> Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        // Not every file system knows about holes: then everything is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset)),
        Err(error) => Err(Error::from(error)),
    }
}

/// Copies just the data in a range, leaving holes as they are. Where `from` became shorter, less is copied.
pub fn copy_data(from: &File, from_at: u64, to: &File, to_at: u64, len: u64) -> Result<()> {
    let end = from_at + len;
    let mut at = from_at;
    while at < end
        && let Some(data) = next_data(from, at)?.filter(|data| *data < end)
    {
        let stop = rustix::fs::seek(from, SeekFrom::Hole(data)).unwrap_or(end).clamp(data + 1, end);
        match copy_range(from, data, to, to_at + (data - from_at), stop - data) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        at = stop;
    }
    Ok(())
}

/// Size of the blocks in which holes are looked for.
const HOLE: usize = 4096;

/// Writes `data` at `offset` of a file that is all hole there, leaving out whole blocks of zeros.
pub fn write_sparse(file: &File, data: &[u8], offset: u64) -> Result<()> {
    let lead = (HOLE - usize::try_from(offset % HOLE as u64).unwrap_or(0)) % HOLE;
    let lead = lead.min(data.len());
    let mut start = 0;
    let mut at = 0;
    while at < data.len() {
        let end = if at < lead { lead } else { (at + HOLE).min(data.len()) };
        if is_zero(&data[at..end]) {
            if start < at {
                file.write_all_at(&data[start..at], offset + start as u64)?;
            }
            start = end;
        }
        at = end;
    }
    if start < data.len() {
        file.write_all_at(&data[start..], offset + start as u64)?;
    }
    Ok(())
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
