//! WebSockets that stay open. A message that was due while the connection was cut is sent when it is open again, and its
//! latency says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::super::record::Sighting;
use super::websocket::{closed_by_server, echo};
use super::{StreamContext, sighting};
use crate::wire::{Failure, Message, WebSocket, open_websocket};

/// Pause between attempts to connect again.
pub(super) const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Runs the stream.
pub(super) async fn run(context: StreamContext) {
    let context = Arc::new(context);
    let count = context.spec.connections.unwrap_or(1).max(1);
    let mut connections = JoinSet::new();
    for slot in 0..count {
        connections.spawn(keep_open(Arc::clone(&context), slot, count));
    }
    connections.join_all().await;
}

async fn keep_open(context: Arc<StreamContext>, slot: usize, count: usize) {
    let interval = context.spec.interval();
    let first = context.recorder.started() + context.offset(interval) + interval.mul_f64(slot as f64);
    let mut due = first;
    let mut messages = 0_u32;
    let mut socket: Option<WebSocket<TcpStream>> = None;
    let mut peer = Sighting::default();
    let mut cut_at = None;
    let mut opened_at = Instant::now();
    let stopped = context.stopped();
    tokio::pin!(stopped);
    loop {
        let Some(open) = &mut socket else {
            tokio::select! {
                biased;
                () = &mut stopped => return,
                opened = connect(&context) => match opened {
                    Ok((opened, sighting)) => {
                        (socket, peer) = (Some(opened), sighting);
                        opened_at = Instant::now();
                        if let Some(cut_at) = cut_at.take().map(|cut_at: Instant| cut_at.elapsed()) {
                            context.recorder.reconnected(context.index, cut_at);
                        }
                    }
                    Err(failure) => {
                        context.recorder.failed(context.index, Instant::now(), &failure);
                        tokio::time::sleep(RECONNECT_PAUSE).await;
                    }
                },
            }
            continue;
        };
        // Wait until the message is due, and notice at once when the connection is cut meanwhile.
        let outcome = tokio::select! {
            biased;
            () = &mut stopped => {
                close(&context, open).await;
                return;
            }
            received = open.receive() => match received {
                Ok(Message::Text(_)) => continue,
                Ok(Message::Close(code)) => Err(closed_by_server(code)),
                Err(failure) => Err(failure),
            },
            () = tokio::time::sleep_until(due.into()) => {
                let text = format!("lab-message={slot}/{messages}");
                match tokio::time::timeout(context.spec.timeout(), echo(&context, open, text.as_bytes())).await {
                    Ok(outcome) => outcome,
                    Err(_) => {
                        let failure = Failure::new("timeout", "no echo");
                        context.recorder.failed(context.index, due, &failure);
                        socket = None;
                        continue;
                    }
                }
            }
        };
        match outcome {
            Ok(()) => {
                context.recorder.saw(context.index, Instant::now(), peer.clone());
                context.recorder.succeeded(context.index, due);
                messages += 1;
                due = first + interval.mul_f64(f64::from(messages) * count as f64);
            }
            Err(failure) => {
                context.recorder.cut(context.index, &failure);
                cut_at = Some(Instant::now());
                socket = None;
                // Again at once, unless it does not last anyway: do not hammer a server that has no WebSocket.
                if opened_at.elapsed() < RECONNECT_PAUSE {
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }
}

async fn connect(context: &StreamContext) -> Result<(WebSocket<TcpStream>, Sighting), Failure> {
    let (host, path) = (context.host(), context.path());
    let (socket, head) = context.within_timeout(open_websocket(&context.target, &host, &path)).await?;
    Ok((socket, sighting::of_response(&head, b"")))
}

async fn close(context: &StreamContext, socket: &mut WebSocket<TcpStream>) {
    // It is over: how the server takes leave is nobody's concern any more.
    let _ = context
        .within_timeout(async {
            socket.send_close(1000).await?;
            while let Message::Text(_) = socket.receive().await? {}
            Ok(())
        })
        .await;
}
