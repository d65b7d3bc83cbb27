use std::sync::Mutex;
use std::time::Instant;

use super::*;
use crate::tenant::config::{self, Config};
use crate::tenant::fake::{Fake, Scripted};
use crate::tenant::hooks::Hook;
use crate::tenant::runtime::Image;

const YML: &str = "redis: {image: redis, data: [/data]}\nweb: {image: app, cmd: python app.py}\n";

struct Plain;

impl Folders for Plain {
    fn data(&self, service: &ServiceName, path: &VolumePath) -> Result<PathBuf> {
        Ok(format!("/volumes/{service}{path}").into())
    }

    fn local(&self, path: &LocalPath) -> Result<PathBuf> {
        Ok(PathBuf::from("/root").join(path.as_str()))
    }

    fn context(&self, from: Context<'_>) -> Result<File> {
        let dir = tempfile::tempdir().unwrap();
        pack(&crate::sys::dir::Dir::open(dir.path()).unwrap(), from, tempfile::tempfile().unwrap())
    }
}

struct Stage {
    fake: Fake,
    config: Config,
    tenant: TenantName,
    said: Mutex<Vec<String>>,
}

impl Stage {
    fn new(yml: &str) -> Stage {
        Stage {
            fake: Fake::with_images(&["redis", "app"]),
            config: config::parse(yml, None).unwrap(),
            tenant: TenantName::new("shop").unwrap(),
            said: Mutex::default(),
        }
    }

    /// Does something with all services.
    async fn all<T>(&self, work: impl AsyncFnOnce(&Site<'_>, &[&Service]) -> Result<T>) -> Result<T> {
        let say = |service: Option<&ServiceName>, text: String| {
            self.said.lock().unwrap().push(format!("{}: {text}", service.map_or("", ServiceName::as_str)));
        };
        let site = Site {
            runtime: &self.fake,
            owner: "me",
            tenant: &self.tenant,
            services: &self.config.services,
            vars: &[],
            folders: &Plain,
            say: &say,
        };
        let services: Vec<&Service> = self.config.services.iter().collect();
        work(&site, &services).await
    }

    async fn start(&self) -> Result<()> {
        self.all(async |site, services| site.start(services).await).await
    }

    fn states(&self) -> Vec<State> {
        self.fake.known().containers.values().map(|(_, container)| container.state).collect()
    }
}

#[tokio::test]
async fn services_start_in_their_order_once_and_stop_in_the_opposite_one() {
    let stage = Stage::new(YML);
    stage.start().await.unwrap();
    let first = ["network mcloud.shop", "create redis.shop", "create web.shop", "start redis.shop", "start web.shop"];
    assert_eq!(stage.fake.done(), first);
    stage.start().await.unwrap();
    assert!(stage.fake.done().is_empty(), "what runs is left alone");
    stage.all(async |site, services| site.stop(services).await).await.unwrap();
    assert_eq!(stage.fake.done(), ["stop web.shop", "stop redis.shop"]);
    stage.all(async |site, services| site.stop(services).await).await.unwrap();
    assert!(stage.fake.done().is_empty());
}

#[tokio::test]
async fn a_service_that_ends_stops_the_rest_and_shows_its_last_lines() {
    let stage = Stage::new(YML);
    stage.fake.known().short_lived.insert("web.shop".into(), 3);
    stage.fake.known().logs.insert("web.shop".into(), vec!["Traceback".into(), "no module".into()]);
    let error = stage.start().await.unwrap_err();
    assert!(error.message.contains("web.shop") && error.message.contains("status 3"), "{error}");
    assert!(error.hint.unwrap().contains("no module"));
    assert!(stage.said.lock().unwrap().contains(&"web: | Traceback".to_owned()));
    assert_eq!(stage.states(), [State::Exited, State::Exited]);
}

#[tokio::test]
async fn a_fault_at_any_step_is_told_and_the_same_command_again_goes_on_from_there() {
    for fault in ["network", "create redis.shop", "create web.shop", "start redis.shop", "start web.shop"] {
        let stage = Stage::new(YML);
        stage.fake.known().faults.push(fault.to_owned());
        let error = stage.start().await.unwrap_err();
        assert!(error.chain().contains(fault), "{fault}: {}", error.chain());
        stage.start().await.unwrap();
        assert_eq!(stage.states(), [State::Running, State::Running], "{fault}");
        let made = stage.fake.done().iter().filter(|what| what.starts_with("create")).count();
        assert_eq!(made, 2, "{fault}: each container is made once");
    }
}

#[tokio::test]
async fn what_was_removed_behind_our_back_is_made_again() {
    let stage = Stage::new(YML);
    stage.start().await.unwrap();
    stage.fake.known().containers.retain(|_, (spec, _)| spec.name != "redis.shop");
    stage.fake.done();
    stage.start().await.unwrap();
    assert_eq!(stage.fake.done(), ["create redis.shop", "start redis.shop"]);
    // Without their network, stopped containers cannot be started any more.
    stage.all(async |site, services| site.stop(services).await).await.unwrap();
    stage.fake.known().networks.clear();
    stage.fake.done();
    stage.start().await.unwrap();
    assert_eq!(stage.fake.done().iter().filter(|what| what.starts_with("create")).count(), 2);
}

#[tokio::test]
async fn only_what_differs_is_made_anew() {
    let mut stage = Stage::new(YML);
    stage.start().await.unwrap();
    stage.fake.done();
    stage.config = config::parse(&YML.replace("app.py", "other.py"), None).unwrap();
    let touched = stage.all(async |site, services| site.renew(services, Fresh::default()).await).await.unwrap();
    assert_eq!(touched.iter().map(ServiceName::as_str).collect::<Vec<_>>(), ["web"]);
    assert_eq!(stage.fake.done(), ["stop web.shop", "remove web.shop", "create web.shop"]);
    // Another image behind the same name is a difference, too.
    stage.fake.known().images.insert("redis".into(), Image { id: "sha256:new".into(), ..Image::default() });
    let touched = stage.all(async |site, services| site.renew(services, Fresh::default()).await).await.unwrap();
    assert_eq!(touched.iter().map(ServiceName::as_str).collect::<Vec<_>>(), ["redis"]);
}

#[tokio::test]
async fn a_missing_image_is_pulled_and_one_that_cannot_be_had_is_told() {
    let stage = Stage::new("web: {image: elsewhere}\n");
    stage.fake.known().faults.push("pull".into());
    let error = stage.start().await.unwrap_err();
    assert!(error.chain().contains("elsewhere"), "{}", error.chain());
    stage.start().await.unwrap();
    assert!(stage.fake.done().contains(&"pull elsewhere".to_owned()));
}

#[tokio::test]
async fn the_log_ends_the_wait_and_its_lack_is_a_failure() {
    let stage = Stage::new("web: {image: app, wait: 3600}\n");
    stage.fake.known().logs.insert("web.shop".into(), vec!["@mcloud ready in 0s".into()]);
    let began = Instant::now();
    stage.start().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));

    let stage = Stage::new("web: {image: app, wait: '1s for \"listening\"'}\n");
    let error = stage.start().await.unwrap_err();
    assert!(error.message.contains("listening"), "{error}");
    stage.fake.known().logs.insert("web.shop".into(), vec!["listening on 80".into()]);
    stage.start().await.unwrap();
}

#[tokio::test]
async fn volumes_that_the_image_declares_are_folders_of_ours_as_well() {
    let stage = Stage::new(YML);
    let image = Image { id: "x".into(), volumes: vec!["/data".into(), "/logs".into()], has_healthcheck: false };
    stage.fake.known().images.insert("redis".into(), image);
    stage.start().await.unwrap();
    let known = stage.fake.known();
    let (spec, _) = known.containers.values().find(|(spec, _)| spec.name == "redis.shop").unwrap();
    let binds: Vec<&str> = spec.binds.iter().map(|(_, to)| to.as_str()).collect();
    assert_eq!(binds, ["/data", "/logs"]);
}

#[test]
fn plain_words_need_no_shell() {
    let line = |text: &str| words(&Command::Line(text.into()));
    assert_eq!(line("redis-server --dir '/my data'"), ["redis-server", "--dir", "/my data"]);
    assert_eq!(line("a && b"), ["/bin/sh", "-c", "a && b"]);
}

const HOOKED: &str = "db: {image: app, snapshot: {before: 'save all', after: 'echo $X', timeout: 1}}\n";

#[tokio::test]
async fn a_hook_is_run_and_what_it_says_is_said() {
    let stage = Stage::new(HOOKED);
    let hook = async |which| stage.all(async |site, services| site.hook(services[0], which).await).await;
    assert!(!hook(Hook::Before).await.unwrap(), "nothing runs that could be saved");
    stage.start().await.unwrap();
    let says = Scripted { says: "saving\nsaved".into(), ..Scripted::default() };
    stage.fake.known().commands.insert("db.shop".into(), says);
    stage.fake.done();
    assert!(hook(Hook::Before).await.unwrap());
    assert!(hook(Hook::After).await.unwrap());
    assert_eq!(stage.fake.done(), ["exec db.shop: save all", "exec db.shop: /bin/sh -c echo $X"]);
    let said = stage.said.lock().unwrap().join("\n");
    assert!(said.contains("db: runs snapshot.before (`save all`)\ndb: | saving\ndb: | saved"), "{said}");

    let plain = Stage::new("db: {image: app}\n");
    plain.start().await.unwrap();
    assert!(!plain.all(async |site, services| site.hook(services[0], Hook::Before).await).await.unwrap());
}

#[tokio::test]
async fn a_hook_that_fails_hangs_or_cannot_be_run_is_an_error_that_names_it() {
    let stage = Stage::new(HOOKED);
    stage.start().await.unwrap();
    let hook = async || {
        let run = stage.all(async |site, services| site.hook(services[0], Hook::Before).await).await;
        run.unwrap_err()
    };
    let failing = Scripted { says: "no room\n".into(), status: 7, hangs: false };
    stage.fake.known().commands.insert("db.shop".into(), failing.clone());
    let error = hook().await;
    assert_eq!(error.chain(), "db.shop: snapshot.before (`save all`) ended with status 7: it said: no room");

    stage.fake.known().commands.insert("db.shop".into(), Scripted { hangs: true, ..failing });
    stage.fake.done();
    let error = hook().await;
    assert!(error.message.ends_with("did not end in 1 s and was killed"), "{error}");
    assert!(error.chain().contains("no room") && error.hint.unwrap().contains("timeout"));
    assert_eq!(stage.fake.done(), ["exec db.shop: save all", "kill db.shop"]);

    stage.fake.known().faults.push("kill".into());
    assert!(hook().await.message.ends_with("and runs on"));
    stage.fake.known().faults.push("exec".into());
    assert!(hook().await.message.contains("cannot be run"));
}

#[tokio::test]
async fn a_pause_that_is_refused_is_tried_again_a_few_times_and_in_its_time() {
    let pause = async |stage: &Stage, refused: usize, within: Duration| {
        stage.fake.known().faults = vec!["pause".to_owned(); refused];
        let told = Mutex::new(0);
        let late = tokio::time::Instant::now() + within;
        let hear = |_: &Error| *told.lock().unwrap() += 1;
        let paused = still::pause(&stage.fake, "id1", late, &hear).await;
        let told = *told.lock().unwrap();
        (paused.map_err(|error| error.chain()), told, stage.states()[0])
    };
    let stage = Stage::new("web: {image: app}\n");
    stage.start().await.unwrap();
    let long = Duration::from_secs(60);
    assert_eq!(pause(&stage, 3, long).await, (Ok(()), 3, State::Paused));
    // It was frozen, whatever the engine says.
    assert_eq!(pause(&stage, 1, long).await, (Ok(()), 0, State::Paused));
    stage.fake.unpause("id1").await.unwrap();
    let (refused, told, state) = pause(&stage, 100, long).await;
    assert!(refused.unwrap_err().contains("pause web.shop failed"));
    assert_eq!((told, state), (6, State::Running));
    let (refused, told, state) = pause(&stage, 100, Duration::from_millis(120)).await;
    assert!(refused.is_err() && told <= 1 && state == State::Running, "{told}");
    // What has ended stands still.
    stage.fake.stop("id1", Duration::ZERO).await.unwrap();
    assert_eq!(pause(&stage, 1, long).await, (Ok(()), 0, State::Exited));
    stage.fake.remove("id1").await.unwrap();
    stage.fake.known().faults = vec!["pause".to_owned()];
    let late = tokio::time::Instant::now() + long;
    still::pause(&stage.fake, "id1", late, &|_| ()).await.unwrap();
}
