//! Trees of this host that are looked at from afar: what a mount is served from.

use std::sync::Arc;

use super::access::Principal;
use super::{Daemon, now_unix, requests, shelves, snapshots, tenants};
use crate::model::host::Role;
use crate::model::{Error, Reference, Result};
use crate::transport::{Stream, look};
use crate::tree::look::{Look, live::Live};
use crate::wire::proto::{self, look_open, response};
use crate::wire::{host as wire, nonsense};

/// Looks that are worked on at once, for all mounts together.
pub const AT_ONCE: usize = 64;

/// Serves a tree on this stream until the one who looks is gone.
pub async fn serve(daemon: Arc<Daemon>, who: Principal, mut stream: Stream, open: proto::LookOpen) {
    let opening = daemon.clone();
    let opened = tokio::task::spawn_blocking(move || find(&opening, &who, open)).await;
    let opened = opened.unwrap_or_else(|error| Err(Error::failed("a request broke the daemon").because(error)));
    let (tree, number) = match opened {
        Ok(opened) => opened,
        Err(error) => return requests::fail(stream, &error).await,
    };
    let ready = proto::Response { what: Some(response::What::Done(proto::Done {})) };
    let served = match stream.send(&ready).await {
        Ok(()) => look::serve(stream, tree, daemon.looks.clone()).await,
        Err(error) => Err(error),
    };
    // A connection that ends is how a mount ends, too.
    if let Err(error) = &served {
        tracing::debug!("a mount is over: {}", error.chain());
    }
    let noted = tokio::task::spawn_blocking(move || daemon.state.audit_end(number, "ok")).await;
    if let Ok(Err(error)) = noted {
        tracing::warn!("{}", error.chain());
    }
}

/// The tree that is meant, if `who` may see it, and the number of the note of that.
fn find(daemon: &Daemon, who: &Principal, open: proto::LookOpen) -> Result<(Arc<dyn Look>, i64)> {
    match open.tree {
        Some(look_open::Tree::Volume(volume)) => {
            let volume = wire::volume_in(Some(volume))?;
            let tenant = volume.tenant.clone();
            noted(daemon, who, tenant.as_str(), &volume.to_string(), || {
                who.may(Role::Viewer, &tenant)?;
                let row = tenants::find(&daemon.state, &tenant, |name| who.sees(name))?;
                let dir = tenants::live(&daemon.home, &row, &volume)?;
                Ok(Arc::new(Live::open(&dir.root, &dir.label)?))
            })
        }
        Some(look_open::Tree::Snapshot(word)) => {
            let mut found = snapshots::meant_by(daemon, who, &[word])?;
            let (id, snapshot) = found.pop().ok_or_else(|| nonsense("a look at nothing"))?;
            let on = format!("{id} of {}", snapshot.of);
            noted(daemon, who, snapshot.tenant.as_str(), &on, || {
                who.may(Role::Viewer, &snapshot.tenant)?;
                shelves::one(daemon, id)
            })
        }
        Some(look_open::Tree::Snapshots(of)) => {
            let of: Reference = of.parse()?;
            noted(daemon, who, of.tenant.as_str(), &format!("all snapshots of {of}"), || {
                who.may(Role::Viewer, &of.tenant)?;
                shelves::all(daemon, of.clone())
            })
        }
        None => Err(nonsense("a look at nothing")),
    }
}

/// Notes that a tree is mounted, and what came of it if it is not.
fn noted(
    daemon: &Daemon,
    who: &Principal,
    tenant: &str,
    on: &str,
    open: impl FnOnce() -> Result<Arc<dyn Look>>,
) -> Result<(Arc<dyn Look>, i64)> {
    let number = daemon.state.audit_begin(&who.key, &who.label(), "mount", tenant, on, now_unix())?;
    match open() {
        Ok(tree) => Ok((tree, number)),
        Err(error) => {
            daemon.state.audit_end(number, &format!("{}: {}", error.kind.word(), error.chain()))?;
            Err(error)
        }
    }
}
