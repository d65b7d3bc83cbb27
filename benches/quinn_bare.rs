//! Bare quinn: how fast one QUIC stream carries bytes between two endpoints of this process on loopback, with the transport
//! settings of the product and nothing else on top. The bar for one big file is a share of this figure.
//!
//!     cargo bench --bench quinn_bare -- --bytes 4294967296
//!
//! Prints one line: `bytes=… seconds=… bytes_per_second=…`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use quinn::rustls;
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PIECE: usize = 1 << 20;

fn main() -> Result<(), Failure> {
    let mut bytes: u64 = 1 << 30;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--bytes" {
            bytes = words.next().ok_or("--bytes wants a number")?.parse()?;
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(carry(bytes))
}

async fn carry(bytes: u64) -> Result<(), Failure> {
    let server = quinn::Endpoint::server(server_config()?, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
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

    let mut client = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    client.set_default_client_config(client_config()?);
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

/// The settings that decide the speed; the same as the product's.
fn settings() -> Arc<quinn::TransportConfig> {
    let mut settings = quinn::TransportConfig::default();
    settings.stream_receive_window((16u32 << 20).into()).receive_window((32u32 << 20).into()).send_window(32 << 20);
    Arc::new(settings)
}

fn server_config() -> Result<quinn::ServerConfig, Failure> {
    let key = PrivatePkcs8KeyDer::from(KEY.to_vec());
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(CERTIFICATE.to_vec())], key.into())?;
    tls.alpn_protocols = vec![b"bare".to_vec()];
    let mut config =
        quinn::ServerConfig::with_crypto(Arc::new(quinn::crypto::rustls::QuicServerConfig::try_from(tls)?));
    config.transport_config(settings());
    Ok(config)
}

fn client_config() -> Result<quinn::ClientConfig, Failure> {
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"bare".to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(tls)?));
    config.transport_config(settings());
    Ok(config)
}

/// An Ed25519 key and its self-signed certificate, good for nothing but this.
const KEY: &[u8] = include_bytes!("quinn_bare/key.der");
const CERTIFICATE: &[u8] = include_bytes!("quinn_bare/certificate.der");

/// Both ends are this process: there is nobody to tell apart.
#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ED25519]
    }
}
