//! Who takes new connections and packets.

use std::path::PathBuf;
use std::time::Instant;

use handover_core::net::Protocol;

use crate::accepts::{again_in, milliseconds};
use crate::error::HostError;
use crate::inet_diag::{InetDiag, state};
use crate::namespace::run_in;
use crate::protocol::{AllReady, Listener, Listeners, Ready};

/// All listening TCP and unconnected bound UDP sockets of the host, or of a container.
pub(crate) async fn of(sandbox: Option<PathBuf>) -> Result<Listeners, HostError> {
    let mut listeners = run_in("listeners", sandbox, || {
        let mut found = look(Protocol::Tcp)?;
        found.extend(look(Protocol::Udp)?);
        Ok(found)
    })
    .await?;
    listeners.sort_by_key(|one| (one.protocol, one.port, one.address));
    Ok(Listeners { listeners })
}

/// Waits until something listens at all of `ports` inside a container. There is no event for it, so it looks again and
/// again, after 2 to 50 ms. An address of loopback does not count: nobody else reaches it.
pub(crate) async fn wait_for(
    sandbox: PathBuf,
    protocol: Protocol,
    ports: Vec<u16>,
    mut progress: impl FnMut(Ready),
) -> Result<AllReady, HostError> {
    let started = Instant::now();
    let mut missing = ports;
    loop {
        let found = run_in("listeners", Some(sandbox.clone()), move || look(protocol)).await?;
        missing.retain(|port| {
            let there = found.iter().any(|one| one.port == *port && !one.address.is_loopback());
            if there {
                progress(Ready { ready: port.to_string(), after_ms: milliseconds(started) });
            }
            !there
        });
        if missing.is_empty() {
            return Ok(AllReady { took_ms: milliseconds(started) });
        }
        tokio::time::sleep(again_in(started.elapsed())).await;
    }
}

fn look(protocol: Protocol) -> Result<Vec<Listener>, HostError> {
    let states = match protocol {
        Protocol::Tcp => state::set([state::LISTEN]),
        Protocol::Udp => state::set([state::CLOSE]),
    };
    let sockets = InetDiag::open()
        .and_then(|mut diag| diag.dump(protocol, states))
        .map_err(HostError::kernel("reading the sockets"))?;
    Ok(sockets
        .into_iter()
        .map(|socket| Listener {
            protocol,
            address: socket.local.ip(),
            port: socket.local.port(),
            only_ipv6: socket.only_ipv6,
            uid: socket.uid,
            inode: socket.inode,
        })
        .collect())
}
