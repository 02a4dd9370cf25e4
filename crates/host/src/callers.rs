//! Who has connections to a container.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use procfs::ProcResult;
use procfs::net::TcpState;
use procfs::process::Process;

use crate::error::HostError;
use crate::namespace::run_in;
use crate::protocol::{Caller, Callers};

/// Counts the established TCP connections to `ports` by the address at their other end; no ports means all that
/// something listens at. No namespace is entered: every process shows the connections of its own.
pub(crate) async fn of(sandbox: PathBuf, ports: Vec<u16>) -> Result<Callers, HostError> {
    let main = match sandbox.parent().and_then(Path::parent) {
        Some(main) if main.parent() == Some(Path::new("/proc")) => Some(main.to_owned()),
        None => None,
        Some(_) => return Err(HostError::Request(format!("{} is not /proc/<pid>/ns/net", sandbox.display()))),
    };
    // On a thread of its own: the tables may be long.
    let counted = run_in("callers", None, move || {
        let process = main.map_or_else(Process::myself, Process::new_with_root);
        let counted = process.and_then(|process| count(&process, ports)).map_err(io::Error::other);
        counted.map_err(HostError::kernel("reading the connections"))
    });
    let callers = counted.await?.into_iter().map(|(address, connections)| Caller { address, connections });
    Ok(Callers { callers: callers.collect() })
}

fn count(process: &Process, ports: Vec<u16>) -> ProcResult<BTreeMap<IpAddr, usize>> {
    let mut ports: BTreeSet<u16> = ports.into_iter().collect();
    // Without IPv6 there is no such table.
    let all: Vec<_> = process.tcp()?.into_iter().chain(process.tcp6().unwrap_or_default()).collect();
    if ports.is_empty() {
        ports = all.iter().filter(|one| one.state == TcpState::Listen).map(|one| one.local_address.port()).collect();
    }
    let mut counted = BTreeMap::new();
    for one in all.iter().filter(|one| one.state == TcpState::Established) {
        if ports.contains(&one.local_address.port()) {
            *counted.entry(one.remote_address.ip().to_canonical()).or_default() += 1;
        }
    }
    Ok(counted)
}
