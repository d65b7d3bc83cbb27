//! Docker as the runtime, through its socket. The version of its API is negotiated.
//!
//! The connection is made when it is first needed, and again after Docker was gone.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use bollard::errors::Error as Bollard;
use bollard::models::NetworkCreateRequest;
use bollard::query_parameters as query;
use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join_all};
use futures_util::{StreamExt, TryStreamExt};

use super::runtime::{
    Answer, Build, Container, Exec, Image, Labels, Lively, LogsWanted, Output, Outputs, Runtime, Say, Session,
    SessionId, Spec, Usage,
};
use crate::model::{Error, Kind, Result};

mod shapes;
mod talk;
#[cfg(test)]
mod tests;

use shapes::{body, container, filters, lively};

/// Where Docker listens when nobody says otherwise.
pub const SOCKET: &str = "unix:///var/run/docker.sock";

/// What to do about a disk of Docker's that is full.
const FULL: &str = "Docker's own disk is full: `docker system df` shows with what, `docker system prune` makes room";

/// A request may take this long; builds, pulls and logs are streams and may take longer.
const PATIENCE_SECONDS: u64 = 120;
/// Between the two looks that tell how busy a container is.
const CPU_WINDOW: Duration = Duration::from_millis(250);
/// How large a piece of a build's context is sent at once.
const PIECE_BYTES: usize = 256 << 10;

/// Docker at one address.
#[derive(Debug)]
pub struct Docker {
    url: String,
    client: Mutex<Option<bollard::Docker>>,
    /// How busy containers were when they were looked at last.
    samples: talk::Samples,
}

impl Docker {
    /// `unix:///var/run/docker.sock`, or the path alone.
    pub fn at(url: &str) -> Result<Docker> {
        let url = if url.starts_with('/') { format!("unix://{url}") } else { url.to_owned() };
        if !url.starts_with("unix:///") {
            return Err(Error::usage(format!("Docker cannot be reached at {}", url.escape_debug()))
                .hint(format!("its socket is named, on this machine: {SOCKET}")));
        }
        Ok(Docker { url, client: Mutex::new(None), samples: talk::Samples::default() })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<bollard::Docker>> {
        self.client.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn client(&self) -> Result<bollard::Docker> {
        if let Some(client) = self.known().clone() {
            return Ok(client);
        }
        let connect = async {
            bollard::Docker::connect_with_unix(&self.url, PATIENCE_SECONDS, bollard::API_DEFAULT_VERSION)?
                .negotiate_version()
                .await
        };
        let client = connect.await.map_err(|error| self.gone().because(error))?;
        *self.known() = Some(client.clone());
        Ok(client)
    }

    fn gone(&self) -> Error {
        Error::failed(format!("Docker does not answer at {}", self.url)).hint(
            "start it (`systemctl start docker`, or `dockerd`), or name its socket with `mcloud server --docker URL`; \
             what needs no containers goes on working without it",
        )
    }

    /// What Docker said, as one of our errors: `what` is what was tried.
    fn wrong(&self, what: &str, error: Bollard) -> Error {
        match error {
            Bollard::DockerResponseServerError { status_code, message } => {
                let message = message.trim().to_owned();
                let kind = match status_code {
                    404 => Kind::NotFound,
                    409 => Kind::Busy,
                    _ if message.contains("no space left") => Kind::NoSpace,
                    _ => Kind::Failed,
                };
                let error = Error::new(kind, what.to_owned()).because(message.clone());
                if kind == Kind::NoSpace {
                    return error.hint(FULL);
                }
                if message.contains("port is already allocated") || message.contains("address already in use") {
                    error.hint("another program listens there: stop it, or choose another port")
                } else if message.contains("is already in use by container") {
                    error.hint("a container that is not this tenant's has that name: `docker rename` or `docker rm` it")
                } else {
                    error
                }
            }
            Bollard::DockerStreamError { error } => {
                let kind = if error.contains("no space left") { Kind::NoSpace } else { Kind::Failed };
                let full = kind == Kind::NoSpace;
                let error = Error::new(kind, what.to_owned()).because(error);
                if full { error.hint(FULL) } else { error }
            }
            error @ (Bollard::HyperResponseError { .. }
            | Bollard::HyperLegacyError { .. }
            | Bollard::RequestTimeoutError
            | Bollard::SocketNotFoundError(_)
            | Bollard::IOError { .. }) => {
                *self.known() = None;
                let gone = self.gone();
                let hint = gone.hint.clone().unwrap_or_default();
                Error::failed(format!("{what}: {}", gone.message)).hint(hint).because(error)
            }
            error => Error::failed(what.to_owned()).because(error),
        }
    }
}

impl Runtime for Docker {
    fn ping(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let client = self.client().await?;
            client.ping().await.map(drop).map_err(|error| self.wrong("Docker was asked whether it is there", error))
        })
    }

    /// Docker's events come on a connection that ends with it. None are asked for.
    fn gone(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Ok(client) = self.client().await else { return };
            let none = HashMap::from([("type".to_owned(), vec!["daemon".to_owned()])]);
            let mut events = client.events(Some(query::EventsOptions { filters: Some(none), ..Default::default() }));
            while let Some(Ok(_)) = events.next().await {}
        })
    }

    fn image<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Image>> {
        Box::pin(async move {
            match self.client().await?.inspect_image(name).await {
                Ok(found) => {
                    let config = found.config.unwrap_or_default();
                    let mut volumes = config.volumes.unwrap_or_default();
                    volumes.sort();
                    let test = config.healthcheck.and_then(|check| check.test).unwrap_or_default();
                    let has_healthcheck = test.first().is_some_and(|word| word != "NONE");
                    Ok(Some(Image { id: found.id.unwrap_or_default(), volumes, has_healthcheck }))
                }
                Err(Bollard::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
                Err(error) => Err(self.wrong(&format!("the image {name} cannot be looked at"), error)),
            }
        })
    }

    fn pull<'a>(&'a self, name: &'a str, say: Say<'a>) -> Answer<'a, ()> {
        Box::pin(async move {
            let client = self.client().await?;
            let tag = if name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':')) {
                None
            } else {
                Some("latest".to_owned())
            };
            let options = query::CreateImageOptions {
                from_image: Some(name.to_owned()),
                tag: tag.unwrap_or_default().into(),
                ..Default::default()
            };
            let mut steps = client.create_image(Some(options), None, None);
            let mut told = HashMap::new();
            let cannot = |error| {
                let error = self.wrong(&format!("the image {name} is not here and cannot be pulled"), error);
                let hint = "is its name spelled right, and can this host reach its registry? `docker load` or \
                            `docker build` brings an image, too";
                if error.hint.is_none() { error.hint(hint) } else { error }
            };
            while let Some(step) = steps.next().await {
                let step = step.map_err(cannot)?;
                if let Some(detail) = step.error_detail.and_then(|detail| detail.message) {
                    return Err(cannot(Bollard::DockerStreamError { error: detail }));
                }
                let id = step.id.map(|id| format!("{id}: ")).unwrap_or_default();
                let progress = step.progress_detail.and_then(|detail| detail.current.zip(detail.total));
                match (step.status, progress) {
                    (Some(status), None) => say(format!("{id}{status}")),
                    (Some(status), Some((now, all))) if all > 0 => {
                        // Docker tells some times a second, of every layer: each tenth is enough.
                        let tenth = (status.clone(), now.saturating_mul(10) / all);
                        if told.insert(id.clone(), tenth.clone()).as_ref() != Some(&tenth) {
                            say(format!("{id}{status} {}%", tenth.1 * 10));
                        }
                    }
                    _ => {}
                }
            }
            Ok(())
        })
    }

    fn build<'a>(&'a self, build: Build, say: Say<'a>) -> Answer<'a, ()> {
        Box::pin(async move {
            let client = self.client().await?;
            let what = format!("the image {} cannot be built", build.tag);
            let options = query::BuildImageOptions {
                dockerfile: build.dockerfile.clone(),
                t: Some(build.tag.clone()),
                rm: true,
                forcerm: true,
                nocache: build.no_cache,
                labels: Some(build.labels.clone().into_iter().collect()),
                ..Default::default()
            };
            let context = tokio::fs::File::from_std(build.context);
            let pieces = futures_util::stream::try_unfold(context, |mut file| async move {
                let mut piece = vec![0; PIECE_BYTES];
                let len = tokio::io::AsyncReadExt::read(&mut file, &mut piece).await?;
                piece.truncate(len);
                Ok::<_, std::io::Error>((len > 0).then(|| (Bytes::from(piece), file)))
            });
            let mut steps = client.build_image(options, None, Some(bollard::body_try_stream(pieces)));
            let mut last = String::new();
            while let Some(step) = steps.next().await {
                let said = |error: Error| match error.hint.is_none() && !last.is_empty() {
                    true => error.hint(format!("its last words: {last}")),
                    false => error,
                };
                let step = step.map_err(|error| said(self.wrong(&what, error)))?;
                if let Some(detail) = step.error_detail.and_then(|detail| detail.message) {
                    return Err(said(self.wrong(&what, Bollard::DockerStreamError { error: detail })));
                }
                for line in step.stream.iter().chain(step.status.iter()).flat_map(|text| text.lines()) {
                    if !line.trim().is_empty() {
                        line.trim_end().clone_into(&mut last);
                        say(last.clone());
                    }
                }
            }
            Ok(())
        })
    }

    fn ensure_network<'a>(&'a self, name: &'a str, labels: &'a Labels) -> Answer<'a, bool> {
        Box::pin(async move {
            let client = self.client().await?;
            let what = format!("the network {name} cannot be made");
            match client.inspect_network(name, None::<query::InspectNetworkOptions>).await {
                Ok(found) => {
                    let has = found.labels.unwrap_or_default();
                    if labels.iter().any(|(name, value)| has.get(name) != Some(value)) {
                        return Err(Error::new(Kind::Busy, what)
                            .because("there is one, and it is not this daemon's")
                            .hint(format!(
                                "another mcloud daemon or somebody else made it: `docker network rm {name}`"
                            )));
                    }
                    return Ok(false);
                }
                Err(Bollard::DockerResponseServerError { status_code: 404, .. }) => {}
                Err(error) => return Err(self.wrong(&what, error)),
            }
            let request = NetworkCreateRequest {
                name: name.to_owned(),
                driver: Some("bridge".to_owned()),
                labels: Some(labels.clone().into_iter().collect()),
                ..Default::default()
            };
            client.create_network(request).await.map(|_| true).map_err(|error| self.wrong(&what, error))
        })
    }

    fn remove_network<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            match self.client().await?.remove_network(name).await {
                Ok(()) | Err(Bollard::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
                Err(error) => Err(self.wrong(&format!("the network {name} cannot be removed"), error)),
            }
        })
    }

    fn containers<'a>(&'a self, labels: &'a Labels) -> Answer<'a, Vec<Container>> {
        Box::pin(async move {
            let client = self.client().await?;
            let options =
                query::ListContainersOptions { all: true, filters: Some(filters(labels)), ..Default::default() };
            let listed = client
                .list_containers(Some(options))
                .await
                .map_err(|error| self.wrong("the containers cannot be listed", error))?;
            let ids: Vec<String> = listed.into_iter().filter_map(|summary| summary.id).collect();
            let found = try_join_all(ids.iter().map(|id| self.inspect(id))).await?;
            Ok(found.into_iter().flatten().collect())
        })
    }

    fn lively(&self) -> Answer<'_, Vec<Lively>> {
        Box::pin(async move {
            let client = self.client().await?;
            let options = query::ListContainersOptions { all: true, ..Default::default() };
            let listed = client.list_containers(Some(options)).await;
            let listed =
                listed.map_err(|error| self.wrong("the containers of this machine cannot be listed", error))?;
            Ok(listed.into_iter().filter_map(lively).collect())
        })
    }

    fn inspect<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Container>> {
        Box::pin(async move {
            let client = self.client().await?;
            match client.inspect_container(id, None::<query::InspectContainerOptions>).await {
                Ok(found) => Ok(Some(container(found))),
                Err(Bollard::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
                Err(error) => Err(self.wrong("a container cannot be looked at", error)),
            }
        })
    }

    fn describe<'a>(&'a self, id: &'a str) -> Answer<'a, String> {
        Box::pin(async move {
            let client = self.client().await?;
            let found = client
                .inspect_container(id, None::<query::InspectContainerOptions>)
                .await
                .map_err(|error| self.wrong("the container cannot be looked at", error))?;
            serde_json::to_string(&found)
                .map_err(|error| Error::failed("what Docker tells of it is no JSON").because(error))
        })
    }

    fn create<'a>(&'a self, spec: &'a Spec) -> Answer<'a, String> {
        Box::pin(async move {
            let client = self.client().await?;
            let options = query::CreateContainerOptions { name: Some(spec.name.clone()), ..Default::default() };
            let made = client.create_container(Some(options), body(spec)).await;
            made.map(|made| made.id)
                .map_err(|error| self.wrong(&format!("the container {} cannot be made", spec.name), error))
        })
    }

    fn start<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let started = self.client().await?.start_container(id, None::<query::StartContainerOptions>).await;
            // 304: it runs already.
            match started {
                Ok(()) | Err(Bollard::DockerResponseServerError { status_code: 304, .. }) => Ok(()),
                Err(error) => Err(self.wrong("the container cannot be started", error)),
            }
        })
    }

    fn stop<'a>(&'a self, id: &'a str, grace: Duration) -> Answer<'a, ()> {
        Box::pin(async move {
            let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
            let options = query::StopContainerOptions { t: Some(seconds), ..Default::default() };
            match self.client().await?.stop_container(id, Some(options)).await {
                Ok(()) | Err(Bollard::DockerResponseServerError { status_code: 304 | 404, .. }) => Ok(()),
                Err(error) => Err(self.wrong("the container cannot be stopped", error)),
            }
        })
    }

    fn pause<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let paused = self.client().await?.pause_container(id).await;
            paused.map_err(|error| self.wrong("the container cannot be paused", error))
        })
    }

    fn unpause<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let resumed = self.client().await?.unpause_container(id).await;
            resumed.map_err(|error| self.wrong("the container cannot be resumed", error))
        })
    }

    fn remove<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let options = query::RemoveContainerOptions { force: true, v: true, ..Default::default() };
            match self.client().await?.remove_container(id, Some(options)).await {
                Ok(()) | Err(Bollard::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
                Err(error) => Err(self.wrong("the container cannot be removed", error)),
            }
        })
    }

    fn logs<'a>(&'a self, id: &'a str, wanted: &'a LogsWanted) -> Answer<'a, Outputs> {
        talk::logs(self, id, wanted)
    }

    fn usage<'a>(&'a self, id: &'a str) -> Answer<'a, Usage> {
        talk::usage(self, id)
    }

    fn exec<'a>(&'a self, id: &'a str, exec: &'a Exec) -> Answer<'a, Session> {
        talk::exec(self, id, exec)
    }

    fn attend<'a>(&'a self, id: &'a str) -> Answer<'a, Session> {
        talk::attend(self, id)
    }

    fn resize<'a>(&'a self, session: &'a SessionId, columns: u16, rows: u16) -> Answer<'a, ()> {
        talk::resize(self, session, columns, rows)
    }

    fn kill<'a>(&'a self, id: &'a str, session: &'a SessionId) -> Answer<'a, ()> {
        talk::kill(self, id, session)
    }

    fn exit_status<'a>(&'a self, session: &'a SessionId) -> Answer<'a, i64> {
        talk::exit_status(self, session)
    }
}
