//! When a cron expression comes round in a time zone.
//!
//! Croner reads the expression and knows which wall clock times it names. What such a time means on the two days a year on
//! which the clocks change is decided here:
//!
//! - An expression that names hours (`0 2 * * *`, `30 1-5 * * *`, `0 */2 * * *`) is done once for each time it names. A time
//!   that is left out in spring is done right after the gap; one that comes twice in autumn is done the first time.
//! - An expression for every hour (`*/15 * * * *`) goes by the time that passes: every quarter of an hour, through the
//!   change, and nothing is made up for.
//!
//! Days of the month and days of the week add up where both are named, as in every cron: `0 2 1 * MON` is the 1st, and
//! each Monday.

use chrono::{DateTime, Datelike, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike};
use chrono_tz::{TZ_VARIANTS, Tz};
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};

use crate::model::meant::nearest;
use crate::model::{Error, Result};

/// A cron expression in a time zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Calendar {
    cron: Cron,
    zone: Tz,
    /// Whether it names no hours: then it goes by the time that passes.
    every_hour: bool,
}

/// Times that went by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The newest of them, in seconds since 1970.
    pub newest: i64,
    /// How many there were before it, counted up to [`Missed::COUNTED`].
    pub earlier: u32,
}

impl Missed {
    pub const COUNTED: u32 = 999;
}

/// The longest expression that is looked at.
const CRON_BYTES: usize = 256;
/// No zone's clocks are further than this from UTC, nor does any change skip more.
const OFFSET_SECONDS: i64 = 26 * 3600;
/// Stretches of time that are looked through for the newest time in them: from here on, doubled.
const STRETCH_SECONDS: i64 = 60;

/// The fields as people name them, what may stand in them, and which letters.
const FIELDS: [(&str, &str, &str); 6] = [
    ("second", "0 to 59", ""),
    ("minute", "0 to 59", ""),
    ("hour", "0 to 23", ""),
    ("day of the month", "1 to 31, L for the last", "LW"),
    ("month", "1 to 12 or JAN to DEC", "ABCDEFGJLMNOPRSTUVY"),
    ("day of the week", "0 to 7 or SUN to SAT", "ADEFHILMNORSTUW"),
];

const NICKNAMES: [&str; 6] = ["@hourly", "@daily", "@weekly", "@monthly", "@yearly", "@annually"];

impl Calendar {
    /// Five fields, or six with seconds first, or one of the nicknames; `zone` is an IANA name.
    pub fn parse(cron: &str, zone: &str) -> Result<Calendar> {
        let zone = zone_named(zone)?;
        let cron = expression(cron)?;
        let every_hour = (0..24).all(|hour| cron.pattern.hour_match(hour).unwrap_or(false));
        let calendar = Calendar { cron, zone, every_hour };
        // 2000-01-01: whatever comes at all comes in the years after it.
        if calendar.next(946_684_800).is_none() {
            return Err(Error::usage("this expression never comes round: no month has that day")
                .hint("`0 2 L * *` is the last day of each month"));
        }
        Ok(calendar)
    }

    /// The first time after `after`; both in seconds since 1970.
    pub fn next(&self, after: i64) -> Option<i64> {
        let start = DateTime::from_timestamp(after, 0)?.with_timezone(&self.zone);
        if self.every_hour {
            return Some(self.cron.find_next_occurrence(&start, false).ok()?.timestamp());
        }
        // What a wall clock time stands for never goes back as the wall clock goes on.
        let mut wall = start.naive_local().with_nanosecond(0)?;
        loop {
            wall = self.cron.find_next_occurrence(&wall, false).ok()?;
            let at = self.stands_for(wall)?;
            if at > after {
                return Some(at);
            }
        }
    }

    /// What there is after `after` and not after `until`.
    pub fn missed(&self, after: i64, until: i64) -> Option<Missed> {
        let mut newest = self.next(after).filter(|first| *first <= until)?;
        let mut earlier = 0;
        while let Some(next) = self.next(newest).filter(|next| *next <= until) {
            if earlier == Missed::COUNTED {
                return Some(Missed { newest: self.newest(newest, until), earlier });
            }
            earlier += 1;
            newest = next;
        }
        Some(Missed { newest, earlier })
    }

    /// The newest time not after `until`, where `at_least` is one of them.
    fn newest(&self, at_least: i64, until: i64) -> i64 {
        let within = |from: i64| self.next(from).filter(|at| *at <= until);
        let mut stretch = STRETCH_SECONDS;
        let mut found = loop {
            let from = until.saturating_sub(stretch);
            if from <= at_least {
                break at_least;
            }
            if let Some(at) = within(from) {
                break at;
            }
            stretch = stretch.saturating_mul(2);
        };
        while let Some(at) = within(found) {
            found = at;
        }
        found
    }

    /// The moment at which the zone's clocks first show `wall`, or, where they never do, the one at which they jump over it.
    fn stands_for(&self, wall: NaiveDateTime) -> Option<i64> {
        if let Some(at) = self.zone.from_local_datetime(&wall).earliest() {
            return Some(at.timestamp());
        }
        let shown = |at: i64| Some(DateTime::from_timestamp(at, 0)?.with_timezone(&self.zone).naive_local());
        let as_utc = wall.and_utc().timestamp();
        let (mut before, mut after) = (as_utc.checked_sub(OFFSET_SECONDS)?, as_utc.checked_add(OFFSET_SECONDS)?);
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            if shown(middle)? < wall { before = middle } else { after = middle }
        }
        Some(after)
    }

    pub fn zone(&self) -> Tz {
        self.zone
    }
}

/// `2026-11-24 02:00:00 +01:00`: a moment as the zone's clocks show it.
pub fn shown(at: i64, zone: Tz) -> String {
    match DateTime::from_timestamp(at, 0) {
        Some(moment) => {
            let local = moment.with_timezone(&zone);
            let offset = TimeDelta::seconds(local.offset().fix().local_minus_utc().into()).num_minutes();
            let sign = if offset < 0 { '-' } else { '+' };
            let offset = offset.abs();
            format!(
                "{:04}-{:02}-{:02} {:02}:{:02}:{:02} {sign}{:02}:{:02}",
                local.year(),
                local.month(),
                local.day(),
                local.hour(),
                local.minute(),
                local.second(),
                offset / 60,
                offset % 60
            )
        }
        None => "never".to_owned(),
    }
}

/// A time zone by its IANA name, in any case.
pub fn zone_named(name: &str) -> Result<Tz> {
    if let Some(zone) = TZ_VARIANTS.iter().find(|zone| zone.name().eq_ignore_ascii_case(name)) {
        return Ok(*zone);
    }
    let city = |zone: &Tz| zone.name().rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(name));
    let meant = TZ_VARIANTS.iter().find(|zone| city(zone)).map(|zone| zone.name());
    let meant = meant.or_else(|| nearest(name, TZ_VARIANTS.iter().map(|zone| zone.name())));
    let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
    Err(Error::usage(format!("`{shown}` is not a time zone")).hint(match meant {
        Some(zone) => format!("did you mean {zone}?"),
        None => "a zone has an IANA name, such as Europe/Berlin, America/New_York or UTC".to_owned(),
    }))
}

fn expression(text: &str) -> Result<Cron> {
    let shown: String = text.chars().take(CRON_BYTES).flat_map(char::escape_debug).collect();
    if text.len() > CRON_BYTES {
        return Err(Error::usage(format!("a cron expression has {CRON_BYTES} bytes at the most")));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if let [nickname] = fields[..]
        && nickname.starts_with('@')
    {
        if !NICKNAMES.contains(&nickname.to_lowercase().as_str()) {
            return Err(Error::usage(format!("`{shown}` is no time that is known"))
                .hint(format!("there is {}", NICKNAMES.join(", "))));
        }
        return parsed(nickname).map_err(|error| wrong(&shown, error));
    }
    let names = match fields.len() {
        5 => &FIELDS[1..],
        6 => &FIELDS[..],
        count => {
            return Err(Error::usage(format!(
                "the cron expression `{shown}` has {count} field{}, and needs 5 or 6",
                if count == 1 { "" } else { "s" }
            ))
            .hint("minute, hour, day of the month, month, day of the week: `30 2 * * *` is 02:30 each day; with 6 the first is the second"));
        }
    };
    for (at, (field, (name, range, letters))) in fields.iter().zip(names).enumerate() {
        let alone: Vec<&str> = (0..fields.len()).map(|other| if other == at { *field } else { "*" }).collect();
        let lettered = field.chars().any(|c| c.is_alphabetic() && !letters.contains(c.to_ascii_uppercase()));
        if lettered || parsed(&alone.join(" ")).is_err() {
            let field: String = field.escape_debug().collect();
            return Err(Error::usage(format!("the cron expression `{shown}`: `{field}` cannot be its {name}"))
                .hint(format!("the {name} is {range}, *, or several: `1,2`, `1-5`, `*/2`")));
        }
    }
    parsed(text).map_err(|error| wrong(&shown, error))
}

fn wrong(shown: &str, error: CronError) -> Error {
    Error::usage(format!("the cron expression `{shown}` cannot be read")).because(error)
}

fn parsed(text: &str) -> Result<Cron, CronError> {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build().parse(text)
}

#[cfg(test)]
#[path = "calendar_tests.rs"]
mod tests;
