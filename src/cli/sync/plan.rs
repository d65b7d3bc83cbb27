//! What a plan and a report look like.

use serde_json::{Value, json};

use crate::cli::show::{count, counted, path, seconds, size};
use crate::model::sync::{Class, Plan, Report};

/// The plan, for people: a line for each kind of change, and under it its first paths.
pub fn shown(plan: &Plan) -> String {
    let mut lines = Vec::new();
    let classes = [
        ("+", "new", &plan.created),
        ("~", "changed", &plan.updated),
        ("=", "same content, other metadata", &plan.touched),
        (">", "moved", &plan.moved),
        ("-", "removed", &plan.removed),
    ];
    for (sign, word, class) in classes {
        if class.count == 0 {
            continue;
        }
        let bytes = if class.bytes > 0 { format!(", {}", size(class.bytes)) } else { String::new() };
        lines.push(format!("{sign} {} {word}{bytes}", count(class.count)));
        lines.extend(class.first.iter().map(|first| format!("    {}", one_path(first))));
        let more = class.count.saturating_sub(u64::try_from(class.first.len()).unwrap_or(u64::MAX));
        if more > 0 && !class.first.is_empty() {
            lines.push(format!("    … and {} more", count(more)));
        }
    }
    if lines.is_empty() {
        lines.push("nothing to do: the target is equal to the source".to_owned());
    }
    if plan.bytes_to_move > 0 {
        lines.push(format!("{} of {} to move", size(plan.bytes_to_move), size(plan.bytes_total)));
    }
    lines.extend(plan.notes.iter().map(|note| format!("note: {note}")));
    for halt in &plan.halts {
        lines.push(format!("halt: {}", halt.message));
        lines.push(format!("hint: {}", halt.hint));
    }
    lines.join("\n")
}

/// A path; of a move, both.
fn one_path(first: &[u8]) -> String {
    match first.iter().position(|byte| *byte == 0) {
        Some(nul) => format!("{} → {}", path(&first[..nul]), path(&first[nul + 1..])),
        None if first.is_empty() => ". (the root itself)".to_owned(),
        None => path(first),
    }
}

/// The plan, for scripts.
pub fn event(plan: &Plan) -> Value {
    let class = |class: &Class| {
        let first: Vec<Value> = class
            .first
            .iter()
            .map(|first| match first.iter().position(|byte| *byte == 0) {
                Some(nul) => json!({"from": path(&first[..nul]), "to": path(&first[nul + 1..])}),
                None => json!(path(first)),
            })
            .collect();
        json!({"count": class.count, "bytes": class.bytes, "first": first})
    };
    let halts: Vec<Value> = plan
        .halts
        .iter()
        .map(|halt| json!({"message": halt.message, "hint": halt.hint, "yes_overrides": halt.yes_overrides}))
        .collect();
    json!({
        "event": "plan",
        "created": class(&plan.created),
        "updated": class(&plan.updated),
        "touched": class(&plan.touched),
        "moved": class(&plan.moved),
        "removed": class(&plan.removed),
        "bytes_to_move": plan.bytes_to_move,
        "entries_total": plan.entries_total,
        "bytes_total": plan.bytes_total,
        "halts": halts,
        "notes": plan.notes,
    })
}

/// What was done, on one line or two.
pub fn summary(report: &Report, dry_run: bool) -> String {
    let all = format!("{}, {}", counted(report.entries_total, "entry", "entries"), size(report.bytes_total));
    let took = seconds(report.seconds);
    if dry_run {
        return format!("dry run: nothing was changed ({all}; {took})");
    }
    let changes: Vec<String> = [
        (report.files_created, "created"),
        (report.files_updated, "updated"),
        (report.files_moved, "moved"),
        (report.files_removed, "removed"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, word)| format!("{} {word}", count(number)))
    .collect();
    let what = if changes.is_empty() { "no file changed".to_owned() } else { changes.join(", ") };
    let wire = match (report.bytes_sent, report.bytes_received) {
        (0, 0) => String::new(),
        (sent, received) => format!(", {} sent, {} received", size(sent), size(received)),
    };
    let mut line = format!("done in {took}: {what}{wire} ({all} in all)");
    if report.paused_ms > 0 {
        line.push_str(&format!(", the source frozen for {} ms", count(report.paused_ms)));
        if report.held_requests > 0 {
            line.push_str(&format!(" with {} requests held", count(report.held_requests)));
        }
    }
    if let (Some(source), Some(target)) = (report.root_source, report.root_target)
        && source == target
        && source.is_known()
    {
        line.push_str(&format!("\nboth are {source}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;
    use crate::model::sync::Halt;

    #[test]
    fn a_plan_shows_counts_sizes_paths_and_halts() {
        let plan = Plan {
            created: Class { count: 1200, bytes: 5_000_000, first: vec![b"a\x1b".to_vec(), b"b\xff".to_vec()] },
            moved: Class { count: 1, bytes: 0, first: vec![b"old\0new".to_vec()] },
            bytes_to_move: 5_000_000,
            bytes_total: 9_000_000,
            halts: vec![Halt { message: "m".into(), hint: "h".into(), yes_overrides: true }],
            notes: vec!["n".into()],
            ..Plan::default()
        };
        let text = shown(&plan);
        assert_eq!(
            text,
            "+ 1,200 new, 5.0 MB\n    a\\u{1b}\n    b\\xff\n    … and 1,198 more\n> 1 moved\n    old → new\n\
             5.0 MB of 9.0 MB to move\nnote: n\nhalt: m\nhint: h"
        );
        assert_eq!(event(&plan)["moved"]["first"][0]["to"], "new");
        assert!(shown(&Plan::default()).starts_with("nothing to do"));
    }

    #[test]
    fn a_summary_says_what_was_done_and_proves_it() {
        let name = Some(Name::of(b"x"));
        let report =
            Report { files_created: 2, entries_total: 1, root_source: name, root_target: name, ..Report::default() };
        let text = summary(&report, false);
        assert!(text.starts_with("done in 0.00 s: 2 created (1 entry, 0 B in all)\nboth are "), "{text}");
        assert!(!summary(&Report { root_target: None, ..report }, false).contains("both"));
    }
}
