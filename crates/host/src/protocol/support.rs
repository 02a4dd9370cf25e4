//! What a host allows, as the session tells it.

use serde::{Deserialize, Serialize};

/// Whether something works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// It does.
    pub works: bool,
    /// Why not, in the kernel's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

/// What this host's kernel allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Support {
    /// Kernel release.
    pub kernel: String,
    /// Architecture.
    pub arch: String,
    /// Leading ports: an inet table with NAT chains, exactly as a real one. None if that was not asked.
    #[serde(default)]
    pub lead_ports: Option<Check>,
    /// Reading sockets (`sock_diag`).
    pub read_sockets: Check,
    /// Closing single connections (`SOCK_DESTROY`); tried on a connection of our own over loopback.
    pub close_sockets: Check,
    /// Packet sockets, for the order of payloads.
    pub read_packets: Check,
    /// Reading connection tracking, to forget UDP flows.
    pub read_flows: Check,
    /// Leading addresses inside a peer's network namespace, by a table that goes with the session; tried in the given
    /// one, otherwise in the host's. None if that was not asked.
    #[serde(default)]
    pub lead_peers: Option<Check>,
    /// Entering the given network namespace.
    #[serde(default)]
    pub enter_sandbox: Option<Check>,
    /// Base chains of other tables that drop by default what comes in to the host, as `family table chain`. With such a
    /// firewall, what is led to an ephemeral port of the host (IPv6, and calls from containers) needs to be let in.
    pub input_dropped_by: Vec<String>,
    /// Interfaces to which addresses of 127.0.0.0/8 are routed. The engine does so with its bridges where it runs without a
    /// userland proxy; that something listens at a published port does not tell: the engine itself does, to keep the port.
    pub routing_loopback: Vec<String>,
}
