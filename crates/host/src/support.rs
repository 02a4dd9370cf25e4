//! What this host allows, found out by doing it, in small and away from everything else.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;

use handover_core::net::Protocol;
use handover_core::redirect::ports::{PortLead, PortTable};

use crate::channel::kernel_release;
use crate::error::HostError;
use crate::inet_diag::{InetDiag, state};
use crate::namespace::run_in;
use crate::packets::Packets;
use crate::protocol::{Check, Support};
use crate::{flows, peers, ports};

/// Tries everything that is asked for. Leaves nothing behind, whatever fails; if it is killed in the middle, a table that leads nothing
/// anybody uses.
pub(crate) async fn find_out(sandbox: Option<PathBuf>, ports: bool, peers: bool) -> Support {
    let enter = async {
        match sandbox {
            None => None,
            Some(path) => Some(check(run_in("entering", Some(path), || Ok(())).await)),
        }
    };
    let lead_ports = async { if ports { Some(check(try_a_table().await)) } else { None } };
    let lead_peers = async { if peers { Some(check(peers::try_out(PathBuf::new()).await)) } else { None } };
    let packets =
        run_in("packets", None, || Packets::open(&[1]).map(drop).map_err(HostError::kernel("opening a packet socket")));
    let (
        lead_ports,
        lead_peers,
        input_dropped_by,
        read_sockets,
        close_sockets,
        read_packets,
        read_flows,
        enter_sandbox,
    ) = tokio::join!(
        lead_ports,
        lead_peers,
        ports::input_dropped_by(),
        run_in("reading", None, try_reading),
        run_in("closing", None, try_closing),
        packets,
        flows::readable(),
        enter,
    );
    Support {
        kernel: kernel_release(),
        arch: std::env::consts::ARCH.to_owned(),
        lead_ports,
        read_sockets: check(read_sockets),
        close_sockets: check(close_sockets),
        read_packets: check(read_packets),
        read_flows: check(read_flows),
        lead_peers,
        enter_sandbox,
        // Without nf_tables there is nothing to list, and lead_ports says so.
        input_dropped_by: input_dropped_by.unwrap_or_default(),
        routing_loopback: interfaces_that_route_loopback(),
    }
}

fn check(result: Result<(), HostError>) -> Check {
    match result {
        Ok(()) => Check { works: true, why_not: None },
        Err(error) => Check { works: false, why_not: Some(error.failure().what) },
    }
}

/// A table like a real one, for port 1 of addresses nobody has (RFC 5737, RFC 3849): every kind of rule once.
async fn try_a_table() -> Result<(), HostError> {
    let lead = PortLead {
        protocol: Protocol::Tcp,
        host_ip: None,
        published: 1,
        container_ip: Ipv4Addr::new(192, 0, 2, 1),
        container_ipv6: None,
        container_port: 1,
        ephemeral_v4: Some(1),
        ephemeral_v6: Some(1),
    };
    let here = |ip: std::net::IpAddr| PortLead { host_ip: Some(ip), ..lead.clone() };
    let v4 = here(Ipv4Addr::new(192, 0, 2, 2).into());
    let v6 = here(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).into());
    let table = PortTable {
        // No Compose project has a name that begins so, and two sessions may try at the same time.
        project: format!(".probe-{}", std::process::id()),
        leads: vec![PortLead { protocol: Protocol::Udp, ..v4.clone() }, v4, v6],
        bridges: vec!["handover-none".into()],
        userland_proxy: true,
    };
    let loaded = ports::load(&table).await;
    let unloaded = ports::unload(&table.project).await;
    loaded.and(unloaded).map(drop)
}

fn try_reading() -> Result<(), HostError> {
    let read = InetDiag::open().and_then(|mut diag| diag.dump(Protocol::Tcp, state::set([state::LISTEN])));
    read.map(drop).map_err(HostError::kernel("reading the sockets"))
}

fn try_closing() -> Result<(), HostError> {
    let closed = (|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (_server, from) = listener.accept()?;
        let mut diag = InetDiag::open()?;
        let sockets = diag.dump(Protocol::Tcp, state::ALIVE)?;
        let server = sockets.iter().find(|one| one.remote == from && Some(one.local) == client.peer_addr().ok());
        let server = server.ok_or_else(|| io::Error::other("a connection of our own was not found"))?;
        match diag.close(server)? {
            true => Ok(()),
            false => Err(io::Error::other("a connection of our own was not found")),
        }
    })();
    closed.map_err(HostError::kernel("closing a connection"))
}

/// Interfaces to which addresses of 127.0.0.0/8 are routed (`route_localnet`).
fn interfaces_that_route_loopback() -> Vec<String> {
    let interfaces = std::fs::read_dir("/proc/sys/net/ipv4/conf").into_iter().flatten().flatten();
    let routes = |path: &std::path::Path| {
        std::fs::read_to_string(path.join("route_localnet")).is_ok_and(|text| text.trim() == "1")
    };
    let mut names: Vec<String> = interfaces
        .filter(|interface| routes(&interface.path()))
        .map(|interface| interface.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
