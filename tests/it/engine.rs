//! The engine alone, in this process: the same properties as from outside, many more trees in the same time.

use mcloud::model::Kind;
use mcloud::model::sync::{Event, SyncOptions};

use crate::common::changes::change;
use crate::common::engine::{Engine, forced};
use crate::common::oracle::{assert_equal, portrait};
use crate::common::seed::seeds;
use crate::common::trees::{Shape, grow};
use crate::common::{Rng, scratch};

#[test]
fn random_trees_and_changes_on_both_sides_end_equal() {
    for seed in seeds(12) {
        let dir = scratch();
        let mut engine = Engine::below(dir.path());
        let mut rng = Rng::new(1000 + seed);
        grow(&engine.source, &mut rng, &Shape::SMALL);
        if rng.one_in(3) {
            grow(&engine.target, &mut rng, &Shape::SMALL);
        }
        if rng.one_in(4) {
            engine.indexes = None;
        }
        engine.proves(&forced(), &format!("seed {seed}, first"));
        assert_equal(&engine.source, &engine.target, &format!("seed {seed}, first"));
        for round in 0..8 {
            let mut made = Vec::new();
            for _ in 0..rng.within(1, 8) {
                made.push(change(&engine.source, &mut rng, &Shape::SMALL));
                if rng.one_in(4) {
                    made.push(format!("target: {}", change(&engine.target, &mut rng, &Shape::SMALL)));
                }
            }
            let context = format!("seed {seed} (MCLOUD_SEED={seed}), round {round}:\n  {}", made.join("\n  "));
            engine.proves(&forced(), &context);
            assert_equal(&engine.source, &engine.target, &context);
        }
        let again = engine.proves(&forced(), "again");
        let counts = [again.files_created, again.files_updated, again.files_moved, again.files_removed];
        assert_eq!(counts, [0; 4], "seed {seed}: an unchanged tree");
    }
}

#[test]
fn progress_never_falls_and_never_passes_its_total() {
    let dir = scratch();
    let engine = Engine::below(dir.path());
    grow(&engine.source, &mut Rng::new(3), &Shape::USUAL);
    engine.proves(&forced(), "first");
    let (mut files, mut bytes, mut planned, mut moving) = (0, 0, 0, 0);
    for event in engine.events() {
        match event {
            Event::Planned(_) => planned += 1,
            Event::Moving { files_done, files_total, bytes_done, bytes_total } => {
                moving += 1;
                assert_eq!(planned, 1, "bytes moved before the plan was told");
                assert!(files_done >= files && bytes_done >= bytes, "progress ran backwards");
                assert!(files_done <= files_total && bytes_done <= bytes_total, "progress passed its total");
                (files, bytes) = (files_done, bytes_done);
            }
            _ => {}
        }
    }
    assert!(planned == 1 && moving > 0, "{planned} plans, {moving} steps");
}

#[test]
fn a_no_to_the_plan_touches_nothing() {
    let dir = scratch();
    let engine = Engine::below(dir.path());
    grow(&engine.source, &mut Rng::new(4), &Shape::SMALL);
    grow(&engine.target, &mut Rng::new(5), &Shape::SMALL);
    let before = portrait(&engine.target);
    engine.refuse(true);
    let error = engine.sync(&SyncOptions { yes: false, force: false, ..SyncOptions::default() }).unwrap_err();
    assert_eq!(error.kind, Kind::Refused, "{}", error.chain());
    assert_eq!(portrait(&engine.target), before);
}

#[test]
fn the_root_name_covers_all_that_is_kept() {
    // Each single change gives another name; undone, the first one comes back.
    let dir = scratch();
    let engine = Engine::below(dir.path());
    let mut rng = Rng::new(6);
    grow(&engine.source, &mut rng, &Shape::SMALL);
    let mut last = engine.proves(&forced(), "first").root_source;
    for round in 0..40 {
        let before = crate::common::oracle::likeness(&engine.source);
        let what = change(&engine.source, &mut rng, &Shape::SMALL);
        let now = engine.proves(&forced(), &what).root_source;
        let changed = crate::common::oracle::likeness(&engine.source) != before;
        let links = what.starts_with("linked") || what.starts_with("unlinked");
        assert!(links || (now != last) == changed, "round {round}: {what}: the name tells otherwise");
        last = now;
    }
}
