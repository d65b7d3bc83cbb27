//! Links over a real connection, with ends that only speak the conversation.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use super::*;
use crate::model::Name;
use crate::transport::{Admit, Identity, Listener, PublicKey, dial};

struct Everybody;

impl Admit for Everybody {
    fn admits(&self, _key: &PublicKey) -> bool {
        true
    }
}

/// A wire that can be pulled: carries datagrams between one client and `host`.
async fn wire_to(host: SocketAddr, up: Arc<AtomicBool>) -> SocketAddr {
    let (near, far) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = near.local_addr().unwrap();
    far.connect(host).await.unwrap();
    tokio::spawn(async move {
        let (mut out, mut back) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((len, from)) = near.recv_from(&mut out) => {
                    client = Some(from);
                    if up.load(Ordering::SeqCst) {
                        let _ = far.send(&out[..len]).await;
                    }
                }
                Ok(len) = far.recv(&mut back) => {
                    if let Some(client) = client.filter(|_| up.load(Ordering::SeqCst)) {
                        let _ = near.send_to(&back[..len], client).await;
                    }
                }
            }
        }
    });
    address
}

/// Two connected streams: the client's, which has said a byte of its own, and the host's.
async fn streams() -> (Stream, Stream, Listener) {
    let (near, far, listener, _) = streams_over_a_wire(false).await;
    (near, far, listener)
}

async fn streams_over_a_wire(wired: bool) -> (Stream, Stream, Listener, Arc<AtomicBool>) {
    let (host, client) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &host, Arc::new(Everybody)).unwrap();
    let up = Arc::new(AtomicBool::new(true));
    let addresses = [if wired { wire_to(listener.address(), up.clone()).await } else { listener.address() }];
    let accepting = async {
        let connection = listener.accept().await.unwrap().handshake().await.unwrap();
        let mut stream = connection.accept().await.unwrap();
        stream.receive::<proto::Done>().await.unwrap().unwrap();
        stream
    };
    let dialling = async {
        let connection = dial(&addresses, "the host", &client, host.public()).await.unwrap();
        let mut stream = connection.open().await.unwrap();
        stream.send(&proto::Done {}).await.unwrap();
        stream
    };
    let (far, near) = tokio::join!(accepting, dialling);
    (near, far, listener, up)
}

const PIECE: usize = 1 << 20;

/// A source that answers each `Fetch` with as many pieces as it asks entries for.
fn source(mut end: SourceEnd, piece: Bytes) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut asks = 0;
        while let Some(ask) = end.ask.blocking_recv() {
            asks += 1;
            let tells = match ask {
                Ask::Fetch { dir, entries } => entries
                    .into_iter()
                    .map(|entry| Tell::Part { dir, entry, offset: 7, chunks: Vec::new(), data: piece.clone() })
                    .collect(),
                Ask::Finish => vec![Tell::Root { root: Name::of(b"root"), entries: 1, bytes: 2, bytes_read: 3 }],
                other => panic!("{other:?}"),
            };
            for tell in tells {
                if end.tell.blocking_send(tell).is_err() {
                    return asks;
                }
            }
        }
        asks
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mebibytes_come_over_as_they_are() {
    let (near, far, _listener) = streams().await;
    let mut noise = vec![0; PIECE];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let noise = Bytes::from(noise);
    let source = source(remote_target(far).0, noise.clone());
    let connection = near.connection().clone();
    let ((mut end, _), started) = (remote_source(near), Instant::now());
    end.ask.send(Ask::Fetch { dir: 4, entries: (0..64).collect() }).unwrap();
    end.ask.send(Ask::Finish).unwrap();
    for expected in 0..64 {
        match end.tell.recv().await.unwrap() {
            Tell::Part { dir: 4, entry, offset: 7, data, .. } => {
                assert_eq!(entry, expected);
                assert!(data == noise);
            }
            other => panic!("{other:?}"),
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    assert!(matches!(end.tell.recv().await, Some(Tell::Root { entries: 1, bytes: 2, bytes_read: 3, .. })));
    eprintln!("64 MiB over loopback: {:.0} MB/s", 64.0 * PIECE as f64 / seconds / 1e6);
    let received = connection.traffic().received;
    assert!(received > 64 << 20 && received < 70 << 20, "{received} bytes for 64 MiB of noise");
    drop(end);
    assert_eq!(tokio::task::spawn_blocking(move || source.join().unwrap()).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_hangs_up_ends_the_source_and_does_not_drain_it() {
    let (near, far, _listener) = streams().await;
    let source = source(remote_target(far).0, Bytes::from(vec![0; PIECE]));
    let (mut end, _) = remote_source(near);
    end.ask.send(Ask::Fetch { dir: 0, entries: (0..100_000).collect() }).unwrap();
    assert!(matches!(end.tell.recv().await, Some(Tell::Part { .. })));
    drop(end);
    tokio::task::spawn_blocking(move || source.join().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_a_failed_source_and_a_target_that_hung_up() {
    let (near, far, listener) = streams().await;
    let (mut far_end, _) = remote_target(far);
    let (mut end, _) = remote_source(near);
    end.ask.send(Ask::Scan).unwrap();
    assert!(matches!(far_end.ask.recv().await, Some(Ask::Scan)));
    listener.close().await;
    match end.tell.recv().await {
        Some(Tell::Failed(error)) => assert_eq!(error.kind, crate::model::Kind::Unreachable, "{}", error.chain()),
        other => panic!("{other:?}"),
    }
    assert!(far_end.ask.recv().await.is_none());
    while far_end.tell.send(Tell::Note("x".into())).await.is_ok() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_tell_is_unpacked() {
    let (near, far, _listener) = streams().await;
    let (mut end, _) = remote_source(near);
    let text = Bytes::from("a line of text\n".repeat(1000));
    let packed = pays::pack(std::slice::from_ref(&text), 3).unwrap();
    let (mut message, _) = wire::tell_out(Tell::Opened { rules: text.to_vec(), local: None });
    message.unpacked_len = text.len() as u32;
    let mut sender = far.sender;
    sender.send_link(&message, vec![packed]).await.unwrap();
    match end.tell.recv().await {
        Some(Tell::Opened { rules, .. }) => assert_eq!(rules, text),
        other => panic!("{other:?}"),
    }
    message.unpacked_len = u32::MAX;
    sender.send_link(&message, vec![Bytes::from_static(b"x")]).await.unwrap();
    assert!(matches!(end.tell.recv().await, Some(Tell::Failed(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_frees_an_end_that_waits() {
    let (near, far, _listener) = streams().await;
    let (end, cut) = remote_target(far);
    let source = source(end, Bytes::new());
    cut.cut();
    assert_eq!(tokio::task::spawn_blocking(move || source.join().unwrap()).await.unwrap(), 0);
    drop(near);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wire_that_is_pulled_for_a_while_is_no_end() {
    let (near, far, _listener, up) = streams_over_a_wire(true).await;
    let (source_end, _) = remote_target(far);
    let source = source(source_end, Bytes::from(vec![7; PIECE]));
    let (mut end, _) = remote_source(near);
    end.ask.send(Ask::Fetch { dir: 0, entries: (0..40).collect() }).unwrap();
    for entry in 0..40 {
        if entry == 10 {
            up.store(false, Ordering::SeqCst);
            let up = up.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(2)).await;
                up.store(true, Ordering::SeqCst);
            });
        }
        match end.tell.recv().await.unwrap() {
            Tell::Part { entry: told, data, .. } => assert!(told == entry && data.len() == PIECE),
            other => panic!("{other:?}"),
        }
    }
    drop(end);
    tokio::task::spawn_blocking(move || source.join().unwrap()).await.unwrap();
}
