//! Handshakes over loopback.

use std::collections::HashSet;
use std::sync::Mutex;

use super::*;
use crate::wire::proto;

#[derive(Default)]
struct Known(Mutex<HashSet<PublicKey>>);

impl Admit for Known {
    fn admits(&self, key: &PublicKey) -> bool {
        self.0.lock().unwrap().contains(key)
    }
}

struct Host {
    listener: Arc<Listener>,
    key: PublicKey,
}

/// A host that answers each stream with what it was sent.
fn host(known: Known) -> Host {
    host_at("127.0.0.1:0".parse().unwrap(), &Identity::generate().unwrap(), known)
}

fn host_at(address: SocketAddr, identity: &Identity, known: Known) -> Host {
    let listener = Listener::bind(address, identity, Arc::new(known)).unwrap();
    let listener = Arc::new(listener);
    let accepting = listener.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            tokio::spawn(async move {
                let Ok(connection) = incoming.handshake().await else { return };
                while let Some(mut stream) = connection.accept().await {
                    while let Ok(Some(left)) = stream.receive::<proto::LeftOut>().await {
                        stream.send(&left).await.unwrap();
                    }
                    stream.sender.finish();
                }
            });
        }
    });
    Host { listener, key: identity.public() }
}

async fn echo(connection: &Connection) -> Result<String> {
    let mut stream = connection.open().await?;
    stream.send(&proto::LeftOut { path: "p".into(), reason: "why".into() }).await?;
    stream.sender.finish();
    let back = stream.receive::<proto::LeftOut>().await?.ok_or_else(|| Error::failed("nothing came"))?;
    assert!(stream.receive::<proto::LeftOut>().await?.is_none());
    Ok(back.reason)
}

fn known(keys: &[&Identity]) -> Known {
    Known(Mutex::new(keys.iter().map(|identity| identity.public()).collect()))
}

/// The first failure of dialling and asking something: a refusal may reach the client a moment after its handshake.
async fn failure(host: &Host, identity: &Identity, key: PublicKey, version: u32) -> Error {
    match dial_one(host.listener.address(), "the host", identity, key, version).await {
        Err(error) => error,
        Ok(connection) => echo(&connection).await.expect_err("it should not be let in"),
    }
}

#[tokio::test]
async fn a_known_client_talks_and_both_ends_know_each_other() {
    let client = Identity::generate().unwrap();
    let host = host(known(&[&client]));
    let connection = dial(&[host.listener.address()], "the host", &client, host.key).await.unwrap();
    assert_eq!(connection.peer(), host.key);
    let before = connection.traffic();
    assert_eq!(echo(&connection).await.unwrap(), "why");
    let traffic = connection.traffic().since(before);
    assert!(traffic.sent > 0 && traffic.received > 0);
    connection.bye().await;
}

#[tokio::test]
async fn an_unknown_key_is_refused_in_the_handshake_and_told_what_to_do() {
    let host = host(Known::default());
    let error = failure(&host, &Identity::generate().unwrap(), host.key, VERSION).await;
    assert_eq!(error.kind, Kind::Unreachable);
    assert!(error.message.contains("does not know our key"), "{}", error.chain());
    assert!(error.hint.unwrap().contains("invite"));
}

#[tokio::test]
async fn a_host_with_another_key_is_not_talked_to() {
    let client = Identity::generate().unwrap();
    let host = host(known(&[&client]));
    let other = Identity::generate().unwrap().public();
    let error = failure(&host, &client, other, VERSION).await;
    assert_eq!(error.kind, Kind::Unreachable);
    assert!(error.message.contains(&other.short()) && error.message.contains(&host.key.short()), "{}", error.chain());
}

#[tokio::test]
async fn another_version_is_told_both() {
    let client = Identity::generate().unwrap();
    let host = host(known(&[&client]));
    let error = failure(&host, &client, host.key, 2).await;
    assert_eq!(error.kind, Kind::Unreachable);
    assert!(error.message.contains("mcloud/1") && error.message.contains("mcloud/2"), "{}", error.chain());
    let error = failure(&host, &client, host.key, 999).await;
    assert!(error.message.contains("mcloud/1") && error.message.contains("version"), "{}", error.chain());
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_said_at_once() {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Identity::generate().unwrap();
    let before = std::time::Instant::now();
    let error = dial(&[free], "the host", &client, client.public()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
    assert!(error.message.contains("nothing listens"), "{}", error.chain());
    assert!(before.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_host_that_closes_ends_its_connections_with_a_reason() {
    let client = Identity::generate().unwrap();
    let host = host(known(&[&client]));
    let connection = dial(&[host.listener.address()], "the host", &client, host.key).await.unwrap();
    assert_eq!(echo(&connection).await.unwrap(), "why");
    host.listener.close().await;
    let error = echo(&connection).await.unwrap_err();
    assert!(error.message.contains("stops"), "{}", error.chain());
}

#[test]
fn this_machine_has_addresses() {
    assert!(!local_addresses().is_empty());
}

/// A host in a runtime of its own, which can be killed: it says no goodbye.
struct Mortal {
    runtime: Option<tokio::runtime::Runtime>,
    address: SocketAddr,
}

impl Mortal {
    fn start(address: SocketAddr, identity: &Identity, client: &Identity) -> Mortal {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let host = runtime.block_on(async { host_at(address, identity, known(&[client])) });
        let address = host.listener.address();
        Mortal { runtime: Some(runtime), address }
    }

    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_was_killed_is_missed_soon_and_one_that_was_restarted_says_so() {
    let (identity, client) = (Arc::new(Identity::generate().unwrap()), Arc::new(Identity::generate().unwrap()));
    let start = async |address: SocketAddr| {
        let (identity, client) = (identity.clone(), client.clone());
        tokio::task::spawn_blocking(move || Mortal::start(address, &identity, &client)).await.unwrap()
    };
    let kill = async |host: Mortal| tokio::task::spawn_blocking(move || host.kill()).await.unwrap();
    let host = start("127.0.0.1:0".parse().unwrap()).await;
    let address = host.address;
    let connection = dial(&[address], "the host", &client, identity.public()).await.unwrap();
    assert_eq!(echo(&connection).await.unwrap(), "why");
    kill(host).await;
    let host = start(address).await;
    let error = echo(&connection).await.unwrap_err();
    assert!(error.message.contains("restarted"), "{}", error.chain());

    let connection = dial(&[address], "the host", &client, identity.public()).await.unwrap();
    assert_eq!(echo(&connection).await.unwrap(), "why");
    kill(host).await;
    let before = std::time::Instant::now();
    let error = connection.closed().await;
    assert!(error.message.contains("gone"), "{}", error.chain());
    assert!(before.elapsed() < Duration::from_secs(6), "{:?}", before.elapsed());
}
