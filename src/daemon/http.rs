//! The admin's listener: `/healthz` and `/metrics`. Small on purpose: it answers when all else is busy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::model::{Error, Result};

/// The longest request head that is read.
const HEAD_BYTES: usize = 16 << 10;
/// A whole exchange takes no longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Exchanges at once, for each listener.
const AT_ONCE: usize = 256;

/// A status line's number and text, and a body of plain text.
pub type Answer = (u16, &'static str, String);

pub async fn bind(what: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        Error::io(format!("cannot listen at {address} for {what}"), error)
            .hint(format!("another --{what} ADDR:PORT, or :0 for a free port"))
    })
}

/// Answers each request on `listener` with what `answer` says to its path.
pub async fn serve(listener: TcpListener, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) {
    let (answer, room) = (Arc::new(answer), Arc::new(Semaphore::new(AT_ONCE)));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(PATIENCE, exchange(stream, &*answer)).await;
                    drop(permit);
                });
            }
            // Out of descriptors, most likely: others have to end first.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn exchange(mut stream: TcpStream, answer: &(dyn Fn(&str) -> Answer + Send + Sync)) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    let end = loop {
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if head.len() > HEAD_BYTES || stream.read_buf(&mut head).await? == 0 {
            return respond(&mut stream, (400, "Bad Request", "the request makes no sense\n".to_owned()), true).await;
        }
    };
    let line = head[..end].split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line).into_owned();
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        [method, target, version] if version.starts_with("HTTP/1.") => {
            let path = target.split('?').next().unwrap_or_default();
            respond(&mut stream, answer(path), method != "HEAD").await
        }
        _ => respond(&mut stream, (400, "Bad Request", "the request makes no sense\n".to_owned()), true).await,
    }
}

async fn respond(stream: &mut TcpStream, (status, reason, body): Answer, with_body: bool) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if with_body {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_request_is_answered_and_nonsense_is_refused() {
        let listener = bind("http", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, |path| (404, "Not Found", format!("nothing at {path}\n"))));
        let answer = ask(address, "GET /x?y HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(
            answer.starts_with("HTTP/1.1 404 Not Found\r\n") && answer.ends_with("\r\n\r\nnothing at /x\n"),
            "{answer}"
        );
        assert!(ask(address, "HEAD / HTTP/1.1\r\n\r\n").await.ends_with("\r\n\r\n"));
        assert!(ask(address, "nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    }
}
