//! Who has connections to a container.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use handover_core::switch::Protocol;

use crate::error::HostError;
use crate::inet_diag::{InetDiag, state};
use crate::namespace::run_in;
use crate::protocol::{Caller, Callers};

/// Counts the established TCP connections to `ports` by the address at their other end; no ports means all that
/// something listens at.
pub(crate) async fn of(sandbox: PathBuf, ports: Vec<u16>) -> Result<Callers, HostError> {
    let path = Some(sandbox).filter(|path| !path.as_os_str().is_empty());
    let counted =
        run_in("callers", path, move || count(ports).map_err(HostError::kernel("reading the sockets"))).await?;
    let callers = counted.into_iter().map(|(address, connections)| Caller { address, connections });
    Ok(Callers { callers: callers.collect() })
}

fn count(ports: Vec<u16>) -> io::Result<BTreeMap<IpAddr, usize>> {
    let mut diag = InetDiag::open()?;
    let mut ports: BTreeSet<u16> = ports.into_iter().collect();
    if ports.is_empty() {
        let listening = diag.dump(Protocol::Tcp, state::set([state::LISTEN]))?;
        ports = listening.iter().map(|socket| socket.local.port()).collect();
    }
    let mut counted = BTreeMap::new();
    for socket in diag.dump(Protocol::Tcp, state::set([state::ESTABLISHED]))? {
        if ports.contains(&socket.local.port()) {
            *counted.entry(socket.remote.ip()).or_default() += 1;
        }
    }
    Ok(counted)
}
