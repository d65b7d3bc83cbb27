//! Domains and the tenants they lead to; and what the proxy has to know of tenants: what serves them, and whether they are held.
//!
//! The table of routes is the truth, the proxy's map is made of it, whole, after each change. What serves a tenant is
//! looked up whenever something was done to it, whenever the proxy cannot reach it, and every few seconds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::access::Principal;
use super::state::TenantRow;
use super::{Daemon, far, now_unix, requests, tenants};
use crate::model::host::Role;
use crate::model::publish::{PublishedRoute, Route};
use crate::model::running::Wanted;
use crate::model::{Domain, Error, Kind, Result, Seat, ServiceName, TenantName};
use crate::proxy::{self, Left, Reason, Serving, Tcp, Upstream, Way};
use crate::tenant::config::{self, Service};
use crate::tenant::runtime::{Container, State, label};
use crate::transport::Stream;
use crate::wire::proto::{self, response};
use crate::wire::{nonsense, publish as wire};

/// How long requests under way are waited for before a tenant is frozen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Docker's answer is not waited for any longer.
const DOCKER: Duration = Duration::from_secs(10);
/// How often it is looked what serves the tenants.
const LOOK: Duration = Duration::from_secs(2);

/// The service that a tenant's domains lead to: the one with `web:`, else with `ssl:`, else the only one.
pub fn serving_service(services: &[Service]) -> Option<&Service> {
    let named = services.iter().find(|service| service.web.is_some());
    let named = named.or_else(|| services.iter().find(|service| service.ssl.is_some()));
    named.or(match services {
        [only] => Some(only),
        _ => None,
    })
}

fn service_of(row: &TenantRow) -> Result<Option<Service>> {
    if row.config.trim().is_empty() {
        return Ok(None);
    }
    let config = config::parse(&row.config, row.tenant.env.as_deref())?;
    Ok(serving_service(&config.services).cloned())
}

/// Makes the proxy's map of what the table says.
pub fn load_routes(daemon: &Arc<Daemon>) -> Result<()> {
    // One at a time, so that what was read last is what stays.
    let _one = daemon.routing.lock().unwrap_or_else(PoisonError::into_inner);
    let way = |ssl| if ssl { Way::Tls } else { Way::Http };
    let routes = daemon.state.routes()?;
    far::watch_routes(daemon, routes.iter().map(|route| route.tenant.clone()));
    let routes = routes.into_iter().map(|route| proxy::Route {
        domain: route.domain,
        way: way(route.ssl),
        tenant: route.tenant,
        port: route.port,
    });
    daemon.proxy.set_routes(routes.collect());
    Ok(())
}

/// Makes routes lead elsewhere, all in one step, if they still lead where `from` says.
pub fn move_routes(daemon: &Arc<Daemon>, moves: &[(Route, Option<Seat>)]) -> Result<()> {
    if !daemon.state.move_routes(moves, now_unix())? {
        return Err(Error::new(Kind::Busy, "somebody else moved the domain just now")
            .hint("`mcloud routes` shows where it leads; the same command again starts from there"));
    }
    load_routes(daemon)
}

/// At the daemon's start, before anybody is served: who is held, where domains lead, what serves them.
pub async fn begin(daemon: &Arc<Daemon>) -> Result<()> {
    for row in daemon.state.tenants()? {
        set_pause(daemon, &row);
    }
    load_routes(daemon)?;
    // Docker may be away; then it is looked for again later.
    let _ = tokio::time::timeout(LOOK, refresh(daemon, None)).await;
    Ok(())
}

/// Looks every few seconds, and whenever the proxy suspects something.
pub async fn keep(daemon: Arc<Daemon>, mut suspects: tokio::sync::mpsc::Receiver<Seat>) {
    loop {
        tokio::select! {
            // What serves a far one is told by its host.
            Some(seat) = suspects.recv() => if let Some(tenant) = seat.if_here() {
                refresh(&daemon, Some(tenant)).await;
            },
            () = tokio::time::sleep(LOOK) => refresh(&daemon, None).await,
        }
    }
}

/// Tells the proxy what serves a tenant now, or each that has a domain.
pub async fn refresh(daemon: &Arc<Daemon>, tenant: Option<&TenantName>) {
    // What was looked at last has to be what is set last.
    let _one = daemon.refreshing.lock().await;
    let rows = {
        let (daemon, tenant) = (daemon.clone(), tenant.cloned());
        tokio::task::spawn_blocking(move || rows(&daemon, tenant.as_ref())).await
    };
    let rows = match rows.unwrap_or_else(|error| Err(Error::failed("a task of the daemon broke").because(error))) {
        Ok(rows) if rows.is_empty() => return,
        Ok(rows) => rows,
        Err(error) => return tracing::error!("{}", error.chain()),
    };
    let mut labels = BTreeMap::from([(label::OWNER.to_owned(), daemon.owner())]);
    if let Some(tenant) = tenant {
        labels.insert(label::TENANT.to_owned(), tenant.to_string());
    }
    // Without an answer things stay as they were: containers go on without Docker's daemon.
    let looked = tokio::time::timeout(DOCKER, daemon.runtime.containers(&labels)).await;
    let Ok(Ok(containers)) = looked else { return };
    for row in rows {
        let serving = serving(daemon, &row, &containers);
        daemon.proxy.set_serving(&Seat::here(&row.tenant.name), serving);
    }
}

/// The tenant, or all that have a domain.
fn rows(daemon: &Daemon, tenant: Option<&TenantName>) -> Result<Vec<TenantRow>> {
    if let Some(tenant) = tenant {
        return Ok(daemon.state.tenant(tenant)?.into_iter().collect());
    }
    let routes = daemon.state.routes()?;
    let mut names: Vec<&TenantName> = routes.iter().filter_map(|route| route.tenant.if_here()).collect();
    names.sort();
    names.dedup();
    let rows = names.iter().map(|name| daemon.state.tenant(name)).collect::<Result<Vec<_>>>()?;
    Ok(rows.into_iter().flatten().collect())
}

fn serving(daemon: &Daemon, row: &TenantRow, containers: &[Container]) -> Serving {
    let tenant = &row.tenant.name;
    let service = match service_of(row) {
        Ok(Some(service)) => service,
        Ok(None) => return Serving::Down("has no service with `web:`".to_owned()),
        Err(error) => return Serving::Down(format!("has an mcloud.yml with a mistake: {}", error.message)),
    };
    let is = |container: &&Container, key: &str, value: &str| container.labels.get(key).is_some_and(|is| is == value);
    let container = containers.iter().find(|container| {
        is(container, label::TENANT, tenant.as_str())
            && is(container, label::SERVICE, service.name.as_str())
            && !container.labels.contains_key(label::ONCE)
    });
    let Some(container) = container else { return Serving::Down("is not running".to_owned()) };
    let wanted = daemon.state.wanted(tenant).unwrap_or_default();
    // What is being stopped may run for a moment still.
    if wanted.get(service.name.as_str()).is_none_or(|wanted| *wanted < Wanted::Running) {
        return Serving::Down("is stopped".to_owned());
    }
    let ip = container.ip.as_ref().and_then(|ip| ip.parse::<IpAddr>().ok());
    match (container.state, ip) {
        (State::Running | State::Paused, Some(ip)) => {
            let key = format!("{} {} {} {ip}", container.id, container.started_at, container.restarts);
            let name = service.name.to_string();
            Serving::Up(Arc::new(Upstream::new(key, name, Arc::new(Tcp(ip)), service.web, service.ssl)))
        }
        (State::Restarting, _) => Serving::Down(format!("is starting again: {} had failed", service.name)),
        _ => Serving::Down(format!("does not run: {} ended with status {}", service.name, container.exit_status)),
    }
}

/// What is to be stopped serves no more: whoever asks hears so from the proxy.
pub fn down(daemon: &Daemon, tenant: &TenantName, services: &[&Service], all: &[Service], why: &str) {
    if serving_service(all).is_some_and(|serving| services.iter().any(|service| service.name == serving.name)) {
        daemon.proxy.set_serving(&Seat::here(tenant), Serving::Down(why.to_owned()));
    }
}

/// Whether a pause of the tenant holds its requests: the service that they go to is paused.
fn is_paused(daemon: &Daemon, row: &TenantRow) -> bool {
    let wanted = daemon.state.wanted(&row.tenant.name).unwrap_or_default();
    let is = |name: &ServiceName| wanted.get(name.as_str()) == Some(&Wanted::Paused);
    matches!(service_of(row), Ok(Some(service)) if is(&service.name))
}

/// Holds the tenant if it is paused, lets go if it is not.
fn set_pause(daemon: &Daemon, row: &TenantRow) -> Option<proxy::HoldReport> {
    let tenant = &Seat::here(&row.tenant.name);
    if is_paused(daemon, row) {
        daemon.proxy.hold(tenant, Reason::Pause, daemon.hold);
        return None;
    }
    let (reasons, _) = daemon.proxy.held(tenant);
    reasons.contains(&Reason::Pause).then(|| daemon.proxy.let_go(tenant, Reason::Pause))
}

/// After anything was done to a tenant: what serves it, and whether it is held still.
pub async fn after(daemon: &Arc<Daemon>, tenant: &TenantName, say: &super::lives::Say) {
    refresh(daemon, Some(tenant)).await;
    let row = {
        let (daemon, tenant) = (daemon.clone(), tenant.clone());
        tokio::task::spawn_blocking(move || {
            let row = daemon.state.tenant(&tenant).ok().flatten()?;
            set_pause(&daemon, &row)
        })
        .await
    };
    if let Ok(Some(report)) = row
        && report.held > 0
    {
        let longest = report.longest.as_secs_f64();
        let held = match report.held {
            1 => "1 held request goes on".to_owned(),
            held => format!("{held} held requests go on"),
        };
        let mut text = format!("{held}; the longest waited {longest:.1} s");
        if report.failed > 0 {
            text.push_str(&format!("; {} had been told to come again", report.failed));
        }
        say(None, text);
    }
}

/// Before a tenant is frozen: new requests wait, those under way end.
pub async fn hold(daemon: &Arc<Daemon>, row: &TenantRow, say: &super::lives::Say) {
    if !is_paused(daemon, row) {
        return;
    }
    let tenant = &Seat::here(&row.tenant.name);
    daemon.proxy.hold(tenant, Reason::Pause, daemon.hold);
    let Left { requests, streams } = daemon.proxy.drained(tenant, PATIENCE).await;
    if requests > 0 {
        let seconds = PATIENCE.as_secs();
        say(None, format!("requests that have not ended after {seconds} s, and stand still now: {requests}"));
    }
    if streams > 0 {
        say(None, format!("WebSockets and event streams that stand still: {streams}"));
    }
}

/// A reply, or the failure.
pub async fn reply(mut stream: Stream, answered: Result<response::What>) {
    match answered {
        Ok(what) => requests::say(&mut stream, what).await,
        Err(error) => requests::fail(stream, &error).await,
    }
}

pub async fn publish(daemon: Arc<Daemon>, who: Principal, stream: Stream, publish: proto::Publish) {
    let answered = async {
        let route = wire::publish_in(publish)?;
        // Noted first, then looked at: what the new tenant is served by is known before requests come to it.
        refresh(&daemon, route.tenant.if_here()).await;
        let daemon = daemon.clone();
        let done = tokio::task::spawn_blocking(move || {
            let on = named(&route.domain, route.ssl);
            requests::note(&daemon, &who, "publish", route.tenant.tenant.as_str(), &on, &mut || {
                set(&daemon, &who, &route)
            })
        });
        done.await.unwrap_or_else(|error| Err(Error::failed("a request broke the daemon").because(error)))
    };
    let answered = answered.await;
    reply(stream, answered).await;
}

/// `DOMAIN` or `DOMAIN --ssl`.
fn named(domain: &Domain, ssl: bool) -> String {
    if ssl { format!("{domain} --ssl") } else { domain.to_string() }
}

fn set(daemon: &Arc<Daemon>, who: &Principal, route: &Route) -> Result<response::What> {
    let Some(tenant) = route.tenant.if_here() else { return Err(nonsense("a tenant of another host")) };
    who.may(Role::Deployer, tenant)?;
    let row = tenants::find(&daemon.state, tenant, |name| who.sees(name))?;
    if route.ssl && route.domain.is_address() {
        return Err(Error::usage(format!("{} is an address: TLS asks for a name", route.domain))
            .hint("publish it without --ssl, or publish a domain"));
    }
    check_port(&route.tenant, service_of(&row)?.as_ref(), route)?;
    let before = daemon.state.route(&route.domain, route.ssl)?;
    if let Some(before) = &before {
        may_move(who, before)?;
    }
    let from = before.map(|before| before.tenant);
    if daemon.state.route(&route.domain, route.ssl)?.as_ref() != Some(route) {
        move_routes(daemon, &[(route.clone(), from.clone())])?;
    }
    let moved_from = from.filter(|from| *from != route.tenant).map(|from| from.to_string()).unwrap_or_default();
    let routes = vec![wire::published_out(&shown(daemon, route.clone()))];
    Ok(response::What::Routes(proto::PublishedRoutes { routes, moved_from }))
}

/// Whether the tenant has something to serve there.
pub fn check_port(tenant: &Seat, service: Option<&Service>, route: &Route) -> Result<()> {
    let Some(service) = service else {
        return Err(Error::usage(format!("`{tenant}` has no service that could be published"))
            .hint("give one of its services `web: PORT` in its mcloud.yml, and `mcloud update` it"));
    };
    let (own, key) = if route.ssl { (service.ssl.or(service.web), "ssl") } else { (service.web, "web") };
    if route.port.or(own).is_none() {
        return Err(Error::usage(format!("{}.{tenant} names no port with `{key}:`", service.name)).hint(format!(
            "write `{key}: PORT` into its mcloud.yml and `mcloud update {tenant}`, or publish with --port"
        )));
    }
    Ok(())
}

/// A domain is taken from a tenant only by who may act on that one, too.
fn may_move(who: &Principal, route: &Route) -> Result<()> {
    let tenant = &route.tenant.tenant;
    who.may(Role::Deployer, tenant).map_err(|error| match who.sees(tenant) {
        true => error,
        false => {
            Error::new(Kind::Refused, format!("{} is published for another tenant", named(&route.domain, route.ssl)))
                .hint("an admin, or a deployer of that tenant, can take it away (`mcloud unpublish`)")
        }
    })
}

pub fn unpublish(daemon: &Arc<Daemon>, who: &Principal, unpublish: &proto::Unpublish) -> Result<response::What> {
    who.is_enrolled()?;
    let domain = Domain::new(&unpublish.domain)?;
    let on = named(&domain, unpublish.ssl);
    let Some(route) = daemon.state.route(&domain, unpublish.ssl)? else {
        let other = daemon.state.route(&domain, !unpublish.ssl)?.filter(|other| who.sees(&other.tenant.tenant));
        return Err(Error::new(Kind::NotFound, format!("{on} is not published")).hint(match other {
            Some(other) => format!("{} is", named(&domain, other.ssl)),
            None => "`mcloud routes` lists the domains that are".to_owned(),
        }));
    };
    requests::note(daemon, who, "unpublish", route.tenant.tenant.as_str(), &on, &mut || {
        may_move(who, &route)?;
        let was = wire::published_out(&shown(daemon, route.clone()));
        daemon.state.remove_route(&route)?;
        load_routes(daemon)?;
        Ok(response::What::Routes(proto::PublishedRoutes { routes: vec![was], moved_from: String::new() }))
    })
}

pub fn list(daemon: &Daemon, who: &Principal) -> Result<response::What> {
    who.is_enrolled()?;
    let routes = daemon.state.routes()?.into_iter().filter(|route| who.sees(&route.tenant.tenant));
    let routes = routes.map(|route| wire::published_out(&shown(daemon, route))).collect();
    Ok(response::What::Routes(proto::PublishedRoutes { routes, moved_from: String::new() }))
}

/// A route with what becomes of its requests.
fn shown(daemon: &Daemon, route: Route) -> PublishedRoute {
    let way = if route.ssl { Way::Tls } else { Way::Http };
    let seen = daemon.proxy.look(&route.tenant, way, route.port);
    let needs_certificate =
        route.ssl && !seen.passes && daemon.proxy.certificates.find(route.domain.as_str()).is_none();
    let (state, why) = match (&seen.held[..], seen.down) {
        ([], None) if needs_certificate => (
            "down",
            Some(format!("has no certificate: `mcloud cert acme {0}`, or `mcloud cert add {0} …`", route.domain)),
        ),
        ([], None) => ("serving", None),
        ([], Some(why)) => ("down", Some(why)),
        (held, _) => {
            let why = if held.contains(&Reason::Pause) { "is paused" } else { "is frozen for a copy" };
            ("held", Some(why.to_owned()))
        }
    };
    PublishedRoute { route, state: state.to_owned(), why, upstream: seen.upstream, waiting: seen.waiting as u64 }
}
