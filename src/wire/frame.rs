//! Frames: `u32` length of the header, `u32` length of the payload (both little endian), the header (one protobuf
//! message), the payload (raw bytes that protobuf never touches).

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::nonsense;
use crate::model::{Error, Result};

/// Bytes before the header.
pub const PREFIX: usize = 8;

/// The longest header and payload that are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub header: usize,
    pub payload: usize,
}

impl Limits {
    /// Requests and answers.
    pub const CONTROL: Limits = Limits { header: 8 << 20, payload: 0 };
    /// The conversation of a sync.
    pub const LINK: Limits = Limits { header: 32 << 20, payload: 64 << 20 };
}

/// The lengths that a prefix tells.
pub fn lengths(prefix: [u8; PREFIX], limits: Limits) -> Result<(usize, usize)> {
    let [a, b, c, d, e, f, g, h] = prefix;
    let (header, payload) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize);
    if header > limits.header {
        return Err(nonsense(format!("a header of {header} bytes, {} is the most", limits.header)));
    }
    if payload > limits.payload {
        return Err(nonsense(format!("a payload of {payload} bytes, {} is the most", limits.payload)));
    }
    Ok((header, payload))
}

/// Prefix and header of a frame; its payload of `payload_len` bytes follows on the wire.
pub fn head(message: &impl Message, payload_len: usize, limits: Limits) -> Result<Bytes> {
    let header_len = message.encoded_len();
    let too_long = |what: &str, len: usize, most: usize| {
        Error::failed(format!("a message does not fit on the wire: its {what} has {len} bytes, {most} is the most"))
    };
    if header_len > limits.header {
        return Err(too_long("header", header_len, limits.header));
    }
    if payload_len > limits.payload {
        return Err(too_long("payload", payload_len, limits.payload));
    }
    let mut head = BytesMut::with_capacity(PREFIX + header_len);
    head.put_u32_le(header_len as u32);
    head.put_u32_le(payload_len as u32);
    message.encode_raw(&mut head);
    Ok(head.freeze())
}

/// A header as its message.
pub fn message<M: Message + Default>(header: Bytes) -> Result<M> {
    M::decode(header).map_err(|error| nonsense("a header that is no message of this protocol").because(error))
}

/// Frames out of bytes as they come, for whoever has them in memory.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    buffer: BytesMut,
}

impl Decoder {
    pub fn new(limits: Limits) -> Decoder {
        Decoder { limits, buffer: BytesMut::new() }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame: header and payload.
    pub fn next_frame(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else { return Ok(None) };
        let (header, payload) = lengths(*prefix, self.limits)?;
        if self.buffer.len() < PREFIX + header + payload {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(PREFIX + header + payload).freeze();
        let payload = frame.split_off(PREFIX + header);
        Ok(Some((frame.split_off(PREFIX), payload)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::proto;

    const SMALL: Limits = Limits { header: 1000, payload: 500 };

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            notes in prop::collection::vec((".{0,40}", prop::collection::vec(any::<u8>(), 0..100)), 0..8),
            cut in 1usize..40,
        ) {
            let mut bytes = Vec::new();
            for (note, payload) in &notes {
                let message = proto::LeftOut { path: Bytes::new(), reason: note.clone() };
                bytes.extend_from_slice(&head(&message, payload.len(), SMALL).unwrap());
                bytes.extend_from_slice(payload);
            }
            let mut decoder = Decoder::new(SMALL);
            let mut back = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                while let Some((header, payload)) = decoder.next_frame().unwrap() {
                    back.push((message::<proto::LeftOut>(header).unwrap().reason, payload.to_vec()));
                }
            }
            prop_assert_eq!(back, notes);
        }

        #[test]
        fn any_bytes_are_frames_or_an_error_and_never_more_than_was_pushed(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = Decoder::new(SMALL);
            decoder.push(&bytes);
            let mut total = 0;
            while let Ok(Some((header, payload))) = decoder.next_frame() {
                total += PREFIX + header.len() + payload.len();
                let _ = message::<proto::Request>(header.clone());
                let _ = message::<proto::Tell>(header);
            }
            prop_assert!(total <= bytes.len());
        }
    }

    #[test]
    fn a_length_beyond_its_limit_is_refused_on_both_sides() {
        let long = proto::LeftOut { path: Bytes::new(), reason: "x".repeat(2000) };
        assert!(head(&long, 0, SMALL).is_err());
        assert!(head(&proto::LeftOut::default(), 501, SMALL).is_err());
        let error = lengths([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], SMALL).unwrap_err();
        assert!(error.message.contains("4294967295"), "{error}");
        assert!(lengths([0, 0, 0, 0, 0xf5, 1, 0, 0], SMALL).is_err());
        assert_eq!(lengths([1, 0, 0, 0, 0xf4, 1, 0, 0], SMALL).unwrap(), (1, 500));
    }
}
