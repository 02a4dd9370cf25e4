//! One line there, one line back, on a connection of its own.

use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::pace::paced;
use super::{StreamContext, sample, sighting};
use crate::load::Kind;
use crate::wire::Failure;

const LONGEST_LINE: u64 = 64 * 1024;

/// Runs the stream.
pub(super) async fn run(context: StreamContext) {
    let shared = Arc::new(context.clone());
    paced(&context, |_, due| {
        let context = Arc::clone(&shared);
        async move {
            let outcome = context.within_timeout(exchange(&context)).await;
            context.record(due, outcome);
        }
    })
    .await;
}

async fn exchange(context: &StreamContext) -> Result<(), Failure> {
    let (line, expected) = match context.spec.kind {
        Kind::RedisPing => ("PING\r\n".to_owned(), "+PONG"),
        Kind::Memcached => ("version\r\n".to_owned(), "VERSION"),
        _ => (format!("{}\n", context.spec.line.as_deref().unwrap_or("hello")), ""),
    };
    let mut connection = BufReader::new(context.target.connect().await?.take(LONGEST_LINE));
    let mut answer = Vec::new();
    connection
        .get_mut()
        .get_mut()
        .write_all(line.as_bytes())
        .await
        .map_err(|error| Failure::from_io("send", &error))?;
    connection.read_until(b'\n', &mut answer).await.map_err(|error| Failure::from_io("response", &error))?;
    if !answer.ends_with(b"\n") {
        return Err(Failure::new("closed before response", sample(&answer)));
    }
    if answer.trim_ascii().is_empty() || !answer.starts_with(expected.as_bytes()) {
        return Err(Failure::new("unexpected answer", sample(&answer)));
    }
    context.recorder.saw(context.index, Instant::now(), sighting::of_text(&answer));
    context.check_expected(&answer)
}
