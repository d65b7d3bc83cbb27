//! A tenant's services from the state they are in to the one that is asked for.
//!
//! Every step looks first and does nothing where it is done already, so that any of them can be repeated after whatever
//! went wrong. Containers are found by their labels; one that somebody deleted is made again.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use super::config::{Command, LocalPath, Origin, Service};
use super::runtime::{Attended, Build, Container, Labels, Runtime, Spec, State, label};
use crate::model::{Error, Kind, Result, ServiceName, TenantName, VolumePath, line};

mod context;
pub mod still;
mod wait;

#[cfg(test)]
mod tests;

pub use context::{Context, pack};

/// How long a service may take to end by itself.
const GRACE: Duration = Duration::from_secs(10);
/// How long the engine may take to pause a service, all its tries together.
const PAUSING: Duration = Duration::from_secs(60);
/// The last lines of a log that are shown when its service does not come up.
const LAST_LINES: u64 = 20;

/// What lifecycle needs to know of the host's folders.
pub trait Folders: Send + Sync {
    /// The folder of a data volume; made and remembered if it is new.
    fn data(&self, service: &ServiceName, path: &VolumePath) -> Result<PathBuf>;
    /// A folder or file of the tenant's own, reached through no link; a folder is made if nothing is there. The path that
    /// is given means the same until this is asked again.
    fn local(&self, path: &LocalPath) -> Result<PathBuf>;
    /// What an image is built from, as a tar.
    fn context(&self, from: Context<'_>) -> Result<File>;
}

/// One tenant at one host.
pub struct Site<'a> {
    pub runtime: &'a dyn Runtime,
    /// Whose containers these are, when several daemons share a Docker.
    pub owner: &'a str,
    pub tenant: &'a TenantName,
    /// All of its services, in their order.
    pub services: &'a [Service],
    /// Variables that every container gets.
    pub vars: &'a [(String, String)],
    pub folders: &'a dyn Folders,
    /// Hears what is done: of which service, and what.
    pub say: &'a (dyn Fn(Option<&ServiceName>, String) + Send + Sync),
}

/// What is to be made anew although it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fresh {
    /// Images are built again, whatever Docker remembers of them.
    pub images: bool,
}

/// What is run. A line of plain words needs no shell between the engine's signals and the program, nor one in the image.
pub(super) fn words(command: &Command) -> Vec<String> {
    match command {
        Command::Words(words) => words.clone(),
        Command::Line(line) => {
            line::words(line).unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()])
        }
    }
}

impl Site<'_> {
    pub fn network(&self) -> String {
        format!("mcloud.{}", self.tenant)
    }

    pub fn labels(&self) -> Labels {
        BTreeMap::from([
            (label::OWNER.to_owned(), self.owner.to_owned()),
            (label::TENANT.to_owned(), self.tenant.to_string()),
        ])
    }

    /// The containers of its services, by service; those of `run` are not among them.
    pub async fn containers(&self) -> Result<BTreeMap<String, Container>> {
        let found = self.runtime.containers(&self.labels()).await?;
        let of_services = found.into_iter().filter(|container| !container.labels.contains_key(label::ONCE));
        Ok(of_services
            .filter_map(|container| Some((container.labels.get(label::SERVICE)?.clone(), container)))
            .collect())
    }

    /// The container of a service, as it is now.
    pub async fn container(&self, service: &ServiceName) -> Result<Option<Container>> {
        Ok(self.containers().await?.remove(service.as_str()))
    }

    pub(super) fn tell(&self, service: &Service, text: impl Into<String>) {
        (self.say)(Some(&service.name), text.into());
    }

    /// The image of a service, which is pulled or built if it is not there (or `fresh`).
    async fn image(&self, service: &Service, build_anyway: bool, fresh: Fresh) -> Result<super::runtime::Image> {
        let name = self.image_name(service);
        let known = self.runtime.image(&name).await?;
        let say = |line: String| self.tell(service, line);
        match &service.origin {
            Origin::Image(_) => {
                if let Some(known) = known {
                    return Ok(known);
                }
                self.tell(service, format!("pulling {name}"));
                self.runtime.pull(&name, &say).await?;
            }
            Origin::Build(_) | Origin::Dockerfile(_) => {
                if let Some(known) = known.filter(|_| !build_anyway && !fresh.images) {
                    return Ok(known);
                }
                let (from, dockerfile) = match &service.origin {
                    Origin::Dockerfile(text) => (Context::Inline(text), context::INLINE_DOCKERFILE),
                    Origin::Build(dir) => (Context::Folder(dir), "Dockerfile"),
                    Origin::Image(_) => return Err(Error::failed("an image that is named is not built")),
                };
                self.tell(service, "building its image");
                let build = Build {
                    tag: name.clone(),
                    context: self.folders.context(from)?,
                    dockerfile: dockerfile.to_owned(),
                    no_cache: fresh.images,
                    labels: self.labels(),
                };
                self.runtime.build(build, &say).await.map_err(|error| self.of(service, error))?;
            }
        }
        let made = self.runtime.image(&name).await?;
        made.ok_or_else(|| self.of(service, Error::failed(format!("the image {name} is not there after all"))))
    }

    /// What a service's image is called; those that are built get a name that nobody else's have.
    pub fn image_name(&self, service: &Service) -> String {
        match &service.origin {
            Origin::Image(name) => name.clone(),
            Origin::Build(_) | Origin::Dockerfile(_) => {
                let mut owner = self.owner.to_lowercase();
                owner.truncate(12);
                // Docker wants small letters; two names that differ in that alone stay apart.
                let exact = blake3::hash(format!("{}.{}", service.name, self.tenant).as_bytes()).to_hex();
                format!("mcloud-built/{owner}-{}:latest", &exact[..16])
            }
        }
    }

    /// An error, with the service that it is about.
    fn of(&self, service: &Service, error: Error) -> Error {
        Error { message: format!("{}.{}: {}", service.name, self.tenant, error.message), ..error }
    }

    fn spec(&self, service: &Service, image: &super::runtime::Image) -> Result<Spec> {
        let mut binds = Vec::new();
        for mount in &service.volumes {
            binds.push((self.folders.local(&mount.local)?, mount.path.to_string()));
        }
        let mut data = service.data.clone();
        for declared in &image.volumes {
            let path = VolumePath::new(declared)?;
            if !data.contains(&path) && !service.volumes.iter().any(|mount| mount.path == path) {
                data.push(path);
            }
        }
        for path in &data {
            binds.push((self.folders.data(&service.name, path)?, path.to_string()));
        }
        // A mount below another one has to come after it.
        binds.sort_by(|a, b| a.1.cmp(&b.1));
        let mut env: BTreeMap<&str, &str> =
            self.vars.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        env.extend(service.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let words = |command: &Option<Command>| command.as_ref().map(words);
        let mut labels = self.labels();
        labels.insert(label::SERVICE.to_owned(), service.name.to_string());
        let mut spec = Spec {
            name: format!("{}.{}", service.name, self.tenant),
            image: self.image_name(service),
            labels,
            hostname: service.name.to_string(),
            network: self.network(),
            aliases: vec![service.name.to_string()],
            env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
            cmd: words(&service.cmd),
            entrypoint: words(&service.entrypoint),
            workdir: service.workdir.clone(),
            binds,
            restart: true,
            attended: None,
        };
        let digest = blake3::hash(format!("{} {spec:?}", image.id).as_bytes()).to_hex();
        spec.labels.insert(label::SPEC.to_owned(), digest[..32].to_owned());
        Ok(spec)
    }

    /// Makes the containers that are not there, and those that are but should be others (`renew`). Gives those
    /// that were made.
    async fn make(&self, services: &[&Service], renew: bool, fresh: Fresh) -> Result<Vec<ServiceName>> {
        // A network that was removed behind our back: what was attached to it hangs in the air.
        let lost_network = self.runtime.ensure_network(&self.network(), &self.labels()).await?;
        let mut made = Vec::new();
        for service in services {
            let there = self.container(&service.name).await?;
            let cut_off = |there: &Container| there.state == State::Running && there.ip.is_none();
            let lost_network = lost_network || there.as_ref().is_some_and(cut_off);
            if there.is_some() && !renew && !lost_network {
                continue;
            }
            let image = self.image(service, renew, fresh).await.map_err(|error| self.of_once(service, error))?;
            let spec = self.spec(service, &image).map_err(|error| self.of_once(service, error))?;
            if let Some(there) = there {
                let same = there.labels.get(label::SPEC) == spec.labels.get(label::SPEC);
                if same && !lost_network && !fresh.images {
                    continue;
                }
                self.tell(service, "its container is made anew");
                self.end(&there).await?;
                self.runtime.remove(&there.id).await?;
            } else {
                self.tell(service, "making its container");
            }
            self.runtime.create(&spec).await?;
            made.push(service.name.clone());
        }
        Ok(made)
    }

    fn of_once(&self, service: &Service, error: Error) -> Error {
        let name = format!("{}.{}: ", service.name, self.tenant);
        if error.message.starts_with(&name) { error } else { self.of(service, error) }
    }

    async fn end(&self, container: &Container) -> Result<()> {
        if container.state == State::Paused {
            self.runtime.unpause(&container.id).await?;
        }
        match container.state {
            State::Running | State::Paused | State::Restarting => self.runtime.stop(&container.id, GRACE).await,
            State::Created | State::Exited | State::Dead => Ok(()),
        }
    }

    pub async fn create(&self, services: &[&Service]) -> Result<()> {
        self.make(services, false, Fresh::default()).await.map(drop)
    }

    /// Starts services in their order, each waited for. One that does not come up stops those that run of these, and
    /// is told of with the last lines of its log.
    pub async fn start(&self, services: &[&Service]) -> Result<()> {
        self.create(services).await?;
        for (number, service) in services.iter().enumerate() {
            if let Err(error) = self.start_one(service).await {
                let last = self.last_lines(service).await;
                self.stop_quietly(&services[..=number]).await;
                for line in &last {
                    self.tell(service, format!("| {line}"));
                }
                return Err(match (last.last(), &error.hint) {
                    (Some(line), None) => error.hint(format!("the last line of its log: {line}")),
                    _ => error,
                });
            }
        }
        Ok(())
    }

    async fn start_one(&self, service: &Service) -> Result<()> {
        let Some(there) = self.container(&service.name).await? else {
            return Err(self.of(service, Error::new(Kind::NotFound, "its container went away")));
        };
        match there.state {
            State::Running => return Ok(()),
            State::Paused => {
                self.tell(service, "resumed");
                return self.runtime.unpause(&there.id).await;
            }
            State::Created | State::Exited | State::Dead | State::Restarting => {}
        }
        // What was there when the container was made may be another one by now.
        for mount in &service.volumes {
            self.folders.local(&mount.local).map_err(|error| self.of(service, error))?;
        }
        for path in &service.data {
            self.folders.data(&service.name, path).map_err(|error| self.of(service, error))?;
        }
        let began = std::time::Instant::now();
        let before = wait::last_stamp(self, &there).await?;
        self.tell(service, "starting");
        self.runtime.start(&there.id).await.map_err(|error| self.of(service, error))?;
        wait::until_up(self, service, &there.id, before).await.map_err(|error| self.of(service, error))?;
        self.tell(service, format!("up after {:.1} s", began.elapsed().as_secs_f64()));
        Ok(())
    }

    async fn stop_quietly(&self, services: &[&Service]) {
        if let Err(error) = self.stop(services).await {
            (self.say)(None, format!("what had been started could not be stopped: {}", error.chain()));
        }
    }

    async fn last_lines(&self, service: &Service) -> Vec<String> {
        let wanted = super::runtime::LogsWanted { follow: false, tail: Some(LAST_LINES), timestamps: false };
        let Ok(Some(there)) = self.container(&service.name).await else { return Vec::new() };
        let Ok(mut pieces) = self.runtime.logs(&there.id, &wanted).await else { return Vec::new() };
        let mut text = Vec::new();
        while let Some(Ok(piece)) = futures_util::StreamExt::next(&mut pieces).await {
            text.extend_from_slice(&piece.bytes);
        }
        String::from_utf8_lossy(&text).lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Stops services, the last one first.
    pub async fn stop(&self, services: &[&Service]) -> Result<()> {
        let mut there = self.containers().await?;
        for service in services.iter().rev() {
            if let Some(container) = there.remove(service.name.as_str())
                && !container.state.is_at_rest()
            {
                self.tell(service, "stopping");
                self.end(&container).await.map_err(|error| self.of(service, error))?;
            }
        }
        Ok(())
    }

    /// Freezes what runs, the last one first.
    pub async fn pause(&self, services: &[&Service]) -> Result<()> {
        let mut there = self.containers().await?;
        for service in services.iter().rev() {
            if let Some(container) = there.remove(service.name.as_str())
                && matches!(container.state, State::Running | State::Restarting)
            {
                let told = |error: &Error| self.tell(service, format!("{}; it is tried again", error.chain()));
                let late = tokio::time::Instant::now() + PAUSING;
                still::pause(self.runtime, &container.id, late, &told)
                    .await
                    .map_err(|error| self.of(service, error))?;
                self.tell(service, "paused");
            }
        }
        Ok(())
    }

    pub async fn resume(&self, services: &[&Service]) -> Result<()> {
        let mut there = self.containers().await?;
        for service in services {
            if let Some(container) = there.remove(service.name.as_str())
                && container.state == State::Paused
            {
                self.runtime.unpause(&container.id).await.map_err(|error| self.of(service, error))?;
                self.tell(service, "resumed");
            }
        }
        Ok(())
    }

    /// Removes containers; with the last one of the tenant goes its network.
    pub async fn destroy(&self, services: &[&Service]) -> Result<()> {
        let mut there = self.containers().await?;
        for service in services.iter().rev() {
            if let Some(container) = there.remove(service.name.as_str()) {
                self.end(&container).await?;
                self.runtime.remove(&container.id).await?;
                self.tell(service, "its container is removed");
            }
        }
        self.sweep().await
    }

    /// Removes the containers of services that there are no more, and the network when nothing is left.
    pub async fn sweep(&self) -> Result<()> {
        let mut left = 0;
        for container in self.runtime.containers(&self.labels()).await? {
            let service = container.labels.get(label::SERVICE).map_or("", String::as_str);
            if self.services.iter().any(|known| known.name.as_str() == service) {
                left += 1;
                continue;
            }
            (self.say)(None, format!("{} is removed: there is no such service any more", container.name));
            self.end(&container).await?;
            self.runtime.remove(&container.id).await?;
        }
        if left == 0 { self.runtime.remove_network(&self.network()).await } else { Ok(()) }
    }

    /// Makes containers equal to what they should be, just those that differ. Gives the services that were touched.
    pub async fn renew(&self, services: &[&Service], fresh: Fresh) -> Result<Vec<ServiceName>> {
        self.make(services, true, fresh).await
    }

    /// A container like a service's for one command; it is not started yet. The caller removes it.
    pub async fn once(&self, service: &Service, cmd: Option<Vec<String>>, tty: bool, name: &str) -> Result<String> {
        self.runtime.ensure_network(&self.network(), &self.labels()).await?;
        let image = self.image(service, false, Fresh::default()).await?;
        let mut spec = self.spec(service, &image)?;
        spec.labels.remove(label::SPEC);
        spec.labels.insert(label::ONCE.to_owned(), "1".to_owned());
        name.clone_into(&mut spec.name);
        spec.aliases = Vec::new();
        spec.restart = false;
        spec.attended = Some(Attended { tty });
        if let Some(cmd) = cmd {
            spec.cmd = Some(cmd);
        }
        self.runtime.create(&spec).await
    }
}
