use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const DAY: i64 = 86_400;
/// 2026-11-24T00:00:00Z
const MIDNIGHT: i64 = 1_795_478_400;

fn calendar(cron: &str) -> Calendar {
    Calendar::parse(cron, "UTC").unwrap()
}

fn job(calendar: &Calendar, mark: i64) -> Job<'_> {
    Job { number: 1, calendar, mark, done_ahead: &[], again: None, running: false, paused: false }
}

#[test]
fn a_job_is_due_at_its_time_and_not_before() {
    let nightly = calendar("0 2 * * *");
    let at_two = MIDNIGHT + 2 * 3600;
    let before = look(at_two - 30, &[job(&nightly, MIDNIGHT)], 4);
    assert_eq!((before.starts.len(), before.next), (0, at_two), "one wakes in time");
    let long_before = look(at_two - 3000, &[job(&nightly, MIDNIGHT)], 4);
    assert_eq!(long_before.next, at_two - 3000 + LOOK_SECONDS, "and never sleeps for long");
    let due = look(at_two, &[job(&nightly, MIDNIGHT)], 4);
    assert_eq!(due.starts, [Start { number: 1, slot: at_two, missed: 0 }]);
    assert!(look(at_two + 5, &[job(&nightly, at_two)], 4).starts.is_empty(), "once is enough");
}

#[test]
fn a_downtime_over_two_runs_is_made_up_for_once() {
    let nightly = calendar("0 2 * * *");
    let up_again = MIDNIGHT + 12 * 3600;
    let due = look(up_again, &[job(&nightly, up_again - 2 * DAY)], 4);
    assert_eq!(due.starts, [Start { number: 1, slot: MIDNIGHT + 2 * 3600, missed: 1 }]);
}

#[test]
fn a_job_does_not_overlap_itself_and_is_late_once() {
    let quarterly = calendar("*/15 * * * *");
    let now = MIDNIGHT + 3600;
    let running = Job { running: true, ..job(&quarterly, MIDNIGHT) };
    let busy = look(now, &[running], 4);
    assert!(busy.starts.is_empty());
    assert_eq!(look(now, &[job(&quarterly, MIDNIGHT)], 4).starts[0].slot, now);
}

#[test]
fn a_paused_job_does_nothing() {
    let quarterly = calendar("*/15 * * * *");
    let paused = Job { paused: true, again: Some(5), ..job(&quarterly, MIDNIGHT) };
    let found = look(MIDNIGHT + DAY, &[paused], 4);
    assert_eq!((found.starts, found.marks), (vec![], vec![]));
}

#[test]
fn places_go_to_those_that_wait_longest() {
    let (early, late) = (calendar("0 2 * * *"), calendar("0 3 * * *"));
    let jobs = [Job { number: 7, ..job(&late, MIDNIGHT) }, Job { number: 9, ..job(&early, MIDNIGHT) }];
    let found = look(MIDNIGHT + 4 * 3600, &jobs, 1);
    assert_eq!(found.starts.iter().map(|start| start.number).collect::<Vec<_>>(), [9]);
    assert!(look(MIDNIGHT + 4 * 3600, &jobs, 0).starts.is_empty());
}

#[test]
fn what_was_broken_off_is_done_again_unless_a_later_time_has_come() {
    let nightly = calendar("0 2 * * *");
    let slot = MIDNIGHT + 2 * 3600;
    let broken = Job { again: Some(slot), ..job(&nightly, slot) };
    assert_eq!(look(slot + 60, &[broken], 4).starts, [Start { number: 1, slot, missed: 0 }]);
    assert_eq!(look(slot + DAY, &[broken], 4).starts, [Start { number: 1, slot: slot + DAY, missed: 0 }]);
}

#[test]
fn a_clock_set_back_a_little_is_waited_for_and_one_far_ahead_was_wrong() {
    let hourly = calendar("0 * * * *");
    let set_back = look(MIDNIGHT - 1800, &[job(&hourly, MIDNIGHT)], 4);
    assert_eq!((set_back.starts.len(), set_back.marks.len()), (0, 0));
    // Ten years ahead for a moment: it must not be quiet for ten years.
    let ahead = MIDNIGHT + 3650 * DAY;
    let found = look(MIDNIGHT, &[job(&hourly, ahead)], 4);
    assert_eq!(found.marks, [(1, MIDNIGHT)]);
    let next = look(MIDNIGHT + 3600, &[job(&hourly, MIDNIGHT)], 4);
    assert_eq!(next.starts.len(), 1);
    // What was done while it was ahead is not done again when its time comes.
    let done = [MIDNIGHT + 3600];
    let remembered = Job { done_ahead: &done, ..job(&hourly, MIDNIGHT) };
    let found = look(MIDNIGHT + 3600, &[remembered], 4);
    assert_eq!((found.starts, found.marks), (vec![], vec![(1, MIDNIGHT + 3600)]));
}

/// What happens between two looks.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Time goes by, as `next` says or a run ends before.
    Wait(i64),
    /// The clock is set.
    Jump(i64),
    /// The daemon is down for so long.
    Down(i64),
    /// Runs end.
    End,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1i64..=LOOK_SECONDS).prop_map(Step::Wait),
        1 => (-5 * DAY..5 * DAY).prop_map(Step::Jump),
        1 => (0i64..3 * DAY).prop_map(Step::Down),
        4 => Just(Step::End),
    ];
    proptest::collection::vec(step, 1..200)
}

/// The caller: keeps marks and what was done, as the daemon does in its state.
#[derive(Default)]
struct Kept {
    mark: i64,
    running: bool,
    done: BTreeSet<i64>,
}

proptest! {
    #[test]
    fn no_time_is_done_twice_however_the_clock_jumps(steps in steps()) {
        let calendars = ["*/5 * * * *", "0 2 * * *", "30 * * * *"].map(calendar);
        let mut now = MIDNIGHT;
        let mut kept: BTreeMap<u64, Kept> =
            (0..3).map(|number| (number, Kept { mark: now, ..Kept::default() })).collect();
        for step in steps {
            match step {
                Step::Wait(seconds) => now += seconds,
                Step::Jump(by) => now += by,
                Step::Down(seconds) => {
                    now += seconds;
                    kept.values_mut().for_each(|kept| kept.running = false);
                }
                Step::End => kept.values_mut().for_each(|kept| kept.running = false),
            }
            let ahead: Vec<Vec<i64>> = kept.values().map(|kept| kept.done.iter().copied().collect()).collect();
            let jobs: Vec<Job> = kept
                .iter()
                .map(|(&number, kept)| Job {
                    number,
                    calendar: &calendars[number as usize],
                    mark: kept.mark,
                    done_ahead: &ahead[number as usize],
                    again: None,
                    running: kept.running,
                    paused: false,
                })
                .collect();
            let free = 3 - kept.values().filter(|kept| kept.running).count();
            let found = look(now, &jobs, free);
            prop_assert!(found.next > now && found.next <= now + LOOK_SECONDS);
            for (number, mark) in found.marks {
                kept.get_mut(&number).unwrap().mark = mark;
            }
            for start in found.starts {
                let kept = kept.get_mut(&start.number).unwrap();
                prop_assert!(!kept.running, "overlap");
                prop_assert!(start.slot <= now, "too early");
                prop_assert!(kept.done.insert(start.slot), "twice for one time");
                kept.mark = start.slot;
                kept.running = true;
            }
        }
    }

    /// With a clock that runs, every time is done within a minute of its coming, however one is woken between.
    #[test]
    fn nothing_is_slept_over(waits in proptest::collection::vec(1i64..=LOOK_SECONDS, 1..300)) {
        let calendar = calendar("*/7 * * * *");
        let (mut now, mut mark, mut wake) = (MIDNIGHT, MIDNIGHT, MIDNIGHT);
        for wait in waits {
            now = (now + wait).min(wake.max(now + 1));
            let found = look(now, &[job(&calendar, mark)], 1);
            if let Some(start) = found.starts.first() {
                prop_assert_eq!(start.missed, 0);
                prop_assert_eq!(start.slot, now, "late");
                mark = start.slot;
            }
            wake = found.next;
        }
    }
}
