//! Where files are cut: FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking", 2020, with its masks for
//! normalisation level 1), 64 KiB on average. Pure: bytes in, boundaries out.

use super::link::ChunkRef;
use crate::model::Name;

/// No chunk is shorter but a file's last, none longer; the mean is a little above `AVERAGE`. The bytes below the minimum
/// are never looked at, which makes cutting half as dear as with the customary quarter.
pub const MIN: usize = 32 * 1024;
pub const AVERAGE: usize = 64 * 1024;
pub const MAX: usize = 256 * 1024;

const MASK_SHORT: u64 = fastcdc::v2020::MASKS[16 + 1];
const MASK_LONG: u64 = fastcdc::v2020::MASKS[16 - 1];

/// The length of the first chunk of `bytes`, which are all that is left of the file, or at least [`MAX`] of it.
pub fn cut(bytes: &[u8]) -> usize {
    fastcdc::v2020::cut(bytes, MIN, AVERAGE, MAX, MASK_SHORT, MASK_LONG, MASK_SHORT << 1, MASK_LONG << 1).1
}

/// Cuts off and names all chunks whose ends are certain. `last`: nothing follows these bytes. Returns the bytes used.
pub fn chunks(bytes: &[u8], last: bool, out: &mut Vec<ChunkRef>) -> usize {
    let mut at = 0;
    while at < bytes.len() && (last || bytes.len() - at >= MAX) {
        let len = cut(&bytes[at..]);
        out.push(ChunkRef { name: Name::of(&bytes[at..at + len]), len: len as u32 });
        at += len;
    }
    at
}

/// The chunks of a whole content in memory. One that is no longer than the longest chunk is a single one, uncut.
pub fn all_chunks(bytes: &[u8]) -> Vec<ChunkRef> {
    let mut out = Vec::new();
    match bytes.len() {
        0 => {}
        len if len <= MAX => out.push(ChunkRef { name: Name::of(bytes), len: len as u32 }),
        _ => {
            chunks(bytes, true, &mut out);
        }
    }
    out
}
