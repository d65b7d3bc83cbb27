//! Whether compressing what is sent pays, and doing it.
//!
//! It pays where the link is slower than a compressor. How fast the link is, is what QUIC's congestion control knows:
//! a window of bytes a round trip. On a link without delay that is believed only after it had time to grow.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::connection::{Connection, Path};
use crate::model::Result;
use crate::wire::nonsense;

const MB: f64 = 1e6;
/// Below this round trip a link counts as one machine or one room.
const NEAR_SECONDS: f64 = 0.001;
/// zstd's level 1 and 3 keep up with these on one core, on text, and leave room for the rest of the work.
const FAR_RATE: f64 = 200.0 * MB;
const NEAR_RATE: f64 = 60.0 * MB;
const SLOW_RATE: f64 = 15.0 * MB;
/// A near link's window says nothing before this much was sent.
const GROWN_BYTES: u64 = 512 << 10;
/// A near link that has not taken it in this time is a slow one.
const GROWING: Duration = Duration::from_millis(10);

/// Less is not worth the call.
const WORTH_BYTES: usize = 256;
/// Longer payloads have a sample of their middle tried first.
const SAMPLED_BYTES: usize = 64 << 10;
const SAMPLE_BYTES: usize = 16 << 10;

/// The zstd level that suits a link; `None` where compressing would hold it up.
pub(super) fn level(path: Path) -> Option<i32> {
    if is_far(path) || path.sent_bytes >= GROWN_BYTES { by_rate(path) } else { None }
}

/// As [`level`], once `given` bytes were given to be sent: a near link that was given enough is waited for until it has
/// shown what it is. (Its send buffer would take the rest of a small sync at once, and all of it uncompressed.)
pub(super) async fn level_after(connection: &Connection, given: u64) -> Option<i32> {
    let begun = Instant::now();
    loop {
        let path = connection.path();
        if is_far(path) || path.sent_bytes >= GROWN_BYTES || given < GROWN_BYTES {
            return level(path);
        }
        if begun.elapsed() >= GROWING {
            return by_rate(path).or(Some(1));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn is_far(path: Path) -> bool {
    path.min_rtt.as_secs_f64() > NEAR_SECONDS
}

fn by_rate(path: Path) -> Option<i32> {
    let rtt = path.rtt.as_secs_f64().max(1e-6);
    let rate = path.window_bytes as f64 / rtt;
    let slow = rate < if is_far(path) { FAR_RATE } else { NEAR_RATE };
    slow.then_some(if rate < SLOW_RATE { 3 } else { 1 })
}

/// The payload compressed, if it becomes smaller by a twentieth at least. Blocks for as long as zstd takes.
pub(super) fn pack(payload: &[Bytes], level: i32) -> Option<Bytes> {
    let len: usize = payload.iter().map(Bytes::len).sum();
    if len < WORTH_BYTES {
        return None;
    }
    let joined;
    let whole: &[u8] = match payload {
        [one] => one,
        pieces => {
            joined = pieces.concat();
            &joined
        }
    };
    let smaller = |packed: &[u8], len: usize| packed.len() < len - len / 20;
    if len > SAMPLED_BYTES {
        let sample = &whole[(len - SAMPLE_BYTES) / 2..][..SAMPLE_BYTES];
        let packed = zstd::bulk::compress(sample, 1).ok()?;
        if !smaller(&packed, SAMPLE_BYTES) {
            return None;
        }
    }
    let packed = zstd::bulk::compress(whole, level).ok()?;
    smaller(&packed, len).then(|| packed.into())
}

/// What [`pack`] was given. Never makes more than `len` bytes.
pub(super) fn unpack(packed: &[u8], len: usize) -> Result<Bytes> {
    match zstd::bulk::decompress(packed, len) {
        Ok(whole) if whole.len() == len => Ok(whole.into()),
        Ok(whole) => Err(nonsense(format!("{} compressed bytes where {len} were said", whole.len()))),
        Err(error) => Err(nonsense("a payload that zstd cannot unpack").because(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(rtt_us: u64, rate_mb: u64, sent_bytes: u64) -> Path {
        let rtt = Duration::from_micros(rtt_us);
        Path { rtt, min_rtt: rtt, window_bytes: rate_mb * rtt_us, sent_bytes }
    }

    #[test]
    fn a_slow_link_compresses_and_a_loopback_never_does() {
        assert_eq!(level(path(200, 800, 1 << 30)), None, "loopback in full swing");
        assert_eq!(level(path(200, 50, 20_000)), None, "loopback at its start");
        assert_eq!(level(path(200, 10, 1 << 30)), Some(3), "10 MB/s in one room");
        assert_eq!(level(path(20_000, 1, 0)), Some(3), "the start of a far link");
        assert_eq!(level(path(20_000, 100, 1 << 30)), Some(1), "a far link of 100 MB/s");
        assert_eq!(level(path(20_000, 500, 1 << 30)), None, "a far link faster than the compressor");
    }

    #[test]
    fn packed_is_unpacked_and_noise_is_left_alone() {
        let text = Bytes::from("all work and no play makes jack a dull boy\n".repeat(5000));
        let packed = pack(&[text.slice(..1000), text.slice(1000..)], 1).unwrap();
        assert!(packed.len() < text.len() / 10);
        assert_eq!(unpack(&packed, text.len()).unwrap(), text);
        assert!(unpack(&packed, text.len() - 1).is_err() && unpack(&packed, text.len() + 1).is_err());
        assert!(unpack(b"junk", 100).is_err());

        let mut noise = vec![0; 200_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert!(pack(&[noise.into()], 1).is_none());
        assert!(pack(&[Bytes::from_static(b"short")], 1).is_none());
    }
}
