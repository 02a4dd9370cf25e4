//! WebSockets that live for about a second. Latency is the time of opening, all echoes and closing, without the pauses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::pace::paced;
use super::{StreamContext, sample, sighting};
use crate::wire::{Failure, Message, WebSocket, open_websocket};

/// Runs the stream.
pub(super) async fn run(context: StreamContext) {
    let shared = Arc::new(context.clone());
    paced(&context, |number, due| {
        let context = Arc::clone(&shared);
        async move {
            match session(&context, number).await {
                Ok(paused) => {
                    let latency = due.elapsed().saturating_sub(paused);
                    context.recorder.succeeded_with_latency(context.index, due, latency);
                }
                Err(failure) => context.recorder.failed(context.index, due, &failure),
            }
        }
    })
    .await;
}

/// Returns for how long it paused on purpose.
async fn session(context: &StreamContext, number: u64) -> Result<Duration, Failure> {
    let (mut socket, head) =
        context.within_timeout(open_websocket(&context.target, &context.host(), &context.path())).await?;
    context.recorder.saw(context.index, Instant::now(), sighting::of_response(&head, b""));
    let length = Duration::from_millis(context.spec.session_ms.unwrap_or(1000));
    let pause = Duration::from_millis(context.spec.message_ms.unwrap_or(100).max(1));
    let mut paused = Duration::ZERO;
    let began = Instant::now();
    while began.elapsed() < length {
        let text = format!("lab-message={number} at={}", began.elapsed().as_millis());
        context.within_timeout(echo(context, &mut socket, text.as_bytes())).await?;
        let pausing = Instant::now();
        tokio::time::sleep(pause).await;
        paused += pausing.elapsed();
    }
    context
        .within_timeout(async {
            socket.send_close(1000).await?;
            loop {
                if let Message::Close(_) = socket.receive().await? {
                    return Ok(paused);
                }
            }
        })
        .await
}

/// Sends a text and waits for it to come back.
pub(super) async fn echo(
    context: &StreamContext,
    socket: &mut WebSocket<TcpStream>,
    text: &[u8],
) -> Result<(), Failure> {
    socket.send_text(text).await?;
    match socket.receive().await? {
        Message::Text(answer) if answer == text || context.spec.any_reply => Ok(()),
        Message::Text(answer) => Err(Failure::new("unexpected answer", sample(&answer))),
        Message::Close(code) => Err(closed_by_server(code)),
    }
}

/// The server's close frame came before ours.
pub(super) fn closed_by_server(code: u16) -> Failure {
    Failure::new("websocket closed by the server", format!("code {code}"))
}
