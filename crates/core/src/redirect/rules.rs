//! One nftables table as plain data: what `handover-host` hands to the kernel in one transaction, and what a test reads.
//!
//! `Display` of a [`RuleTable`] reads like `nft list`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::net::{IpVersion, Protocol};

/// Hook priority of the chains that lead connections: just before the engine's own (`dstnat`, -100).
pub const LEAD_PRIORITY: i32 = -101;

/// Hook priority of the chain that drops direct hits on ephemeral ports: after connection tracking (-200), before any
/// destination is translated, so that connections which are led still carry their published port.
pub const DIRECT_HITS_PRIORITY: i32 = -150;

/// Hook priority of the chain that drops first packets to addresses that are held: as early, for the same reason.
pub const HOLD_PRIORITY: i32 = DIRECT_HITS_PRIORITY;

/// Hook priority of redirects that nobody holds: after those of whoever is alive.
pub const LAST_LEAD_PRIORITY: i32 = -99;

/// A whole nftables table (family inet), in the order in which the kernel must hear of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTable {
    /// Name of the table.
    pub name: String,
    /// Sets of one address each, which the kernel empties by itself.
    pub expiring: Vec<Expiring>,
    /// Named counters, one a lead.
    pub counters: Vec<String>,
    /// The chains; one that is the target of a [`Action::Goto`] comes before the chain that goes there.
    pub chains: Vec<RuleChain>,
}

/// A set of one address that is in it for some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiring {
    /// Name of the set.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// When it is no longer in the set, from the moment the table is loaded.
    pub after: Duration,
}

/// One chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleChain {
    /// Name of the chain; in a table of ports one of [`CHAINS`].
    pub name: &'static str,
    /// Where the kernel asks it; `None` for a chain that other chains go to.
    pub hook: Option<ChainHook>,
    /// The rules, asked in order.
    pub rules: Vec<Rule>,
}

/// Where in the kernel's path a chain is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainHook {
    /// NAT, for what arrives from outside or from containers, at [`LEAD_PRIORITY`].
    NatPrerouting,
    /// NAT, for what the namespace's own processes send, at [`LEAD_PRIORITY`].
    NatOutput,
    /// The same at [`LAST_LEAD_PRIORITY`].
    NatOutputLast,
    /// Filter, for what arrives, at [`DIRECT_HITS_PRIORITY`].
    FilterPrerouting,
    /// Filter, for what the namespace's own processes send, at [`HOLD_PRIORITY`].
    FilterOutput,
}

/// One rule: what all matches hold for is counted, then acted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub matches: Vec<Match>,
    /// Name of the counter to count in.
    pub counter: Option<String>,
    /// What happens then.
    pub action: Action,
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It arrived on this interface.
    Interface(String),
    /// It leaves by another interface than this.
    NotLeavingBy(String),
    /// It is of this IP version.
    Ip(IpVersion),
    /// Its destination is an address of the host itself.
    DestinationLocal,
    /// Its destination lies in this network (address and prefix length).
    Destination(IpAddr, u8),
    /// Its destination lies outside this network.
    DestinationNot(IpAddr, u8),
    /// Its destination, of this IP version, is in a set.
    DestinationIn(IpVersion, String),
    /// Its destination port.
    Port(Protocol, u16),
    /// It asks for a new TCP connection: of FIN, SYN, RST and ACK only SYN is set.
    Syn,
    /// It is anything but TCP.
    NotTcp,
    /// It belongs to a connection under way, or is related to one.
    UnderWay,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// This chain has nothing against it.
    Accept,
    /// The packet is dropped.
    Drop,
    /// Asked on in another chain, for good.
    Goto(&'static str),
    /// The connection is led to this address and port.
    LeadTo(SocketAddr),
    /// The connection is led to this address, at the port that the client chose.
    LeadToAddress(IpAddr),
    /// The connection is led to this port of the address that the client chose.
    LeadToPort(IpVersion, u16),
}

impl fmt::Display for RuleTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.name)?;
        for set in &self.expiring {
            writeln!(f, "  set {} {{ {} expires after {}s }}", set.name, set.address, set.after.as_secs())?;
        }
        for counter in &self.counters {
            writeln!(f, "  counter {counter}")?;
        }
        for chain in &self.chains {
            writeln!(f, "  chain {} {{", chain.name)?;
            match chain.hook {
                Some(ChainHook::NatPrerouting) => writeln!(f, "    type nat hook prerouting priority {LEAD_PRIORITY}")?,
                Some(ChainHook::NatOutput) => writeln!(f, "    type nat hook output priority {LEAD_PRIORITY}")?,
                Some(ChainHook::NatOutputLast) => {
                    writeln!(f, "    type nat hook output priority {LAST_LEAD_PRIORITY}")?;
                }
                Some(ChainHook::FilterPrerouting) => {
                    writeln!(f, "    type filter hook prerouting priority {DIRECT_HITS_PRIORITY}")?;
                }
                Some(ChainHook::FilterOutput) => writeln!(f, "    type filter hook output priority {HOLD_PRIORITY}")?,
                None => {}
            }
            for rule in &chain.rules {
                writeln!(f, "    {rule}")?;
            }
            writeln!(f, "  }}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.matches {
            write!(f, "{one} ")?;
        }
        if let Some(counter) = &self.counter {
            write!(f, "counter {counter} ")?;
        }
        match &self.action {
            Action::Accept => write!(f, "accept"),
            Action::Drop => write!(f, "drop"),
            Action::Goto(chain) => write!(f, "goto {chain}"),
            Action::LeadTo(to) => write!(f, "dnat to {to}"),
            Action::LeadToAddress(to) => write!(f, "dnat to {to}"),
            Action::LeadToPort(version, port) => write!(f, "dnat {version} to :{port}"),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::Interface(name) => write!(f, "iifname {name}"),
            Match::NotLeavingBy(name) => write!(f, "oifname != {name}"),
            Match::Ip(version) => write!(f, "{version}"),
            Match::DestinationLocal => write!(f, "fib daddr type local"),
            Match::Destination(ip, prefix) => write!(f, "daddr {ip}/{prefix}"),
            Match::DestinationNot(ip, prefix) => write!(f, "daddr != {ip}/{prefix}"),
            Match::DestinationIn(_, set) => write!(f, "daddr @{set}"),
            Match::Port(Protocol::Tcp, port) => write!(f, "tcp dport {port}"),
            Match::Port(Protocol::Udp, port) => write!(f, "udp dport {port}"),
            Match::Syn => write!(f, "syn"),
            Match::NotTcp => write!(f, "meta l4proto != tcp"),
            Match::UnderWay => write!(f, "ct state established,related"),
        }
    }
}
