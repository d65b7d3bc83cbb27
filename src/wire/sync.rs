//! Syncs as messages: options, events, plans, reports, and failures.

use bytes::Bytes;

use super::nonsense;
use super::proto::{self, sync_event};
use crate::model::sync::{Class, Event, Halt, LeftOut, Plan, Report, SyncOptions};
use crate::model::{Error, Kind, Name, Result};

pub fn failure_out(error: &Error) -> proto::Failure {
    let mut causes = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    proto::Failure {
        kind: error.kind.word().to_owned(),
        message: error.message.clone(),
        hint: error.hint.clone().unwrap_or_default(),
        causes,
    }
}

pub fn failure_in(failure: proto::Failure) -> Error {
    let mut error = Error::new(Kind::from_word(&failure.kind), failure.message);
    error.hint = Some(failure.hint).filter(|hint| !hint.is_empty());
    if failure.causes.is_empty() { error } else { error.because(failure.causes.join(": ")) }
}

/// An unknown name and none are both empty.
pub fn name_out(name: Option<Name>) -> Bytes {
    name.filter(Name::is_known).map(|name| Bytes::copy_from_slice(&name.0)).unwrap_or_default()
}

pub fn name_in(bytes: &[u8]) -> Result<Option<Name>> {
    match bytes {
        [] => Ok(None),
        bytes => Name::from_slice(bytes)
            .map(Some)
            .ok_or_else(|| nonsense(format!("an object's name of {} bytes", bytes.len()))),
    }
}

pub fn left_out_out(left: LeftOut) -> proto::LeftOut {
    proto::LeftOut { path: left.path.into(), reason: left.reason }
}

pub fn left_out_in(left: proto::LeftOut) -> LeftOut {
    LeftOut { path: left.path.to_vec(), reason: left.reason }
}

pub fn options_out(options: &SyncOptions) -> proto::SyncOptions {
    proto::SyncOptions {
        force: options.force,
        yes: options.yes,
        dry_run: options.dry_run,
        no_remove: options.no_remove,
        checksum: options.checksum,
        path: options.path.clone().into(),
        exclude: options.exclude.clone(),
        bytes_per_second: options.bytes_per_second,
        no_restart: options.no_restart,
    }
}

pub fn options_in(options: proto::SyncOptions) -> SyncOptions {
    SyncOptions {
        force: options.force,
        yes: options.yes,
        dry_run: options.dry_run,
        no_remove: options.no_remove,
        checksum: options.checksum,
        path: options.path.to_vec(),
        exclude: options.exclude,
        bytes_per_second: options.bytes_per_second,
        no_restart: options.no_restart,
    }
}

pub fn event_out(event: Event) -> proto::SyncEvent {
    let what = match event {
        Event::Scanning { files, bytes_read } => sync_event::What::Scanning(proto::Scanning { files, bytes_read }),
        Event::Planned(plan) => sync_event::What::Planned(plan_out(&plan)),
        Event::Moving { files_done, files_total, bytes_done, bytes_total } => {
            sync_event::What::Moving(proto::Moving { files_done, files_total, bytes_done, bytes_total })
        }
        Event::Committing => sync_event::What::Committing(true),
        Event::LeftOut(left) => sync_event::What::LeftOut(left_out_out(left)),
        Event::Note(note) => sync_event::What::Note(note),
    };
    proto::SyncEvent { what: Some(what) }
}

pub fn event_in(event: proto::SyncEvent) -> Result<Event> {
    Ok(match event.what.ok_or_else(|| nonsense("an event of an unknown kind"))? {
        sync_event::What::Scanning(scanning) => {
            Event::Scanning { files: scanning.files, bytes_read: scanning.bytes_read }
        }
        sync_event::What::Planned(plan) => Event::Planned(plan_in(plan)),
        sync_event::What::Moving(moving) => Event::Moving {
            files_done: moving.files_done,
            files_total: moving.files_total,
            bytes_done: moving.bytes_done,
            bytes_total: moving.bytes_total,
        },
        sync_event::What::Committing(_) => Event::Committing,
        sync_event::What::LeftOut(left) => Event::LeftOut(left_out_in(left)),
        sync_event::What::Note(note) => Event::Note(note),
    })
}

pub fn class_out(class: &Class) -> proto::PlanClass {
    proto::PlanClass {
        count: class.count,
        bytes: class.bytes,
        first: class.first.iter().map(|path| Bytes::copy_from_slice(path)).collect(),
    }
}

pub fn class_in(class: proto::PlanClass) -> Class {
    Class { count: class.count, bytes: class.bytes, first: class.first.iter().map(|path| path.to_vec()).collect() }
}

pub fn plan_out(plan: &Plan) -> proto::Plan {
    let class = |class: &Class| Some(class_out(class));
    let halt = |halt: &Halt| proto::Halt {
        message: halt.message.clone(),
        hint: halt.hint.clone(),
        yes_overrides: halt.yes_overrides,
    };
    proto::Plan {
        created: class(&plan.created),
        updated: class(&plan.updated),
        touched: class(&plan.touched),
        moved: class(&plan.moved),
        removed: class(&plan.removed),
        bytes_to_move: plan.bytes_to_move,
        halts: plan.halts.iter().map(halt).collect(),
        entries_total: plan.entries_total,
        bytes_total: plan.bytes_total,
        notes: plan.notes.clone(),
    }
}

pub fn plan_in(plan: proto::Plan) -> Plan {
    let class = |class: Option<proto::PlanClass>| class_in(class.unwrap_or_default());
    let halt = |halt: proto::Halt| Halt { message: halt.message, hint: halt.hint, yes_overrides: halt.yes_overrides };
    Plan {
        created: class(plan.created),
        updated: class(plan.updated),
        touched: class(plan.touched),
        moved: class(plan.moved),
        removed: class(plan.removed),
        bytes_to_move: plan.bytes_to_move,
        halts: plan.halts.into_iter().map(halt).collect(),
        entries_total: plan.entries_total,
        bytes_total: plan.bytes_total,
        notes: plan.notes,
    }
}

pub fn report_out(report: &Report) -> proto::SyncReport {
    proto::SyncReport {
        files_created: report.files_created,
        files_updated: report.files_updated,
        files_moved: report.files_moved,
        files_removed: report.files_removed,
        entries_total: report.entries_total,
        bytes_total: report.bytes_total,
        bytes_read: report.bytes_read,
        bytes_sent: report.bytes_sent,
        bytes_received: report.bytes_received,
        seconds: report.seconds,
        paused_ms: report.paused_ms,
        held_requests: report.held_requests,
        root_source: name_out(report.root_source),
        root_target: name_out(report.root_target),
        left_out: report.left_out,
    }
}

pub fn report_in(report: proto::SyncReport) -> Result<Report> {
    Ok(Report {
        files_created: report.files_created,
        files_updated: report.files_updated,
        files_moved: report.files_moved,
        files_removed: report.files_removed,
        entries_total: report.entries_total,
        bytes_total: report.bytes_total,
        bytes_read: report.bytes_read,
        bytes_sent: report.bytes_sent,
        bytes_received: report.bytes_received,
        seconds: report.seconds,
        paused_ms: report.paused_ms,
        held_requests: report.held_requests,
        root_source: name_in(&report.root_source)?,
        root_target: name_in(&report.root_target)?,
        left_out: report.left_out,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_kind_message_hint_and_causes() {
        let error = Error::new(Kind::NoSpace, "cannot write")
            .hint("make room")
            .because(Error::failed("inner").because(std::io::Error::other("innermost")));
        let back = failure_in(failure_out(&error));
        assert_eq!(back.kind, Kind::NoSpace);
        assert_eq!(back.chain(), "cannot write: inner: innermost");
        assert_eq!(back.hint.as_deref(), Some("make room"));
    }

    #[test]
    fn a_report_and_a_plan_come_out_as_they_went_in() {
        let report = Report {
            files_created: 1,
            bytes_sent: u64::MAX,
            seconds: 0.25,
            root_source: Some(Name::of(b"x")),
            ..Report::default()
        };
        assert_eq!(report_in(report_out(&report)).unwrap(), report);
        let plan = Plan {
            moved: Class { count: 2, bytes: 3, first: vec![b"a\0\xff".to_vec()] },
            halts: vec![Halt { message: "m".into(), hint: "h".into(), yes_overrides: true }],
            notes: vec!["n".into()],
            ..Plan::default()
        };
        assert_eq!(plan_in(plan_out(&plan)), plan);
        assert_eq!(event_in(event_out(Event::Planned(plan.clone()))).unwrap(), Event::Planned(plan));
    }
}
