//! QUIC: who is who, dialling and listening, and a source of a sync that is far away.
//!
//! Both ends of every connection prove an Ed25519 key with a raw public key (RFC 7250) in the TLS 1.3 handshake: the
//! client takes no host but the one whose key it pinned, the host asks its [`Admit`] about the client's. What is said on
//! the streams is not known here, except for the link of a sync ([`source`]) and
//! the looks of a mount ([`look`]).

mod connection;
mod endpoint;
pub mod identity;
mod liveness;
pub mod look;
mod pays;
mod pipe;
pub mod source;
mod stream;
mod tls;

pub use connection::{Connection, Traffic};
pub use endpoint::{Listener, dial, local_addresses, resolve};
pub use identity::{Identity, PublicKey};
pub use pipe::Pipe;
pub use stream::{Receiver, Sender, Stream};
pub use tls::Admit;

/// Makes our crypto that of whatever in this process brings none of its own: the client of a bucket. Once is enough.
pub fn provide_crypto() {
    // Somebody else's is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
