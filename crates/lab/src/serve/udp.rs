//! UDP echo.

use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::Shared;

/// Answers every datagram with version, instance and the datagram, until told to stop.
pub(super) async fn echo(socket: UdpSocket, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let prefix = format!("version={} instance={} ", shared.version, shared.instance).into_bytes();
    let mut buffer = vec![0; 65_536];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        // An error here is a client's: an ICMP answer to something sent before.
        if let Ok((length, client)) = received {
            let mut answer = prefix.clone();
            answer.extend_from_slice(&buffer[..length]);
            let _ = socket.send_to(&answer, client).await;
        }
    }
}
