//! Which of many snapshots the rules keep, and why.
//!
//! As restic and borg do it: each rule goes from the newest back and keeps the newest one of each period that has any,
//! until it has kept as many as it says. Rules do not take from one another: one snapshot can be the last, its day's and its
//! month's. Periods are those of a time zone; the doubled hour at the end of summer time counts as two.

use std::fmt;

use chrono::{DateTime, Datelike, Offset, Timelike};
use chrono_tz::Tz;

use crate::model::keep::Keep;

/// Why a snapshot is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is the nth newest, from 1.
    Last(u32),
    /// It is the newest one of its period.
    Hour(Period),
    Day(Period),
    Week(Period),
    Month(Period),
}

/// A stretch of time, known by a local moment in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(DateTime<Tz>);

/// `last 1`, `day 2026-11-24`, `week 2026-W48`.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Last(nth) => write!(f, "last {nth}"),
            Reason::Hour(Period(at)) => write!(f, "hour {} {:02}h", at.date_naive(), at.hour()),
            Reason::Day(Period(at)) => write!(f, "day {}", at.date_naive()),
            Reason::Week(Period(at)) => write!(f, "week {}-W{:02}", at.iso_week().year(), at.iso_week().week()),
            Reason::Month(Period(at)) => write!(f, "month {}-{:02}", at.year(), at.month()),
        }
    }
}

/// The reasons for each of `taken` (seconds since 1970, in any order), in the order given: where there is none, it may go.
///
/// Of several of the same second the later in the list counts as the newer. A time that no calendar holds is kept as
/// long as there is any rule.
pub fn keep(rules: &Keep, zone: Tz, taken: &[i64]) -> Vec<Vec<Reason>> {
    let mut newest_first: Vec<usize> = (0..taken.len()).collect();
    newest_first.sort_by_key(|&at| std::cmp::Reverse((taken[at], at)));
    let mut reasons = vec![Vec::new(); taken.len()];
    let mut by_period = [
        Rule::new(rules.hourly, Reason::Hour, |at| [at.date_naive().num_days_from_ce(), hour_of(at)]),
        Rule::new(rules.daily, Reason::Day, |at| [at.date_naive().num_days_from_ce(), 0]),
        Rule::new(rules.weekly, Reason::Week, |at| {
            [at.iso_week().year(), i32::try_from(at.iso_week().week()).unwrap_or(0)]
        }),
        Rule::new(rules.monthly, Reason::Month, |at| [at.year(), i32::try_from(at.month()).unwrap_or(0)]),
    ];
    for (nth, at) in (1..).zip(newest_first) {
        if nth <= rules.last {
            reasons[at].push(Reason::Last(nth));
        }
        match DateTime::from_timestamp(taken[at], 0) {
            Some(moment) => {
                let local = moment.with_timezone(&zone);
                reasons[at].extend(by_period.iter_mut().filter_map(|rule| rule.takes(local)));
            }
            None if !rules.is_empty() => reasons[at].push(Reason::Last(nth)),
            None => {}
        }
    }
    reasons
}

/// One rule on its way from the newest back.
struct Rule {
    left: u32,
    last: Option<[i32; 2]>,
    reason: fn(Period) -> Reason,
    period: fn(DateTime<Tz>) -> [i32; 2],
}

impl Rule {
    fn new(left: u32, reason: fn(Period) -> Reason, period: fn(DateTime<Tz>) -> [i32; 2]) -> Rule {
        Rule { left, last: None, reason, period }
    }

    /// Whether this one, older than all before it, is the newest of its period.
    fn takes(&mut self, local: DateTime<Tz>) -> Option<Reason> {
        let period = (self.period)(local);
        if self.left == 0 || self.last == Some(period) {
            return None;
        }
        self.last = Some(period);
        self.left -= 1;
        Some((self.reason)(Period(local)))
    }
}

/// The hour of the day, apart for the two that are called alike when the clocks go back.
fn hour_of(at: DateTime<Tz>) -> i32 {
    let offset_minutes = at.offset().fix().local_minus_utc() / 60;
    i32::try_from(at.hour()).unwrap_or(0) * 10_000 + offset_minutes
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;
    use chrono_tz::Europe::Berlin;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> i64 {
        format!("{text}Z").parse::<DateTime<chrono::Utc>>().unwrap().timestamp()
    }

    fn said(rules: Keep, zone: Tz, taken: &[i64]) -> Vec<String> {
        let words = |reasons: &Vec<Reason>| reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join(", ");
        keep(&rules, zone, taken).iter().map(words).collect()
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_periods() {
        let taken = [
            at("2026-11-24T10:00:00"),
            at("2026-11-24T09:30:00"),
            at("2026-11-24T09:00:00"),
            at("2026-11-23T23:00:00"),
            at("2026-11-22T23:00:00"),
            at("2026-10-31T12:00:00"),
            at("2025-12-31T12:00:00"),
        ];
        let rules = Keep { last: 1, hourly: 2, daily: 2, weekly: 2, monthly: 3 };
        assert_eq!(
            said(rules, Tz::UTC, &taken),
            [
                "last 1, hour 2026-11-24 10h, day 2026-11-24, week 2026-W48, month 2026-11",
                "hour 2026-11-24 09h",
                "",
                "day 2026-11-23",
                "week 2026-W47",
                "month 2026-10",
                "month 2025-12",
            ]
        );
        assert!(said(Keep::default(), Tz::UTC, &taken).iter().all(String::is_empty));
    }

    #[test]
    fn a_day_is_that_of_the_zone_and_the_doubled_hour_is_two() {
        let evening = [at("2026-11-23T22:30:00"), at("2026-11-23T23:30:00")];
        let daily = Keep { daily: 5, ..Keep::default() };
        assert_eq!(said(daily, Tz::UTC, &evening), ["", "day 2026-11-23"]);
        assert_eq!(said(daily, Berlin, &evening), ["day 2026-11-23", "day 2026-11-24"]);
        // 2026-10-25 02:30 comes twice in Berlin.
        let doubled = [at("2026-10-25T00:30:00"), at("2026-10-25T01:30:00")];
        let hourly = Keep { hourly: 5, ..Keep::default() };
        assert_eq!(said(hourly, Berlin, &doubled), ["hour 2026-10-25 02h", "hour 2026-10-25 02h"]);
    }

    #[test]
    fn a_week_runs_over_the_new_year_as_iso_counts_it() {
        let taken = [at("2027-01-01T00:00:00"), at("2026-12-31T00:00:00"), at("2026-12-20T00:00:00")];
        let weekly = Keep { weekly: 5, ..Keep::default() };
        assert_eq!(said(weekly, Tz::UTC, &taken), ["week 2026-W53", "", "week 2026-W51"]);
    }

    #[test]
    fn what_no_calendar_holds_is_kept() {
        let taken = [i64::MAX, i64::MIN, 0];
        let kept = keep(&Keep { daily: 1, ..Keep::default() }, Tz::UTC, &taken);
        assert!(kept.iter().all(|reasons| !reasons.is_empty()), "{kept:?}");
    }

    proptest! {
        /// The rules, one by one, as their words say: the newest of each of the last n days that have any.
        #[test]
        fn it_is_what_the_words_say(
            taken in proptest::collection::vec(1_700_000_000i64..1_720_000_000, 0..60),
            (last, hourly, daily, monthly) in (0u32..5, 0u32..5, 0u32..9, 0u32..4),
        ) {
            let rules = Keep { last, hourly, daily, weekly: 0, monthly };
            let kept = keep(&rules, Berlin, &taken);
            let local = |at: i64| Berlin.timestamp_opt(at, 0).unwrap();
            let newer = |a: usize, b: usize| (taken[a], a) > (taken[b], b);
            let expect = |n: u32, me: usize, same: &dyn Fn(i64, i64) -> bool| {
                // The newest of my period, and fewer than n periods have anything newer.
                let newest = (0..taken.len()).all(|other| !(newer(other, me) && same(taken[other], taken[me])));
                let mut periods: Vec<i64> = Vec::new();
                for other in (0..taken.len()).filter(|other| newer(*other, me)) {
                    if !same(taken[other], taken[me]) && !periods.iter().any(|seen| same(*seen, taken[other])) {
                        periods.push(taken[other]);
                    }
                }
                newest && periods.len() < n as usize
            };
            for (me, reasons) in kept.iter().enumerate() {
                let expected = [
                    (0..taken.len()).filter(|other| newer(*other, me)).count() < last as usize,
                    expect(hourly, me, &|a, b| a.div_euclid(3600) == b.div_euclid(3600)),
                    expect(daily, me, &|a, b| local(a).date_naive() == local(b).date_naive()),
                    expect(monthly, me, &|a, b| (local(a).year(), local(a).month()) == (local(b).year(), local(b).month())),
                ];
                prop_assert_eq!(reasons.len(), expected.iter().filter(|yes| **yes).count());
            }
        }

        /// After the removal nothing more goes, and a new snapshot never brings back a need for one that went.
        #[test]
        fn pruning_again_removes_nothing(
            taken in proptest::collection::vec(1_700_000_000i64..1_720_000_000, 0..60),
            (last, hourly, daily, weekly, monthly) in (0u32..5, 0u32..5, 0u32..9, 0u32..4, 0u32..4),
        ) {
            let rules = Keep { last, hourly, daily, weekly, monthly };
            let reasons = keep(&rules, Berlin, &taken);
            let left: Vec<i64> = (0..taken.len()).filter(|at| !reasons[*at].is_empty()).map(|at| taken[at]).collect();
            prop_assert!(keep(&rules, Berlin, &left).iter().all(|reasons| !reasons.is_empty()));
            if rules.is_empty() || taken.is_empty() {
                prop_assert!(left.is_empty());
            } else {
                prop_assert!(left.contains(taken.iter().max().unwrap()));
            }
        }
    }
}
