//! Pages of a big file, staged and written into it in place.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use crate::sys::copy::write_sparse;
use crate::tree::entry::{put, take};

/// Changes to a file in place, staged: the bytes one behind the other, then where they belong, then the length of that
/// table (8 bytes) (docs/formats.md, Pages).
pub struct Pages {
    pub size: u64,
    /// Blocks of zeros are to be holes.
    pub sparse: bool,
    pub pieces: Vec<(u64, u32)>,
    pub end: u64,
}

impl Pages {
    /// Stages one piece.
    pub fn add(&mut self, file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        file.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        self.pieces.push((offset, bytes.len() as u32));
        Ok(())
    }

    pub fn seal(&self, file: &File) -> std::io::Result<()> {
        let mut table = Vec::new();
        put(&mut table, self.size);
        put(&mut table, self.sparse.into());
        for (offset, len) in &self.pieces {
            put(&mut table, *offset);
            put(&mut table, u64::from(*len));
        }
        let len = table.len() as u64;
        table.extend_from_slice(&len.to_le_bytes());
        file.write_all_at(&table, self.end)
    }

    /// Writes staged pages into the file they belong to. Doing it again does no harm.
    pub fn apply(staged: &File, to: &File) -> std::io::Result<()> {
        let broken = || std::io::Error::new(ErrorKind::InvalidData, "staged pages are damaged");
        let len = staged.metadata()?.len();
        let mut tail = [0; 8];
        staged.read_exact_at(&mut tail, len.checked_sub(8).ok_or_else(broken)?)?;
        let table_len = u64::from_le_bytes(tail);
        let table_at = (len - 8).checked_sub(table_len).ok_or_else(broken)?;
        let mut table = vec![0; table_len as usize];
        staged.read_exact_at(&mut table, table_at)?;
        let mut rest = &table[..];
        let size = take(&mut rest).ok_or_else(broken)?;
        let sparse = take(&mut rest).ok_or_else(broken)? != 0;
        // All of the table makes sense before the first byte is written.
        let (mut pieces, mut end) = (Vec::new(), 0u64);
        while !rest.is_empty() {
            let (offset, len) = (take(&mut rest).ok_or_else(broken)?, take(&mut rest).ok_or_else(broken)?);
            end = end.checked_add(len).filter(|end| *end <= table_at).ok_or_else(broken)?;
            offset.checked_add(len).filter(|end| *end <= size).ok_or_else(broken)?;
            pieces.push((offset, len));
        }
        to.set_len(size)?;
        let mut at = 0;
        let mut buffer = Vec::new();
        for (offset, len) in pieces {
            buffer.resize(usize::try_from(len).map_err(|_| broken())?, 0);
            staged.read_exact_at(&mut buffer, at)?;
            if sparse {
                write_sparse(to, &buffer, offset, false)?;
            } else {
                to.write_all_at(&buffer, offset)?;
            }
            at += len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_pages_are_an_error_and_change_nothing() {
        let (staged, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut pages = Pages { size: 9000, sparse: false, pieces: Vec::new(), end: 0 };
        pages.add(&staged, &[1; 5000], 0).unwrap();
        pages.add(&staged, &[2; 4000], 5000).unwrap();
        pages.seal(&staged).unwrap();
        let mut whole = vec![0; staged.metadata().unwrap().len() as usize];
        staged.read_exact_at(&mut whole, 0).unwrap();
        let read = |file: &File| {
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        to.write_all_at(b"before", 0).unwrap();
        // A number of the table that is larger than it was, from the first length on.
        for at in 9004..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] |= 0x40;
            if bytes == whole {
                continue;
            }
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            assert!(Pages::apply(&file, &to).is_err(), "byte {at}");
            assert_eq!(read(&to), b"before", "byte {at}");
        }
        Pages::apply(&staged, &to).unwrap();
        assert_eq!(read(&to), [vec![1; 5000], vec![2; 4000]].concat());
    }
}
