//! What there is to see of schedules: a list, one of them, its runs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::context::{self, Context};
use crate::cli::{show, sync, when};
use crate::model::Result;
use crate::model::schedule::{Job, JobCopy, Kept, Outcome, Run, Work};
use crate::schedule::calendar;

/// Runs that `show` tells.
const RUNS_SHOWN: u32 = 5;

pub fn list(context: &Context) -> Result<u8> {
    let jobs = context::block_on(async { context.connect().await?.schedules(None).await })?;
    if jobs.is_empty() {
        context.out.say("no schedules yet: `mcloud help schedule add` has examples");
    } else {
        let row =
            |job: &Job| vec![job.name.to_string(), when(job), show::text(&job.work.to_string()), next(job), last(job)];
        let rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
        context.out.line(show::table(&["SCHEDULE", "WHEN", "WHAT", "NEXT", "LAST"], &rows));
    }
    for job in &jobs {
        let mut event = fields(job);
        event["event"] = json!("schedule");
        context.out.event(&event);
    }
    let failed = jobs.iter().filter(|job| job.last.as_ref().is_some_and(has_failed)).count();
    context.out.done(json!({"schedules": jobs.len(), "failed": failed}));
    Ok(0)
}

pub fn show(name: &str, context: &Context) -> Result<u8> {
    let (job, runs) = context::block_on(async {
        let client = context.connect().await?;
        let mut jobs = client.schedules(Some(name)).await?;
        Ok((jobs.pop(), client.schedule_history(Some(name), RUNS_SHOWN).await?))
    })?;
    let Some(job) = job else { return Ok(1) };
    let mut lines = vec![
        ("schedule", job.name.to_string()),
        ("does", show::text(&job.work.to_string())),
        ("when", when(&job)),
        ("next", next(&job)),
        ("added by", format!("{}, {}", show::text(&job.by), when::shown(job.created_unix))),
    ];
    if let Work::Copy(JobCopy { far: Some(far), from, .. }) = &job.work
        && let Some(host) = &from.host
    {
        lines.push(("granted by", format!("{host}, as g{}", far.grant)));
    }
    for (word, text) in lines {
        context.out.line(format!("{word:<12}{text}"));
    }
    if !runs.is_empty() {
        context.out.line(format!("\n{}", table(&runs)));
    }
    for run in &runs {
        let mut event = run_fields(run);
        event["event"] = json!("run");
        context.out.event(&event);
    }
    context.out.done(fields(&job));
    Ok(0)
}

pub fn history(name: Option<&str>, last: u32, context: &Context) -> Result<u8> {
    let runs = context::block_on(async { context.connect().await?.schedule_history(name, last).await })?;
    if runs.is_empty() {
        context.out.say("nothing has run yet");
    } else {
        context.out.line(table(&runs));
    }
    for run in &runs {
        let mut event = run_fields(run);
        event["event"] = json!("run");
        context.out.event(&event);
    }
    context.out.done(json!({"runs": runs.len()}));
    Ok(0)
}

fn table(runs: &[Run]) -> String {
    let row = |run: &Run| {
        let took = run.ended_unix.map(|ended| ended.saturating_sub(run.began_unix));
        vec![
            run.name.to_string(),
            when::shown(run.began_unix),
            match run.slot_unix {
                Some(slot) => when::shown(slot),
                None => "asked for".to_owned(),
            },
            took.map_or_else(|| "-".to_owned(), |took| show::seconds(show::precise(took))),
            run.outcome.to_string(),
            told(run),
        ]
    };
    let rows: Vec<Vec<String>> = runs.iter().map(row).collect();
    show::table(&["SCHEDULE", "BEGAN", "FOR", "TOOK", "OUTCOME", ""], &rows)
}

/// What a run did, or why it did not.
fn told(run: &Run) -> String {
    let mut told = Vec::new();
    if let Some(failure) = &run.failure {
        told.push(show::text(&failure.message));
    }
    if let Some(report) = &run.report {
        told.extend(sync::summary(report).lines().next().map(str::to_owned));
    }
    told.extend(run.kept.as_ref().map(kept));
    if run.missed > 0 {
        let missed = u64::from(run.missed);
        let many = if run.missed >= calendar::Missed::COUNTED { " or more" } else { "" };
        told.push(format!("{}{many} missed before it", show::counted(missed, "time", "times")));
    }
    if run.tries > 1 {
        told.push(format!("{} tries", run.tries));
    }
    told.join("; ")
}

fn when(job: &Job) -> String {
    format!("{} ({})", show::text(&job.cron), show::text(&job.zone))
}

/// The next time, as its zone's clocks show it.
pub fn next(job: &Job) -> String {
    let zone = calendar::zone_named(&job.zone).unwrap_or(chrono_tz::UTC);
    match job.next_unix.and_then(|next| i64::try_from(next).ok()) {
        _ if job.paused => "paused".to_owned(),
        Some(next) => calendar::shown(next, zone),
        None => "never".to_owned(),
    }
}

fn last(job: &Job) -> String {
    match &job.last {
        None => "-".to_owned(),
        Some(run) if run.outcome == Outcome::Running => format!("running since {}", when::shown(run.began_unix)),
        Some(run) => format!("{} {}", run.outcome, when::shown(run.began_unix)),
    }
}

fn has_failed(run: &Run) -> bool {
    matches!(run.outcome, Outcome::Failed | Outcome::Interrupted)
}

/// A snapshot that was taken, in a line.
pub fn kept(kept: &Kept) -> String {
    let removed = match kept.removed.len() as u64 {
        0 => String::new(),
        count => format!("; {} removed", show::counted(count, "older one", "older ones")),
    };
    let left_out = match kept.left_out {
        0 => String::new(),
        count => format!("; {} left out", show::counted(count, "entry", "entries")),
    };
    format!(
        "snapshot {} in {}: {}, {}; {} new, {} stored{left_out}{removed}",
        &kept.id.to_string()[..12],
        show::seconds(kept.seconds),
        show::counted(kept.entries, "entry", "entries"),
        show::size(kept.bytes),
        show::size(kept.bytes_new),
        show::size(kept.bytes_stored),
    )
}

pub fn fields(job: &Job) -> Value {
    let mut fields = json!({
        "schedule": job.name.as_str(),
        "cron": job.cron,
        "zone": job.zone,
        "by": job.by,
        "created_unix": job.created_unix,
        "paused": job.paused,
        "running": job.running,
        "next_unix": job.next_unix,
        "last": job.last.as_ref().map(run_fields),
    });
    let work = match &job.work {
        Work::Copy(copy) => json!({
            "source": copy.from.to_string(),
            "target": copy.to.to_string(),
            "code": copy.code,
            "force": copy.force,
            "grant": copy.far.as_ref().map(|far| format!("g{}", far.grant)),
        }),
        Work::Snapshot(snapshot) => json!({
            "snapshot_of": snapshot.of.to_string(),
            "force": snapshot.force,
            "keep": snapshot.keep.rules().into_iter().collect::<BTreeMap<_, _>>(),
        }),
    };
    if let (Value::Object(fields), Value::Object(work)) = (&mut fields, work) {
        fields.extend(work);
    }
    fields
}

pub fn run_fields(run: &Run) -> Value {
    json!({
        "run": run.number,
        "schedule": run.name.as_str(),
        "slot_unix": run.slot_unix,
        "missed": run.missed,
        "began_unix": run.began_unix,
        "ended_unix": run.ended_unix,
        "outcome": run.outcome.word(),
        "tries": run.tries,
        "failure": run.failure.as_ref().map(|failure| json!({
            "kind": failure.kind,
            "message": failure.message,
            "hint": failure.hint,
        })),
        "report": run.report.as_ref().map(sync::fields),
        "snapshot": run.kept.as_ref().map(|kept| kept.id.to_string()),
        "kept": run.kept.as_ref().map(|kept| json!({
            "entries_total": kept.entries,
            "bytes_total": kept.bytes,
            "bytes_new": kept.bytes_new,
            "bytes_stored": kept.bytes_stored,
            "bytes_read": kept.bytes_read,
            "seconds": kept.seconds,
            "left_out": kept.left_out,
            "removed": kept.removed.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })),
    })
}
