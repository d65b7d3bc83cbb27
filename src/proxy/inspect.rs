//! What comes over an HTTP/1 connection, looked at before it is parsed: where each request ends must not be a matter of opinion.
//!
//! The parser behind this is lenient where RFC 9112 lets it be: of a `Content-Length` beside a `Transfer-Encoding` it takes
//! away one, and two equal lengths it makes one. Here such a request is refused, since whoever sends it hopes that two
//! readers disagree. Sans-IO: it is shown all bytes in their order.

use std::io::BufRead;

/// The longest line that says how long a chunk is.
const CHUNK_LINE_BYTES: usize = 1024;
/// Digits of a chunk's length.
const CHUNK_DIGITS: usize = 15;

#[derive(Debug, Default)]
pub struct Inspector {
    at: At,
    /// A line that has not ended yet.
    line: Vec<u8>,
    head: Head,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum At {
    /// Before or in the head of a request.
    #[default]
    Head,
    /// So many bytes of a body are to come.
    Body(u64),
    ChunkLine,
    /// So many bytes of a chunk and its line's end are to come.
    Chunk(u64),
    Trailers,
    /// The connection may speak another protocol by now.
    Elsewhere,
}

#[derive(Debug, Default)]
struct Head {
    has_begun: bool,
    hosts: usize,
    lengths: usize,
    length: u64,
    codings: usize,
    is_chunked: bool,
    wants_upgrade: bool,
}

/// A request that is refused: it begins so many bytes into what was shown last.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub usize);

impl Inspector {
    pub fn look(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        // Where the head that is being read begins, as far as it is in these bytes.
        let mut began = 0;
        let mut seen = 0;
        while seen < bytes.len() {
            let rest = &bytes[seen..];
            match &mut self.at {
                At::Elsewhere => return Ok(()),
                At::Body(left) | At::Chunk(left) => {
                    let take = (*left).min(rest.len() as u64);
                    *left -= take;
                    seen += usize::try_from(take).unwrap_or(rest.len());
                    if *left == 0 {
                        self.at = if matches!(self.at, At::Body(_)) { At::Head } else { At::ChunkLine };
                        began = seen;
                    }
                }
                At::Head | At::ChunkLine | At::Trailers => {
                    let mut behind = rest;
                    let len = behind.skip_until(b'\n').unwrap_or(rest.len());
                    seen += len;
                    if rest[len - 1] != b'\n' {
                        self.line.extend_from_slice(rest);
                        let most = if self.at == At::ChunkLine { CHUNK_LINE_BYTES } else { usize::MAX };
                        return if self.line.len() > most { Err(Refused(began)) } else { Ok(()) };
                    }
                    let good = match self.line.is_empty() {
                        true => self.line(&rest[..len]),
                        false => {
                            let mut line = std::mem::take(&mut self.line);
                            line.extend_from_slice(&rest[..len]);
                            let good = self.line(&line);
                            line.clear();
                            self.line = line;
                            good
                        }
                    };
                    if !good {
                        return Err(Refused(began));
                    }
                    if self.at == At::Head && !self.head.has_begun {
                        began = seen;
                    }
                }
            }
        }
        Ok(())
    }

    /// A whole line. Whether it is good.
    fn line(&mut self, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.at {
            At::ChunkLine => return self.chunk(line),
            At::Trailers if line.is_empty() => self.at = At::Head,
            At::Trailers => {}
            _ if line.is_empty() && self.head.has_begun => {
                let head = std::mem::take(&mut self.head);
                let is_plain = head.hosts <= 1 && head.lengths <= 1 && head.codings <= 1;
                if !is_plain || (head.codings == 1 && (head.lengths > 0 || !head.is_chunked)) {
                    return false;
                }
                self.at = match (head.wants_upgrade, head.codings, head.length) {
                    (true, ..) => At::Elsewhere,
                    (false, 1, _) => At::ChunkLine,
                    (false, _, 0) => At::Head,
                    (false, _, length) => At::Body(length),
                };
            }
            // Empty lines between requests mean nothing.
            _ if line.is_empty() => {}
            _ if !self.head.has_begun => self.head.has_begun = true,
            _ => return self.field(line),
        }
        true
    }

    fn field(&mut self, line: &[u8]) -> bool {
        // A field that goes on in the next line (obs-fold), and one whose name ends with a blank.
        if line[0] == b' ' || line[0] == b'\t' {
            return false;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.last().is_none_or(u8::is_ascii_whitespace) {
            return false;
        }
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            4 if is("host") => self.head.hosts += 1,
            7 if is("upgrade") => self.head.wants_upgrade = true,
            14 if is("content-length") => {
                self.head.lengths += 1;
                let digits = value.len() <= 18 && !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|value| value.parse().ok());
                let Some(length) = number else { return false };
                self.head.length = length;
            }
            17 if is("transfer-encoding") => {
                self.head.codings += 1;
                self.head.is_chunked = value.eq_ignore_ascii_case(b"chunked");
            }
            _ => {}
        }
        true
    }

    fn chunk(&mut self, line: &[u8]) -> bool {
        let digits = line.iter().position(|byte| *byte == b';').map_or(line, |at| &line[..at]).trim_ascii_end();
        let is_number = !digits.is_empty() && digits.len() <= CHUNK_DIGITS && digits.iter().all(u8::is_ascii_hexdigit);
        let length = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        match length.filter(|_| is_number && line.len() <= CHUNK_LINE_BYTES) {
            Some(0) => self.at = At::Trailers,
            // With the end of its line.
            Some(length) => self.at = At::Chunk(length + 2),
            None => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &[u8] = b"\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /\
        POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n5;x=y\r\n0\r\n\r\n\r\n0\r\nSum: 1\r\n\r\n\
        GET /d HTTP/1.1\nHost: a\n\n";

    fn refused(bytes: &[u8]) -> Option<usize> {
        Inspector::default().look(bytes).err().map(|refused| refused.0)
    }

    #[test]
    fn what_is_plain_goes_through() {
        assert_eq!(refused(GOOD), None);
        assert_eq!(refused(b"GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n\xff\0anything: \n \n"), None);
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused_where_it_begins() {
        for lines in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: 0x5",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding : chunked",
            "Content-Length : 5",
            "X: a\r\n folded",
            "no colon",
            ": no name",
            "Host: b",
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
            assert_eq!(refused(head.as_bytes()), Some(0), "{lines}");
            let behind = [GOOD, head.as_bytes()].concat();
            assert_eq!(refused(&behind), Some(GOOD.len()), "{lines}");
        }
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for chunk in ["", "g\r\n", "-1\r\n", "0x5\r\n", "1000000000000000\r\n", " 5\r\n"] {
            let text = format!("{chunked}{chunk}\r\n");
            assert!(refused(text.as_bytes()).is_some(), "{chunk:?}");
        }
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_is_the_same(cuts in proptest::collection::vec(1..40usize, 1..60), bad in any::<bool>()) {
            let tail: &[u8] = if bad { b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n" } else { b"GET / HTTP/1.1\r\n\r\n" };
            let all = [GOOD, tail].concat();
            let (mut inspector, mut rest, mut result) = (Inspector::default(), &all[..], Ok(()));
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                result = inspector.look(now);
                rest = later;
                if rest.is_empty() || result.is_err() {
                    break;
                }
            }
            prop_assert_eq!(result.is_err(), bad);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut inspector = Inspector::default();
            let _ = inspector.look(&bytes);
            let _ = inspector.look(&bytes);
        }
    }
}
