//! Waiting for addresses to accept TCP connections.

use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;

use crate::error::HostError;
use crate::protocol::{AllReady, Ready, Target};

/// A SYN that is dropped is sent again by the kernel after a second; a new attempt is as good and sooner.
const ATTEMPT: Duration = Duration::from_millis(500);

/// Ends when every target has accepted a connection, which is closed at once (FIN, nothing sent).
pub(crate) async fn wait_for(targets: Vec<Target>, mut progress: impl FnMut(Ready)) -> Result<AllReady, HostError> {
    let started = Instant::now();
    let mut waiting: FuturesUnordered<_> = targets.into_iter().map(accepts).collect();
    while let Some(name) = waiting.next().await {
        progress(Ready { ready: name, after_ms: milliseconds(started) });
    }
    Ok(AllReady { took_ms: milliseconds(started) })
}

/// When to look again for what no event tells: the sooner, the less has been waited, so that little is added to any wait.
pub(crate) fn again_in(waited: Duration) -> Duration {
    (waited / 32).clamp(Duration::from_millis(2), Duration::from_millis(50))
}

async fn accepts(target: Target) -> String {
    let started = Instant::now();
    loop {
        if let Ok(Ok(_connection)) = tokio::time::timeout(ATTEMPT, TcpStream::connect(target.address)).await {
            return target.name;
        }
        tokio::time::sleep(again_in(started.elapsed())).await;
    }
}

pub(crate) fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
