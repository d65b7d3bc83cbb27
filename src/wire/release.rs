//! Releases and their receipts as messages.

use super::grants::{far_in, far_out};
use super::{nonsense, proto, sync as wire_sync};
use crate::model::release::{Receipt, ReleaseWanted, Since};
use crate::model::{Domain, Result};

pub fn wanted_out(wanted: &ReleaseWanted) -> Result<proto::ReleaseStart> {
    Ok(proto::ReleaseStart {
        from: wanted.from.to_string(),
        to: wanted.to.to_string(),
        domains: wanted.domains.iter().map(ToString::to_string).collect(),
        hold_seconds: wanted.hold_seconds.unwrap_or(0),
        dry_run: wanted.dry_run,
        far: wanted.far.as_ref().map(far_out).transpose()?,
    })
}

pub fn wanted_in(start: &proto::ReleaseStart) -> Result<ReleaseWanted> {
    Ok(ReleaseWanted {
        from: start.from.parse()?,
        to: start.to.parse()?,
        domains: start.domains.iter().map(|domain| Domain::new(domain)).collect::<Result<_>>()?,
        hold_seconds: (start.hold_seconds > 0).then_some(start.hold_seconds),
        dry_run: start.dry_run,
        far: start.far.clone().map(far_in),
    })
}

pub fn receipt_out(receipt: &Receipt) -> proto::Receipt {
    let since = |since: &Since| proto::Since {
        created: Some(wire_sync::class_out(&since.created)),
        updated: Some(wire_sync::class_out(&since.updated)),
        removed: Some(wire_sync::class_out(&since.removed)),
        copied_back: since.copied_back,
    };
    proto::Receipt {
        number: receipt.number,
        is_rollback: receipt.is_rollback,
        from: receipt.from.clone(),
        to: receipt.to.clone(),
        domains: receipt.domains.clone(),
        began_unix: receipt.began_unix,
        outcome: receipt.outcome.clone(),
        serving: receipt.serving.clone(),
        report: Some(wire_sync::report_out(&receipt.report)),
        failed_requests: receipt.failed_requests,
        longest_hold_ms: receipt.longest_hold_ms,
        phases: receipt.phases.iter().map(|(name, ms)| proto::Phase { name: name.clone(), ms: *ms }).collect(),
        since: receipt.since.as_ref().map(since),
    }
}

pub fn receipt_in(receipt: proto::Receipt) -> Result<Receipt> {
    let since = |since: proto::Since| Since {
        created: wire_sync::class_in(since.created.unwrap_or_default()),
        updated: wire_sync::class_in(since.updated.unwrap_or_default()),
        removed: wire_sync::class_in(since.removed.unwrap_or_default()),
        copied_back: since.copied_back,
    };
    Ok(Receipt {
        number: receipt.number,
        is_rollback: receipt.is_rollback,
        from: receipt.from,
        to: receipt.to,
        domains: receipt.domains,
        began_unix: receipt.began_unix,
        outcome: receipt.outcome,
        serving: receipt.serving,
        report: wire_sync::report_in(receipt.report.ok_or_else(|| nonsense("a receipt without its report"))?)?,
        failed_requests: receipt.failed_requests,
        longest_hold_ms: receipt.longest_hold_ms,
        phases: receipt.phases.into_iter().map(|phase| (phase.name, phase.ms)).collect(),
        since: receipt.since.map(since),
    })
}
