//! The handshake: TLS 1.3, raw Ed25519 public keys both ways, no resumption (a key revoked is a key refused), and the
//! protocol's version as ALPN.

use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring as provider, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};

use super::identity::{Identity, PublicKey};
use crate::model::{Error, Result};
use crate::wire::VERSION;

/// Who may come in. Asked in every handshake, so it has to be quick.
pub trait Admit: Send + Sync {
    fn admits(&self, key: &PublicKey) -> bool;
}

/// Versions that this host can tell apart, so that a client of another one is told rather than dropped.
const NAMED_VERSIONS: u32 = 64;

pub fn alpn(version: u32) -> Vec<u8> {
    format!("mcloud/{version}").into_bytes()
}

/// AES-128 first: with it a core moves a fifth more bytes than with AES-256, and no known attack tells them apart.
fn crypto() -> Arc<CryptoProvider> {
    let mut crypto = provider::default_provider();
    crypto.cipher_suites = vec![
        provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
        provider::cipher_suite::TLS13_AES_256_GCM_SHA384,
        provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(crypto)
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>> {
    let key = provider::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(identity.pkcs8()))
        .map_err(|error| Error::failed("the key of this side cannot be used").because(error))?;
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(identity.public().spki())], key)))
}

fn unusable(error: rustls::Error) -> Error {
    Error::failed("TLS cannot be set up").because(error)
}

pub fn server(identity: &Identity, admit: Arc<dyn Admit>) -> Result<rustls::ServerConfig> {
    let crypto = crypto();
    let verifier = Arc::new(ClientKeys { admit, algorithms: crypto.signature_verification_algorithms });
    let mut config = rustls::ServerConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(certified(identity)?)));
    config.alpn_protocols = (VERSION..=NAMED_VERSIONS).map(alpn).collect();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

/// The client's side, and where the key that the host showed is noted.
pub fn client(identity: &Identity, host: PublicKey, version: u32) -> Result<(rustls::ClientConfig, Shown)> {
    let crypto = crypto();
    let shown = Shown::default();
    let verifier = Arc::new(HostKey {
        expected: host,
        shown: shown.clone(),
        algorithms: crypto.signature_verification_algorithms,
    });
    let mut config = rustls::ClientConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(rustls::client::AlwaysResolvesClientRawPublicKeys::new(certified(
            identity,
        )?)));
    config.alpn_protocols = vec![alpn(version)];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok((config, shown))
}

/// The key that a host showed in the handshake, be it the right one or not.
pub type Shown = Arc<Mutex<Option<PublicKey>>>;

fn not_this_key() -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

fn verify(
    message: &[u8],
    cert: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(cert.as_ref()), signed, algorithms)
}

fn no_tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken here".to_owned())
}

#[derive(Debug)]
struct HostKey {
    expected: PublicKey,
    shown: Shown,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for HostKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let key = PublicKey::from_spki(end_entity.as_ref());
        if let Ok(mut shown) = self.shown.lock() {
            *shown = key;
        }
        if key == Some(self.expected) { Ok(ServerCertVerified::assertion()) } else { Err(not_this_key()) }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

struct ClientKeys {
    admit: Arc<dyn Admit>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl std::fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientKeys")
    }
}

impl ClientCertVerifier for ClientKeys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match PublicKey::from_spki(end_entity.as_ref()) {
            Some(key) if self.admit.admits(&key) => Ok(ClientCertVerified::assertion()),
            _ => Err(not_this_key()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
