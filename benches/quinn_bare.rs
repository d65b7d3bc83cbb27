//! Bare quinn: how fast one QUIC stream carries bytes between two endpoints of this process on loopback, with the transport
//! settings of the product and nothing else on top. The bar for one big file is a share of this figure.
//!
//!     cargo bench --bench quinn_bare -- --bytes 4294967296
//!
//! Prints one line: `bytes=… seconds=… bytes_per_second=…`.

#![allow(clippy::print_stdout)]

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use ::ring::rand::SystemRandom;
use ::ring::signature::{Ed25519KeyPair, KeyPair};
use quinn::{EndpointConfig, TokioRuntime, rustls};
use rustix::net::sockopt;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PIECE: usize = 1 << 20;
/// The largest datagram, as the product's.
const DATAGRAM: u16 = 4400;

fn main() -> Result<(), Failure> {
    let mut bytes: u64 = 1 << 30;
    let mut datagram = DATAGRAM;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--bytes" {
            bytes = words.next().ok_or("--bytes wants a number")?.parse()?;
        }
        // As quinn comes: datagrams as for the Internet.
        if word == "--defaults" {
            datagram = 1452;
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(carry(bytes, datagram))
}

async fn carry(bytes: u64, datagram: u16) -> Result<(), Failure> {
    let (mut any, runtime) = (EndpointConfig::default(), Arc::new(TokioRuntime));
    any.max_udp_payload_size(datagram.max(1472))?;
    let server = quinn::Endpoint::new(any.clone(), Some(server_config(datagram)?), socket()?, runtime.clone())?;
    let address = server.local_addr()?;
    let received = tokio::spawn(async move {
        let connection = server.accept().await.ok_or("no connection")?.await?;
        let mut stream = connection.accept_uni().await?;
        let mut total = 0u64;
        while let Some(chunk) = stream.read_chunk(PIECE, true).await? {
            total += chunk.bytes.len() as u64;
        }
        connection.close(0u32.into(), b"");
        server.wait_idle().await;
        Ok::<u64, Failure>(total)
    });

    let mut client = quinn::Endpoint::new(any, None, socket()?, runtime)?;
    client.set_default_client_config(client_config(datagram)?);
    let connection = client.connect(address, "localhost")?.await?;
    let mut stream = connection.open_uni().await?;
    let piece = bytes::Bytes::from(vec![0x5a; PIECE]);
    let began = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let next = piece.slice(..PIECE.min(usize::try_from(left).unwrap_or(PIECE)));
        left -= next.len() as u64;
        stream.write_chunk(next).await?;
    }
    stream.finish()?;
    connection.closed().await;
    let seconds = began.elapsed().as_secs_f64();
    let total = received.await??;
    if total != bytes {
        return Err(format!("{total} bytes came of {bytes}").into());
    }
    println!("bytes={bytes} seconds={seconds:.3} bytes_per_second={:.0}", bytes as f64 / seconds);
    Ok(())
}

/// The settings that decide the speed; the same as the product's (`transport::endpoint`, `transport::tls`).
fn settings(datagram: u16) -> Arc<quinn::TransportConfig> {
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(datagram);
    let mut settings = quinn::TransportConfig::default();
    settings
        .mtu_discovery_config(Some(discovery))
        .stream_receive_window((16u32 << 20).into())
        .receive_window((64u32 << 20).into())
        .send_window(16 << 20)
        .datagram_receive_buffer_size(None);
    Arc::new(settings)
}

fn socket() -> Result<UdpSocket, Failure> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    if sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, 8 << 20)?;
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, 8 << 20).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, 8 << 20)?;
    }
    Ok(socket)
}

fn crypto() -> Arc<CryptoProvider> {
    let mut crypto = ring::default_provider();
    crypto.cipher_suites = vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(crypto)
}

fn server_config(datagram: u16) -> Result<quinn::ServerConfig, Failure> {
    let mut tls = rustls::ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(fresh_key()?)));
    tls.alpn_protocols = vec![b"bare".to_vec()];
    let mut config =
        quinn::ServerConfig::with_crypto(Arc::new(quinn::crypto::rustls::QuicServerConfig::try_from(tls)?));
    config.transport_config(settings(datagram));
    Ok(config)
}

fn client_config(datagram: u16) -> Result<quinn::ClientConfig, Failure> {
    let mut tls = rustls::ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"bare".to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(tls)?));
    config.transport_config(settings(datagram));
    Ok(config)
}

/// An Ed25519 key of this run, shown as a raw public key (RFC 7250, RFC 8410).
fn fresh_key() -> Result<Arc<CertifiedKey>, Failure> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| "no key")?;
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|_| "no key")?;
    let mut public = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    public.extend_from_slice(pair.public_key().as_ref());
    let key = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(document.as_ref().to_vec()))?;
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], key)))
}

/// Both ends are this process: there is nobody to tell apart.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
