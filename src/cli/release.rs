//! `mcloud release`, and how a receipt is shown.

use clap::Args;
use serde_json::{Value, json};

use super::context::{self, Context};
use super::{show, sync, when};
use crate::daemon::client::Client;
use crate::model::host::{FarHost, GrantTerms, Role};
use crate::model::publish::PublishedRoute;
use crate::model::release::{Receipt, ReleaseWanted};
use crate::model::sync::Class;
use crate::model::{Domain, Error, Host, Kind, Result, Seat};

/// How long the host that looks may look.
const DRY_RUN_SECONDS: u64 = 600;

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
  mcloud release shop@203.0.113.5 shop@203.0.113.9 shop.example.com      to another host; the proxy stays
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
    let (from, to) = (context.tenant(Some(from))?, context.tenant(Some(to))?);
    let domains = arguments.domains.iter().map(|domain| Domain::new(domain)).collect::<Result<Vec<_>>>()?;
    let wanted = ReleaseWanted {
        from: Seat::here(&from.0),
        to: Seat::here(&to.0),
        far: None,
        domains,
        hold_seconds: arguments.hold,
        dry_run: arguments.dry_run,
    };
    let receipt = context::block_on(async {
        let note = |service: &str, text: &str| note(context, service, text);
        let at_from = context::connect(&from.1).await?;
        let at_to = if from.1 == to.1 { None } else { Some(context::connect(&to.1).await?) };
        // One daemon may have two names.
        match at_to.filter(|at_to| at_to.whoami().host_key != at_from.whoami().host_key) {
            None => at_from.release(&wanted, note).await,
            Some(at_to) => between((&at_from, &from.1), (&at_to, &to.1), wanted, note).await,
        }
    })?;
    if !arguments.dry_run {
        context.out.line(shown(&receipt));
    }
    context.out.done(fields(&receipt));
    Ok(0)
}

/// Of two hosts, the one at which the domain is published does it all, and is granted what it needs at the other one.
async fn between(
    (at_from, from_host): (&Client, &Host),
    (at_to, to_host): (&Client, &Host),
    mut wanted: ReleaseWanted,
    note: impl FnMut(&str, &str),
) -> Result<Receipt> {
    let leads = |routes: Vec<PublishedRoute>, from_here: bool| {
        routes.into_iter().any(|published| {
            let seat = &published.route.tenant;
            wanted.domains.contains(&published.route.domain)
                && seat.tenant == wanted.from.tenant
                && seat.host.is_none() == from_here
        })
    };
    let from_leads = leads(at_from.routes().await?, true);
    let to_leads = !from_leads && leads(at_to.routes().await?, false);
    if !from_leads && !to_leads {
        let domains = wanted.domains.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        return Err(Error::new(Kind::NotFound, format!("{domains}: at neither host it leads to `{}`", wanted.from))
            .hint("`mcloud -h HOST routes` shows where domains lead; `mcloud publish` makes one lead there"));
    }
    let (proxy, other, seat) = match from_leads {
        true => ((at_from, from_host), (at_to, to_host), &mut wanted.to),
        false => ((at_to, to_host), (at_from, from_host), &mut wanted.from),
    };
    let label = match proxy.1 {
        Host::At(address) => address.to_string(),
        Host::Me => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    let terms = GrantTerms {
        host_key: proxy.0.whoami().host_key.clone(),
        host: label.clone(),
        role: Role::Deployer,
        tenant: seat.tenant.clone(),
        purpose: format!("release and serve it at {label}"),
        expires_unix: match wanted.dry_run {
            true => Some(when::now_unix() + DRY_RUN_SECONDS),
            false => None,
        },
    };
    let granted = other.0.grant(&terms).await?;
    // `me` is somebody else to the other host.
    let address = match other.1 {
        Host::At(address) => address.clone(),
        Host::Me => granted.addresses.first().map_or(Err(Error::failed("the host has no address")), |at| at.parse())?,
    };
    seat.host = Some(address);
    wanted.far = Some(FarHost { host_key: granted.host_key, addresses: granted.addresses, grant: granted.number });
    proxy.0.release(&wanted, note).await
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
