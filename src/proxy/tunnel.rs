//! Bytes both ways between two streams, until both have ended or are to end: WebSockets and other upgrades, and TLS passed through.

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

use super::gate::Passed;

/// A buffer for each direction.
const BUFFER_BYTES: usize = 16 << 10;

pub async fn run(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut upstream: impl AsyncRead + AsyncWrite + Unpin,
    mut passed: Passed,
) {
    passed.becomes_stream();
    let cut = passed.cut();
    tokio::select! {
        _ = copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER_BYTES, BUFFER_BYTES) => {}
        () = cut => {}
    }
}
