//! The rules that stop a plan before it destroys something. Pure: numbers in, rules broken out.

use crate::model::sync::{Halt, SyncOptions};

/// What the rules look at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weights {
    /// Entries in the source, without its root.
    pub source_entries: u64,
    /// Files the target has, and how many of them the plan removes.
    pub target_files: u64,
    pub removed_files: u64,
    /// All entries of the target.
    pub target_entries: u64,
}

/// The fewest removals that are worth a question of their own.
const MANY: u64 = 100;

/// The rules this plan breaks.
pub fn halts(weights: Weights, options: &SyncOptions) -> Vec<Halt> {
    let mut halts = Vec::new();
    if options.no_remove {
        return halts;
    }
    if weights.source_entries == 0 && weights.target_entries > 0 {
        halts.push(Halt {
            message: format!(
                "the source is empty, and the target has {} entries that would be removed",
                weights.target_entries
            ),
            hint: "is the source mounted, is it the folder you mean? --yes or --force empties the target".into(),
            yes_overrides: true,
        });
    } else if weights.removed_files > MANY && weights.removed_files * 2 > weights.target_files {
        let Weights { removed_files, target_files, .. } = weights;
        halts.push(Halt {
            message: format!("{removed_files} of the target's {target_files} files would be removed, more than half"),
            hint: "is the source the folder you mean? --yes or --force removes them, --no-remove keeps them".into(),
            yes_overrides: true,
        });
    }
    halts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(source_entries: u64, target_files: u64, removed_files: u64) -> usize {
        let weights = Weights { source_entries, target_files, removed_files, target_entries: target_files };
        halts(weights, &SyncOptions::default()).len()
    }

    #[test]
    fn an_empty_source_never_empties_a_target_unasked() {
        assert_eq!(count(0, 1, 1), 1);
        assert_eq!(count(0, 0, 0), 0);
        let keep = SyncOptions { no_remove: true, ..Default::default() };
        assert!(halts(Weights { target_entries: 5, ..Default::default() }, &keep).is_empty());
    }

    #[test]
    fn more_than_half_and_more_than_a_hundred_halts() {
        assert_eq!(count(9, 201, 101), 1);
        assert_eq!(count(9, 202, 101), 0);
        assert_eq!(count(9, 100, 100), 0);
    }
}
