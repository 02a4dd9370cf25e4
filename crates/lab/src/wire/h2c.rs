//! HTTP/2 with prior knowledge (h2c), seen from the client: many exchanges at once over one connection, as gRPC does it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;
use hyper::Request;
use tokio::sync::Mutex;

use super::exchange::KEPT_OF_BODY;
use super::{Answer, Failure, ResponseHead, Target};

/// A fixed number of connections to one target, used in turn.
#[derive(Debug)]
pub struct H2cPool {
    target: Target,
    connections: Vec<Mutex<Option<SendRequest<Bytes>>>>,
    replaced: AtomicU64,
}

/// Why a stream has no answer.
struct StreamFailure {
    failure: Failure,
    /// The server has said that it did not look at the request: a GOAWAY for earlier streams, or REFUSED_STREAM.
    unprocessed: bool,
}

impl H2cPool {
    /// A pool of connections that are opened when they are first needed, and again when they have ended.
    pub fn new(target: Target, size: usize) -> Self {
        Self { target, connections: (0..size.max(1)).map(|_| Mutex::default()).collect(), replaced: AtomicU64::new(0) }
    }

    /// How many connections took no new request any more when they were needed again. Nobody notices those.
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// GET in a stream of its own, over the connection whose turn it is. A request is sent once more, on a new connection, only
    /// when the server has said that it did not look at it; a stream that is cut has failed.
    ///
    /// # Errors
    /// Whatever goes wrong; the status of the answer is not looked at.
    pub async fn get(&self, turn: u64, path: &str, host: &str) -> Result<Answer, Failure> {
        match exchange(self.connection(turn).await?, path, host).await {
            Err(first) if first.unprocessed => {
                let again = exchange(self.connection(turn).await?, path, host).await;
                again.map(|answer| Answer { retried: Some(first.failure), ..answer }).map_err(|second| second.failure)
            }
            outcome => outcome.map_err(|failed| failed.failure),
        }
    }

    async fn connection(&self, turn: u64) -> Result<SendRequest<Bytes>, Failure> {
        let index = usize::try_from(turn % self.connections.len() as u64).unwrap_or(0);
        let mut connection = self.connections[index].lock().await;
        if let Some(open) = connection.clone() {
            match open.ready().await {
                Ok(open) => return Ok(open),
                Err(_) => self.replaced.fetch_add(1, Ordering::Relaxed),
            };
            *connection = None;
        }
        let stream = self.target.connect().await?;
        let opened = h2::client::handshake(stream).await;
        let (requests, driver) = opened.map_err(|error| StreamFailure::new("connect", &error).failure)?;
        // Ends with the connection; each stream hears of it by itself.
        tokio::spawn(driver);
        *connection = Some(requests.clone());
        requests.ready().await.map_err(|error| StreamFailure::new("connect", &error).failure)
    }
}

async fn exchange(mut requests: SendRequest<Bytes>, path: &str, host: &str) -> Result<Answer, StreamFailure> {
    let request = Request::get(format!("http://{host}{path}")).header("user-agent", "handover-lab").body(());
    let request = request
        .map_err(|error| StreamFailure { failure: Failure::new("request malformed", error), unprocessed: false })?;
    let sent = requests.send_request(request, true);
    let (response, _) = sent.map_err(|error| StreamFailure::new("send", &error))?;
    let response = response.await.map_err(|error| StreamFailure::new("response", &error))?;
    let head_at = Instant::now();
    let (parts, mut body) = response.into_parts();
    let (mut length, mut beginning) = (0, Vec::new());
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| StreamFailure::new("body", &error))?;
        // Or the server would stop sending; it can only fail for a stream that has ended.
        let _ = body.flow_control().release_capacity(data.len());
        length += data.len() as u64;
        let room = KEPT_OF_BODY - beginning.len();
        beginning.extend_from_slice(&data[..room.min(data.len())]);
    }
    let head = ResponseHead::of_stream(parts.status.as_u16(), &parts.headers);
    Ok(Answer { head, head_at, length, beginning, retried: None })
}

impl StreamFailure {
    fn new(stage: &str, error: &h2::Error) -> Self {
        let kind = match (error.get_io(), error.reason()) {
            (Some(error), _) => Failure::from_io(stage, error).kind,
            (None, Some(reason)) => {
                let frame = if error.is_go_away() { "GOAWAY" } else { "RST_STREAM" };
                format!("{stage} {frame} {reason:?}")
            }
            (None, None) => format!("{stage} error"),
        };
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        Self { failure: Failure::new(kind, error), unprocessed: error.is_remote() && (error.is_go_away() || refused) }
    }
}
