//! A runtime in memory, for tests: containers that do as they are told, and faults where they are wanted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use super::runtime::{
    Answer, Build, Container, Exec, Image, Labels, Lively, LogsWanted, Output, Outputs, Runtime, Say, Session,
    SessionId, Spec, State, Usage,
};
use crate::model::{Error, Result};

#[derive(Default)]
pub struct Fake {
    known: Mutex<Known>,
}

#[derive(Default)]
pub struct Known {
    pub images: BTreeMap<String, Image>,
    pub networks: Vec<String>,
    pub containers: BTreeMap<String, (Spec, Container)>,
    /// All that was asked for and changed something: `start web.shop`.
    pub done: Vec<String>,
    /// What fails when it is asked for, `start web.shop` or `start`; each as often as it is here.
    pub faults: Vec<String>,
    /// Containers that end as soon as they are started, and with what.
    pub short_lived: BTreeMap<String, i64>,
    pub logs: BTreeMap<String, Vec<String>>,
    /// What commands do that are run in a container of this name.
    pub commands: BTreeMap<String, Scripted>,
    numbers: u64,
}

/// A command that says something and ends, or does not.
#[derive(Clone, Default)]
pub struct Scripted {
    pub says: String,
    pub status: i64,
    pub hangs: bool,
}

impl Fake {
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    pub fn with_images(names: &[&str]) -> Fake {
        let fake = Fake::default();
        for name in names {
            let image = Image { id: format!("sha256:{name}"), ..Image::default() };
            fake.known().images.insert((*name).to_owned(), image);
        }
        fake
    }

    /// What was done since the last time this was asked.
    pub fn done(&self) -> Vec<String> {
        std::mem::take(&mut self.known().done)
    }

    fn doing(&self, verb: &str, id: &str) -> Result<MutexGuard<'_, Known>> {
        let mut known = self.known();
        let name = known.containers.get(id).map_or(id.to_owned(), |(spec, _)| spec.name.clone());
        let what = format!("{verb} {name}");
        if let Some(at) = known.faults.iter().position(|fault| *fault == what || fault == verb) {
            known.faults.remove(at);
            return Err(Error::failed(format!("{what} failed as it was told to")));
        }
        known.done.push(what);
        Ok(known)
    }

    fn into(&self, verb: &str, id: &str, state: State) -> Result<()> {
        let mut known = self.doing(verb, id)?;
        let name = known.containers.get(id).map(|(spec, _)| spec.name.clone()).unwrap_or_default();
        let ended = known.short_lived.get(&name).copied().filter(|_| verb == "start");
        match known.containers.get_mut(id) {
            Some((_, container)) => {
                container.state = ended.map_or(state, |_| State::Exited);
                container.ip = (container.state == State::Running).then(|| "192.0.2.1".to_owned());
                container.exit_status = ended.unwrap_or(0);
                Ok(())
            }
            None => Err(Error::failed(format!("there is no container {id}"))),
        }
    }
}

fn ready<'a, T: Send + 'a>(result: Result<T>) -> Answer<'a, T> {
    Box::pin(std::future::ready(result))
}

impl Runtime for Fake {
    fn ping(&self) -> Answer<'_, ()> {
        ready(Ok(()))
    }

    fn gone(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn image<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Image>> {
        ready(Ok(self.known().images.get(name).cloned()))
    }

    fn pull<'a>(&'a self, name: &'a str, _: Say<'a>) -> Answer<'a, ()> {
        let image = Image { id: format!("sha256:{name}"), ..Image::default() };
        ready(self.doing("pull", name).map(|mut known| drop(known.images.insert(name.to_owned(), image))))
    }

    fn build<'a>(&'a self, build: Build, say: Say<'a>) -> Answer<'a, ()> {
        let mut text = String::new();
        let read = std::io::Read::read_to_string(&mut { build.context }, &mut text);
        say(format!("building of {} bytes", read.unwrap()));
        let image = Image { id: blake3::hash(text.as_bytes()).to_string(), ..Image::default() };
        ready(self.doing("build", &build.tag).map(|mut known| drop(known.images.insert(build.tag, image))))
    }

    fn ensure_network<'a>(&'a self, name: &'a str, _: &'a Labels) -> Answer<'a, bool> {
        if self.known().networks.iter().any(|known| known == name) {
            return ready(Ok(false));
        }
        ready(self.doing("network", name).map(|mut known| {
            known.networks.push(name.to_owned());
            true
        }))
    }

    fn remove_network<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.known().networks.retain(|known| known != name);
        ready(Ok(()))
    }

    fn containers<'a>(&'a self, labels: &'a Labels) -> Answer<'a, Vec<Container>> {
        let has = |container: &Container| labels.iter().all(|(name, value)| container.labels.get(name) == Some(value));
        let known = self.known();
        ready(Ok(known.containers.values().map(|(_, container)| container.clone()).filter(has).collect()))
    }

    fn lively(&self) -> Answer<'_, Vec<Lively>> {
        let known = self.known();
        let lively = known.containers.values().filter(|(_, container)| !container.state.is_at_rest());
        let told = lively.map(|(spec, container)| Lively {
            id: container.id.clone(),
            name: container.name.clone(),
            labels: container.labels.clone(),
            writes: spec.binds.iter().map(|(from, _)| from.clone()).collect(),
        });
        ready(Ok(told.collect()))
    }

    fn inspect<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Container>> {
        ready(Ok(self.known().containers.get(id).map(|(_, container)| container.clone())))
    }

    fn describe<'a>(&'a self, _: &'a str) -> Answer<'a, String> {
        ready(Ok("{}".to_owned()))
    }

    fn create<'a>(&'a self, spec: &'a Spec) -> Answer<'a, String> {
        ready(self.doing("create", &spec.name).map(|mut known| {
            known.numbers += 1;
            let id = format!("id{}", known.numbers);
            let container = Container {
                id: id.clone(),
                name: spec.name.clone(),
                labels: spec.labels.clone(),
                image_id: String::new(),
                state: State::Created,
                exit_status: 0,
                error: String::new(),
                ip: None,
                started_at: String::new(),
                restarts: 0,
                checked: None,
            };
            known.containers.insert(id.clone(), (spec.clone(), container));
            id
        }))
    }

    fn start<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        ready(self.into("start", id, State::Running))
    }

    fn stop<'a>(&'a self, id: &'a str, _: Duration) -> Answer<'a, ()> {
        ready(self.into("stop", id, State::Exited))
    }

    fn pause<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        ready(self.into("pause", id, State::Paused))
    }

    fn unpause<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        ready(self.into("unpause", id, State::Running))
    }

    fn remove<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        ready(self.doing("remove", id).map(|mut known| drop(known.containers.remove(id))))
    }

    fn logs<'a>(&'a self, id: &'a str, wanted: &'a LogsWanted) -> Answer<'a, Outputs> {
        let known = self.known();
        let name = known.containers.get(id).map(|(spec, _)| spec.name.clone()).unwrap_or_default();
        let stamp = if wanted.timestamps { "2026-01-01T00:00:01.000000000Z " } else { "" };
        let lines: Vec<Result<Output>> = known
            .logs
            .get(&name)
            .into_iter()
            .flatten()
            .map(|line| Ok(Output { is_error: false, bytes: Bytes::from(format!("{stamp}{line}\n")) }))
            .collect();
        let lines = futures_util::stream::iter(lines);
        ready(Ok(if wanted.follow { lines.chain(futures_util::stream::pending()).boxed() } else { lines.boxed() }))
    }

    fn usage<'a>(&'a self, _: &'a str) -> Answer<'a, Usage> {
        ready(Ok(Usage::default()))
    }

    fn exec<'a>(&'a self, id: &'a str, exec: &'a Exec) -> Answer<'a, Session> {
        let run = self.doing("exec", id).map(|mut known| {
            let name = known.containers.get(id).map(|(spec, _)| spec.name.clone()).unwrap_or_default();
            if let Some(done) = known.done.last_mut() {
                done.push_str(&format!(": {}", exec.cmd.join(" ")));
            }
            let command = known.commands.get(&name).cloned().unwrap_or_default();
            let said = futures_util::stream::iter([Ok(Output { is_error: false, bytes: command.says.into() })]);
            let output: Outputs =
                if command.hangs { said.chain(futures_util::stream::pending()).boxed() } else { said.boxed() };
            Session { id: SessionId::Exec(name), output, input: Box::pin(tokio::io::sink()) }
        });
        ready(run)
    }

    fn kill<'a>(&'a self, id: &'a str, _: &'a SessionId) -> Answer<'a, ()> {
        ready(self.doing("kill", id).map(drop))
    }

    fn attend<'a>(&'a self, _: &'a str) -> Answer<'a, Session> {
        ready(Err(Error::failed("nothing can be run in what is not there")))
    }

    fn resize<'a>(&'a self, _: &'a SessionId, _: u16, _: u16) -> Answer<'a, ()> {
        ready(Ok(()))
    }

    fn exit_status<'a>(&'a self, session: &'a SessionId) -> Answer<'a, i64> {
        let SessionId::Exec(name) = session else { return ready(Ok(0)) };
        ready(Ok(self.known().commands.get(name).map_or(0, |command| command.status)))
    }
}
