//! Memory that bytes are read into, and how the allocator treats it.

#![expect(unsafe_code, reason = "each use says why it holds")]

use std::fs::File;
use std::io::Result;

use rustix::io::Errno;

/// Appends up to `len` bytes at `offset` of a file to `out`, without clearing the room first; less only at the file's end.
/// Returns how many.
pub fn append_at(file: &File, out: &mut Vec<u8>, len: usize, offset: u64) -> Result<usize> {
    let start = out.len();
    out.reserve(len);
    while out.len() - start < len {
        let done = out.len() - start;
        let room = &mut out.spare_capacity_mut()[..len - done];
        match rustix::io::pread(file, room, offset + done as u64) {
            Ok(([], _)) => break,
            Ok((read, _)) => {
                let filled = start + done + read.len();
                // SAFETY: the kernel has just written these bytes, and they lie within the capacity.
                unsafe { out.set_len(filled) }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(out.len() - start)
}

/// Lets freed buffers be used again instead of being given back to the kernel each time: fresh pages cost more than what
/// is done with them. Call once, before threads start.
pub fn keep_buffers() {
    const MEBIBYTE: i32 = 1 << 20;
    // SAFETY: mallopt only sets parameters of the allocator, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 * MEBIBYTE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 * MEBIBYTE);
        libc::mallopt(libc::M_ARENA_MAX, 4);
    }
}
