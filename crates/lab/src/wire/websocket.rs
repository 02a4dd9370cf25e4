//! WebSocket, as much of RFC 6455 as an echo needs: unfragmented and fragmented messages, ping, close; no extensions.

use base64::Engine;
use bytes::{Buf, BytesMut};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Failure, HttpConnection, ResponseHead, Target};

const LARGEST_MESSAGE: u64 = 1024 * 1024;
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a peer said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message (or a binary one; the lab does not tell them apart).
    Text(Vec<u8>),
    /// The peer closes, with this code (1005 when it gave none).
    Close(u16),
}

/// An open WebSocket over any byte stream.
#[derive(Debug)]
pub struct WebSocket<S> {
    stream: S,
    buffer: BytesMut,
    partial: Vec<u8>,
    /// Clients mask what they send; the next key.
    mask: Option<u32>,
}

/// The value of `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`.
pub fn accept_key(key: &str) -> String {
    let digest = Sha1::new().chain_update(key.trim()).chain_update(MAGIC).finalize();
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// Opens a WebSocket as a client.
///
/// # Errors
/// `connect …`, `status …` when the server does not switch protocols, and whatever else goes wrong.
pub async fn open(target: &Target, host: &str, path: &str) -> Result<(WebSocket<TcpStream>, ResponseHead), Failure> {
    let key = base64::engine::general_purpose::STANDARD.encode(b"handover-lab-key");
    let mut connection = HttpConnection::connect(target).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: handover-lab\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    );
    connection.send(request.as_bytes()).await?;
    let head = connection.receive_head().await?;
    if head.status != 101 {
        return Err(Failure::new(format!("status {}", head.status), "the server did not switch protocols"));
    }
    if head.header("sec-websocket-accept") != Some(accept_key(&key).as_str()) {
        return Err(Failure::new("websocket malformed", "Sec-WebSocket-Accept is wrong"));
    }
    let (stream, buffer) = connection.into_parts();
    let socket = WebSocket { stream, buffer, partial: Vec::new(), mask: Some(0x9e37_79b9) };
    Ok((socket, head))
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// The server's side, after the handshake.
    pub fn server(stream: S) -> Self {
        Self { stream, buffer: BytesMut::new(), partial: Vec::new(), mask: None }
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// `websocket …`.
    pub async fn send_text(&mut self, text: &[u8]) -> Result<(), Failure> {
        self.send_frame(0x1, text).await
    }

    /// Sends a close frame.
    ///
    /// # Errors
    /// `websocket …`.
    pub async fn send_close(&mut self, code: u16) -> Result<(), Failure> {
        self.send_frame(0x8, &code.to_be_bytes()).await
    }

    /// The next message; answers pings by itself. May be cancelled between messages without losing any.
    ///
    /// # Errors
    /// `websocket cut` when the stream ends without a close frame, `websocket …`.
    pub async fn receive(&mut self) -> Result<Message, Failure> {
        loop {
            let Some((last, opcode, payload)) = parse_frame(&mut self.buffer)? else {
                self.buffer.reserve(4096);
                let count = self.stream.read_buf(&mut self.buffer).await;
                if count.map_err(|error| Failure::from_io("websocket", &error))? == 0 {
                    return Err(Failure::new("websocket cut", "the connection was closed without a close frame"));
                }
                continue;
            };
            match opcode {
                0x0..=0x2 => {
                    self.partial.extend_from_slice(&payload);
                    if last {
                        return Ok(Message::Text(std::mem::take(&mut self.partial)));
                    }
                }
                0x8 => {
                    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    return Ok(Message::Close(code));
                }
                0x9 => self.send_frame(0xa, &payload).await?,
                _ => {}
            }
        }
    }

    async fn send_frame(&mut self, opcode: u8, payload: &[u8]) -> Result<(), Failure> {
        let mut frame = Vec::with_capacity(payload.len() + 14);
        frame.push(0x80 | opcode);
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
            (Ok(length), _) if length < 126 => frame.push(masked | length),
            (_, Ok(length)) => {
                frame.push(masked | 126);
                frame.extend_from_slice(&length.to_be_bytes());
            }
            _ => {
                frame.push(masked | 127);
                frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
            }
        }
        if let Some(mask) = &mut self.mask {
            *mask = mask.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
            let key = mask.to_be_bytes();
            frame.extend_from_slice(&key);
            frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        } else {
            frame.extend_from_slice(payload);
        }
        let sent = async {
            self.stream.write_all(&frame).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| Failure::from_io("websocket send", &error))
    }
}

/// Takes one frame off the buffer: whether it is a message's last, its opcode, its payload.
fn parse_frame(buffer: &mut BytesMut) -> Result<Option<(bool, u8, Vec<u8>)>, Failure> {
    let [first, second, ..] = buffer[..] else {
        return Ok(None);
    };
    let (length, mut at) = match second & 0x7f {
        126 => match buffer.get(2..4).and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => (u64::from(u16::from_be_bytes(bytes)), 4),
            None => return Ok(None),
        },
        127 => match buffer.get(2..10).and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => (u64::from_be_bytes(bytes), 10),
            None => return Ok(None),
        },
        length => (u64::from(length), 2),
    };
    if length > LARGEST_MESSAGE {
        return Err(Failure::new("websocket malformed", format!("a frame of {length} bytes")));
    }
    let mut key = [0; 4];
    if second & 0x80 != 0 {
        match buffer.get(at..at + 4) {
            Some(bytes) => key.copy_from_slice(bytes),
            None => return Ok(None),
        }
        at += 4;
    }
    let end = at + usize::try_from(length).unwrap_or(usize::MAX);
    let Some(payload) = buffer.get(at..end) else {
        return Ok(None);
    };
    let payload = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    buffer.advance(end);
    Ok(Some((first & 0x80 != 0, first & 0x0f, payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_the_one_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_masked_frame_is_read_however_it_arrives() {
        let frame = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let mut buffer = BytesMut::new();
        for byte in &frame[..frame.len() - 1] {
            buffer.extend_from_slice(&[*byte]);
            assert_eq!(parse_frame(&mut buffer), Ok(None));
        }
        buffer.extend_from_slice(&frame[frame.len() - 1..]);
        assert_eq!(parse_frame(&mut buffer), Ok(Some((true, 1, b"Hello".to_vec()))));
        assert!(buffer.is_empty());
    }
}
