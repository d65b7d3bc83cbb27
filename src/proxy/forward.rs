//! One request: let through or held, sent to what serves it, and its answer sent back.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::body::{Answer, Linked, Sent};
use super::client::Client;
use super::gate::{Passed, Waiting};
use super::page::Page;
use super::routes::{Target, Way, host_name};
use super::upstream::{Link, Serving, Upstream};
use super::{HEALTH_PATH, Proxy, headers, tunnel};

/// Where ACME servers look (RFC 8555, 8.3).
const ACME_PATH: &str = "/.well-known/acme-challenge/";
/// When a client that was told to come again should.
const COME_AGAIN_SECONDS: u64 = 5;
/// Between two tries to reach an upstream that refuses.
const AGAIN: Duration = Duration::from_millis(50);

/// Why a request goes nowhere.
#[derive(Debug)]
pub enum Stopped {
    /// The client left.
    Gone,
    /// Nothing is published under this name.
    Unknown,
    /// Too many waited, or it waited too long.
    Held(Page),
    /// What is to serve it does not.
    Down(Page),
}

impl Stopped {
    fn page(self, name: &str) -> Page {
        match self {
            Stopped::Gone => Page::new(StatusCode::SERVICE_UNAVAILABLE, "the client left").close(),
            Stopped::Unknown => Page::new(StatusCode::NOT_FOUND, format!("nothing is published as {name}")),
            Stopped::Held(page) | Stopped::Down(page) => page,
        }
    }
}

/// A request that may go on, and where to.
pub struct Admitted {
    pub target: Target,
    pub passed: Passed,
}

impl Proxy {
    /// Lets a request through as soon as its tenant is not held. Its route is the one at that moment.
    pub async fn admit(&self, client: &Client, name: &str) -> Result<Admitted, Stopped> {
        let version = self.version();
        let Some(target) = self.find(client.way, name) else { return Err(Stopped::Unknown) };
        // Counted before the routes are compared: a swap that is not seen here sees this request.
        match target.tenant.gate.pass() {
            Some(passed) if self.version() == version => Ok(Admitted { target, passed }),
            _ => Box::pin(self.admit_later(client, name)).await,
        }
    }

    async fn admit_later(&self, client: &Client, name: &str) -> Result<Admitted, Stopped> {
        let began = Instant::now();
        let mut waiting: Option<Waiting> = None;
        loop {
            let version = self.version();
            let Some(target) = self.find(client.way, name) else { return Err(Stopped::Unknown) };
            let gate = target.tenant.gate.clone();
            let look = gate.look();
            tokio::pin!(look);
            look.as_mut().enable();
            if let Some(passed) = gate.pass()
                && self.version() == version
            {
                if let Some(waiting) = waiting {
                    waiting.through();
                }
                return Ok(Admitted { target, passed });
            }
            if !gate.is_held() || self.version() != version {
                continue;
            }
            let tenant = &target.tenant.name;
            let held = match waiting.take() {
                Some(waiting) if waiting.is_at(&gate) => waiting,
                before => {
                    if let Some(before) = before {
                        before.through();
                    } else {
                        self.counters.held.fetch_add(1, Ordering::Relaxed);
                    }
                    gate.wait(began, self.limits.held).ok_or_else(|| {
                        let text = format!("{tenant} is paused, and too many requests wait for it already");
                        Stopped::Held(Page::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(COME_AGAIN_SECONDS))
                    })?
                }
            };
            let Some(deadline) = held.deadline() else {
                waiting = Some(held);
                continue;
            };
            tokio::select! {
                () = &mut look => waiting = Some(held),
                () = client.gone() => return Err(Stopped::Gone),
                () = tokio::time::sleep_until(deadline) => {
                    let seconds = held.since().elapsed().as_secs();
                    held.failed();
                    let text = format!("{tenant} is paused, and this request waited {seconds} s for it");
                    let page = Page::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(COME_AGAIN_SECONDS);
                    return Err(Stopped::Held(page));
                }
            }
        }
    }

    /// Reaches what serves a target, with a few tries: it may have been started just now, under another address.
    pub async fn reach<T, F>(
        &self,
        target: &Target,
        way: Way,
        connect: impl Fn(Arc<Upstream>, u16) -> F,
    ) -> Result<(Arc<Upstream>, u16, T), Stopped>
    where
        F: Future<Output = std::io::Result<T>>,
    {
        let until = Instant::now() + self.limits.refused;
        loop {
            let (upstream, port) = serving(target, way)?;
            let error = match tokio::time::timeout(self.limits.connect, connect(upstream.clone(), port)).await {
                Ok(Ok(link)) => return Ok((upstream, port, link)),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it does not answer".to_owned(),
            };
            let tenant = &target.tenant.name;
            (self.suspect)(tenant);
            if Instant::now() >= until {
                let text = format!("{}.{tenant} cannot be reached at port {port}: {error}", upstream.service);
                return Err(Stopped::Down(Page::new(StatusCode::BAD_GATEWAY, text)));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// What serves a target, with its port.
fn serving(target: &Target, way: Way) -> Result<(Arc<Upstream>, u16), Stopped> {
    let tenant = &target.tenant.name;
    match target.tenant.serving() {
        Serving::Down(why) => {
            let page = Page::new(StatusCode::SERVICE_UNAVAILABLE, format!("{tenant} {why}"));
            Err(Stopped::Down(page.retry_after(COME_AGAIN_SECONDS)))
        }
        Serving::Up(upstream) => match target.port.or(upstream.port(way)) {
            Some(port) => Ok((upstream, port)),
            None => {
                let key = if way == Way::Tls { "ssl:` or `web" } else { "web" };
                let text = format!("{}.{tenant} names no port with `{key}:`", upstream.service);
                Err(Stopped::Down(Page::new(StatusCode::BAD_GATEWAY, text)))
            }
        },
    }
}

/// Answers one request.
pub async fn answer(proxy: Arc<Proxy>, client: Arc<Client>, request: Request<Incoming>) -> Response<Answer> {
    proxy.counters.requests.fetch_add(1, Ordering::Relaxed);
    if request.uri().path() == HEALTH_PATH {
        let mut page = Page::new(StatusCode::OK, "ok");
        page.close = *proxy.stopping.borrow();
        return page.response(&HeaderMap::new());
    }
    if let Some(token) = request.uri().path().strip_prefix(ACME_PATH)
        && client.way == Way::Http
        && let Some(authorization) = proxy.certificates.token(token)
    {
        return Response::new(Answer::text(authorization));
    }
    let failed = |page: Page, accept: &HeaderMap| {
        proxy.counters.failed.fetch_add(1, Ordering::Relaxed);
        page.response(accept)
    };
    if let Some(why) = headers::fault(request.method(), request.uri(), request.version(), request.headers()) {
        let text = format!("this request is not understood: {why}");
        return failed(Page::new(StatusCode::BAD_REQUEST, text).close(), request.headers());
    }
    let Some(host) = host_of(&request) else {
        let text = "this request is not understood: its Host is no name";
        return failed(Page::new(StatusCode::BAD_REQUEST, text).close(), request.headers());
    };
    let admitted = match host.to_str().ok().and_then(host_name) {
        None => {
            let text = "this request is not understood: its Host is no name";
            return failed(Page::new(StatusCode::BAD_REQUEST, text).close(), request.headers());
        }
        Some(name) => proxy.admit(&client, &name).await.map_err(|stopped| stopped.page(&name)),
    };
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err(page) => return failed(page, request.headers()),
    };
    let accept = request.headers().get(header::ACCEPT).cloned();
    match forward(&proxy, &client, admitted, host, request).await {
        Ok(response) => response,
        Err(page) => {
            let accept = accept.map(|accept| (header::ACCEPT, accept));
            failed(page, &accept.into_iter().collect())
        }
    }
}

/// The `Host`, or what HTTP/2 has in its place.
fn host_of(request: &Request<Incoming>) -> Option<HeaderValue> {
    match request.headers().get(header::HOST) {
        Some(host) => Some(host.clone()),
        None => HeaderValue::from_str(request.uri().authority()?.as_str()).ok(),
    }
}

/// Sends a request on, and gives its answer.
async fn forward(
    proxy: &Arc<Proxy>,
    client: &Client,
    admitted: Admitted,
    host: HeaderValue,
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Page> {
    let Admitted { target, mut passed } = admitted;
    if client.way == Way::Tls && matches!(target.tenant.serving(), Serving::Up(upstream) if upstream.ssl.is_some()) {
        let text = "this name's TLS is ended elsewhere: connect again";
        return Err(Page::new(StatusCode::MISDIRECTED_REQUEST, text).close());
    }
    let name = target.tenant.name.to_string();
    let version = request.version();
    if headers::asks_for_upgrade(version, request.headers()) {
        return upgrade(proxy, client, target, passed, host, request).await.map_err(|stopped| stopped.page(&name));
    }
    let is_grpc = headers::is_grpc(version, request.headers());
    prepare(&mut request, client, &host);
    let (mut parts, body) = request.into_parts();
    let body = Sent::new(body, proxy.limits.stall);
    if is_grpc {
        let sent = over_http2(proxy, &target, client.way, host, Request::from_parts(parts, body)).await;
        let (response, upstream) = sent.map_err(|stopped| stopped.page(&name))?;
        let (mut parts, body) = response.map_err(|error| broken(&name, &upstream, &error))?.into_parts();
        headers::strip_hop_by_hop(&mut parts.headers);
        return Ok(Response::from_parts(parts, Answer::Driven { body, _passed: Some(passed) }));
    }
    parts.uri = origin_form(&parts.uri);
    parts.version = Version::HTTP_11;
    parts.headers.insert(header::HOST, host);
    let mut request = Request::from_parts(parts, body);
    let repeatable = is_idempotent(request.method()) && request.body().is_nothing();
    let mut only_fresh = false;
    loop {
        let connect = |upstream: Arc<Upstream>, port| async move {
            match upstream.take(port, repeatable).filter(|_| !only_fresh) {
                Some(link) => Ok(link),
                None => upstream.link(port).await,
            }
        };
        let reached = proxy.reach(&target, client.way, connect).await;
        let (home, port, mut link) = reached.map_err(|stopped| stopped.page(&name))?;
        // An upstream may close a connection just when it is used again; what may be said twice then is.
        let again = (link.is_used && repeatable).then(|| copy(&request));
        let response = match link.exchange(request).await {
            Ok(response) => response,
            Err(unanswered) => {
                only_fresh = true;
                match unanswered.unsent.or(again) {
                    Some(unsent) if link.is_used => request = unsent,
                    _ => return Err(broken(&name, &home, &*unanswered.error)),
                }
                continue;
            }
        };
        let (mut parts, body) = response.into_parts();
        headers::strip_hop_by_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        if !headers::is_event_stream(&parts.headers) {
            return Ok(Response::from_parts(parts, answer_body(link, body, home, port, passed)));
        }
        passed.becomes_stream();
        let cut = Box::pin(passed.cut());
        let answer = Box::new(answer_body(link, body, home, port, passed));
        return Ok(Response::from_parts(parts, Answer::Stream { answer, cut }));
    }
}

fn answer_body(link: Link, body: Incoming, home: Arc<Upstream>, port: u16, passed: Passed) -> Answer {
    if !link.has_sent() {
        // The answer came first: the rest of the request goes on whether or not somebody takes the answer.
        link.detach();
        return Answer::Driven { body, _passed: Some(passed) };
    }
    let is_empty = body.is_end_stream();
    let mut linked = Linked { body, link: Some(link), home, port, passed: Some(passed) };
    if is_empty {
        linked.end(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        return Answer::Driven { body: linked.body, _passed: None };
    }
    Answer::Linked(Box::new(linked))
}

/// Makes a request's head fit for the upstream.
fn prepare(request: &mut Request<Incoming>, client: &Client, host: &HeaderValue) {
    let keeps_trailers = request.headers().get(header::TE).is_some_and(|te| te.as_bytes() == b"trailers");
    let is_http2 = request.version() == Version::HTTP_2;
    let headers = request.headers_mut();
    headers::strip_hop_by_hop(headers);
    headers.remove(header::TE);
    if keeps_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    // We take the body as soon as the upstream does, and say so ourselves.
    headers.remove(header::EXPECT);
    headers::say_from(headers, headers::From { client: client.ip, scheme: client.scheme(), host });
    if is_http2 {
        join_cookies(headers);
    }
}

/// HTTP/2 may split cookies into several fields; HTTP/1 has one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(b"; ".as_slice())) {
        headers.insert(header::COOKIE, joined);
    }
}

fn origin_form(uri: &Uri) -> Uri {
    match (uri.authority(), uri.path_and_query()) {
        (None, _) => uri.clone(),
        (Some(_), Some(path)) => Uri::from(path.clone()),
        (Some(_), None) => Uri::from_static("/"),
    }
}

fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method)
}

/// The same request, which has no body.
fn copy(request: &Request<Sent>) -> Request<Sent> {
    let mut copy = Request::new(Sent::nothing());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn broken(tenant: &str, upstream: &Upstream, error: &(dyn std::error::Error + 'static)) -> Page {
    let mut why = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        why.push_str(": ");
        why.push_str(&cause.to_string());
        next = cause.source();
    }
    Page::new(StatusCode::BAD_GATEWAY, format!("{}.{tenant} gave no answer: {why}", upstream.service))
}

type Sending = (Result<Response<Incoming>, hyper::Error>, Arc<Upstream>);

/// Over the HTTP/2 connection that all share.
async fn over_http2(
    proxy: &Proxy,
    target: &Target,
    way: Way,
    host: HeaderValue,
    mut request: Request<Sent>,
) -> Result<Sending, Stopped> {
    let authority = Cow::from(String::from_utf8_lossy(host.as_bytes()).into_owned());
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let uri = Uri::builder().scheme("http").authority(authority.as_ref()).path_and_query(path).build();
    *request.uri_mut() = uri.map_err(|_| {
        Stopped::Held(Page::new(StatusCode::BAD_REQUEST, "this request is not understood: its Host is no name"))
    })?;
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(header::HOST);
    for last in [false, true] {
        let connect = |upstream: Arc<Upstream>, port| async move { upstream.http2(port).await };
        let (upstream, _, mut link) = proxy.reach(target, way, connect).await?;
        match link.try_send_request(request).await {
            Ok(response) => return Ok((Ok(response), upstream)),
            Err(mut error) => match error.take_message() {
                // The connection ended before anything was sent.
                Some(unsent) if !last => request = unsent,
                _ => return Ok((Err(error.into_error()), upstream)),
            },
        }
    }
    Err(Stopped::Gone)
}

/// A request that wants another protocol, over a connection of its own.
async fn upgrade(
    proxy: &Arc<Proxy>,
    client: &Client,
    target: Target,
    passed: Passed,
    host: HeaderValue,
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Stopped> {
    let wanted: Vec<HeaderValue> = request.headers().get_all(header::UPGRADE).iter().cloned().collect();
    let client_end = hyper::upgrade::on(&mut request);
    prepare(&mut request, client, &host);
    let uri = origin_form(request.uri());
    *request.uri_mut() = uri;
    let head = request.headers_mut();
    head.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    for value in wanted {
        head.append(header::UPGRADE, value);
    }
    head.insert(header::HOST, host);
    let connect = |upstream: Arc<Upstream>, port| async move { upstream.link(port).await };
    let (upstream, _, link) = proxy.reach(&target, client.way, connect).await?;
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts, Sent::new(body, proxy.limits.stall));
    let tenant = &*target.tenant.name.to_string();
    let mut response = match link.detach_with_upgrades().send_request(request).await {
        Ok(response) => response,
        Err(error) => return Err(Stopped::Down(broken(tenant, &upstream, &error))),
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut parts, body) = response.into_parts();
        headers::strip_hop_by_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        return Ok(Response::from_parts(parts, Answer::Driven { body, _passed: Some(passed) }));
    }
    let upstream_end = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        if let (Ok(client), Ok(upstream)) = tokio::join!(client_end, upstream_end) {
            tunnel::run(TokioIo::new(client), TokioIo::new(upstream), passed).await;
        }
    });
    let (parts, _) = response.into_parts();
    let mut switched = Response::from_parts(parts, Answer::Text(None));
    let kept: Vec<HeaderValue> = switched.headers().get_all(header::UPGRADE).iter().cloned().collect();
    headers::strip_hop_by_hop(switched.headers_mut());
    switched.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    for value in kept {
        switched.headers_mut().append(header::UPGRADE, value);
    }
    Ok(switched)
}
