//! What people read of a round: one line.

use crate::cli::show::{count, path, seconds};
use crate::model::sync::{Class, Plan};

/// Paths named of each kind.
const NAMES: usize = 3;

/// `14:03:07  1 changed: app.py; 2 new: a, b (0.31 s)`.
pub fn round(time: Option<(i32, i32, i32)>, plan: &Plan, took: f64, recovered: bool) -> String {
    let well = if recovered { "works again; " } else { "" };
    format!("{}{well}{} ({})", stamp(time), changes(plan), seconds(took))
}

/// The time of day, and room behind it.
pub fn stamp(time: Option<(i32, i32, i32)>) -> String {
    time.map_or(String::new(), |(hour, minute, second)| format!("{hour:02}:{minute:02}:{second:02}  "))
}

fn changes(plan: &Plan) -> String {
    let mut parts: Vec<String> =
        [(&plan.updated, "changed"), (&plan.created, "new"), (&plan.moved, "moved"), (&plan.removed, "removed")]
            .into_iter()
            .filter(|(class, _)| class.count > 0)
            .map(|(class, word)| named(class, word))
            .collect();
    // Whatever happens in a folder touches the folder: that is worth a word only where it is all.
    if parts.is_empty() && plan.touched.count > 0 {
        parts.push(named(&plan.touched, "with other metadata"));
    }
    if parts.is_empty() { "equal, nothing to do".to_owned() } else { parts.join("; ") }
}

fn named(class: &Class, word: &str) -> String {
    let names: Vec<String> = class.first.iter().take(NAMES).map(|first| name(first)).collect();
    let more = if class.count > names.len() as u64 { ", …" } else { "" };
    format!("{} {word}: {}{more}", count(class.count), names.join(", "))
}

/// A path; of a move, both.
fn name(first: &[u8]) -> String {
    match first.iter().position(|byte| *byte == 0) {
        Some(nul) => format!("{} → {}", path(&first[..nul]), path(&first[nul + 1..])),
        None if first.is_empty() => ".".to_owned(),
        None => path(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(first: &[&str], count: u64) -> Class {
        Class { count, bytes: 0, first: first.iter().map(|name| name.as_bytes().to_vec()).collect() }
    }

    #[test]
    fn a_round_is_one_line_with_the_time_and_the_first_names() {
        let plan = Plan {
            updated: class(&["app.py"], 1),
            created: class(&["a", "b\n", "c", "d"], 1204),
            moved: class(&["old\0new"], 1),
            touched: class(&["", "x"], 2),
            ..Plan::default()
        };
        assert_eq!(
            round(Some((9, 3, 7)), &plan, 0.314, false),
            "09:03:07  1 changed: app.py; 1,204 new: a, b\\n, c, …; 1 moved: old → new (0.31 s)"
        );
        let touched = Plan { touched: class(&["", "x"], 2), ..Plan::default() };
        assert_eq!(round(None, &touched, 1.0, false), "2 with other metadata: ., x (1.00 s)");
        assert_eq!(round(None, &Plan::default(), 1.0, true), "works again; equal, nothing to do (1.00 s)");
    }
}
