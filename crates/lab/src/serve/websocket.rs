//! WebSocket echo.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, watch};

use crate::wire::{Message, WebSocket};

/// Echoes until the client closes or goes away; says 1001 (going away) when told to stop.
pub(super) async fn echo(upgrade: OnUpgrade, mut stop: watch::Receiver<bool>, alive: mpsc::Sender<()>) {
    let Ok(upgraded) = upgrade.await else {
        return;
    };
    let mut socket = WebSocket::server(TokioIo::new(upgraded));
    loop {
        let received = tokio::select! {
            received = socket.receive() => Some(received),
            _ = stop.wait_for(|stop| *stop) => None,
        };
        let Some(received) = received else {
            let _ = socket.send_close(1001).await;
            break;
        };
        let answered = match received {
            Ok(Message::Text(text)) => socket.send_text(&text).await,
            Ok(Message::Close(_)) => {
                let _ = socket.send_close(1000).await;
                break;
            }
            Err(failure) => Err(failure),
        };
        if answered.is_err() {
            break;
        }
    }
    drop(alive);
}
