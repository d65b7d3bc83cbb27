//! `mcloud release`, and how a receipt is shown.

use clap::Args;
use serde_json::{Value, json};

use super::context::{self, Context};
use super::{show, sync, when};
use crate::model::release::{Receipt, ReleaseWanted};
use crate::model::sync::Class;
use crate::model::{Domain, Error, Result};

/// Put one tenant in the place of another, with its data, and lose no request
///
/// Copies the data of FROM to TO while FROM serves, and checks that TO comes up on it. Then it holds the requests, freezes
/// FROM, copies what has changed since, starts TO, moves the domains and lets the requests go on. FROM stays frozen: it is
/// the way back (`mcloud rollback`). Whatever goes wrong before the move is undone, and FROM serves on.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud release shop_a shop_b shop.example.com
  mcloud release shop_a shop_b shop.example.com www.shop.example.com --hold 60
  mcloud release shop_a shop_b shop.example.com --dry-run       how long requests would wait
  mcloud release --history")]
pub struct Release {
    /// The tenant that serves now
    #[arg(value_name = "FROM", required_unless_present = "history")]
    from: Option<String>,
    /// The tenant that is to serve
    #[arg(value_name = "TO", required_unless_present = "history")]
    to: Option<String>,
    /// The domains that move
    #[arg(value_name = "DOMAIN", required_unless_present = "history")]
    domains: Vec<String>,
    /// Only say how long requests would wait
    #[arg(long)]
    dry_run: bool,
    /// A request waits so long at the most; what takes longer is undone. Default: the host's own limit
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(3..=3600))]
    hold: Option<u64>,
    /// Show the receipts of all releases
    #[arg(long, conflicts_with_all = ["from", "dry_run", "hold"])]
    history: bool,
}

pub fn run(arguments: Release, context: &Context) -> Result<u8> {
    let (Some(from), Some(to)) = (&arguments.from, &arguments.to) else { return history(context) };
    let (from, host) = context.tenant(Some(from))?;
    let (to, other) = context.tenant(Some(to))?;
    if host != other {
        return Err(Error::usage("the two tenants are at different hosts").hint(
            "a release is within one host; between two, `mcloud sync` copies and `mcloud publish` moves the domain",
        ));
    }
    let domains = arguments.domains.iter().map(|domain| Domain::new(domain)).collect::<Result<Vec<_>>>()?;
    let wanted = ReleaseWanted { from, to, domains, hold_seconds: arguments.hold, dry_run: arguments.dry_run };
    let receipt = context::block_on(async {
        context::connect(&host).await?.release(&wanted, |service, text| note(context, service, text)).await
    })?;
    if !arguments.dry_run {
        context.out.line(shown(&receipt));
    }
    context.out.done(fields(&receipt));
    Ok(0)
}

fn history(context: &Context) -> Result<u8> {
    let host = context.host()?;
    let receipts = context::block_on(async { context::connect(&host).await?.releases().await })?;
    let rows: Vec<Vec<String>> = receipts
        .iter()
        .map(|receipt| {
            vec![
                receipt.number.to_string(),
                when::shown(receipt.began_unix),
                format!("{}{} → {}", if receipt.is_rollback { "back: " } else { "" }, receipt.from, receipt.to),
                receipt.domains.join(" "),
                format!("{} held, {} failed", receipt.report.held_requests, receipt.failed_requests),
                format!("{} ms", show::count(receipt.longest_hold_ms)),
                show::text(&receipt.outcome),
            ]
        })
        .collect();
    context.out.line(show::table(&["", "WHEN", "RELEASE", "DOMAINS", "REQUESTS", "LONGEST", "OUTCOME"], &rows));
    for receipt in &receipts {
        let mut event = fields(receipt);
        event["event"] = json!("release");
        context.out.event(&event);
    }
    context.out.done(json!({"releases": receipts.len()}));
    Ok(0)
}

/// One note of what is done.
pub fn note(context: &Context, service: &str, text: &str) {
    if context.out.json {
        context.out.event(&json!({"event": "note", "service": service, "text": text}));
    } else if service.is_empty() {
        context.out.say(show::text(text));
    } else {
        context.out.say(show::text(&format!("{service}: {text}")));
    }
}

/// A receipt for people.
pub fn shown(receipt: &Receipt) -> String {
    let report = &receipt.report;
    let what = if receipt.is_rollback { "rolled back" } else { "released" };
    let ms = |ms: u64| format!("{} ms", show::count(ms));
    let mut lines = vec![
        format!("{what}: {} serves {} (was {})", receipt.serving, receipt.domains.join(" "), receipt.from),
        format!(
            "  requests   {} held, {} failed, the longest waited {}",
            show::count(report.held_requests),
            show::count(receipt.failed_requests),
            ms(receipt.longest_hold_ms)
        ),
    ];
    if report.paused_ms > 0 {
        let stays = format!(
            "{} stood still for {} until the move, and stays frozen: the way back",
            receipt.from,
            ms(report.paused_ms)
        );
        lines.push(format!("  freeze     {stays}"));
    }
    if report.bytes_total > 0 {
        lines.push(format!(
            "  data       {} in all, {} read for it",
            show::size(report.bytes_total),
            show::size(report.bytes_read)
        ));
    }
    if let (Some(source), Some(target)) = (report.root_source, report.root_target) {
        let proof = if source == target { format!("both were {source}") } else { format!("{source}, {target}") };
        lines.push(format!("  proof      {proof}"));
    }
    let phases =
        receipt.phases.iter().map(|(name, took)| format!("{name} {}", ms(*took))).collect::<Vec<_>>().join(" · ");
    lines.push(format!("  phases     {phases}"));
    if let Some(since) = &receipt.since {
        let kinds = [(&since.created, "new"), (&since.updated, "changed"), (&since.removed, "removed")];
        let counts: Vec<String> = kinds
            .iter()
            .filter(|(class, _)| class.count > 0)
            .map(|(class, word)| format!("{} {word}", show::count(class.count)))
            .collect();
        lines.push(match (counts.is_empty(), since.copied_back) {
            (true, _) => format!("  since      {} wrote nothing since it took over", receipt.from),
            (false, true) => {
                format!("  since      what {} wrote came along: {} files", receipt.from, counts.join(", "))
            }
            (false, false) => {
                format!("  since      left behind in {}: {} files", receipt.from, counts.join(", "))
            }
        });
        for class in [&since.created, &since.updated, &since.removed] {
            lines.extend(class.first.iter().map(|path| format!("               {}", show::path(path))));
        }
    }
    lines.join("\n")
}

/// What `done` carries.
pub fn fields(receipt: &Receipt) -> Value {
    let mut fields = sync::fields(&receipt.report);
    let class = |class: &Class| {
        let first: Vec<String> = class.first.iter().map(|path| show::path(path)).collect();
        json!({"count": class.count, "bytes": class.bytes, "first": first})
    };
    let since = receipt.since.as_ref().map(|since| {
        json!({
            "created": class(&since.created),
            "updated": class(&since.updated),
            "removed": class(&since.removed),
            "copied_back": since.copied_back,
        })
    });
    let phases: Vec<Value> = receipt.phases.iter().map(|(name, ms)| json!({"phase": name, "ms": ms})).collect();
    let more = json!({
        "number": receipt.number,
        "rollback": receipt.is_rollback,
        "from": receipt.from,
        "to": receipt.to,
        "domains": receipt.domains,
        "began_unix": receipt.began_unix,
        "outcome": receipt.outcome,
        "serving": receipt.serving,
        "failed_requests": receipt.failed_requests,
        "longest_hold_ms": receipt.longest_hold_ms,
        "freeze_ms": receipt.report.paused_ms,
        "phases": phases,
        "since": since,
    });
    if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
        fields.extend(more);
    }
    fields
}
