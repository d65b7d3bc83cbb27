//! Things done at a time: when a cron expression comes round, what is due now, which snapshots are kept.
//!
//! All of it takes the time as a value and returns values: it reads no clock, waits for nothing and knows nothing of
//! trees. The daemon's `jobs` does what is found to be due.

pub mod calendar;
pub mod due;
pub mod retention;
