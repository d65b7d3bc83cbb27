//! The clocks. Everything else gets its time from here, or as a value.

#![expect(unsafe_code, reason = "each use says why it holds")]

use rustix::time::{ClockId, clock_gettime};

/// A point in time as file systems write it: seconds since 1970 (may be negative) and nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Time {
    pub seconds: i64,
    pub nanos: u32,
}

impl Time {
    /// This many milliseconds earlier.
    #[must_use]
    pub fn minus_ms(self, ms: u32) -> Time {
        let nanos = i64::from(self.nanos) - i64::from(ms % 1000) * 1_000_000;
        let borrow = i64::from(nanos < 0);
        let nanos = u32::try_from(nanos + borrow * 1_000_000_000).unwrap_or(0);
        Time { seconds: self.seconds - i64::from(ms / 1000) - borrow, nanos }
    }
}

/// Now, by the clock that the kernel stamps files with (it moves on at each tick, a few milliseconds).
pub fn file_clock() -> Time {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    Time { seconds: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) }
}

/// Hour, minute and second of the day where this machine stands, for people; `None` where its zone cannot be read.
pub fn time_of_day() -> Option<(i32, i32, i32)> {
    let now: libc::time_t = clock_gettime(ClockId::Realtime).tv_sec;
    let mut parts = std::mem::MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers lead to values of our own for as long as the call takes; the result is read only where the call
    // says that it was written. Nothing here changes the environment, from which it takes the zone.
    let parts = unsafe {
        if libc::localtime_r(&raw const now, parts.as_mut_ptr()).is_null() {
            return None;
        }
        parts.assume_init()
    };
    Some((parts.tm_hour, parts.tm_min, parts.tm_sec))
}
