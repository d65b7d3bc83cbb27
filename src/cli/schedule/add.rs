//! `mcloud schedule add`: a copy or snapshots at set times; and what the source's host has to grant for a copy.

use std::ffi::OsString;

use clap::Args;

use crate::daemon::client::Client;
use crate::model::between::{Between, pair};
use crate::model::host::{FarHost, GrantTerms, Role, Tenant};
use crate::model::reference::{Address, Host};
use crate::model::schedule::{Job, JobCopy, JobSnapshot, NewJob, Work};
use crate::model::{Error, JobName, Kind, Place, Reference, Result};
use crate::schedule::calendar::Calendar;

use super::looks;
use crate::cli::context::{self, Context};
use crate::cli::keep::Keep;
use crate::cli::snapshot;

/// Copy one tenant to another, or take snapshots, at set times
///
/// CRON is five fields: minute, hour, day of the month, month, day of the week; or six, with the second first; or @hourly,
/// @daily, @weekly, @monthly, @yearly. SRC and DST are tenants, or volumes of tenants, as for `mcloud sync`. Between two hosts
/// the source's host grants the target's the right to read that tenant, or with --force to freeze it; `mcloud access list` there shows it, `schedule remove`
/// gives it back.
///
/// With --snapshot the schedule takes snapshots of a tenant, a service or a volume, tagged schedule:NAME; of these, those that no
/// --keep rule keeps are removed after each run. Without a rule all are kept.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mcloud schedule add '0 2 * * *' shop@203.0.113.5 copy@203.0.113.9
  mcloud schedule add '*/15 8-18 * * MON-FRI' redis.shop@me:/data redis.copy@203.0.113.9:/data --tz Europe/Berlin
  mcloud schedule add @hourly shop@me copy@me --name hourly --force
  mcloud schedule add '0 3 * * *' --snapshot shop --keep-daily 7 --keep-weekly 4 --keep-monthly 12")]
pub struct Add {
    /// When
    cron: String,
    /// What is copied
    #[arg(value_name = "SRC", required_unless_present = "snapshot", requires = "target")]
    source: Option<OsString>,
    /// What becomes equal to it
    #[arg(value_name = "DST")]
    target: Option<OsString>,
    /// Take snapshots of [SERVICE.]TENANT[@HOST][:/VOLUME] instead
    #[arg(long, value_name = "REF", conflicts_with_all = ["source", "target", "code"])]
    snapshot: Option<String>,
    #[command(flatten)]
    keep: Keep,
    /// How it is called; default: by its tenants
    #[arg(long)]
    name: Option<String>,
    /// The time zone of CRON, by its IANA name; default: UTC
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// A consistent copy or snapshot: the source's containers are frozen for a moment, and it is as of then
    #[arg(long)]
    force: bool,
    /// Copy the code (the root volume), too
    #[arg(long)]
    code: bool,
}

pub fn run(arguments: Add, context: &Context) -> Result<u8> {
    let calendar = Calendar::parse(&arguments.cron, arguments.tz.as_deref().unwrap_or("UTC"))?;
    let name = arguments.name.as_deref().map(JobName::new).transpose()?;
    let job = match (&arguments.snapshot, &arguments.source, &arguments.target) {
        (Some(of), ..) => snapshots(of, &arguments, &calendar, name, context)?,
        (None, Some(source), Some(target)) => copies((source, target), &arguments, &calendar, name)?,
        _ => return Err(Error::usage("a schedule copies SRC to DST, or takes snapshots with --snapshot")),
    };
    context.out.line(format!("{}: {}, next {}", job.name, job.work, looks::next(&job)));
    context.out.done(looks::fields(&job));
    Ok(0)
}

fn snapshots(of: &str, arguments: &Add, calendar: &Calendar, name: Option<JobName>, context: &Context) -> Result<Job> {
    let (of, host) = snapshot::create::reference(Some(of), context)?;
    context::block_on(async {
        let client = context::connect(&host).await?;
        find(&client, &Reference { host: Some(host.clone()), ..of.clone() }).await?;
        let name = match name {
            Some(name) => name,
            None => free_name(&client, &format!("snapshot-{}", of.tenant)).await?,
        };
        let (cron, zone) = (arguments.cron.clone(), calendar.zone().name().to_owned());
        let work = Work::Snapshot(JobSnapshot { of, keep: arguments.keep.rules(), force: arguments.force });
        client.schedule_add(&NewJob { name, cron, zone, work }).await
    })
}

fn copies(
    (source, target): (&std::ffi::OsStr, &std::ffi::OsStr),
    arguments: &Add,
    calendar: &Calendar,
    name: Option<JobName>,
) -> Result<Job> {
    if !arguments.keep.rules().is_empty() {
        return Err(Error::usage("--keep rules are for snapshots")
            .hint("a copy has nothing to keep: --snapshot REF takes snapshots"));
    }
    let (from, to) = (tenant(source)?, tenant(target)?);
    let between = Between { from, to, code: arguments.code };
    context::block_on(async {
        let target = context::connect(host_of(&between.to)).await?;
        let source = match host_of(&between.from) == host_of(&between.to) {
            true => None,
            false => Some(context::connect(host_of(&between.from)).await?),
        };
        // One daemon may have two names.
        let source = source.filter(|source| source.whoami().host_key != target.whoami().host_key);
        let from = find(source.as_ref().unwrap_or(&target), &between.from).await?;
        // What does not fit is said now, and not at night.
        pair(&between, &from, &find(&target, &between.to).await?)?;
        let name = match name {
            Some(name) => name,
            None => {
                let (from, to) = (&between.from.tenant, &between.to.tenant);
                let base = if from == to { to.to_string() } else { format!("{from}-to-{to}") };
                free_name(&target, &base).await?
            }
        };
        let zone = calendar.zone().name().to_owned();
        let job = |from, far| NewJob {
            name: name.clone(),
            cron: arguments.cron.clone(),
            zone: zone.clone(),
            work: Work::Copy(JobCopy {
                from,
                to: Reference { host: None, ..between.to.clone() },
                code: between.code,
                force: arguments.force,
                far,
            }),
        };
        let Some(source) = source else {
            return target.schedule_add(&job(Reference { host: None, ..between.from.clone() }, None)).await;
        };
        // To hold somebody's requests is more than to read.
        let role = if arguments.force { Role::Deployer } else { Role::Viewer };
        add_far(&source, &target, &between, (role, &name), job).await
    })
}

/// With a source at another host, which has to let the target's host in.
async fn add_far(
    source: &Client,
    target: &Client,
    between: &Between,
    (role, name): (Role, &JobName),
    job: impl Fn(Reference, Option<FarHost>) -> NewJob,
) -> Result<Job> {
    let host = match host_of(&between.to) {
        Host::At(address) => address.to_string(),
        Host::Me => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    let terms = GrantTerms {
        host_key: target.whoami().host_key.clone(),
        host: host.clone(),
        role,
        tenant: between.from.tenant.clone(),
        purpose: format!("schedule {name} on {host}"),
        expires_unix: None,
    };
    let granted = source.grant(&terms).await?;
    // `me` is somebody else to the target's host.
    let at = match host_of(&between.from) {
        Host::At(address) => address.clone(),
        Host::Me => granted
            .addresses
            .first()
            .map_or(Ok(Address { host: "localhost".to_owned(), port: None }), |first| first.parse())?,
    };
    let far = FarHost { host_key: granted.host_key, addresses: granted.addresses, grant: granted.number };
    let from = Reference { host: Some(Host::At(at)), ..between.from.clone() };
    let added = target.schedule_add(&job(from, Some(far))).await;
    let Err(error) = added else { return added };
    Err(match source.grant_revoke(granted.number).await {
        Ok(()) => error,
        Err(_) => {
            error.hint(format!("the source's host keeps a grant: `mcloud access revoke g{}` there", granted.number))
        }
    })
}

/// A tenant or a volume of one. There is nobody to read a folder of this machine at night.
fn tenant(argument: &std::ffi::OsStr) -> Result<Reference> {
    match Place::parse(argument)? {
        Place::Tenant(reference) => Ok(reference),
        folder @ Place::Folder(_) => {
            let plain = argument.to_str().filter(|text| text.parse::<Reference>().is_ok());
            Err(Error::usage(format!("`{folder}` is a folder of this machine, and a schedule copies from tenant to tenant"))
                .hint(match plain {
                    Some(name) => format!("a tenant has its host: `{name}@me`, `{name}@HOST`"),
                    None => "make it a tenant of the daemon that sees it: `mcloud init NAME --path DIR`, then NAME@HOST with --code".to_owned(),
                }))
        }
    }
}

fn host_of(reference: &Reference) -> &Host {
    reference.host.as_ref().unwrap_or(&Host::Me)
}

async fn find(client: &Client, reference: &Reference) -> Result<Tenant> {
    let tenants = client.tenant_list().await?;
    let names: Vec<String> = tenants.iter().map(|tenant| tenant.name.to_string()).collect();
    tenants.into_iter().find(|tenant| tenant.name == reference.tenant).ok_or_else(|| {
        let there =
            if names.is_empty() { "it shows us none".to_owned() } else { format!("it has {}", names.join(", ")) };
        let host = reference.host.as_ref().map_or_else(|| "this machine".to_owned(), ToString::to_string);
        Error::new(Kind::NotFound, format!("{host} has no tenant `{}`", reference.tenant)).hint(there)
    })
}

/// `base`, or with a number where there is one of that name.
async fn free_name(client: &Client, base: &str) -> Result<JobName> {
    let taken: Vec<String> = client.schedules(None).await?.iter().map(|job| job.name.to_string()).collect();
    let base: String = base.chars().take(50).collect();
    let numbered = (2..1000).map(|number| format!("{base}-{number}"));
    let free = std::iter::once(base.clone()).chain(numbered).find(|name| !taken.contains(name));
    JobName::new(free.as_deref().unwrap_or(&base))
}
