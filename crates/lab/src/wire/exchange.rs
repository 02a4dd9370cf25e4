//! A request and its answer, over a new or a kept-alive connection.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Failure, HttpConnection, Pool, ResponseHead, Target};

pub(super) const KEPT_OF_BODY: usize = 4096;

/// How a request's body is sent.
#[derive(Clone, Debug)]
pub struct BodyPlan {
    /// The whole body.
    pub content: Bytes,
    /// How long sending it takes; it is cut into parts.
    pub over: Duration,
    /// Into how many parts.
    pub parts: usize,
}

/// A request, ready to be sent any number of times.
#[derive(Clone, Debug)]
pub struct RequestPlan {
    /// Request line and headers.
    pub head: Bytes,
    /// The body, for a POST. A request with a body is never sent twice.
    pub body: Option<BodyPlan>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status line and headers.
    pub head: ResponseHead,
    /// When they had arrived.
    pub head_at: Instant,
    /// Length of the body, which is complete.
    pub length: u64,
    /// The body's first 4 KiB.
    pub beginning: Vec<u8>,
    /// Why the first attempt failed, when the request was sent twice.
    pub retried: Option<Failure>,
}

impl RequestPlan {
    /// A GET, or with a body a POST.
    pub fn new(path: &str, host: &str, body: Option<BodyPlan>, keep_alive: bool) -> Self {
        let method = if body.is_some() { "POST" } else { "GET" };
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: handover-lab\r\nAccept: */*\r\n");
        if let Some(body) = &body {
            head.push_str(&format!(
                "Content-Type: application/octet-stream\r\nContent-Length: {}\r\n",
                body.content.len()
            ));
        }
        if !keep_alive {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        Self { head: head.into(), body }
    }
}

/// Asks over a connection of its own, which the server is asked to close. Returns it too, to be waited for.
///
/// # Errors
/// Whatever goes wrong; the status of the answer is not looked at.
pub async fn exchange_once(target: &Target, plan: &RequestPlan) -> Result<(Answer, HttpConnection), Failure> {
    let mut connection = HttpConnection::connect(target).await?;
    let answer = exchange(&mut connection, plan).await?;
    Ok((answer, connection))
}

/// Asks over a kept-alive connection, as a good client does: it looks whether the connection was closed before it uses it
/// again, and when a used connection fails before the first byte of the answer, a request without a body is sent once
/// more, on a new connection.
///
/// # Errors
/// Whatever goes wrong; the status of the answer is not looked at.
pub async fn exchange_pooled(pool: &Pool, plan: &RequestPlan) -> Result<Answer, Failure> {
    let mut pooled = pool.take().await?;
    let mut retried = None;
    let mut answer = match exchange(&mut pooled.connection, plan).await {
        Err(failure) if pooled.reused && plan.body.is_none() && !pooled.connection.is_answered() => {
            drop(pooled);
            pooled = pool.open().await?;
            retried = Some(failure);
            exchange(&mut pooled.connection, plan).await?
        }
        outcome => outcome?,
    };
    answer.retried = retried;
    if answer.head.keep_alive {
        pool.put_back(pooled);
    }
    Ok(answer)
}

async fn exchange(connection: &mut HttpConnection, plan: &RequestPlan) -> Result<Answer, Failure> {
    connection.begin();
    let sent = send(connection, plan).await;
    let head = match (sent, connection.receive_head().await) {
        (_, Ok(head)) => head,
        (Err(failure), Err(_)) | (Ok(()), Err(failure)) => return Err(failure),
    };
    let head_at = Instant::now();
    let mut beginning = Vec::new();
    let length = connection
        .receive_body(&head, |data| {
            let room = KEPT_OF_BODY - beginning.len();
            beginning.extend_from_slice(&data[..room.min(data.len())]);
        })
        .await?;
    Ok(Answer { head, head_at, length, beginning, retried: None })
}

async fn send(connection: &mut HttpConnection, plan: &RequestPlan) -> Result<(), Failure> {
    connection.send(&plan.head).await?;
    let Some(body) = &plan.body else {
        return Ok(());
    };
    let began = tokio::time::Instant::now();
    let parts = u32::try_from(body.parts.clamp(1, body.content.len().max(1))).unwrap_or(1);
    let part_length = body.content.len().div_ceil(parts as usize).max(1);
    for (number, part) in body.content.chunks(part_length).enumerate() {
        let due = body.over * u32::try_from(number + 1).unwrap_or(parts) / parts;
        tokio::time::sleep_until(began + due).await;
        connection.send(part).await?;
    }
    Ok(())
}
