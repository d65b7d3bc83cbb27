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
        to.set_len(size)?;
        let mut at = 0;
        let mut buffer = Vec::new();
        while !rest.is_empty() {
            let (offset, len) = (take(&mut rest).ok_or_else(broken)?, take(&mut rest).ok_or_else(broken)?);
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
