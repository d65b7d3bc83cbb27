//! A whole daemon over loopback, asked by real clients.

use super::client::{Client, ClientConfig};
use super::*;
use crate::model::Kind;
use crate::model::host::{InviteTerms, NewTenant, TenantGlob};
use crate::model::reference::Address;

pub const CONFIG: &str = "redis:\n    image: redis\n    data: [/data]\n";

/// A daemon with a home of its own, and clients of it.
pub struct Host {
    dir: tempfile::TempDir,
    pub started: Started,
    _lock: home::HomeLock,
}

impl Host {
    pub async fn start() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let docker = "unix:///nowhere/docker.sock".to_owned();
        let config = ServerConfig {
            home: dir.path().join("home"),
            listen: any,
            http: any,
            https: any,
            admin: any,
            docker,
            freeze_limit: Duration::from_secs(60),
            hold: Duration::from_secs(30),
            store: Default::default(),
            acme: crate::proxy::Acme { directory: "https://127.0.0.1:1".to_owned(), root: None },
        };
        let home = Home::at(&config.home);
        let lock = home.take().unwrap();
        let started = start(home.clone(), &config).await.unwrap();
        let host_key = started.daemon.identity.public().to_string();
        home.say_running(&Running { pid: 1, listen: started.daemon.listen, host_key }).unwrap();
        Host { dir, started, _lock: lock }
    }

    pub fn address(&self) -> Address {
        self.started.daemon.listen.to_string().parse().unwrap()
    }

    /// The configuration of a person; only `admin` can read the home.
    pub fn config(&self, person: &str) -> ClientConfig {
        let home = if person == "admin" { "home" } else { "no-home" };
        ClientConfig { config_dir: self.dir.path().join(person), home: self.dir.path().join(home) }
    }

    pub async fn admin(&self) -> Client {
        Client::connect(&self.config("admin"), None).await.unwrap()
    }

    pub async fn client(&self, person: &str) -> Result<Client> {
        Client::connect(&self.config(person), Some(&self.address())).await
    }

    pub async fn enrol(&self, person: &str, role: Role, globs: &[&str]) -> Client {
        let invitation = self.admin().await.invite(&terms(role, globs)).await.unwrap();
        Client::login(&self.config(person), &invitation).await.unwrap();
        self.client(person).await.unwrap()
    }
}

fn terms(role: Role, globs: &[&str]) -> InviteTerms {
    let tenants = globs.iter().map(|glob| TenantGlob::new(glob).unwrap()).collect();
    InviteTerms { role, tenants, expires: Duration::from_secs(60) }
}

pub fn new_tenant(name: &str) -> NewTenant {
    NewTenant { name: TenantName::new(name).unwrap(), config: CONFIG.into(), env: None, path: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_can_read_the_home_is_admin_and_nobody_else_gets_in() {
    let host = Host::start().await;
    assert_eq!(host.admin().await.whoami().role, Role::Admin);
    let by_address = Client::connect(&host.config("admin"), Some(&host.address())).await.unwrap();
    assert_eq!(by_address.whoami().role, Role::Admin);
    let error = host.client("stranger").await.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
    assert!(error.hint.unwrap().contains("invite"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_enrols_one_client_once() {
    let host = Host::start().await;
    let admin = host.admin().await;
    let invitation = admin.invite(&terms(Role::Deployer, &["shop*"])).await.unwrap();
    let (address, who) = Client::login(&host.config("ann"), &invitation).await.unwrap();
    assert_eq!(address.to_string(), host.address().to_string());
    assert_eq!((who.role, who.tenants[0].as_str()), (Role::Deployer, "shop*"));
    assert_eq!(host.client("ann").await.unwrap().whoami(), &who);

    let error = Client::login(&host.config("bob"), &invitation).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
    assert!(error.message.contains("used already"), "{}", error.chain());
    assert!(host.client("bob").await.is_err());

    let short = InviteTerms { expires: Duration::from_secs(1), ..terms(Role::Viewer, &[]) };
    let invitation = admin.invite(&short).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let error = Client::login(&host.config("carl"), &invitation).await.unwrap_err();
    assert!(error.message.contains("expired"), "{}", error.chain());
    assert_eq!(Client::login(&host.config("carl"), "nonsense").await.unwrap_err().kind, Kind::Usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_loses_its_open_connection_and_gets_no_new_one() {
    let host = Host::start().await;
    let admin = host.admin().await;
    let ann = host.enrol("ann", Role::Admin, &[]).await;
    let key = ann.whoami().key.clone();
    assert!(ann.access_list().await.unwrap().keys.iter().any(|access| access.key == key));
    assert_eq!(admin.access_revoke(&key[..8]).await.unwrap().keys[0].key, key);
    let error = ann.tenant_list().await.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
    assert!(error.message.contains("revoked"), "{}", error.chain());
    let error = host.client("ann").await.unwrap_err();
    assert!(error.message.contains("does not know our key"), "{}", error.chain());
    assert_eq!(admin.access_revoke("nobody").await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(admin.access_revoke(LOCAL_LABEL).await.unwrap_err().kind, Kind::Refused);
    host.enrol("ann", Role::Viewer, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_and_globs_are_checked_on_every_request() {
    let host = Host::start().await;
    let admin = host.admin().await;
    admin.tenant_init(&new_tenant("blog")).await.unwrap();
    let ann = host.enrol("ann", Role::Deployer, &["shop*"]).await;
    let vic = host.enrol("vic", Role::Viewer, &["shop"]).await;
    let refused = |error: Error| {
        assert_eq!(error.kind, Kind::Refused, "{}", error.chain());
        error.message
    };

    ann.tenant_init(&new_tenant("shop")).await.unwrap();
    let names = async |client: &Client| {
        client.tenant_list().await.unwrap().iter().map(|tenant| tenant.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&admin).await, ["blog", "shop"]);
    assert_eq!((names(&ann).await, names(&vic).await), (vec!["shop".to_owned()], vec!["shop".to_owned()]));

    assert!(refused(ann.tenant_init(&new_tenant("other")).await.unwrap_err()).contains("shop*"));
    let outside = NewTenant { path: Some("/tmp".into()), ..new_tenant("shop2") };
    assert!(refused(ann.tenant_init(&outside).await.unwrap_err()).contains("--path"));
    assert!(
        refused(vic.tenant_remove(&TenantName::new("shop").unwrap(), true).await.unwrap_err()).contains("deployer")
    );
    refused(ann.tenant_remove(&TenantName::new("blog").unwrap(), true).await.unwrap_err());
    for client in [&ann, &vic] {
        assert!(refused(client.invite(&terms(Role::Admin, &[])).await.unwrap_err()).contains("admin"));
        refused(client.access_list().await.unwrap_err());
        refused(client.access_revoke(&ann.whoami().key).await.unwrap_err());
        refused(client.audit(None, 0).await.unwrap_err());
        refused(client.audit(Some(&TenantName::new("blog").unwrap()), 0).await.unwrap_err());
    }
    let seen = vic.audit(Some(&TenantName::new("shop").unwrap()), 0).await.unwrap();
    assert!(seen.iter().any(|entry| entry.what == "init" && entry.result == "ok"));
    let all = admin.audit(None, 0).await.unwrap();
    assert!(
        all.iter().any(|entry| entry.what == "invite" && entry.result.starts_with("refused")),
        "attempts are noted, too"
    );
    ann.tenant_remove(&TenantName::new("shop").unwrap(), false).await.unwrap();
    assert_eq!(names(&ann).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_stops_says_so() {
    let host = Host::start().await;
    let admin = host.admin().await;
    drain(&host.started.daemon).await;
    for connection in host.started.daemon.connections().values() {
        connection.close_stopping();
    }
    let error = admin.tenant_list().await.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
    assert!(error.message.contains("stops"), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_owner_of_the_home_may_have_the_daemon_read_a_folder() {
    let host = Host::start().await;
    host.admin().await.tenant_init(&new_tenant("shop")).await.unwrap();
    // An enrolled admin is an admin, but what the daemon's machine holds outside of its tenants is not his to read.
    let other = host.enrol("other", Role::Admin, &["*"]).await;
    let secret = host.dir.path().join("home");
    let error = other.ask_to_read(&secret, &"shop".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused, "{error}");
    let owner = host.admin().await.ask_to_read(host.dir.path().join("other").as_path(), &"shop".parse().unwrap()).await;
    assert!(owner.is_ok(), "{owner:?}");
}
