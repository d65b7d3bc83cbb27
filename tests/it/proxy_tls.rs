//! TLS by name: passed through, or ended here with certificates that people bring or a CA makes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mcloud::model::Domain;
use mcloud::proxy::{Certificate, Reason};
use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::acme::{Ca, any_certificate};
use crate::common::host::{Client, Daemon};
use crate::common::scratch;
use crate::common::web::{Gateway, PATIENCE, Web, ran, tenant};

/// A certificate for a name that signs itself, and its key; PEM.
fn made(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    (cert.pem(), key.serialize_pem())
}

/// A service that speaks TLS itself and says its name to whoever comes.
async fn speaks_tls(name: &'static str) -> std::net::SocketAddr {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![format!("{name}.test")]).unwrap().self_signed(&key).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let _ = stream.write_all(name.as_bytes()).await;
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                let _ = stream.write_all(&rest).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

/// What a service says over TLS to a client that asks for a name.
async fn asked(gateway: &Gateway, name: &str) -> std::io::Result<String> {
    let stream = TcpStream::connect(gateway.https).await?;
    let name = name.to_owned().try_into().unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(any_certificate())).connect(name, stream).await?;
    let mut said = [0; 3];
    stream.read_exact(&mut said).await?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_passed_through_by_name_and_waits_while_its_tenant_is_held() {
    let gateway = Arc::new(Gateway::start().await);
    for name in ["one", "two"] {
        gateway.serve_tls(name, speaks_tls(name).await, "1");
        gateway.publish_way(&format!("{name}.test"), name, true);
        assert_eq!(asked(&gateway, &format!("{name}.test")).await.unwrap(), name);
    }
    let refused = asked(&gateway, "three.test").await.unwrap_err().to_string();
    assert!(refused.contains("UnrecognisedName") || refused.contains("UnrecognizedName"), "{refused}");
    gateway.proxy.hold(&tenant("one"), Reason::Pause, PATIENCE);
    let waits = tokio::spawn({
        let gateway = gateway.clone();
        async move { asked(&gateway, "one.test").await }
    });
    gateway.waiting("one", 1).await;
    assert_eq!(asked(&gateway, "two.test").await.unwrap(), "two");
    gateway.publish_way("one.test", "two", true);
    assert_eq!(waits.await.unwrap().unwrap(), "two", "it went where the domain went");
    let mut nonsense = TcpStream::connect(gateway.https).await.unwrap();
    nonsense.write_all(b"GET / HTTP/1.1\r\nHost: one.test\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, nonsense.read_to_end(&mut answer)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_ended_here_and_a_new_certificate_is_used_from_then_on() {
    let web = Web::start("one").await;
    let gateway = Gateway::to(&web).await;
    gateway.publish_way("shop.test", "shop", true);
    let dir = scratch();
    let port = gateway.https.port();
    let curl = |root: &str, more: &[&str]| {
        let file = dir.path().join("root.pem");
        std::fs::write(&file, root).unwrap();
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "60", "--resolve", &format!("shop.test:{port}:127.0.0.1"), "--cacert"]);
        command.arg(file).args(more).arg(format!("https://shop.test:{port}/"));
        command
    };
    let domain = Domain::new("shop.test").unwrap();
    for turn in 0..2 {
        let (chain, key) = made("shop.test");
        let certificate = Certificate::new(&domain, chain.as_bytes(), key.as_bytes()).unwrap();
        gateway.proxy.certificates.set(&domain, certificate);
        for (version, shown) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let said = ran(curl(&chain, &[version, "-d", "abc", "-w", "%{http_version}"])).await;
            assert!(said.contains("x-forwarded-proto: https") && said.contains("proto=https"), "{turn}: {said}");
            assert!(said.ends_with(&format!("body: 3\n{shown}")), "{said}");
        }
        let old = ran(curl(&chain, &["--http1.1", "--tls-max", "1.2"])).await;
        assert!(old.starts_with("one\n"), "{old}");
    }
    // Its requests are held, not the handshake.
    let (chain, key) = made("shop.test");
    gateway.proxy.certificates.set(&domain, Certificate::new(&domain, chain.as_bytes(), key.as_bytes()).unwrap());
    gateway.proxy.hold(&tenant("shop"), Reason::Pause, PATIENCE);
    let waits = tokio::spawn(ran(curl(&chain, &["-d", "abc"])));
    gateway.waiting("shop", 1).await;
    let before = web.requests.load(Ordering::SeqCst);
    gateway.proxy.let_go(&tenant("shop"), Reason::Pause);
    assert!(waits.await.unwrap().contains("body: 3"));
    assert_eq!(web.requests.load(Ordering::SeqCst), before + 1);
}

#[test]
fn a_certificate_has_to_be_the_domains_and_its_key_its_own() {
    let domain = Domain::new("shop.test").unwrap();
    let ((chain, key), (other, other_key)) = (made("shop.test"), made("other.test"));
    let check = |chain: &str, key: &str| Certificate::new(&domain, chain.as_bytes(), key.as_bytes());
    let good = check(&chain, &key).unwrap();
    assert!(good.not_before < good.renew_at() && good.renew_at() < good.not_after);
    for (chain, key, why) in [
        (&*other, &*other_key, "other names"),
        (&chain, &other_key, "key"),
        (&chain, "", "key"),
        ("", &key, "none in its file"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key, "cannot be read"),
    ] {
        let error = check(chain, key).unwrap_err();
        assert!(error.message.contains(why), "{why}: {}", error.chain());
    }
}

/// A daemon with a tenant whose domain is published for TLS; nothing runs.
struct Host {
    daemon: Daemon,
    admin: Client,
    dir: tempfile::TempDir,
}

impl Host {
    fn new(vars: &[(String, String)]) -> Host {
        let dir = scratch();
        let daemon = Daemon::start_in(&dir.path().join("host"), None, "127.0.0.1:0", vars);
        let admin = Client::of(&daemon, &dir.path().join("admin"));
        let yml = dir.path().join("mcloud.yml");
        std::fs::write(&yml, "web:\n    image: none\n    web: 80\n").unwrap();
        admin.run(&["init", "shop", yml.to_str().unwrap()]).ok();
        admin.run(&["publish", "shop", "shop.test", "--ssl"]).ok();
        Host { daemon, admin, dir }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let file = self.dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    }

    fn add(&self, domain: &str, chain: &Path, key: &Path) -> crate::common::host::Outcome {
        self.admin.run(&["cert", "add", domain, chain.to_str().unwrap(), key.to_str().unwrap()])
    }

    /// The serial number and names of what the daemon shows for a name.
    fn shown(&self, name: &str) -> String {
        let out = Command::new("sh")
            .args(["-c", "openssl s_client -connect \"$1\" -servername \"$2\" </dev/null 2>/dev/null | openssl x509 -noout -serial -ext subjectAltName", "-"])
            .args([&self.daemon.https, name])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

#[test]
fn certificates_are_kept_private_listed_reloaded_and_removed() {
    let mut host = Host::new(&[]);
    let (chain, key) = made("shop.test");
    let (chain_file, key_file) = (host.file("chain.pem", &chain), host.file("key.pem", &key));
    let routes = host.admin.run(&["routes"]).ok();
    assert!(routes.text().contains("shop.test"), "{routes}");
    host.add("other.test", &chain_file, &key_file).fails(2, "usage");
    host.add("shop.test", &chain_file, &chain_file).fails(2, "usage");
    let added = host.add("shop.test", &chain_file, &key_file).ok();
    assert!(added.done()["not_after_unix"].as_u64().is_some(), "{added}");
    assert!(!added.text().contains("PRIVATE"), "{added}");
    let kept = host.daemon.home.join("certs/shop.test.pem");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    let first = host.shown("shop.test");
    assert!(first.contains("DNS:shop.test"), "{first}");
    host.daemon.kill();
    host.daemon.again();
    assert_eq!(host.shown("shop.test"), first, "it is there after a restart");
    // Somebody puts another one in its place, and says so.
    let (chain, key) = made("shop.test");
    std::fs::write(&kept, format!("{key}{chain}")).unwrap();
    rustix::process::kill_process(host.daemon.pid(), rustix::process::Signal::HUP).unwrap();
    let began = Instant::now();
    while host.shown("shop.test") == first {
        assert!(began.elapsed() < PATIENCE, "SIGHUP changes nothing");
    }
    let listed = host.admin.run(&["cert", "list"]).ok();
    assert_eq!((&listed.events[0]["domain"], &listed.events[0]["acme"]), (&"shop.test".into(), &false.into()));
    host.admin.run(&["cert", "remove", "shop.test"]).ok();
    assert!(!kept.exists() && host.shown("shop.test").is_empty());
    host.admin.run(&["cert", "remove", "shop.test"]).fails(1, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_makes_certificates_in_both_ways_and_they_are_renewed() {
    let dir = scratch();
    let ca = Ca::start(dir.path()).await;
    let var = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let vars = [var("MCLOUD_ACME", &ca.directory), var("MCLOUD_ACME_ROOT", ca.root.to_str().unwrap())];
    let mut host = tokio::task::spawn_blocking(move || Host::new(&vars)).await.unwrap();
    // The CA finds the domain nowhere: nothing is kept.
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    ca.world(nowhere, nowhere);
    let run = |host: Host, words: Vec<&'static str>| async move {
        tokio::task::spawn_blocking(move || (host.admin.run(&words), host)).await.unwrap()
    };
    let failed;
    (failed, host) = run(host, vec!["cert", "acme", "shop.test"]).await;
    let failed = failed.fails(1, "failed");
    assert!(failed.text().contains("could not see that shop.test leads here"), "{failed}");
    assert_eq!(host.admin.run(&["cert", "list"]).ok().count("certs"), 0);

    ca.world(host.daemon.http.parse().unwrap(), host.daemon.https.parse().unwrap());
    for (way, domain) in [("http-01", "shop.test"), ("tls-alpn-01", "other.test")] {
        ca.offers(&[way]);
        let made;
        (made, host) = run(host, vec!["cert", "acme", domain]).await;
        assert_eq!(made.ok().done()["acme"], true, "{way}");
    }
    assert_eq!(ca.counts(), (2, 1), "one account for all");
    let shown = host.shown("shop.test");
    assert!(shown.contains("DNS:shop.test"), "{shown}");

    // One whose time is nearly up is renewed; a CA that refuses is asked again later, and that is told.
    ca.lives(&[
        (Duration::from_secs(200), Duration::from_secs(90)),
        (Duration::from_secs(9), Duration::from_secs(9 * 86_400)),
    ]);
    let made;
    (made, host) = run(host, vec!["cert", "acme", "shop.test"]).await;
    let short = made.ok().done()["not_after_unix"].as_u64().unwrap();
    let until = |host: &Host, what: &str, is: &dyn Fn(&serde_json::Value) -> bool| {
        let began = Instant::now();
        loop {
            let listed = host.admin.run(&["cert", "list"]).ok();
            let found = listed.events.iter().find(|event| event["domain"] == "shop.test").cloned().unwrap();
            if is(&found) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "never {what}: {listed}");
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    until(&host, "renewed", &|cert| cert["not_after_unix"].as_u64() > Some(short));
    assert_ne!(host.shown("shop.test"), shown);
    ca.lives(&[(Duration::from_secs(200), Duration::from_secs(90))]);
    let (made, host) = run(host, vec!["cert", "acme", "shop.test"]).await;
    made.ok();
    ca.refuses(true);
    until(&host, "told of", &|cert| cert["trouble"].as_str().is_some_and(|trouble| trouble.contains("not today")));
    assert!(host.shown("shop.test").contains("DNS:shop.test"), "the old one is used on");
}
