//! One HTTP/1.1 connection, seen from the client.

use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};
use hyper::HeaderMap;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Failure, Target};

const MOST_HEADERS: usize = 100;
const LARGEST_HEAD: usize = 64 * 1024;
const READ_SIZE: usize = 32 * 1024;

/// A client's connection. One exchange at a time: send, [`receive_head`](Self::receive_head),
/// [`receive_body`](Self::receive_body).
#[derive(Debug)]
pub struct HttpConnection {
    stream: TcpStream,
    buffer: BytesMut,
    /// Whether a byte of the answer to the exchange under way has arrived.
    answered: bool,
}

/// Status line and headers of an answer.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status code.
    pub status: u16,
    /// Whether the connection may be used again after the body.
    pub keep_alive: bool,
    headers: Vec<(String, String)>,
    framing: Framing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Empty,
    Length(u64),
    Chunked,
    UntilClose,
}

impl ResponseHead {
    /// The head of an answer in a stream of HTTP/2, whose body has been read elsewhere.
    pub(super) fn of_stream(status: u16, headers: &HeaderMap) -> Self {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let headers = headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect();
        Self { status, keep_alive: true, headers, framing: Framing::Empty }
    }

    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl HttpConnection {
    /// Opens a connection.
    ///
    /// # Errors
    /// `connect …` or `resolve …`.
    pub async fn connect(target: &Target) -> Result<Self, Failure> {
        Ok(Self { stream: target.connect().await?, buffer: BytesMut::new(), answered: false })
    }

    /// Whether the idle connection is still good: a look at the socket itself, now, not at what the event loop last
    /// heard of it. Anything to read on an idle connection, its end included, makes it useless.
    pub fn is_still_open(&self) -> bool {
        let mut byte = [MaybeUninit::<u8>::uninit()];
        self.buffer.is_empty()
            && matches!(SockRef::from(&self.stream).peek(&mut byte),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Begins an exchange: forgets that the last one was answered.
    pub fn begin(&mut self) {
        self.answered = false;
    }

    /// Whether at least one byte of the answer has arrived.
    pub fn is_answered(&self) -> bool {
        self.answered
    }

    /// Sends bytes of a request.
    ///
    /// # Errors
    /// `send …`.
    pub async fn send(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(data).await.map_err(|error| Failure::from_io("send", &error))
    }

    /// Reads status line and headers, skipping interim answers (100, 103).
    ///
    /// # Errors
    /// `closed before response`, `response …`.
    pub async fn receive_head(&mut self) -> Result<ResponseHead, Failure> {
        loop {
            if let Some((length, head)) = parse_head(&self.buffer)? {
                self.buffer.advance(length);
                if head.status >= 200 || head.status == 101 {
                    return Ok(head);
                }
                continue;
            }
            if self.buffer.len() > LARGEST_HEAD {
                return Err(Failure::new("response malformed", "the headers do not end"));
            }
            if self.fill("response").await? == 0 {
                return Err(if self.answered {
                    Failure::new("response cut", "the connection was closed within the headers")
                } else {
                    Failure::new("closed before response", "the connection was closed before the answer")
                });
            }
        }
    }

    /// Reads the body, handing over each piece as it arrives, and returns its length.
    ///
    /// # Errors
    /// `body cut` when it ends too early, `body …`.
    pub async fn receive_body(&mut self, head: &ResponseHead, mut on_data: impl FnMut(&[u8])) -> Result<u64, Failure> {
        match head.framing {
            Framing::Empty => Ok(0),
            Framing::Length(length) => {
                self.receive_exactly(length, &mut on_data).await?;
                Ok(length)
            }
            Framing::Chunked => self.receive_chunks(&mut on_data).await,
            Framing::UntilClose => {
                let mut total = 0;
                loop {
                    on_data(&self.buffer);
                    total += self.buffer.len() as u64;
                    self.buffer.clear();
                    if self.fill("body").await? == 0 {
                        return Ok(total);
                    }
                }
            }
        }
    }

    /// Waits until the server has closed: the side that closes first keeps the port for a minute, so let it be the server.
    pub async fn wait_for_end(&mut self) {
        while let Ok(count) = self.fill("body").await {
            if count == 0 {
                return;
            }
            self.buffer.clear();
        }
    }

    /// The socket and what was read from it but not used, for another protocol to go on with.
    pub fn into_parts(self) -> (TcpStream, BytesMut) {
        (self.stream, self.buffer)
    }

    async fn receive_exactly(&mut self, length: u64, on_data: &mut impl FnMut(&[u8])) -> Result<(), Failure> {
        let mut left = length;
        loop {
            let here = usize::try_from(left).map_or(self.buffer.len(), |left| left.min(self.buffer.len()));
            on_data(&self.buffer[..here]);
            self.buffer.advance(here);
            left -= here as u64;
            if left == 0 {
                return Ok(());
            }
            if self.fill("body").await? == 0 {
                return Err(Failure::new("body cut", format!("{left} of {length} bytes were missing")));
            }
        }
    }

    async fn receive_chunks(&mut self, on_data: &mut impl FnMut(&[u8])) -> Result<u64, Failure> {
        let mut total = 0;
        loop {
            let line = self.receive_line().await?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let length = u64::from_str_radix(digits, 16)
                .map_err(|_| Failure::new("body malformed", format!("{line:?} is no chunk length")))?;
            if length == 0 {
                while !self.receive_line().await?.is_empty() {}
                return Ok(total);
            }
            self.receive_exactly(length, on_data).await?;
            total += length;
            if !self.receive_line().await?.is_empty() {
                return Err(Failure::new("body malformed", "a chunk is longer than it says"));
            }
        }
    }

    async fn receive_line(&mut self) -> Result<String, Failure> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.advance(end + 2);
                return Ok(line);
            }
            if self.fill("body").await? == 0 {
                return Err(Failure::new("body cut", "the connection was closed before the last chunk"));
            }
        }
    }

    async fn fill(&mut self, stage: &str) -> Result<usize, Failure> {
        self.buffer.reserve(READ_SIZE);
        let count = self.stream.read_buf(&mut self.buffer).await;
        let count = count.map_err(|error| match self.answered {
            false => Failure::before_response(&error),
            true => Failure::from_io(stage, &error),
        })?;
        self.answered |= count > 0;
        Ok(count)
    }
}

fn parse_head(data: &[u8]) -> Result<Option<(usize, ResponseHead)>, Failure> {
    let malformed = |what: String| Failure::new("response malformed", what);
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(data) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(malformed(error.to_string())),
    };
    let status = response.code.unwrap_or_default();
    let headers: Vec<(String, String)> = response
        .headers
        .iter()
        .map(|header| {
            let value = String::from_utf8_lossy(header.value).into_owned();
            (header.name.to_owned(), value)
        })
        .collect();
    let mut head =
        ResponseHead { status, keep_alive: response.version == Some(1), headers, framing: Framing::UntilClose };
    head.framing = if status < 200 || status == 204 || status == 304 {
        Framing::Empty
    } else if head.header("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked")) {
        Framing::Chunked
    } else if let Some(value) = head.header("content-length") {
        let length = value.trim().parse();
        Framing::Length(length.map_err(|_| malformed(format!("content-length {value:?}")))?)
    } else {
        Framing::UntilClose
    };
    if let Some(connection) = head.header("connection") {
        let connection = connection.to_ascii_lowercase();
        head.keep_alive = connection.contains("keep-alive") || (head.keep_alive && !connection.contains("close"));
    }
    head.keep_alive &= head.framing != Framing::UntilClose;
    Ok(Some((length, head)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn head(text: &str) -> ResponseHead {
        parse_head(text.as_bytes()).expect("well-formed").expect("complete").1
    }

    #[test]
    fn the_framing_follows_the_headers() {
        let answer = head("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!((answer.framing, answer.keep_alive), (Framing::Length(3), true));
        let answer = head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
        assert_eq!((answer.framing, answer.keep_alive), (Framing::Chunked, false));
        let answer = head("HTTP/1.0 200 OK\r\n\r\n");
        assert_eq!((answer.framing, answer.keep_alive), (Framing::UntilClose, false));
        assert_eq!(head("HTTP/1.1 204 No\r\n\r\n").framing, Framing::Empty);
    }

    #[test]
    fn half_a_head_is_not_an_answer_yet() {
        assert!(parse_head(b"HTTP/1.1 200 OK\r\nConte").expect("well-formed").is_none());
        assert!(parse_head(b"+PONG\r\n").is_err());
    }
}
