//! What a proxy does to the heads of requests and answers. Pure: heads in, heads out.
//!
//! RFC 9110 (7.6.1, hop-by-hop fields), RFC 9112 (framing), RFC 7239 (`Forwarded`).

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri, Version};

/// Fields that concern one connection alone, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Fields by which an application learns of its client, and which only the proxy may say.
const OURS: [HeaderName; 6] =
    [header::FORWARDED, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_FORWARDED_PORT, X_REAL_IP];

/// Takes away what concerns one connection alone.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            // What a message is and where it goes is nobody's to take away.
            if name != header::HOST && name != header::CONTENT_LENGTH {
                headers.remove(name);
            }
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Who asked, for the application.
#[derive(Clone, Copy, Debug)]
pub struct From<'a> {
    pub client: IpAddr,
    pub scheme: &'static str,
    pub host: &'a HeaderValue,
}

/// Says who asked. What the client said of that itself is taken away, also where it hides behind underscores, which
/// CGI-like applications do not tell from hyphens.
pub fn say_from(headers: &mut HeaderMap, from: From<'_>) {
    let hides = |name: &HeaderName| {
        let name = name.as_str();
        name.contains('_') && OURS.iter().any(|ours| name.replace('_', "-") == ours.as_str())
    };
    while let Some(name) = headers.keys().find(|name| hides(name)).cloned() {
        headers.remove(name);
    }
    for name in &OURS {
        headers.remove(name);
    }
    // `itoa` of an address and a host that was checked: always a good value.
    let client = from.client.to_string();
    let mut text = String::with_capacity(96);
    text.push_str("for=");
    match from.client {
        IpAddr::V4(_) => text.push_str(&client),
        IpAddr::V6(_) => {
            text.push_str("\"[");
            text.push_str(&client);
            text.push_str("]\"");
        }
    }
    text.push_str(";proto=");
    text.push_str(from.scheme);
    if let Ok(host) = from.host.to_str() {
        // A port makes it no token: then it is quoted.
        let quote = if host.contains([':', '[']) { "\"" } else { "" };
        text.push_str(";host=");
        text.push_str(quote);
        text.push_str(host);
        text.push_str(quote);
    }
    if let Ok(value) = HeaderValue::try_from(client) {
        headers.insert(X_FORWARDED_FOR, value.clone());
        headers.insert(X_REAL_IP, value);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(from.scheme));
    headers.insert(X_FORWARDED_HOST, from.host.clone());
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(header::FORWARDED, value);
    }
}

/// What is wrong with a request whose head was read, if anything is.
pub fn fault(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap) -> Option<&'static str> {
    if method == Method::CONNECT {
        return Some("this is no forward proxy: CONNECT is not taken");
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Some("it has more than one Host");
    }
    match (host, uri.authority()) {
        (None, None) => return Some("it names no Host"),
        (Some(host), Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            return Some("its Host is not the one of its target");
        }
        _ => {}
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Some("its target names a user");
    }
    if uri.scheme().is_some_and(|scheme| scheme.as_str() != "http" && scheme.as_str() != "https") {
        return Some("its target is neither http nor https");
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Some("it has more than one Content-Length");
    }
    if length.is_some_and(|length| !length.as_bytes().iter().all(u8::is_ascii_digit)) {
        return Some("its Content-Length is no number");
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if version != Version::HTTP_11 {
            return Some("it has a Transfer-Encoding, which is HTTP/1.1's");
        }
        if length.is_some() {
            return Some("it has both a Content-Length and a Transfer-Encoding");
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Some("its Transfer-Encoding is not just `chunked`");
        }
    }
    None
}

/// Whether it asks for another protocol on its connection.
pub fn asks_for_upgrade(version: Version, headers: &HeaderMap) -> bool {
    // HTTP/2 and TLS are no protocols to go round the proxy with.
    let good = |value: &HeaderValue| {
        let value = value.as_bytes().to_ascii_lowercase();
        !value.starts_with(b"h2") && !value.starts_with(b"http") && !value.starts_with(b"tls") && !value.contains(&b',')
    };
    let mut wanted = headers.get_all(header::UPGRADE).iter();
    version == Version::HTTP_11 && wanted.next().is_some_and(good) && wanted.next().is_none() && {
        let words = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        words.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
    }
}

/// gRPC has to stay HTTP/2 all the way.
pub fn is_grpc(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_2
        && headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Whether an answer goes on for as long as somebody listens.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let name = |name: &str| name.parse::<HeaderName>().unwrap();
        lines.iter().map(|(key, value)| (name(key), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_concerns_one_connection_goes_and_what_connection_names_as_well() {
        let mut headers = map(&[
            ("host", "a"),
            ("connection", "keep-alive, X-Mine, host"),
            ("connection", "Content-Length, te"),
            ("x-mine", "1"),
            ("keep-alive", "3"),
            ("proxy-connection", "x"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("content-length", "3"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["accept", "content-length", "host"]);
    }

    #[test]
    fn only_the_proxy_says_who_asked() {
        let mut headers = map(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("X_Forwarded-Proto", "https"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("x-forwarded-port", "1"),
            ("my_own", "stays"),
        ]);
        let host = HeaderValue::from_static("a.example:8080");
        say_from(&mut headers, From { client: "203.0.113.9".parse().unwrap(), scheme: "http", host: &host });
        assert_eq!(headers["x-forwarded-for"], "203.0.113.9");
        assert_eq!(headers["forwarded"], "for=203.0.113.9;proto=http;host=\"a.example:8080\"");
        assert_eq!(headers["x-forwarded-host"], "a.example:8080");
        assert_eq!(
            names(&headers),
            ["forwarded", "my_own", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"]
        );
        let host = HeaderValue::from_static("a.example");
        say_from(&mut headers, From { client: "2001:db8::7".parse().unwrap(), scheme: "https", host: &host });
        assert_eq!(headers["forwarded"], "for=\"[2001:db8::7]\";proto=https;host=a.example");
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        let wrong = |uri: &str, lines: &[(&str, &str)]| {
            fault(&Method::POST, &uri.parse().unwrap(), Version::HTTP_11, &map(lines)).unwrap_or("good")
        };
        assert_eq!(wrong("/", &[("host", "a")]), "good");
        assert_eq!(wrong("http://a/", &[("host", "A")]), "good");
        assert!(wrong("/", &[]).contains("no Host"));
        assert!(wrong("/", &[("host", "a"), ("host", "a")]).contains("more than one Host"));
        assert!(wrong("http://b/", &[("host", "a")]).contains("not the one"));
        assert!(wrong("http://u@a/", &[("host", "u@a")]).contains("user"));
        assert!(wrong("ftp://a/", &[("host", "a")]).contains("neither"));
        let host = ("host", "a");
        assert!(wrong("/", &[host, ("content-length", "1"), ("content-length", "1")]).contains("more than one"));
        assert!(wrong("/", &[host, ("content-length", "+1")]).contains("no number"));
        let chunked = ("transfer-encoding", "chunked");
        assert_eq!(wrong("/", &[host, chunked]), "good");
        assert!(wrong("/", &[host, chunked, ("content-length", "1")]).contains("both"));
        assert!(wrong("/", &[host, chunked, chunked]).contains("just"));
        assert!(wrong("/", &[host, ("transfer-encoding", "gzip, chunked")]).contains("just"));
        let head = map(&[("host", "a")]);
        assert!(fault(&Method::CONNECT, &"a:80".parse().unwrap(), Version::HTTP_11, &head).is_some());
    }

    #[test]
    fn only_protocols_that_are_served_behind_it_are_upgraded_to() {
        let asks = |to: &str| {
            asks_for_upgrade(Version::HTTP_11, &map(&[("connection", "keep-alive, Upgrade"), ("upgrade", to)]))
        };
        assert!(asks("websocket") && asks("WebSocket"));
        for other in ["h2c", "H2C", "HTTP/2.0", "TLS/1.0", "websocket, h2c"] {
            assert!(!asks(other), "{other}");
        }
        assert!(!asks_for_upgrade(Version::HTTP_11, &map(&[("upgrade", "websocket")])));
        assert!(!asks_for_upgrade(Version::HTTP_2, &map(&[("connection", "upgrade"), ("upgrade", "websocket")])));
    }
}
