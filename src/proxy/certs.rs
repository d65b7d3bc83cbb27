//! Certificates: checked when they are taken, found by name when a client asks, swapped while others are served.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::validity;
use crate::model::{Domain, Error, Kind, Result};

/// What RFC 8737 has the client say.
const ACME_TLS: &[u8] = b"acme-tls/1";

/// A chain and its key, of which it is known that they belong together and are good for a domain.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// Seconds since 1970.
    pub not_before: u64,
    pub not_after: u64,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({}..{})", self.not_before, self.not_after)
    }
}

impl Certificate {
    /// From PEM. The first certificate of the chain is the domain's own.
    pub fn new(domain: &Domain, chain: &[u8], key: &[u8]) -> Result<Certificate> {
        let bad = |what: &str| Error::usage(format!("the certificate for {domain} is refused: {what}"));
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| bad("it is not PEM").because(error))?;
        let Some(leaf) = chain.first() else {
            return Err(bad("there is none in its file").hint("it begins with -----BEGIN CERTIFICATE-----"));
        };
        let validity = validity::of(leaf).ok_or_else(|| bad("it cannot be read"))?;
        let parsed = ParsedCertificate::try_from(leaf).map_err(|error| bad("it cannot be read").because(error))?;
        let name = ServerName::try_from(domain.as_str().to_owned())
            .map_err(|error| bad("TLS cannot ask for this name").because(error))?;
        verify_server_name(&parsed, &name).map_err(|_| {
            bad("it is for other names").hint(format!("{domain} has to be among its subject alternative names"))
        })?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            bad("its key is not PEM")
                .because(error)
                .hint("an unencrypted key, which begins with -----BEGIN PRIVATE KEY-----")
        })?;
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider())
            .map_err(|error| bad("its key is of no use, or another certificate's").because(error))?;
        Ok(Certificate { key: Arc::new(key), not_before: validity.0, not_after: validity.1 })
    }

    /// Fails for one that is no longer good.
    pub fn check_time(&self, domain: &Domain, now: u64) -> Result<()> {
        if now > self.not_after {
            return Err(
                Error::usage(format!("the certificate for {domain} is refused: it has expired")).hint("get a new one")
            );
        }
        Ok(())
    }

    /// When two thirds of its life are over.
    pub fn renew_at(&self) -> u64 {
        self.not_before + self.not_after.saturating_sub(self.not_before) / 3 * 2
    }
}

/// Every certificate by its domain; and while a CA looks, the answers to its challenges.
#[derive(Debug, Default)]
pub struct Certificates {
    known: RwLock<HashMap<Box<str>, Certificate>>,
    /// Answers for TLS-ALPN-01, by domain.
    challenges: RwLock<HashMap<Box<str>, Arc<CertifiedKey>>>,
    /// Answers for HTTP-01, by token.
    tokens: RwLock<HashMap<Box<str>, String>>,
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Certificates {
    /// All of them, in place of those there were. Connections keep the one they have.
    pub fn set_all(&self, all: Vec<(Domain, Certificate)>) {
        *write(&self.known) = all.into_iter().map(|(domain, one)| (domain.as_str().into(), one)).collect();
    }

    pub fn set(&self, domain: &Domain, certificate: Certificate) {
        write(&self.known).insert(domain.as_str().into(), certificate);
    }

    pub fn remove(&self, domain: &Domain) {
        write(&self.known).remove(domain.as_str());
    }

    pub fn find(&self, domain: &str) -> Option<Certificate> {
        read(&self.known).get(domain).cloned()
    }

    /// The answer to what an ACME server asks over HTTP.
    pub fn token(&self, token: &str) -> Option<String> {
        read(&self.tokens).get(token).cloned()
    }

    /// Answers an ACME server over HTTP for as long as the result lives.
    pub fn answer_token(self: &Arc<Self>, token: &str, authorization: &str) -> Answering {
        write(&self.tokens).insert(token.into(), authorization.to_owned());
        Answering { all: self.clone(), token: Some(token.into()), domain: None }
    }

    /// Answers an ACME server over TLS for as long as the result lives.
    pub fn answer_tls(self: &Arc<Self>, domain: &Domain, chain: &[u8], key: &[u8]) -> Result<Answering> {
        let broken = || Error::new(Kind::Failed, format!("the answer to the challenge for {domain} cannot be made"));
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| broken().because(error))?;
        let chain = CertificateDer::from_pem_slice(chain).map_err(|error| broken().because(error))?;
        let provider = ring::default_provider();
        let signing = provider.key_provider.load_private_key(key).map_err(|error| broken().because(error))?;
        let answer = Arc::new(CertifiedKey::new(vec![chain], signing));
        write(&self.challenges).insert(domain.as_str().into(), answer);
        Ok(Answering { all: self.clone(), token: None, domain: Some(domain.as_str().into()) })
    }
}

/// An answer to a challenge that is given for as long as this lives.
#[derive(Debug)]
pub struct Answering {
    all: Arc<Certificates>,
    token: Option<Box<str>>,
    domain: Option<Box<str>>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(token) = &self.token {
            write(&self.all.tokens).remove(token);
        }
        if let Some(domain) = &self.domain {
            write(&self.all.challenges).remove(domain);
        }
    }
}

/// Finds certificates for rustls.
#[derive(Debug)]
struct Found(Arc<Certificates>);

impl ResolvesServerCert for Found {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = super::routes::host_name(hello.server_name()?)?;
        read(&self.0.known).get(&*name).map(|certificate| certificate.key.clone())
    }
}

#[derive(Debug)]
struct Challenged(Arc<Certificates>);

impl ResolvesServerCert for Challenged {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = super::routes::host_name(hello.server_name()?)?;
        read(&self.0.challenges).get(&*name).cloned()
    }
}

/// How TLS is ended here: for browsers, and for an ACME server that looks.
pub struct Ends {
    pub pages: Arc<ServerConfig>,
    pub challenges: Arc<ServerConfig>,
}

/// Newest first.
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

impl Ends {
    pub fn new(all: &Arc<Certificates>) -> Result<Ends> {
        let broken = |error: rustls::Error| Error::failed("TLS cannot be set up").because(error);
        let config = |resolver: Arc<dyn ResolvesServerCert>| {
            ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(VERSIONS)
                .map(|builder| builder.with_no_client_auth().with_cert_resolver(resolver))
        };
        let mut pages = config(Arc::new(Found(all.clone()))).map_err(broken)?;
        pages.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        pages.ticketer = ring::Ticketer::new().map_err(broken)?;
        let mut challenges = config(Arc::new(Challenged(all.clone()))).map_err(broken)?;
        challenges.alpn_protocols = vec![ACME_TLS.to_vec()];
        Ok(Ends { pages: Arc::new(pages), challenges: Arc::new(challenges) })
    }
}

/// Whether a client is an ACME server that looks.
pub fn is_challenge(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut names| names.next() == Some(ACME_TLS) && names.next().is_none())
}
