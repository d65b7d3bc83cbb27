use proptest::prelude::*;

use super::*;

fn at(text: &str) -> i64 {
    text.parse::<DateTime<chrono::FixedOffset>>().unwrap_or_else(|error| panic!("{text}: {error}")).timestamp()
}

/// The times after `after`, as the zone's clocks show them.
fn times(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let calendar = Calendar::parse(cron, zone).unwrap();
    let mut now = at(after);
    let mut found = Vec::new();
    while found.len() < count {
        now = calendar.next(now).unwrap();
        found.push(shown(now, calendar.zone()));
    }
    found
}

#[test]
fn a_time_comes_round_day_by_day() {
    assert_eq!(
        times("30 2 * * *", "UTC", "2026-11-24T02:30:00Z", 2),
        ["2026-11-25 02:30:00 +00:00", "2026-11-26 02:30:00 +00:00"]
    );
    assert_eq!(
        times("@weekly", "Asia/Kolkata", "2026-11-24T02:30:00Z", 1),
        ["2026-11-29 00:00:00 +05:30"],
        "nicknames and half hours"
    );
    assert_eq!(times("*/20 * * * * *", "UTC", "2026-11-24T02:30:19Z", 1), ["2026-11-24 02:30:20 +00:00"]);
    assert_eq!(
        times("0 2 13 * FRI", "UTC", "2026-11-07T00:00:00Z", 3),
        ["2026-11-13 02:00:00 +00:00", "2026-11-20 02:00:00 +00:00", "2026-11-27 02:00:00 +00:00"],
        "days of month and week add up"
    );
    assert_eq!(times("0 2 L * *", "UTC", "2027-02-01T00:00:00Z", 1), ["2027-02-28 02:00:00 +00:00"]);
}

#[test]
fn february_29_is_waited_for() {
    assert_eq!(
        times("0 2 29 2 *", "Europe/Berlin", "2026-11-24T00:00:00Z", 2),
        ["2028-02-29 02:00:00 +01:00", "2032-02-29 02:00:00 +01:00"]
    );
    let error = Calendar::parse("0 2 30 2 *", "UTC").unwrap_err();
    assert!(error.message.contains("never"), "{error}");
}

#[test]
fn a_time_in_the_gap_is_done_once_right_after_it() {
    // Berlin: 2026-03-29 02:00 is 03:00. New York: 2026-03-08 02:00 is 03:00.
    for (zone, before, expected) in [
        (
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            ["2026-03-29 03:00:00 +02:00", "2026-03-30 02:30:00 +02:00", "2026-03-31 02:30:00 +02:00"],
        ),
        (
            "America/New_York",
            "2026-03-07T12:00:00Z",
            ["2026-03-08 03:00:00 -04:00", "2026-03-09 02:30:00 -04:00", "2026-03-10 02:30:00 -04:00"],
        ),
    ] {
        assert_eq!(times("30 2 * * *", zone, before, 3), expected, "{zone}");
    }
    // Several times within the gap, and the one at its end, are one.
    assert_eq!(
        times("*/15 2,3 * * *", "Europe/Berlin", "2026-03-28T23:00:00Z", 3),
        ["2026-03-29 03:00:00 +02:00", "2026-03-29 03:15:00 +02:00", "2026-03-29 03:30:00 +02:00"]
    );
    // A whole day that never was: Samoa went over the date line.
    assert_eq!(
        times("0 12 * * *", "Pacific/Apia", "2011-12-29T12:00:00-10:00", 2),
        ["2011-12-31 00:00:00 +14:00", "2011-12-31 12:00:00 +14:00"]
    );
}

#[test]
fn a_time_in_the_doubled_hour_is_done_once_the_first_time() {
    for (zone, before, expected) in [
        ("Europe/Berlin", "2026-10-24T12:00:00Z", ["2026-10-25 02:30:00 +02:00", "2026-10-26 02:30:00 +01:00"]),
        ("America/New_York", "2026-10-31T12:00:00Z", ["2026-11-01 02:30:00 -05:00", "2026-11-02 02:30:00 -05:00"]),
    ] {
        assert_eq!(times("30 2 * * *", zone, before, 2), expected, "{zone}");
    }
    assert_eq!(
        times("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2),
        ["2026-11-01 01:30:00 -04:00", "2026-11-02 01:30:00 -05:00"]
    );
    // Looked at in the hour's second time: it is done already.
    let calendar = Calendar::parse("30 2 * * *", "Europe/Berlin").unwrap();
    assert_eq!(calendar.next(at("2026-10-25T02:15:00+01:00")), Some(at("2026-10-26T02:30:00+01:00")));
    assert_eq!(
        times("0 */2 * * *", "Europe/Berlin", "2026-10-24T22:00:00Z", 2),
        ["2026-10-25 02:00:00 +02:00", "2026-10-25 04:00:00 +01:00"]
    );
}

#[test]
fn every_hour_goes_by_the_time_that_passes() {
    assert_eq!(
        times("30 * * * *", "Europe/Berlin", "2026-10-25T01:45:00+02:00", 3),
        ["2026-10-25 02:30:00 +02:00", "2026-10-25 02:30:00 +01:00", "2026-10-25 03:30:00 +01:00"]
    );
    assert_eq!(
        times("30 * * * *", "Europe/Berlin", "2026-03-29T01:15:00+01:00", 2),
        ["2026-03-29 01:30:00 +01:00", "2026-03-29 03:30:00 +02:00"]
    );
}

#[test]
fn what_was_missed_is_one_time_and_a_number() {
    let calendar = Calendar::parse("0 2 * * *", "UTC").unwrap();
    let missed = |after: &str, until: &str| calendar.missed(at(after), at(until));
    assert_eq!(missed("2026-11-20T02:00:00Z", "2026-11-21T01:59:59Z"), None);
    let one = Missed { newest: at("2026-11-21T02:00:00Z"), earlier: 0 };
    assert_eq!(missed("2026-11-20T02:00:00Z", "2026-11-21T02:00:00Z"), Some(one));
    let many = Missed { newest: at("2026-11-24T02:00:00Z"), earlier: 3 };
    assert_eq!(missed("2026-11-20T02:00:00Z", "2026-11-24T12:00:00Z"), Some(many));
    assert_eq!(missed("2026-11-24T02:00:00Z", "2026-11-20T02:00:00Z"), None, "a clock that was set back");
    // A long downtime of a frequent job does not take long to be counted.
    let seconds = Calendar::parse("* * 3 * * *", "Europe/Berlin").unwrap();
    let missed = seconds.missed(at("1996-01-01T00:00:00Z"), at("2026-11-24T12:00:00Z"));
    assert_eq!(missed, Some(Missed { newest: at("2026-11-24T03:59:59+01:00"), earlier: Missed::COUNTED }));
}

#[test]
fn a_bad_expression_says_which_field_and_what_it_may_be() {
    for (cron, field) in [
        ("60 2 * * *", "`60` cannot be its minute"),
        ("0 25 * * *", "`25` cannot be its hour"),
        ("0 2 32 * *", "`32` cannot be its day of the month"),
        ("0 2 * 13 *", "`13` cannot be its month"),
        ("0 2 * * 9", "`9` cannot be its day of the week"),
        ("0 2 * * FOO", "`FOO` cannot be its day of the week"),
        ("MON 2 * * *", "`MON` cannot be its minute"),
        ("61 0 2 * * *", "`61` cannot be its second"),
        ("0 2 * *", "has 4 fields"),
        ("", "has 0 fields"),
        ("0 2 * * * * 2027", "has 7 fields"),
        ("@reboot", "no time that is known"),
        ("0 5-2 * * *", "`5-2` cannot be its hour"),
        ("0 */0 * * *", "`*/0` cannot be its hour"),
        ("0 2 \u{1b}[31m * *", "\\u{1b}"),
    ] {
        let error = Calendar::parse(cron, "UTC").expect_err(cron);
        assert!(error.message.contains(field), "{cron}: {error}");
        assert!(!error.message.contains('\u{1b}'));
    }
    assert!(Calendar::parse(&"1".repeat(10_000), "UTC").is_err());
}

#[test]
fn an_unknown_zone_says_which_was_meant() {
    assert_eq!(zone_named("europe/berlin").unwrap(), Tz::Europe__Berlin);
    for (typed, meant) in
        [("Europe/Berlni", "Europe/Berlin"), ("Berlin", "Europe/Berlin"), ("America/NewYork", "America/New_York")]
    {
        let error = zone_named(typed).unwrap_err();
        assert_eq!(error.hint.unwrap(), format!("did you mean {meant}?"));
    }
    assert!(zone_named("Nowhere/Atall").unwrap_err().hint.unwrap().contains("IANA"));
    assert!(zone_named(&"x".repeat(100_000)).is_err());
}

fn expressions() -> impl Strategy<Value = String> {
    let minute = prop_oneof![Just("*/15".to_owned()), (0u32..60).prop_map(|m| m.to_string()), Just("0,30".to_owned())];
    let hour = prop_oneof![
        Just("*".to_owned()),
        (0u32..24).prop_map(|h| h.to_string()),
        Just("1-3".to_owned()),
        Just("*/2".to_owned())
    ];
    let day = prop_oneof![Just("* * *"), Just("1 * *"), Just("* * SUN"), Just("L * *"), Just("29 2 *")];
    (minute, hour, day).prop_map(|(minute, hour, day)| format!("{minute} {hour} {day}"))
}

proptest! {
    /// Times come in order, and what was missed is the last of them that the walk from time to time finds.
    #[test]
    fn missed_times_are_those_that_came(
        cron in expressions(),
        zone in prop_oneof![Just("Europe/Berlin"), Just("America/New_York"), Just("Australia/Lord_Howe"), Just("UTC")],
        // Around the changes of 2026.
        from in 1_772_000_000i64..1_795_000_000,
        length in 0i64..5_000_000,
    ) {
        let calendar = Calendar::parse(&cron, zone).unwrap();
        let mut walked = Vec::new();
        let mut now = from;
        while let Some(next) = calendar.next(now).filter(|next| *next <= from + length) {
            prop_assert!(next > now);
            walked.push(next);
            now = next;
        }
        let missed = calendar.missed(from, from + length);
        prop_assert_eq!(missed.map(|missed| missed.newest), walked.last().copied());
        if let Some(missed) = missed {
            prop_assert_eq!(missed.earlier as usize, (walked.len() - 1).min(Missed::COUNTED as usize));
        }
    }

    /// A time of the day is done exactly once a day, on whatever day and from whatever second one looks.
    #[test]
    fn once_a_day_is_once_a_day(
        zone in prop_oneof![Just("Europe/Berlin"), Just("America/New_York")],
        minute in 0u32..60, hour in 0u32..24, from in 1_772_000_000i64..1_795_000_000,
    ) {
        let calendar = Calendar::parse(&format!("{minute} {hour} * * *"), zone).unwrap();
        let day = |at: i64| DateTime::from_timestamp(at, 0).unwrap().with_timezone(&calendar.zone()).date_naive();
        let first = calendar.next(from).unwrap();
        let second = calendar.next(first).unwrap();
        prop_assert_eq!(day(first).succ_opt().unwrap(), day(second));
        prop_assert!(second - first >= 22 * 3600 && second - first <= 26 * 3600);
    }
}
