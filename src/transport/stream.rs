//! A stream of frames, each way.

use bytes::{Bytes, BytesMut};
use prost::Message;
use quinn::ReadExactError;
use tokio::io::AsyncReadExt;

use super::connection::Connection;
use crate::model::Result;
use crate::wire::frame::{self, Limits, PREFIX};
use crate::wire::nonsense;

/// Both directions of one stream.
#[derive(Debug)]
pub struct Stream {
    pub sender: Sender,
    pub receiver: Receiver,
}

impl Stream {
    pub(super) fn new(connection: Connection, send: quinn::SendStream, recv: quinn::RecvStream) -> Stream {
        Stream {
            sender: Sender { send, connection: connection.clone(), finished: false },
            receiver: Receiver { recv, connection },
        }
    }

    pub fn connection(&self) -> &Connection {
        &self.sender.connection
    }

    pub async fn send(&mut self, message: &impl Message) -> Result<()> {
        self.sender.send(message).await
    }

    pub async fn receive<M: Message + Default>(&mut self) -> Result<Option<M>> {
        self.receiver.receive().await
    }
}

/// The direction away from here. Dropped without [`Sender::finish`] it breaks the stream off.
#[derive(Debug)]
pub struct Sender {
    send: quinn::SendStream,
    connection: Connection,
    finished: bool,
}

impl Sender {
    /// Sends a message without payload.
    pub async fn send(&mut self, message: &impl Message) -> Result<()> {
        let head = frame::head(message, 0, Limits::CONTROL)?;
        self.write(&mut [head]).await
    }

    /// Sends a message of a sync's conversation; the payload is not copied.
    pub async fn send_link(&mut self, message: &impl Message, payload: Vec<Bytes>) -> Result<()> {
        let payload_len = payload.iter().map(Bytes::len).sum();
        let mut pieces = Vec::with_capacity(1 + payload.len());
        pieces.push(frame::head(message, payload_len, Limits::LINK)?);
        pieces.extend(payload.into_iter().filter(|piece| !piece.is_empty()));
        self.write(&mut pieces).await
    }

    async fn write(&mut self, pieces: &mut [Bytes]) -> Result<()> {
        self.send.write_all_chunks(pieces).await.map_err(|error| self.connection.broke(error))
    }

    pub(super) fn quic(&mut self) -> &mut quinn::SendStream {
        &mut self.send
    }

    /// Nothing more will be sent.
    pub fn finish(&mut self) {
        // The only failure is a stream that is closed already.
        let _ = self.send.finish();
        self.finished = true;
    }

    /// Waits until the other end has got everything, or does not want it any more.
    pub async fn delivered(&mut self) {
        let _ = self.send.stopped().await;
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // QUIC would finish a stream that is dropped, and what is half said would look whole at the other end.
        if !self.finished {
            let _ = self.send.reset(quinn::VarInt::from_u32(1));
        }
    }
}

/// The direction that comes here.
#[derive(Debug)]
pub struct Receiver {
    recv: quinn::RecvStream,
    connection: Connection,
}

impl Receiver {
    /// The next message, which has no payload; `None` when the other end has finished.
    pub async fn receive<M: Message + Default>(&mut self) -> Result<Option<M>> {
        match self.frame(Limits::CONTROL).await? {
            Some((header, _)) => frame::message(header).map(Some),
            None => Ok(None),
        }
    }

    /// The next message of a sync's conversation with its payload, which is one piece of memory.
    pub async fn receive_link<M: Message + Default>(&mut self) -> Result<Option<(M, Bytes)>> {
        match self.frame(Limits::LINK).await? {
            Some((header, payload)) => Ok(Some((frame::message(header)?, payload))),
            None => Ok(None),
        }
    }

    async fn frame(&mut self, limits: Limits) -> Result<Option<(Bytes, Bytes)>> {
        let mut prefix = [0; PREFIX];
        match self.recv.read_exact(&mut prefix).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
            Err(ReadExactError::FinishedEarly(len)) => {
                return Err(nonsense(format!("a frame that ends after {len} bytes")));
            }
            Err(ReadExactError::ReadError(error)) => return Err(self.connection.broke(error)),
        }
        let (header_len, payload_len) = frame::lengths(prefix, limits)?;
        Ok(Some((self.bytes(header_len).await?, self.bytes(payload_len).await?)))
    }

    /// Reads into memory that is not cleared before.
    async fn bytes(&mut self, len: usize) -> Result<Bytes> {
        let mut bytes = BytesMut::with_capacity(len);
        while bytes.len() < len {
            let wanted = (len - bytes.len()) as u64;
            match (&mut self.recv).take(wanted).read_buf(&mut bytes).await {
                Ok(0) => return Err(nonsense(format!("{} bytes where {len} were said", bytes.len()))),
                Ok(_) => {}
                Err(error) => return Err(self.connection.broke(error)),
            }
        }
        Ok(bytes.freeze())
    }

    pub(super) fn quic(&mut self) -> &mut quinn::RecvStream {
        &mut self.recv
    }

    /// Tells the other end that nothing more is wanted.
    pub fn stop(&mut self) {
        let _ = self.recv.stop(quinn::VarInt::from_u32(1));
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}
