//! The switch inside peers' network namespaces: which address leads where for the processes of one container.
//!
//! [`PeerTable`] says what is wanted in one namespace; [`rules`] turns it into one nftables table, as plain data.
//!
//! Facts the rules rest on, besides those at the top of [`crate::switch`] (Linux 6.18, Engine 28.5.2):
//! - What a container sends to an address of its own leaves by `lo`, and so does what it asks the engine's resolver
//!   (127.0.0.11, which has NAT rules of its own in there). Nothing that leaves by `lo` is led: a container that calls
//!   itself reaches itself, ready or not, and names resolve as ever.
//! - NAT is asked once a connection: where A is led to B, a rule that leads B on to C is not asked. So chains of leads
//!   are refused, as are loops.
//! - A TCP connection whose first packet is dropped on its way out is not told so: the kernel sends it again after a
//!   second.
//! - Connection tracking in a container may run for the leads alone: always for IPv6, and for IPv4 where the engine's
//!   resolver has no rules (the default bridge, the host's network). With the table it goes then, and connections that
//!   are led are reset by their next packet, also when the table goes with its owner: see [`PeerTable::released`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::net::IpVersion;
use crate::redirect::outlasting::Outlasting;
use crate::redirect::rules::{Action, ChainHook, Match, Rule, RuleChain, RuleTable};

const LEADS: &str = "lead_from_peer";
const HELD: &str = "hold";

/// What is to hold in one network namespace; one nftables table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerTable {
    /// The namespace, as `/proc/<pid>/ns/net`; empty means the host's own.
    pub sandbox: PathBuf,
    /// Where new connections are led.
    pub leads: Vec<AddressLead>,
    /// Addresses whose new TCP connections wait: their first packet is dropped, and sent again after a second.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<IpAddr>,
    /// Networks on which new TCP connections wait in the same way, unless they are to an address that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<ClosedNetwork>,
    /// The table stays although it leads and holds nothing ([`PeerTable::released`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
    /// UDP flows under way to the leads' `from` move as well; without it they stay where they are for as long as they
    /// go on sending. Costs some 20 ms a namespace and IP version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub move_udp: bool,
    /// What is redirected beyond the end of whoever holds this table. `None`: nothing is changed about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlasting: Option<Outlasting>,
}

/// A network where a container is about to start whose address is not known yet, and which nobody may reach before it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedNetwork {
    /// First address of the network.
    pub network: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// Addresses that can be reached.
    pub known: Vec<IpAddr>,
}

/// New connections to one address are led to another, whatever their protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AddressLead {
    /// The address that processes in the namespace open a connection to.
    pub from: IpAddr,
    /// The address that they reach.
    pub to: IpAddr,
}

impl PeerTable {
    /// The same namespace with nothing led and nothing held; connections that were led go on being translated.
    pub fn released(&self) -> PeerTable {
        PeerTable { sandbox: self.sandbox.clone(), keep: true, ..PeerTable::default() }
    }

    /// Whether there is to be no table at all.
    pub fn is_removal(&self) -> bool {
        self.leads.is_empty() && self.held.is_empty() && self.closed.is_empty() && !self.keep
    }
}

/// A table that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerTableError {
    /// IPv4 to IPv6 or the other way.
    #[error("{from} cannot be led to {to}: one is IPv4, the other IPv6")]
    Versions {
        /// Led from.
        from: IpAddr,
        /// Led to.
        to: IpAddr,
    },
    /// `from` is `to`.
    #[error("{0} is led to itself")]
    Itself(IpAddr),
    /// An address would be led to two others.
    #[error("{from} is led to both {to} and {other}")]
    TwoTargets {
        /// Led from.
        from: IpAddr,
        /// Led to.
        to: IpAddr,
        /// Led to as well.
        other: IpAddr,
    },
    /// A is led to B, B is led on, back to A or to somewhere else.
    #[error("{from} is led to {through}, and {through} is led on to {to}: new connections would stop at {through}")]
    LedOn {
        /// Led from.
        from: IpAddr,
        /// Led to, and from.
        through: IpAddr,
        /// Led to.
        to: IpAddr,
    },
    /// New connections would be led and held.
    #[error("{0} is both led and held")]
    LedAndHeld(IpAddr),
    /// Loopback, multicast, unspecified, broadcast or IPv4 written as IPv6.
    #[error("{0} is not the address of one container")]
    NotOfAContainer(IpAddr),
}

/// Name of the counter that counts the connections led by a lead. The same lead has the same name in every table.
pub fn counter_name(lead: &AddressLead) -> String {
    format!("lead-{}-{}", lead.from, lead.to)
}

/// Name of the counter that counts the connections opened to an address itself that others are led to.
pub fn straight_counter_name(address: IpAddr) -> String {
    format!("straight-{address}")
}

/// The nftables table called `name` that does what `table` says. A table that is a removal only keeps
/// connection tracking at work, as a released one does.
pub fn rules(name: &str, table: &PeerTable) -> Result<RuleTable, PeerTableError> {
    let leads = consistent(table)?;
    let lead_rules = leads.iter().flat_map(|lead| {
        [Match::Syn, Match::NotTcp].map(|kind| Rule {
            matches: vec![
                Match::Ip(version(lead.from)),
                only(lead.from),
                Match::NotLeavingBy("lo".to_owned()),
                // TCP only from its beginning: tracking that starts now must not take it for new in the middle.
                kind,
            ],
            counter: Some(counter_name(lead)),
            action: Action::LeadToAddress(lead.to),
        })
    });
    // What was led is through with this chain.
    let targets: BTreeSet<IpAddr> = leads.iter().map(|lead| lead.to).collect();
    let straight_rules = targets.iter().flat_map(|address| {
        [Match::Syn, Match::NotTcp].map(|kind| Rule {
            matches: vec![Match::Ip(version(*address)), only(*address), Match::NotLeavingBy("lo".to_owned()), kind],
            counter: Some(straight_counter_name(*address)),
            action: Action::Accept,
        })
    });
    // Also without leads: this rule alone keeps connection tracking at work, and with it what was led.
    let under_way = Rule { matches: vec![Match::UnderWay], counter: None, action: Action::Accept };
    let hold_rules = table.held.iter().map(|address| Rule {
        matches: vec![Match::Ip(version(*address)), only(*address), Match::NotLeavingBy("lo".to_owned()), Match::Syn],
        counter: None,
        action: Action::Drop,
    });
    let closed_rules = table.closed.iter().flat_map(|closed| {
        let known = closed.known.iter().filter(|address| address.is_ipv4() == closed.network.is_ipv4());
        let known = known.map(|address| Rule {
            matches: vec![Match::Ip(version(*address)), only(*address)],
            counter: None,
            action: Action::Accept,
        });
        let others = Rule {
            matches: vec![
                Match::Ip(version(closed.network)),
                Match::Destination(closed.network, closed.prefix),
                Match::NotLeavingBy("lo".to_owned()),
                Match::Syn,
            ],
            counter: None,
            action: Action::Drop,
        };
        known.chain(std::iter::once(others))
    });
    let chains = vec![
        RuleChain { name: LEADS, hook: Some(ChainHook::NatOutput), rules: lead_rules.chain(straight_rules).collect() },
        RuleChain {
            name: HELD,
            hook: Some(ChainHook::FilterOutput),
            rules: std::iter::once(under_way).chain(hold_rules).chain(closed_rules).collect(),
        },
    ];
    let counters = leads.iter().map(counter_name).chain(targets.iter().map(|address| straight_counter_name(*address)));
    Ok(RuleTable { name: name.to_owned(), expiring: Vec::new(), counters: counters.collect(), chains })
}

/// The leads, each once, if they and what is held do not contradict each other.
fn consistent(table: &PeerTable) -> Result<Vec<AddressLead>, PeerTableError> {
    let mut leads: Vec<AddressLead> = Vec::with_capacity(table.leads.len());
    for lead in &table.leads {
        let AddressLead { from, to } = *lead;
        if let Some(strange) = [from, to].into_iter().find(|address| !is_of_a_container(*address)) {
            return Err(PeerTableError::NotOfAContainer(strange));
        }
        if from.is_ipv4() != to.is_ipv4() {
            return Err(PeerTableError::Versions { from, to });
        }
        if from == to {
            return Err(PeerTableError::Itself(from));
        }
        match leads.iter().find(|earlier| earlier.from == from) {
            Some(same) if same == lead => {}
            Some(other) => return Err(PeerTableError::TwoTargets { from, to: other.to, other: to }),
            None => leads.push(*lead),
        }
    }
    for first in &leads {
        if let Some(next) = leads.iter().find(|next| next.from == first.to) {
            return Err(PeerTableError::LedOn { from: first.from, through: first.to, to: next.to });
        }
    }
    for address in &table.held {
        if !is_of_a_container(*address) {
            return Err(PeerTableError::NotOfAContainer(*address));
        }
        if leads.iter().any(|lead| lead.from == *address) {
            return Err(PeerTableError::LedAndHeld(*address));
        }
    }
    Ok(leads)
}

fn is_of_a_container(address: IpAddr) -> bool {
    let mapped = matches!(address, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    let broadcast = matches!(address, IpAddr::V4(ip) if ip.is_broadcast());
    !(address.is_loopback() || address.is_multicast() || address.is_unspecified() || mapped || broadcast)
}

fn version(address: IpAddr) -> IpVersion {
    match address {
        IpAddr::V4(_) => IpVersion::V4,
        IpAddr::V6(_) => IpVersion::V6,
    }
}

fn only(address: IpAddr) -> Match {
    Match::Destination(address, if address.is_ipv4() { 32 } else { 128 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn table(leads: &[(&str, &str)], held: &[&str]) -> PeerTable {
        PeerTable {
            sandbox: "/proc/7/ns/net".into(),
            leads: leads.iter().map(|(from, to)| AddressLead { from: ip(from), to: ip(to) }).collect(),
            held: held.iter().map(|address| ip(address)).collect(),
            ..PeerTable::default()
        }
    }

    #[track_caller]
    fn check(table: &PeerTable, expected: &str) {
        let rendered = rules("handover_peers-1", table).expect("consistent").to_string();
        let strip = |text: &str| text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n");
        assert_eq!(strip(&rendered), strip(expected), "\n{rendered}");
    }

    #[track_caller]
    fn refused(leads: &[(&str, &str)], held: &[&str], expected: &str) {
        let refused = rules("handover_peers-1", &table(leads, held)).err().map(|error| error.to_string());
        assert_eq!(refused.as_deref(), Some(expected));
    }

    #[test]
    fn new_connections_of_every_protocol_are_led_and_tcp_only_from_its_beginning() {
        check(
            &table(&[("172.18.0.2", "172.18.0.3"), ("fd00::2", "fd00::3")], &["172.18.0.4"]),
            "table inet handover_peers-1 {
               counter lead-172.18.0.2-172.18.0.3
               counter lead-fd00::2-fd00::3
               counter straight-172.18.0.3
               counter straight-fd00::3
               chain lead_from_peer {
                 type nat hook output priority -101
                 ip daddr 172.18.0.2/32 oifname != lo syn counter lead-172.18.0.2-172.18.0.3 dnat to 172.18.0.3
                 ip daddr 172.18.0.2/32 oifname != lo meta l4proto != tcp counter lead-172.18.0.2-172.18.0.3 dnat to 172.18.0.3
                 ip6 daddr fd00::2/128 oifname != lo syn counter lead-fd00::2-fd00::3 dnat to fd00::3
                 ip6 daddr fd00::2/128 oifname != lo meta l4proto != tcp counter lead-fd00::2-fd00::3 dnat to fd00::3
                 ip daddr 172.18.0.3/32 oifname != lo syn counter straight-172.18.0.3 accept
                 ip daddr 172.18.0.3/32 oifname != lo meta l4proto != tcp counter straight-172.18.0.3 accept
                 ip6 daddr fd00::3/128 oifname != lo syn counter straight-fd00::3 accept
                 ip6 daddr fd00::3/128 oifname != lo meta l4proto != tcp counter straight-fd00::3 accept
               }
               chain hold {
                 type filter hook output priority -150
                 ct state established,related accept
                 ip daddr 172.18.0.4/32 oifname != lo syn drop
               }
             }",
        );
    }

    #[test]
    fn a_released_table_keeps_connections_tracked_and_leads_nothing() {
        let released = table(&[("172.18.0.2", "172.18.0.3")], &["172.18.0.4"]).released();
        assert!(!released.is_removal());
        check(
            &released,
            "table inet handover_peers-1 {
               chain lead_from_peer {
                 type nat hook output priority -101
               }
               chain hold {
                 type filter hook output priority -150
                 ct state established,related accept
               }
             }",
        );
    }

    #[test]
    fn a_table_that_leads_holds_and_keeps_nothing_is_a_removal() {
        assert!(table(&[], &[]).is_removal());
        assert!(!table(&[], &["172.18.0.4"]).is_removal());
        assert!(!table(&[("172.18.0.2", "172.18.0.3")], &[]).is_removal());
    }

    #[test]
    fn the_same_lead_twice_is_one() {
        let twice = table(&[("172.18.0.2", "172.18.0.3"), ("172.18.0.2", "172.18.0.3")], &[]);
        assert_eq!(rules("t", &twice), rules("t", &table(&[("172.18.0.2", "172.18.0.3")], &[])));
    }

    #[test]
    fn several_addresses_may_be_led_to_one() {
        assert!(rules("t", &table(&[("172.18.0.2", "172.18.0.9"), ("172.18.0.3", "172.18.0.9")], &[])).is_ok());
    }

    #[test]
    fn loops_and_chains_are_refused() {
        refused(&[("172.18.0.2", "172.18.0.2")], &[], "172.18.0.2 is led to itself");
        refused(
            &[("172.18.0.2", "172.18.0.3"), ("172.18.0.3", "172.18.0.2")],
            &[],
            "172.18.0.2 is led to 172.18.0.3, and 172.18.0.3 is led on to 172.18.0.2: \
             new connections would stop at 172.18.0.3",
        );
        refused(
            &[("172.18.0.3", "172.18.0.4"), ("172.18.0.2", "172.18.0.3")],
            &[],
            "172.18.0.2 is led to 172.18.0.3, and 172.18.0.3 is led on to 172.18.0.4: \
             new connections would stop at 172.18.0.3",
        );
    }

    #[test]
    fn contradictions_are_refused() {
        refused(
            &[("172.18.0.2", "172.18.0.3"), ("172.18.0.2", "172.18.0.4")],
            &[],
            "172.18.0.2 is led to both 172.18.0.3 and 172.18.0.4",
        );
        refused(&[("172.18.0.2", "fd00::3")], &[], "172.18.0.2 cannot be led to fd00::3: one is IPv4, the other IPv6");
        refused(&[("172.18.0.2", "172.18.0.3")], &["172.18.0.2"], "172.18.0.2 is both led and held");
    }

    #[test]
    fn the_resolver_and_other_addresses_of_no_container_are_refused() {
        for strange in ["127.0.0.11", "0.0.0.0", "224.0.0.1", "255.255.255.255"] {
            refused(&[(strange, "172.18.0.3")], &[], &format!("{strange} is not the address of one container"));
            refused(&[], &[strange], &format!("{strange} is not the address of one container"));
        }
        for strange in ["::1", "::", "ff02::1", "::ffff:172.18.0.2"] {
            refused(&[("fd00::2", strange)], &[], &format!("{strange} is not the address of one container"));
        }
    }

    #[test]
    fn a_table_survives_being_written_and_read() {
        let before = PeerTable { move_udp: true, ..table(&[("172.18.0.2", "172.18.0.3")], &["fd00::4"]) };
        let text = serde_json::to_string(&before).expect("serializable");
        assert_eq!(serde_json::from_str::<PeerTable>(&text).expect("readable"), before);
    }
}
