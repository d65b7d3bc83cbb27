//! Times as people write and read them: how long, since when, at which moment (UTC).

use std::time::Duration;

use crate::model::{Error, Result};

const DAY: u64 = 86_400;

/// `90s`, `30m`, `1h`, `7d`, `2w`.
pub fn duration(text: &str) -> Result<Duration> {
    let wrong = || {
        Error::usage(format!("`{}` is not a length of time", super::show::text(text)))
            .hint("write a number and a unit: 90s, 30m, 1h, 7d, 2w")
    };
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => DAY,
        "w" => 7 * DAY,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale)).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

/// A moment: so long ago, `2026-11-23`, or `2026-11-23T14:30[:05]` with or without a `Z`; UTC. Seconds since 1970.
pub fn moment(text: &str, now_unix: u64) -> Result<u64> {
    if let Ok(ago) = duration(text) {
        return Ok(now_unix.saturating_sub(ago.as_secs()));
    }
    date_time(text).ok_or_else(|| {
        Error::usage(format!("`{}` is not a time", super::show::text(text)))
            .hint("write how long ago (2h, 7d) or a date in UTC (2026-11-23, 2026-11-23T14:30)")
    })
}

fn date_time(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let numbers = |text: &str, by: char| -> Option<Vec<u64>> {
        text.split(by)
            .map(|part| if part.bytes().all(|b| b.is_ascii_digit()) { part.parse().ok() } else { None })
            .collect()
    };
    let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
    let time = numbers(time, ':')?;
    let (hour, minute, second) = match time.as_slice() {
        [hour, minute] => (*hour, *minute, 0),
        [hour, minute, second] => (*hour, *minute, *second),
        _ => return None,
    };
    let valid = (1970..=9999).contains(&year) && hour < 24 && minute < 60 && second < 60;
    let days = if valid { days_since_1970(year, month, day)? } else { return None };
    Some(days * DAY + hour * 3600 + minute * 60 + second)
}

/// `2026-11-23 14:30:05Z`.
pub fn shown(unix: u64) -> String {
    let (days, rest) = (unix / DAY, unix % DAY);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

pub fn now_unix() -> u64 {
    u64::try_from(crate::sys::clock::file_clock().seconds).unwrap_or(0)
}

/// Days to a date; after Howard Hinnant, "chrono-compatible low-level date algorithms".
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (shifted / 400, shifted % 400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    let days = (era * 146_097 + of_era).checked_sub(719_468)?;
    // 31 April would come out as 1 May.
    (civil(days) == (year, month, day)).then_some(days)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_as_they_are_meant() {
        assert_eq!(duration("90s").ok(), Some(Duration::from_secs(90)));
        assert_eq!(duration("1h").ok(), Some(Duration::from_secs(3600)));
        for wrong in ["", "1", "h", "-1h", "1.5h", "1y", "99999999999999999999s", "9999999999999999999w"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(moment("1h", 10_000).ok(), Some(6400));
        assert_eq!(moment("1970-01-02", 0).ok(), Some(DAY));
        assert_eq!(moment("2026-11-23T14:30:05Z", 0).ok().map(shown).as_deref(), Some("2026-11-23 14:30:05Z"));
        for wrong in ["2026-13-01", "2026-02-30", "yesterday", "2026-1", "2026-01-01T25:00", "+2026-01-01"] {
            assert!(moment(wrong, 0).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_moment_shown_is_the_moment(unix in 0u64..253_402_300_799) {
            prop_assert_eq!(moment(&shown(unix), 0).ok(), Some(unix));
        }
    }
}
