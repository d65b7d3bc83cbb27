//! HTTP as others speak it: curl, nghttp, h2load, a WebSocket client, and bytes that no good client would send.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mcloud::proxy::{HEALTH_PATH, Limits, Reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::common::web::{Gateway, PATIENCE, Web, pieces, ran, tenant, until};

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_answered_over_both_versions() {
    let web = Web::start("one").await;
    let gateway = Gateway::to(&web).await;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let said = ran(gateway.curl("shop.test", "/a?b=c", &[version, "-d", "12345", "-H", "X-Mine: 1"])).await;
        assert!(said.starts_with("one\nPOST /a?b=c HTTP/1.1\n"), "{said}");
        assert!(said.ends_with("body: 5\n") && said.contains("x-mine: 1"), "{said}");
        let host = format!("host: shop.test:{}", gateway.http.port());
        for line in [
            host.as_str(),
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-proto: http",
            "forwarded: for=127.0.0.1;proto=http;",
        ] {
            assert!(said.contains(line), "{line}\n{said}");
        }
        let chunked = ["-H", "Transfer-Encoding: chunked", "-d", "123"];
        let said = ran(gateway.curl("shop.test", "/", &[&[version], &chunked[..]].concat())).await;
        assert!(said.ends_with("body: 3\n"), "{said}");
        let head = ran(gateway.curl("shop.test", "/hop", &[version, "-I"])).await.to_lowercase();
        assert!(head.contains(" 200") && head.contains("content-length: 3") && head.contains("x-kept: 1"), "{head}");
        assert!(!head.contains("x-secret") && !head.contains("keep-alive"), "{head}");
        let empty = ran(gateway.curl("shop.test", "/empty", &[version, "-i"])).await;
        assert!(empty.contains(" 204"), "{empty}");
        let size =
            ran(gateway.curl("shop.test", "/big", &[version, "-o", "/dev/null", "-w", "%{size_download}"])).await;
        assert_eq!(size, (4 << 20).to_string());
    }
    // Nobody asks for HTTP/2 by way of HTTP/1: that would go round the proxy.
    let said = ran(gateway.curl("shop.test", "/", &["--http2"])).await;
    assert!(said.starts_with("one\nGET / HTTP/1.1") && !said.contains("h2c"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_to_the_upstream_serves_one_request_after_the_other() {
    let web = Web::start("one").await;
    let gateway = Gateway::to(&web).await;
    for _ in 0..20 {
        ran(gateway.curl("shop.test", "/", &[])).await;
    }
    assert_eq!(web.connections.load(Ordering::SeqCst), 1);
    // Another run at the same address is another upstream.
    gateway.serve("shop", web.address, "2");
    ran(gateway.curl("shop.test", "/", &[])).await;
    assert_eq!(web.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_waits_for_before_it_sends_its_body_comes() {
    let web = Web::start("one").await;
    let gateway = Gateway::to(&web).await;
    let body = "x".repeat(2 << 20);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &body).unwrap();
    let from = format!("@{}", file.path().display());
    let more = ["--http1.1", "-H", "Expect: 100-continue", "--expect100-timeout", "30", "--data-binary", &from];
    let said = ran(gateway.curl("shop.test", "/", &more)).await;
    assert!(said.ends_with(&format!("body: {}\n", body.len())) && !said.contains("expect"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn h2load_and_nghttp_are_satisfied() {
    let web = Web::start("one").await;
    let gateway = Gateway::to(&web).await;
    for version in ["--h1", "--no-tls-proto=h2c"] {
        let mut command = std::process::Command::new("h2load");
        let at_once = if version == "--h1" { "1" } else { "10" };
        command.args(["-n", "400", "-c", "8", "-m", at_once, version, "-H", ":authority: shop.test"]);
        command.arg(format!("http://{}/", gateway.http));
        let said = ran(command).await;
        assert!(said.contains("400 succeeded, 0 failed, 0 errored"), "{said}");
    }
    let mut command = std::process::Command::new("nghttp");
    command
        .args(["-v", "-H", ":authority: shop.test", "-H", "te: trailers"])
        .arg(format!("http://{}/trailers", gateway.http));
    let said = ran(command).await;
    assert!(said.contains(":status: 200") && said.contains("x-sum: 42") && said.contains("body"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_stays_http2_and_streams_both_ways() {
    let web = Web::start("one").await;
    let gateway = Gateway::to(&web).await;
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.unwrap();
    tokio::spawn(connection);
    let (say, said) = tokio::sync::mpsc::channel(4);
    let request = Request::post("http://shop.test/echo").header("content-type", "application/grpc+proto");
    let response = sender.send_request(request.header("te", "trailers").body(pieces(said)).unwrap());
    say.send(Frame::data(Bytes::from_static(b"first"))).await.unwrap();
    let mut response = tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap();
    // Each piece is answered before the next one is said.
    for piece in [&b"first"[..], b"second", b"third"] {
        if piece != b"first" {
            say.send(Frame::data(Bytes::from_static(piece))).await.unwrap();
        }
        let frame = tokio::time::timeout(PATIENCE, response.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    let mut trailers = hyper::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    say.send(Frame::trailers(trailers)).await.unwrap();
    drop(say);
    let last = tokio::time::timeout(PATIENCE, response.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(last.into_trailers().unwrap()["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_and_its_answer_go_on_at_once_over_http1() {
    let web = Web::start("one").await;
    let gateway = Gateway::to(&web).await;
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    let head = "POST /echo HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(format!("{head}3\r\nabc\r\n").as_bytes()).await.unwrap();
    let mut seen = String::new();
    for next in ["abc", "defg", "hi"] {
        if next != "abc" {
            stream.write_all(format!("{:x}\r\n{next}\r\n", next.len()).as_bytes()).await.unwrap();
        }
        while !seen.contains(next) {
            let mut bytes = vec![0; 4096];
            let read = tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await.unwrap().unwrap();
            assert_ne!(read, 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }
    assert!(seen.starts_with("HTTP/1.1 200"), "{seen}");
}

/// A WebSocket server that says back what it hears.
async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_stays_open_while_domains_move_and_its_tenant_is_held() {
    let (one, two) = (Web::start("one").await, Web::start("two").await);
    let gateway = Gateway::to(&one).await;
    gateway.serve("chat", echo().await, "1");
    gateway.serve("next", two.address, "1");
    gateway.publish("chat.test", "chat");
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut socket, answer) = tokio_tungstenite::client_async("ws://chat.test/", stream).await.unwrap();
    assert_eq!(answer.status(), 101);
    let mut say = async |text: &str| {
        socket.send(Message::text(text)).await.unwrap();
        let heard = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(heard.to_text().unwrap(), text);
    };
    say("hello").await;
    gateway.publish("shop.test", "next");
    say("still here").await;
    gateway.proxy.hold(&tenant("chat"), Reason::Freeze, PATIENCE);
    let left = gateway.proxy.drained(&tenant("chat"), PATIENCE).await;
    assert_eq!((left.requests, left.streams), (0, 1));
    say("held, and still here").await;
    gateway.publish("chat.test", "next");
    gateway.serve("chat", two.address, "2");
    say("even now").await;
    // What is no WebSocket to its service is an answer like any other.
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    assert!(tokio_tungstenite::client_async("ws://shop.test/", stream).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_could_mean_two_things_are_refused_and_never_reach_the_upstream() {
    let web = Web::start("one").await;
    let gateway = Gateway::to(&web).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    let len = smuggled.len();
    for (head, body) in [
        (format!("Content-Length: {len}\r\nTransfer-Encoding: chunked"), format!("0\r\n\r\n{smuggled}")),
        (format!("Transfer-Encoding: chunked\r\nContent-Length: {len}"), format!("0\r\n\r\n{smuggled}")),
        ("Content-Length: 0\r\nContent-Length: 0".to_owned(), smuggled.to_owned()),
        (format!("Content-Length: 0\r\nContent-Length: {len}"), smuggled.to_owned()),
        (format!("Content-Length: 0, {len}"), smuggled.to_owned()),
        ("Content-Length: +0".to_owned(), smuggled.to_owned()),
        ("Transfer-Encoding: xchunked".to_owned(), format!("0\r\n\r\n{smuggled}")),
        ("Transfer-Encoding: gzip, chunked".to_owned(), format!("0\r\n\r\n{smuggled}")),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity".to_owned(), format!("0\r\n\r\n{smuggled}")),
        ("Transfer-Encoding : chunked".to_owned(), format!("0\r\n\r\n{smuggled}")),
        ("Content-Length : 0".to_owned(), smuggled.to_owned()),
        ("X: a\r\n Transfer-Encoding: chunked".to_owned(), format!("0\r\n\r\n{smuggled}")),
        ("X: \0".to_owned(), smuggled.to_owned()),
        ("Host: other.test".to_owned(), smuggled.to_owned()),
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: shop.test\r\n{head}\r\n\r\n{body}");
        let said = gateway.raw(request.as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{head:?}: {said}");
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{head:?}: {said}");
    }
    let absolute = "GET http://other.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    assert!(gateway.raw(absolute.as_bytes()).await.starts_with("HTTP/1.1 400 "));
    assert!(
        gateway.raw(b"CONNECT shop.test:80 HTTP/1.1\r\nHost: shop.test:80\r\n\r\n").await.starts_with("HTTP/1.1 400 ")
    );
    assert_eq!(web.requests.load(Ordering::SeqCst), 0);
    // A bad end of a body ends the connection, and nothing behind it is read as a request.
    for chunk in ["g\r\n", "-5\r\n", "5 x\r\nabcde\r\n", "5\r\nabcdefgh\r\n"] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n{smuggled}"
        );
        let said = gateway.raw(request.as_bytes()).await;
        assert!(!said.contains("/smuggled"), "{chunk:?}: {said}");
    }
    // One that is good, in front of one that is not, is answered.
    let said =
        gateway.raw(b"GET /good HTTP/1.1\r\nHost: shop.test\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    assert!(said.contains("GET /good") && said.contains("HTTP/1.1 400 "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_has_to_be_named_once_and_be_known() {
    let web = Web::start("one").await;
    let gateway = Gateway::to(&web).await;
    for (head, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: shop.test\r\nHost: shop.test\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n", "404"),
        ("GET / HTTP/1.1\r\nHost: SHOP.test.:8080\r\nConnection: close\r\n\r\n", "200"),
        ("GET http://shop.test/ HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n", "200"),
        ("GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n", "200"),
    ] {
        let said = gateway.raw(head.as_bytes()).await;
        assert_eq!(said.split(' ').nth(1), Some(status), "{head:?}: {said}");
    }
    let health = gateway
        .raw(format!("GET {HEALTH_PATH} HTTP/1.1\r\nHost: 10.0.0.1\r\nConnection: close\r\n\r\n").as_bytes())
        .await;
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n"), "{health}");
    let page = ran(gateway.curl("a.test", "/", &["-H", "Accept: text/html", "-H", "Host: <b>.test"])).await;
    assert!(page.contains("<h1>400") && !page.contains("<b>"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_long_or_never_end_are_given_up() {
    let web = Web::start("one").await;
    let gateway =
        Gateway::with(Limits { head: Duration::from_millis(400), head_bytes: 16 << 10, ..Limits::default() }).await;
    gateway.serve("shop", web.address, "1");
    gateway.publish("shop.test", "shop");
    let long = format!("GET / HTTP/1.1\r\nHost: shop.test\r\nX: {}\r\n\r\n", "x".repeat(40 << 10));
    assert!(gateway.raw(long.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let many = format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{}\r\n", "X: x\r\n".repeat(2000));
    assert!(gateway.raw(many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    // Slow-loris: nothing, a beginning of either version, a byte now and then.
    for begin in ["", "G", "PRI * HT", "GET / HTTP/1.1\r\nHost: shop.test\r\n"] {
        gateway.raw(begin.as_bytes()).await;
    }
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.test\r\n").await.unwrap();
    let dripping = async {
        while stream.write_all(b"X: x\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, dripping).await.unwrap();
    assert_eq!(web.requests.load(Ordering::SeqCst), 0);
    // A connection that is used is not given up in the middle of its answer.
    let said = ran(gateway.curl("shop.test", "/slow", &[])).await;
    assert!(said.starts_with("one"), "{said}");
}

/// A server that closes each connection after so many answers, or when nothing came for so long, without having said so.
async fn closing(after: usize, idle: Duration) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, served) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let all = served.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let served = all.clone();
            tokio::spawn(async move {
                for _ in 0..after {
                    let mut head = Vec::new();
                    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                        let read = tokio::time::timeout(idle, stream.read_buf(&mut head)).await;
                        if !matches!(read, Ok(Ok(1..))) {
                            return;
                        }
                    }
                    served.fetch_add(1, Ordering::SeqCst);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    (address, served)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_because_an_upstream_closes_its_connections() {
    let (address, served) = closing(2, PATIENCE).await;
    let gateway = Arc::new(Gateway::start().await);
    gateway.serve("shop", address, "1");
    gateway.publish("shop.test", "shop");
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let gateway = gateway.clone();
            tokio::spawn(async move {
                let stream = TcpStream::connect(gateway.http).await.unwrap();
                let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
                let (mut sender, connection) = shaken.unwrap();
                tokio::spawn(connection);
                for number in 0..100 {
                    sender.ready().await.unwrap();
                    let request = Request::get("/").header("host", "shop.test");
                    let request = request.body(http_body_util::Empty::<Bytes>::new()).unwrap();
                    let response = sender.send_request(request).await.unwrap();
                    let status = response.status();
                    let body = response.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(status, 200, "{number}: {body:?}");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(served.load(Ordering::SeqCst), 400, "none was served twice");
    // What must not be said twice gets a connection that its server has no reason to close.
    let (address, served) = closing(99, Duration::from_secs(1)).await;
    gateway.serve("shop", address, "2");
    for _ in 0..3 {
        assert_eq!(ran(gateway.curl("shop.test", "/", &["-X", "POST"])).await, "ok");
        tokio::time::sleep(Duration::from_millis(950)).await;
    }
    assert_eq!(served.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_down_says_so_and_what_has_just_started_is_waited_for() {
    let gateway = Arc::new(Gateway::with(Limits { refused: Duration::from_secs(20), ..Limits::default() }).await);
    gateway.publish("shop.test", "shop");
    let page = ran(gateway.curl("shop.test", "/", &["-i"])).await;
    assert!(page.starts_with("HTTP/1.1 503") && page.contains("shop is not running"), "{page}");
    assert!(page.to_lowercase().contains("retry-after"), "{page}");
    // Refused now, served in a moment, elsewhere.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    gateway.serve("shop", gone, "1");
    let asked = tokio::spawn(ran(gateway.curl("shop.test", "/", &["-d", "abc"])));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!asked.is_finished());
    let web = Web::start("one").await;
    gateway.serve("shop", web.address, "2");
    assert!(asked.await.unwrap().ends_with("body: 3\n"));
    let gateway = Gateway::with(Limits { refused: Duration::from_millis(100), ..Limits::default() }).await;
    gateway.publish("shop.test", "shop");
    gateway.serve("shop", gone, "1");
    let page = ran(gateway.curl("shop.test", "/", &["-i", "-H", "Accept: text/html"])).await;
    assert!(page.starts_with("HTTP/1.1 502") && page.contains("web.shop cannot be reached at port"), "{page}");
    assert!(page.contains("<h1>502"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_stops_ends_what_it_is_at() {
    let web = Web::start("one").await;
    let gateway = Gateway::to(&web).await;
    let slow = tokio::spawn(ran(gateway.curl("shop.test", "/slow", &[])));
    let _idle = TcpStream::connect(gateway.http).await.unwrap();
    until("it is under way", || web.requests.load(Ordering::SeqCst) == 1).await;
    gateway.proxy.stop();
    assert!(slow.await.unwrap().starts_with("one"));
    assert!(TcpStream::connect(gateway.http).await.is_err());
}
