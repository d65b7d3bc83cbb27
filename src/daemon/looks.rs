//! Looking into tenants: what their services are, and what they said.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;

use super::access::Principal;
use super::lives::{self, Crew};
use super::{Daemon, jobs, publishing, requests};
use crate::model::host::{Role, VolumeRef};
use crate::model::publish::Route;
use crate::model::running::{Seen, ServiceStatus, TenantStatus, Wanted};
use crate::model::{Error, Kind, Result, ServiceName, TenantName, VolumePath};
use crate::sys::dir::Dir;
use crate::tenant::runtime::{Checked, Container, LogsWanted, State};
use crate::transport::{Sender, Stream};
use crate::wire::proto::{self, response};
use crate::wire::running as wire;

/// Sizes of volumes that take longer to add up are left out.
const ADDING_UP: Duration = Duration::from_secs(2);

/// A reply, or the failure.
async fn answer(mut stream: Stream, answered: Result<response::What>) {
    match answered {
        Ok(what) => requests::say(&mut stream, what).await,
        Err(error) => requests::fail(stream, &error).await,
    }
}

pub async fn status(daemon: Arc<Daemon>, who: Principal, stream: Stream, wanted: proto::StatusWanted) {
    let answered = async {
        let crews = if wanted.tenant.is_empty() {
            who.is_enrolled()?;
            let rows = daemon.state.tenants()?.into_iter().filter(|row| who.sees(&row.tenant.name));
            rows.map(|row| Crew::of(&daemon, row)).collect::<Result<Vec<Crew>>>()?
        } else {
            let tenant = TenantName::new(&wanted.tenant)?;
            who.may(Role::Viewer, &tenant)?;
            vec![lives::crew(&daemon, Some(&who), &tenant).await?]
        };
        let looked = join_all(crews.iter().map(|crew| look(&daemon, crew, wanted.whole))).await;
        let tenants = looked.iter().map(wire::status_out).collect();
        Ok(response::What::Statuses(proto::Statuses { tenants }))
    };
    let answered = answered.await;
    answer(stream, answered).await;
}

async fn look(daemon: &Arc<Daemon>, crew: &Crew, whole: bool) -> TenantStatus {
    let quiet = |_: Option<&ServiceName>, _: String| {};
    let site = crew.site(&quiet);
    let tenant = &crew.row.tenant;
    let wanted = daemon.state.wanted(&tenant.name).unwrap_or_default();
    let (there, trouble) = match site.containers().await {
        Ok(there) => (there, None),
        Err(error) => (Default::default(), Some(error.chain())),
    };
    let serving = publishing::serving_service(&crew.config.services).map(|service| service.name.clone());
    let urls = urls(daemon, &tenant.name);
    let service = |service| {
        let service: &crate::tenant::config::Service = service;
        let urls = if serving.as_ref() == Some(&service.name) { urls.clone() } else { Vec::new() };
        let container = there.get(service.name.as_str());
        let wanted = wanted.get(service.name.as_str()).copied().unwrap_or(Wanted::None);
        let unknown = trouble.is_some();
        let image = site.image_name(service);
        async move {
            let usage = match container {
                Some(container) if whole && container.state == State::Running => {
                    daemon.runtime.usage(&container.id).await.ok()
                }
                _ => None,
            };
            let paths = tenant.volumes.iter().filter(|volume| volume.service == service.name);
            let paths: Vec<VolumePath> = paths.map(|volume| volume.path.clone()).collect();
            ServiceStatus {
                name: service.name.clone(),
                seen: if unknown { Seen::Unknown } else { container.map_or(Seen::Absent, |c| seen(c, wanted)) },
                wanted,
                image,
                container: container.map(|container| container.id.clone()).unwrap_or_default(),
                ip: container.and_then(|container| container.ip.clone()),
                exit_status: container.map_or(0, |container| container.exit_status),
                cpu_millis: usage.map(|usage| usage.cpu_millis),
                memory_bytes: usage.map(|usage| usage.memory_bytes),
                volumes: if whole {
                    sizes(daemon, tenant, &service.name, paths).await
                } else {
                    paths.into_iter().map(|path| (path, None)).collect()
                },
                web: service.web,
                urls,
                health: container.and_then(|container| container.checked).map(|checked| {
                    match checked {
                        Checked::Starting => "starting",
                        Checked::Healthy => "healthy",
                        Checked::Unhealthy => "unhealthy",
                    }
                    .to_owned()
                }),
            }
        }
    };
    let services = join_all(crew.config.services.iter().map(service)).await;
    let failed_schedules = jobs::requests::failed_of(daemon, &tenant.name).unwrap_or_default();
    TenantStatus { tenant: tenant.clone(), services, trouble, failed_schedules }
}

/// Where a tenant is published.
fn urls(daemon: &Daemon, tenant: &TenantName) -> Vec<String> {
    let routes = daemon.state.routes().unwrap_or_default();
    let url = |route: Route| {
        let (scheme, port, usual) = match route.ssl {
            true => ("https", daemon.https_port, 443),
            false => ("http", daemon.http_port, 80),
        };
        match port == usual {
            true => format!("{scheme}://{}/", route.domain),
            false => format!("{scheme}://{}:{port}/", route.domain),
        }
    };
    routes.into_iter().filter(|route| route.tenant.if_here() == Some(tenant)).map(url).collect()
}

fn seen(container: &Container, wanted: Wanted) -> Seen {
    match container.state {
        State::Created => Seen::Created,
        State::Running => Seen::Running,
        State::Paused => Seen::Paused,
        State::Restarting => Seen::Restarting,
        State::Exited if wanted == Wanted::Stopped || container.exit_status == 0 => Seen::Stopped,
        State::Exited | State::Dead => Seen::Failed,
    }
}

async fn sizes(
    daemon: &Arc<Daemon>,
    tenant: &crate::model::host::Tenant,
    service: &ServiceName,
    paths: Vec<VolumePath>,
) -> Vec<(VolumePath, Option<u64>)> {
    let (daemon, tenant, service) = (daemon.clone(), tenant.name.clone(), service.clone());
    let until = Instant::now() + ADDING_UP;
    let added = tokio::task::spawn_blocking(move || {
        let size = |path: VolumePath| {
            let data = crate::model::host::DataVolume { service: service.clone(), path: path.clone() };
            let dir = daemon.home.volume(&VolumeRef { tenant: tenant.clone(), data: Some(data) });
            (path, Dir::open(&dir).ok().and_then(|dir| size(&dir, until)))
        };
        paths.into_iter().map(size).collect()
    });
    added.await.unwrap_or_default()
}

/// The bytes that files below take on disk; `None` if that could not be added up in time.
fn size(dir: &Dir, until: Instant) -> Option<u64> {
    let mut bytes = 0;
    for entry in dir.names().ok()? {
        if Instant::now() > until {
            return None;
        }
        let Ok(stat) = dir.stat(&entry.name) else { continue };
        bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if crate::sys::dir::is_dir(&stat)
            && let Ok(below) = dir.open_beneath(&entry.name)
        {
            bytes += size(&below, until)?;
        }
    }
    Some(bytes)
}

/// The container of a service, which has to be there.
pub async fn container(crew: &Crew, service: &ServiceName) -> Result<Container> {
    crew.chosen(Some(service))?;
    let quiet = |_: Option<&ServiceName>, _: String| {};
    let name = &crew.row.tenant.name;
    crew.site(&quiet).container(service).await?.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("{service}.{name} has no container"))
            .hint(format!("`mcloud create {service}.{name}` makes it, `mcloud start` starts it as well"))
    })
}

pub async fn inspect(daemon: Arc<Daemon>, who: Principal, stream: Stream, wanted: proto::InspectWanted) {
    let answered = async {
        let (tenant, service) = (TenantName::new(&wanted.tenant)?, ServiceName::new(&wanted.service)?);
        who.may(Role::Viewer, &tenant)?;
        let crew = lives::crew(&daemon, Some(&who), &tenant).await?;
        let told = daemon.runtime.describe(&container(&crew, &service).await?.id).await?;
        let json = without_vars(&told, &daemon.state.vars()?)?;
        Ok(response::What::Inspection(proto::Inspection { json }))
    };
    let answered = answered.await;
    answer(stream, answered).await;
}

/// The host's variables may be secrets: their values are not shown.
fn without_vars(told: &str, vars: &[(String, String)]) -> Result<String> {
    let wrong = |error| Error::failed("what Docker tells of it is no JSON").because(error);
    let mut told: serde_json::Value = serde_json::from_str(told).map_err(wrong)?;
    if let Some(env) = told.pointer_mut("/Config/Env").and_then(serde_json::Value::as_array_mut) {
        for line in env {
            let name = line.as_str().and_then(|line| line.split_once('=')).map(|(name, _)| name.to_owned());
            if let Some(name) = name.filter(|name| vars.iter().any(|(var, _)| var == name)) {
                *line = format!("{name}=***").into();
            }
        }
    }
    serde_json::to_string(&told).map_err(wrong)
}

pub async fn logs(daemon: Arc<Daemon>, who: Principal, mut stream: Stream, wanted: proto::LogsWanted) {
    let opened = async {
        let tenant = TenantName::new(&wanted.tenant)?;
        who.may(Role::Viewer, &tenant)?;
        let crew = lives::crew(&daemon, Some(&who), &tenant).await?;
        let service = (!wanted.service.is_empty()).then(|| ServiceName::new(&wanted.service)).transpose()?;
        let quiet = |_: Option<&ServiceName>, _: String| {};
        let there = crew.site(&quiet).containers().await?;
        let how = LogsWanted { follow: wanted.follow, tail: wanted.tail, timestamps: false };
        let mut logs = Vec::new();
        for service in crew.chosen(service.as_ref())? {
            if let Some(container) = there.get(service.name.as_str()) {
                let name = service.name.to_string();
                let pieces = daemon.runtime.logs(&container.id, &how).await?;
                logs.push(pieces.map(move |piece| (name.clone(), piece)).boxed());
            }
        }
        if let (true, Some(service)) = (logs.is_empty(), &service) {
            container(&crew, service).await?;
        }
        Ok(logs)
    };
    let logs = match opened.await {
        Ok(logs) => logs,
        Err(error) => return requests::fail(stream, &error).await,
    };
    let told = match wanted.follow {
        // As it comes; the end is the client's, or that of the last container.
        true => {
            let Stream { mut sender, mut receiver } = stream;
            let told = tokio::select! {
                told = tell(&mut sender, futures_util::stream::select_all(logs)) => told,
                _ = receiver.receive::<proto::Input>() => Ok(()),
            };
            stream = Stream { sender, receiver };
            told
        }
        // One service after the other.
        false => tell(&mut stream.sender, futures_util::stream::iter(logs).flatten()).await,
    };
    let what = told.map(|()| response::What::Done(proto::Done {}));
    answer(stream, what).await;
}

async fn tell(
    sender: &mut Sender,
    mut pieces: impl futures_util::Stream<Item = (String, Result<crate::tenant::runtime::Output>)> + Unpin,
) -> Result<()> {
    while let Some((service, piece)) = pieces.next().await {
        let piece = piece?;
        let output = proto::Output { service, is_error: piece.is_error, data: piece.bytes };
        sender.send(&proto::Response { what: Some(response::What::Output(output)) }).await?;
    }
    Ok(())
}
