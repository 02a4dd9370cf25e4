//! Answers about peers: what is led in their network namespaces, and who calls whom.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Failure;

/// Peers' tables were loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeersLoaded {
    /// In the order of the request.
    pub peers: Vec<PeerLoaded>,
    /// Time for all, in microseconds.
    pub took_us: u64,
}

/// What became of one peer's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLoaded {
    /// As in the request.
    pub sandbox: PathBuf,
    /// How it is now.
    pub state: PeerState,
    /// UDP flows whose next packet is led anew (`move_udp`).
    pub udp_flows_moved: usize,
    /// Time to enter the namespace and to load the table, in microseconds.
    pub took_us: u64,
}

/// Whether a session's table is in a network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// It is.
    Loaded,
    /// It is not.
    Unloaded,
    /// The namespace is gone, and with it whatever was there.
    Gone,
    /// The table is as it was before, or as asked for where only the UDP flows could not be moved.
    Failed(Failure),
}

/// What peers' tables have led.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeersCounted {
    /// In the order of the request; otherwise sorted.
    pub peers: Vec<PeerCounted>,
}

/// What one peer's table has led.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCounted {
    /// As in the request.
    pub sandbox: PathBuf,
    /// Whether there is a table.
    pub state: PeerState,
    /// Every lead that the table has ever had.
    pub leads: Vec<LeadCount>,
}

/// How often one lead was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeadCount {
    /// Led from.
    pub from: IpAddr,
    /// Led to.
    pub to: IpAddr,
    /// Whether it leads now.
    pub led: bool,
    /// Connections (other protocols: flows) led since the table was first loaded with this lead.
    pub connections: u64,
    /// Connections (other protocols: flows) opened to `to` itself, since anything was first led there.
    pub straight: u64,
    /// TCP connections from this namespace to `from` that are not over, wherever they were led.
    pub open: usize,
    /// Their ends in this namespace, as whoever they were led to sees them.
    pub clients: Vec<SocketAddr>,
}

/// Who has connections to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callers {
    /// Sorted by address.
    pub callers: Vec<Caller>,
}

/// The other end of some connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Its address, as the container sees it.
    pub address: IpAddr,
    /// How many are established.
    pub connections: usize,
}
