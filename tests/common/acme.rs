//! A small ACME server (RFC 8555) of the test's own: it checks signatures and nonces, looks at challenges itself over HTTP
//! and over TLS, and signs what was proved with a CA of its own.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub struct Ca {
    pub directory: String,
    /// The root that everything here is signed with, PEM.
    pub root: PathBuf,
    state: Arc<Mutex<State>>,
}

struct State {
    base: String,
    /// Where every domain leads: HTTP and TLS.
    world: Option<(SocketAddr, SocketAddr)>,
    issuer: Issuer<'static, KeyPair>,
    offers: Vec<&'static str>,
    /// The lives of the certificates to come: before and after now; the last one stays.
    lives: Vec<(Duration, Duration)>,
    nonces: HashSet<String>,
    accounts: Vec<Value>,
    orders: Vec<Order>,
    refuses: bool,
    issued: usize,
}

struct Order {
    domain: String,
    account: usize,
    token: String,
    state: &'static str,
    error: Option<String>,
    chain: Option<String>,
}

pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let number = group.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            out.push(char::from(LETTERS[(number >> (18 - 6 * place)) as usize & 63]));
        }
    }
    out
}

fn unbase64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => panic!("no base64url: {text}"),
    };
    let mut out = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let number = group.iter().fold(0u32, |n, c| n << 6 | u32::from(value(*c))) << (6 * (4 - group.len()));
        out.extend_from_slice(&number.to_be_bytes()[1..group.len()]);
    }
    out
}

fn random() -> String {
    let mut bytes = [0u8; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).unwrap();
    base64(&bytes)
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().to_vec()
}

impl Ca {
    pub async fn start(dir: &Path) -> Ca {
        let mut root = CertificateParams::new(Vec::new()).unwrap();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.distinguished_name.push(rcgen::DnType::CommonName, "a root of the tests");
        let key = KeyPair::generate().unwrap();
        let file = dir.join("acme-root.pem");
        std::fs::write(&file, root.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(root, key);

        let own = KeyPair::generate().unwrap();
        let chain = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(own.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![chain.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let long = (Duration::from_secs(3600), Duration::from_secs(90 * 86_400));
        let state = Arc::new(Mutex::new(State {
            base: base.clone(),
            world: None,
            issuer,
            offers: vec!["http-01", "tls-alpn-01"],
            lives: vec![long],
            nonces: HashSet::new(),
            accounts: Vec::new(),
            orders: Vec::new(),
            refuses: false,
            issued: 0,
        }));
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let state = state.clone();
                        async move { Ok::<_, std::convert::Infallible>(serve(&state, request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ca { directory: format!("{base}/directory"), root: file, state }
    }

    /// Where all domains lead, as the CA sees it.
    pub fn world(&self, http: SocketAddr, https: SocketAddr) {
        self.state.lock().unwrap().world = Some((http, https));
    }

    pub fn offers(&self, ways: &[&'static str]) {
        self.state.lock().unwrap().offers = ways.to_vec();
    }

    pub fn lives(&self, lives: &[(Duration, Duration)]) {
        self.state.lock().unwrap().lives = lives.to_vec();
    }

    pub fn refuses(&self, so: bool) {
        self.state.lock().unwrap().refuses = so;
    }

    /// Certificates that were issued, and accounts that were made.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.issued, state.accounts.len())
    }
}

type Answer = Response<Full<Bytes>>;

fn answer(state: &Mutex<State>, status: u16, location: Option<String>, body: Value) -> Answer {
    let nonce = random();
    state.lock().unwrap().nonces.insert(nonce.clone());
    let mut response = Response::builder().status(status).header("replay-nonce", nonce);
    if let Some(location) = location {
        response = response.header("location", location);
    }
    let body = match body {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    };
    response.body(Full::new(Bytes::from(body))).unwrap()
}

fn problem(state: &Mutex<State>, kind: &str, detail: &str) -> Answer {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    answer(state, 400, None, json!({"type": kind, "detail": detail, "status": 400}))
}

async fn serve(state: &Arc<Mutex<State>>, request: Request<Incoming>) -> Answer {
    let (path, method) = (request.uri().path().to_owned(), request.method().clone());
    let base = state.lock().unwrap().base.clone();
    if path == "/directory" {
        let url = |name: &str| format!("{base}/{name}");
        return answer(
            state,
            200,
            None,
            json!({"newNonce": url("nonce"), "newAccount": url("account"), "newOrder": url("order"),
                   "revokeCert": url("revoke"), "keyChange": url("change")}),
        );
    }
    if method != Method::POST {
        return answer(state, 200, None, Value::Null);
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let jws: Value = serde_json::from_slice(&body).unwrap();
    let (protected, payload) = (jws["protected"].as_str().unwrap(), jws["payload"].as_str().unwrap());
    let head: Value = serde_json::from_slice(&unbase64(protected)).unwrap();
    assert_eq!(head["url"], format!("{base}{path}"), "a signature for another address");
    if !state.lock().unwrap().nonces.remove(head["nonce"].as_str().unwrap()) {
        return problem(state, "badNonce", "that nonce is not good");
    }
    let account = head["kid"].as_str().map(|kid| kid.rsplit('/').next().unwrap().parse::<usize>().unwrap());
    let known = account.and_then(|number| state.lock().unwrap().accounts.get(number).cloned());
    let Some(jwk) = known.or_else(|| Some(head["jwk"].clone()).filter(Value::is_object)) else {
        return problem(state, "accountDoesNotExist", "who is that");
    };
    let point = |name: &str| unbase64(jwk[name].as_str().unwrap());
    let key = [vec![4], point("x"), point("y")].concat();
    let signature = unbase64(jws["signature"].as_str().unwrap());
    ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, key)
        .verify(format!("{protected}.{payload}").as_bytes(), &signature)
        .expect("a good signature");
    let payload = unbase64(payload);
    let payload: Value = serde_json::from_slice(&payload).unwrap_or(Value::Null);
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let number = |at: usize| words[at].parse::<usize>().unwrap();
    match words[0] {
        "account" => {
            let mut all = state.lock().unwrap();
            all.accounts.push(jwk);
            let location = format!("{base}/account/{}", all.accounts.len() - 1);
            drop(all);
            answer(state, 201, Some(location), json!({"status": "valid"}))
        }
        "order" if words.len() == 1 => {
            let mut all = state.lock().unwrap();
            if all.refuses {
                drop(all);
                return problem(state, "rejectedIdentifier", "not today");
            }
            let domain = payload["identifiers"][0]["value"].as_str().unwrap().to_owned();
            let account = account.unwrap();
            all.orders.push(Order { domain, account, token: random(), state: "pending", error: None, chain: None });
            let number = all.orders.len() - 1;
            drop(all);
            answer(state, 201, Some(format!("{base}/order/{number}")), order(state, number))
        }
        "order" => answer(state, 200, None, order(state, number(1))),
        "authz" => answer(state, 200, None, authorization(state, number(1))),
        "challenge" => {
            let number = number(1);
            if !payload.is_null() {
                // As a CA does: the answer comes before it has looked.
                let (state, way) = (state.clone(), words[2].to_owned());
                tokio::spawn(async move {
                    let proved = prove(&state, number, &way).await;
                    let mut all = state.lock().unwrap();
                    match proved {
                        Ok(()) => all.orders[number].state = "ready",
                        Err(error) => (all.orders[number].state, all.orders[number].error) = ("invalid", Some(error)),
                    }
                });
            }
            let way = authorization(state, number)["challenges"]
                .as_array()
                .unwrap()
                .iter()
                .find(|one| one["type"] == words[2])
                .cloned();
            answer(state, 200, None, way.unwrap())
        }
        "finalize" => {
            let number = number(1);
            let csr = unbase64(payload["csr"].as_str().unwrap());
            let mut all = state.lock().unwrap();
            assert_eq!(all.orders[number].state, "ready");
            let mut csr = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
            let (before, after) = if all.lives.len() > 1 { all.lives.remove(0) } else { all.lives[0] };
            #[expect(clippy::disallowed_methods, reason = "a certificate is good from now on")]
            let now = SystemTime::now();
            csr.params.not_before = (now - before).into();
            csr.params.not_after = (now + after).into();
            let chain = csr.signed_by(&all.issuer).unwrap().pem();
            (all.orders[number].state, all.orders[number].chain) = ("valid", Some(chain));
            all.issued += 1;
            drop(all);
            answer(state, 200, Some(format!("{base}/order/{number}")), order(state, number))
        }
        "cert" => {
            let chain = state.lock().unwrap().orders[number(1)].chain.clone().unwrap();
            answer(state, 200, None, chain.into())
        }
        other => panic!("the client asked for {other}"),
    }
}

fn order(state: &Mutex<State>, number: usize) -> Value {
    let all = state.lock().unwrap();
    let (order, base) = (&all.orders[number], &all.base);
    let mut value = json!({
        "status": order.state,
        "identifiers": [{"type": "dns", "value": order.domain}],
        "authorizations": [format!("{base}/authz/{number}")],
        "finalize": format!("{base}/finalize/{number}"),
    });
    if order.chain.is_some() {
        value["certificate"] = format!("{base}/cert/{number}").into();
    }
    value
}

fn authorization(state: &Mutex<State>, number: usize) -> Value {
    let all = state.lock().unwrap();
    let order = &all.orders[number];
    let status = match order.state {
        "ready" | "valid" => "valid",
        other => other,
    };
    let challenge = |way: &&str| {
        let mut challenge = json!({"type": way, "url": format!("{}/challenge/{number}/{way}", all.base), "token": order.token, "status": status});
        if let Some(error) = &order.error {
            challenge["error"] = json!({"type": "urn:ietf:params:acme:error:unauthorized", "detail": error});
        }
        challenge
    };
    json!({
        "status": status,
        "identifier": {"type": "dns", "value": order.domain},
        "challenges": all.offers.iter().map(challenge).collect::<Vec<_>>(),
    })
}

/// Looks whether who asks has the domain.
async fn prove(state: &Mutex<State>, number: usize, way: &str) -> Result<(), String> {
    let (domain, token, key, world) = {
        let all = state.lock().unwrap();
        let order = &all.orders[number];
        let jwk = &all.accounts[order.account];
        // RFC 7638: the members in this order.
        let members = ["crv", "kty", "x", "y"].map(|name| format!("\"{name}\":{}", jwk[name]));
        let thumb = base64(&sha256(format!("{{{}}}", members.join(",")).as_bytes()));
        (order.domain.clone(), order.token.clone(), format!("{}.{thumb}", order.token), all.world.unwrap())
    };
    let looked = async {
        match way {
            "http-01" => over_http(world.0, &domain, &token, &key).await,
            _ => over_tls(world.1, &domain, &sha256(key.as_bytes())).await,
        }
    };
    tokio::time::timeout(Duration::from_secs(10), looked).await.map_err(|_| "no answer".to_owned())?
}

async fn over_http(at: SocketAddr, domain: &str, token: &str, key: &str) -> Result<(), String> {
    let mut stream = TcpStream::connect(at).await.map_err(|error| error.to_string())?;
    let request =
        format!("GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {domain}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
    let good = text.starts_with("HTTP/1.1 200") && text.ends_with(&format!("\r\n\r\n{key}"));
    if good {
        Ok(())
    } else {
        Err(format!("{domain} says something else: {}", text.lines().next().unwrap_or_default()))
    }
}

async fn over_tls(at: SocketAddr, domain: &str, digest: &[u8]) -> Result<(), String> {
    let mut config = any_certificate();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let stream = TcpStream::connect(at).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from(domain.to_owned()).unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let connection = stream.get_ref().1;
    if connection.alpn_protocol() != Some(b"acme-tls/1") {
        return Err("it does not speak acme-tls/1".to_owned());
    }
    let shown = connection.peer_certificates().and_then(|chain| chain.first()).ok_or("no certificate")?;
    // id-pe-acmeIdentifier, critical, and the digest in two octet strings.
    let oid = [6, 8, 0x2b, 6, 1, 5, 5, 7, 1, 0x1f, 1, 1, 0xff, 4, 0x22, 4, 0x20];
    let wanted = [&oid[..], digest].concat();
    let good = shown.windows(wanted.len()).any(|window| window == wanted);
    if good { Ok(()) } else { Err("its certificate says something else".to_owned()) }
}

/// A client that takes every certificate.
pub fn any_certificate() -> rustls::ClientConfig {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    #[derive(Debug)]
    struct Any;
    impl ServerCertVerifier for Any {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_no_client_auth()
}
