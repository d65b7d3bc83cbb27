//! `--bwlimit`: a token bucket over the bytes of content.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Lets bytes through at a rate, with a burst of a tenth of a second.
pub struct Pace {
    bytes_per_second: u64,
    /// When all that was spent so far will have been paid for.
    paid: Mutex<Option<Instant>>,
}

impl Pace {
    /// 0 is no limit.
    pub fn new(bytes_per_second: u64) -> Pace {
        Pace { bytes_per_second, paid: Mutex::new(None) }
    }

    /// Waits until `bytes` more may go.
    pub fn spend(&self, bytes: u64) {
        if self.bytes_per_second == 0 || bytes == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut held = self.paid.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        let paid = held.unwrap_or(now).max(now - Duration::from_millis(100)) + cost;
        *held = Some(paid);
        drop(held);
        std::thread::sleep(paid.saturating_duration_since(Instant::now()));
    }
}
