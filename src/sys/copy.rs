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
        Err(
            Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS | Errno::PERM | Errno::ACCESS,
        ) => Ok(false),
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

/// The first range of data at or after `offset`, up to the hole behind it; `None` if only a hole is left.
pub fn data_from(file: &File, offset: u64) -> Result<Option<std::ops::Range<u64>>> {
    let Some(start) = next_data(file, offset)? else { return Ok(None) };
    match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(end) => Ok(Some(start..end.max(start + 1))),
        // It became shorter in between.
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(start..u64::MAX)),
        Err(error) => Err(Error::from(error)),
    }
}

/// The holes in the first `size` bytes of a file, in order; no more than the first `most`.
pub fn holes(file: &File, size: u64, most: usize) -> Result<Vec<std::ops::Range<u64>>> {
    let (mut holes, mut at) = (Vec::new(), 0);
    while at < size && holes.len() < most {
        let data = data_from(file, at)?.filter(|data| data.start < size);
        let end = data.as_ref().map_or(size, |data| data.start);
        if at < end {
            holes.push(at..end);
        }
        at = data.map_or(size, |data| data.end);
    }
    Ok(holes)
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

/// Writes `data` at `offset` of a file, making holes of whole blocks of zeros. `blank`: the file is all hole there as it is.
pub fn write_sparse(file: &File, data: &[u8], offset: u64, blank: bool) -> Result<()> {
    for (part, is_zero) in runs(data, offset) {
        match is_zero {
            false => file.write_all_at(&data[part.clone()], offset + part.start as u64)?,
            true if blank => {}
            true => punch(file, &data[part.clone()], offset + part.start as u64)?,
        }
    }
    Ok(())
}

/// Makes holes of the blocks of zeros in `data`, which is what the file has at `offset`.
pub fn dig(file: &File, data: &[u8], offset: u64) -> Result<()> {
    let zeros = runs(data, offset).into_iter().filter(|(_, is_zero)| *is_zero);
    zeros.into_iter().try_for_each(|(part, _)| punch(file, &data[part.clone()], offset + part.start as u64))
}

fn punch(file: &File, zeros: &[u8], offset: u64) -> Result<()> {
    let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, mode, offset, zeros.len() as u64) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.write_all_at(zeros, offset),
        other => Ok(other?),
    }
}

/// Cuts data at the file's blocks into runs that are all zero and runs that are not.
fn runs(data: &[u8], offset: u64) -> Vec<(std::ops::Range<usize>, bool)> {
    let lead = (HOLE - (offset % HOLE as u64) as usize) % HOLE;
    let lead = lead.min(data.len());
    let mut runs: Vec<(std::ops::Range<usize>, bool)> = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let end = if at < lead { lead } else { (at + HOLE).min(data.len()) };
        let zero = is_zero(&data[at..end]);
        match runs.last_mut() {
            Some((run, same)) if *same == zero => run.end = end,
            _ => runs.push((at..end, zero)),
        }
        at = end;
    }
    runs
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
