//! Requests that wait while their tenant is paused: none is lost, none waits for ever, and nobody else notices.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use mcloud::proxy::{Left, Limits, Reason};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::web::{Gateway, PATIENCE, Web, ran, tenant, until};

/// One request over a connection of its own; its status and body.
async fn post(gateway: &Gateway, domain: &str, path: &str, body: Bytes) -> (StatusCode, String, hyper::HeaderMap) {
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(path).header("host", domain).body(Full::new(body)).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    (parts.status, String::from_utf8_lossy(&text).into_owned(), parts.headers)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_held_requests_with_bodies_all_come_through_and_their_bodies_wait_unread() {
    let web = Web::start("one").await;
    let gateway = Arc::new(Gateway::to(&web).await);
    gateway.proxy.hold(&tenant("shop"), Reason::Pause, PATIENCE);
    let asked: Vec<_> = (0..200)
        .map(|number| {
            let gateway = gateway.clone();
            let body = Bytes::from(vec![b'x'; 1000 + number]);
            tokio::spawn(async move { (number, post(&gateway, "shop.test", "/", body).await) })
        })
        .collect();
    gateway.waiting("shop", 200).await;
    assert_eq!((web.requests.load(Ordering::SeqCst), web.received.load(Ordering::SeqCst)), (0, 0));
    let report = gateway.proxy.let_go(&tenant("shop"), Reason::Pause);
    assert_eq!((report.held, report.failed, report.left), (200, 0, 0));
    for asked in asked {
        let (number, (status, text, _)) = asked.await.unwrap();
        assert_eq!(status, 200, "{text}");
        assert!(text.ends_with(&format!("body: {}\n", 1000 + number)), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_wait() {
    let web = Web::start("one").await;
    let gateway = Gateway::to(&web).await;
    gateway.proxy.hold(&tenant("shop"), Reason::Freeze, PATIENCE);
    let old = tokio::spawn(ran(gateway.curl("shop.test", "/", &["--http1.1", "-d", "abc"])));
    let new = tokio::spawn(ran(gateway.curl("shop.test", "/", &["--http2-prior-knowledge", "-d", "abc"])));
    gateway.waiting("shop", 2).await;
    gateway.proxy.let_go(&tenant("shop"), Reason::Freeze);
    for asked in [old, new] {
        let said = asked.await.unwrap();
        assert!(said.contains("body: 3"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_too_long_or_comes_too_late_is_told_to_come_again() {
    let web = Web::start("one").await;
    let gateway = Arc::new(Gateway::with(Limits { held: 3, ..Limits::default() }).await);
    gateway.serve("shop", web.address, "1");
    gateway.publish("shop.test", "shop");
    gateway.proxy.hold(&tenant("shop"), Reason::Pause, Duration::from_millis(1500));
    let ask = || {
        let gateway = gateway.clone();
        tokio::spawn(async move { post(&gateway, "shop.test", "/", Bytes::new()).await })
    };
    let held: Vec<_> = (0..3).map(|_| ask()).collect();
    gateway.waiting("shop", 3).await;
    let (status, text, headers) = ask().await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("shop is paused") && headers.contains_key("retry-after"), "{text}");
    for asked in held {
        let (status, text, headers) = asked.await.unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("shop is paused") && headers.contains_key("retry-after"), "{text}");
    }
    let report = gateway.proxy.let_go(&tenant("shop"), Reason::Pause);
    assert_eq!((report.held, report.failed), (4, 4));
    assert_eq!(web.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_forgotten_though_its_body_was_never_read() {
    let web = Web::start("one").await;
    let gateway = Gateway::to(&web).await;
    gateway.proxy.hold(&tenant("shop"), Reason::Pause, PATIENCE);
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\n\r\nabc").await.unwrap();
    gateway.waiting("shop", 1).await;
    drop(stream);
    gateway.waiting("shop", 0).await;
    let report = gateway.proxy.let_go(&tenant("shop"), Reason::Pause);
    assert_eq!((report.held, report.left, web.requests.load(Ordering::SeqCst)), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_that_moves_takes_those_that_wait_with_it_and_others_stay_connected() {
    let (one, two, other) = (Web::start("one").await, Web::start("two").await, Web::start("other").await);
    let gateway = Arc::new(Gateway::to(&one).await);
    gateway.serve("next", two.address, "1");
    gateway.serve("blog", other.address, "1");
    gateway.publish("blog.test", "blog");
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut events, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/events").header("host", "blog.test").body(Full::<Bytes>::default()).unwrap();
    let mut events = events.send_request(request).await.unwrap();

    gateway.proxy.hold(&tenant("shop"), Reason::Freeze, PATIENCE);
    let held: Vec<_> = (0..20)
        .map(|_| {
            let gateway = gateway.clone();
            tokio::spawn(async move { post(&gateway, "shop.test", "/", Bytes::from_static(b"x")).await })
        })
        .collect();
    gateway.waiting("shop", 20).await;
    gateway.publish("shop.test", "next");
    for asked in held {
        let (status, text, _) = asked.await.unwrap();
        assert!(status == 200 && text.starts_with("two\n"), "{text}");
    }
    let report = gateway.proxy.let_go(&tenant("shop"), Reason::Freeze);
    assert_eq!((report.held, report.failed, report.left), (20, 0, 0));
    assert_eq!(one.requests.load(Ordering::SeqCst), 0);
    for _ in 0..3 {
        assert!(events.frame().await.unwrap().unwrap().data_ref().unwrap().starts_with(b"data: "));
    }
    // Published for one that is held, it is held there.
    gateway.proxy.hold(&tenant("shop"), Reason::Pause, PATIENCE);
    gateway.publish("shop.test", "shop");
    let asked = tokio::spawn({
        let gateway = gateway.clone();
        async move { post(&gateway, "shop.test", "/", Bytes::new()).await }
    });
    gateway.waiting("shop", 1).await;
    gateway.proxy.let_go(&tenant("shop"), Reason::Pause);
    assert!(asked.await.unwrap().1.starts_with("one\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_under_way_are_waited_for_and_streams_are_told_of() {
    let web = Web::start("one").await;
    let gateway = Arc::new(Gateway::to(&web).await);
    let shop = tenant("shop");
    let slow = tokio::spawn({
        let gateway = gateway.clone();
        async move { post(&gateway, "shop.test", "/slow", Bytes::new()).await }
    });
    until("the request is under way", || web.requests.load(Ordering::SeqCst) == 1).await;
    gateway.proxy.hold(&shop, Reason::Freeze, PATIENCE);
    assert_eq!(gateway.proxy.drained(&shop, Duration::from_millis(10)).await.requests, 1);
    assert_eq!(gateway.proxy.drained(&shop, PATIENCE).await, Left::default());
    assert_eq!(slow.await.unwrap().0, 200);
    gateway.proxy.let_go(&shop, Reason::Freeze);

    let mut events =
        gateway.curl("shop.test", "/events", &["-N"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut first = [0; 5];
    std::io::Read::read_exact(events.stdout.as_mut().unwrap(), &mut first).unwrap();
    gateway.proxy.hold(&shop, Reason::Freeze, PATIENCE);
    assert_eq!(gateway.proxy.drained(&shop, Duration::from_secs(5)).await, Left { requests: 0, streams: 1 });
    events.kill().unwrap();
    events.wait().unwrap();
}
