//! Cutting one big file with several threads, to the same chunks that one thread would find.
//!
//! The file is taken in segments. Each thread cuts a segment as if a chunk began where the segment does. Content-defined
//! boundaries fall into step after a few chunks, so the one true sequence is then put together: from the end of the chunk
//! that reaches into a segment it is cut on by hand until it meets a boundary found there, and follows those to the end.

use std::collections::VecDeque;
use std::io::{ErrorKind, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::chunk::{self, MAX};
use super::link::ChunkRef;
use super::read::Open;
use crate::model::Name;
use crate::sys::copy::next_data;

const SEGMENT: u64 = 8 << 20;

/// The boundaries found in one segment: where each chunk starts, and the chunk.
type Cuts = Vec<(u64, ChunkRef)>;

struct Work {
    next: u64,
    done: VecDeque<Option<Result<Cuts>>>,
    /// Number of the segment at the front of `done`.
    front: u64,
}

/// Cuts and names the whole file; `each` gets its chunks in order. `read` counts the bytes read.
pub fn chunk_file(
    open: &Open,
    threads: usize,
    cancel: &AtomicBool,
    read: &AtomicU64,
    mut each: impl FnMut(ChunkRef) -> Result<()>,
) -> Result<()> {
    let segments = open.size.div_ceil(SEGMENT);
    let work = Mutex::new(Work { next: 0, done: VecDeque::new(), front: 0 });
    let changed = Condvar::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffer = Vec::new();
                loop {
                    let mut held = lock(&work);
                    // Not too far ahead of the one who puts the pieces together.
                    while held.next < segments
                        && held.next >= held.front + 4 * threads as u64
                        && !stop.load(Ordering::Relaxed)
                    {
                        held = changed.wait(held).unwrap_or_else(PoisonError::into_inner);
                    }
                    let number = held.next;
                    if number >= segments || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    held.next += 1;
                    drop(held);
                    let cuts = if cancel.load(Ordering::Relaxed) {
                        Err(ErrorKind::Interrupted.into())
                    } else {
                        cut_segment(open, number * SEGMENT, &mut buffer, read)
                    };
                    let mut held = lock(&work);
                    let place = (number - held.front) as usize;
                    if held.done.len() <= place {
                        held.done.resize_with(place + 1, || None);
                    }
                    held.done[place] = Some(cuts);
                    drop(held);
                    changed.notify_all();
                }
            });
        }
        let mut at = 0;
        let outcome = (0..segments).try_for_each(|number| {
            let mut held = lock(&work);
            let cuts = loop {
                if let Some(cuts) = held.done.front_mut().and_then(Option::take) {
                    break cuts;
                }
                held = changed.wait(held).unwrap_or_else(PoisonError::into_inner);
            };
            held.done.pop_front();
            held.front = number + 1;
            drop(held);
            changed.notify_all();
            join_segment(open, &mut at, (number + 1) * SEGMENT, &cuts?, &mut each)
        });
        let held = lock(&work);
        stop.store(true, Ordering::Relaxed);
        drop(held);
        changed.notify_all();
        outcome
    })
}

/// Cuts from `start` on until a boundary is at or past the end of the segment.
fn cut_segment(open: &Open, start: u64, buffer: &mut Vec<u8>, read: &AtomicU64) -> Result<Cuts> {
    let span = (open.size - start).min(SEGMENT + MAX as u64);
    let mut cuts = Vec::new();
    let inside = |at: u64| at < start + SEGMENT;
    if open.sparse && next_data(&open.file, start)?.is_none_or(|data| data >= start + span) {
        // All hole: the cuts of zeros, without reading them.
        let zeros = vec![0; MAX];
        let mut at = start;
        let mut full: Option<ChunkRef> = None;
        while at < open.size && inside(at) {
            let left = (open.size - at).min(MAX as u64) as usize;
            let chunk = match full {
                Some(chunk) if left == MAX => chunk,
                _ => {
                    let len = chunk::cut(&zeros[..left]);
                    ChunkRef { name: Name::of(&zeros[..len]), len: len as u32 }
                }
            };
            if left == MAX {
                full = Some(chunk);
            }
            cuts.push((at, chunk));
            at += u64::from(chunk.len);
        }
        return Ok(cuts);
    }
    buffer.clear();
    let count = open.append(buffer, span as usize, start)?;
    read.fetch_add(count as u64, Ordering::Relaxed);
    let mut at = 0;
    while at < count && inside(start + at as u64) {
        let len = chunk::cut(&buffer[at..count]);
        cuts.push((start + at as u64, ChunkRef { name: Name::of(&buffer[at..at + len]), len: len as u32 }));
        at += len;
    }
    Ok(cuts)
}

/// Goes on from `at` to the first boundary at or past `end`.
fn join_segment(
    open: &Open,
    at: &mut u64,
    end: u64,
    cuts: &Cuts,
    each: &mut impl FnMut(ChunkRef) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; MAX];
    loop {
        if *at >= end || *at >= open.size {
            return Ok(());
        }
        if let Ok(found) = cuts.binary_search_by_key(at, |(start, _)| *start) {
            for (_, chunk) in &cuts[found..] {
                each(*chunk)?;
                *at += u64::from(chunk.len);
            }
            // A file that shrank has fewer cuts than its size promised; the next read finds nothing.
            continue;
        }
        let count = open.read_at(&mut buffer, *at)?;
        if count == 0 {
            return Ok(());
        }
        let len = chunk::cut(&buffer[..count]);
        each(ChunkRef { name: Name::of(&buffer[..len]), len: len as u32 })?;
        *at += len as u64;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
