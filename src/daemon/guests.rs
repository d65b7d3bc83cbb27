//! Tenants of this host whose requests come in at the proxy of another: it hears what serves them and when they are held, and
//! its connections are carried to their containers.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;

use super::access::Principal;
use super::{Daemon, publishing, requests};
use crate::model::host::Role;
use crate::model::{Error, Kind, Result, Seat, TenantName};
use crate::proxy::{Io, Serving, Watch};
use crate::transport::{Sender, Stream};
use crate::wire::nonsense;
use crate::wire::proto::{self, response};

/// How often it is looked what serves the tenant.
const LOOK: Duration = Duration::from_secs(2);
/// A container that does not take a connection by then does not.
const CONNECT: Duration = Duration::from_secs(5);
/// A buffer for each direction.
const BUFFER_BYTES: usize = 16 << 10;

fn tenant_of(daemon: &Daemon, who: &Principal, name: &str) -> Result<TenantName> {
    let tenant = TenantName::new(name)?;
    who.may(Role::Deployer, &tenant)?;
    super::tenants::find(&daemon.state, &tenant, |name| who.sees(name))?;
    Ok(tenant)
}

/// Tells of a tenant for as long as the other host listens.
pub async fn watch(daemon: Arc<Daemon>, who: Principal, mut stream: Stream, wanted: proto::WebWatch) {
    let tenant = match tenant_of(&daemon, &who, &wanted.tenant) {
        Ok(tenant) => tenant,
        Err(error) => return requests::fail(stream, &error).await,
    };
    publishing::refresh(&daemon, Some(&tenant)).await;
    let Stream { sender, receiver } = &mut stream;
    let mut watch = daemon.proxy.watch(&Seat::here(&tenant));
    let Ok(mut held) = told(&mut watch, sender).await else { return };
    loop {
        let heard = receiver.receive::<proto::WebDrained>();
        tokio::pin!(heard);
        // What is half received is not given up: only a whole answer ends this loop.
        loop {
            tokio::select! {
                answer = &mut heard => {
                    match answer {
                        Ok(Some(_)) if held => watch.drained(),
                        Ok(Some(_)) => {}
                        _ => return,
                    }
                    break;
                }
                () = watch.changed() => match told(&mut watch, sender).await {
                    Ok(now) => held = now,
                    Err(_) => return,
                },
                () = tokio::time::sleep(LOOK) => publishing::refresh(&daemon, Some(&tenant)).await,
            }
        }
    }
}

/// Says what there is now. Whether it is held.
async fn told(watch: &mut Watch, sender: &mut Sender) -> Result<bool> {
    let (serving, held) = watch.look();
    let port = |port: Option<u16>| port.unwrap_or(0).into();
    let now = match serving {
        Serving::Down(down) => proto::WebNow { down, held, ..proto::WebNow::default() },
        Serving::Up(upstream) => proto::WebNow {
            run: upstream.key.clone(),
            service: upstream.service.clone(),
            web: port(upstream.web),
            ssl: port(upstream.ssl),
            down: String::new(),
            held,
        },
    };
    sender.send(&proto::Response { what: Some(response::What::WebNow(now)) }).await?;
    Ok(held)
}

/// Carries a connection to what serves a tenant.
pub async fn dial(daemon: Arc<Daemon>, who: Principal, mut stream: Stream, wanted: proto::WebDial) {
    let mut container = match connect(&daemon, &who, &wanted).await {
        Ok(container) => container,
        Err(error) => {
            // It may have been started anew, under another address.
            if let Ok(tenant) = TenantName::new(&wanted.tenant) {
                publishing::refresh(&daemon, Some(&tenant)).await;
            }
            return requests::fail(stream, &error).await;
        }
    };
    let ready = proto::Response { what: Some(response::What::Done(proto::Done {})) };
    if stream.send(&ready).await.is_ok() {
        let mut pipe = stream.into_pipe();
        let _ = copy_bidirectional_with_sizes(&mut pipe, &mut container, BUFFER_BYTES, BUFFER_BYTES).await;
    }
}

async fn connect(daemon: &Daemon, who: &Principal, wanted: &proto::WebDial) -> Result<Box<dyn Io>> {
    let tenant = tenant_of(daemon, who, &wanted.tenant)?;
    let port = u16::try_from(wanted.port).map_err(|_| nonsense("a port that is none"))?;
    let upstream = match daemon.proxy.serving(&Seat::here(&tenant)) {
        Serving::Up(upstream) => upstream,
        Serving::Down(why) => return Err(Error::new(Kind::NotFound, format!("{tenant} {why}"))),
    };
    let cannot = |error: std::io::Error| {
        let text = format!("{}.{tenant} cannot be reached at port {port}", upstream.service);
        Error::new(Kind::Unreachable, text).because(error)
    };
    let dialled = tokio::time::timeout(CONNECT, upstream.dial(port)).await;
    dialled.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(cannot)
}
