//! All leads of a rolling deploy, and which of them each peer needs.
//!
//! Names resolve to the old and to the new container as soon as the new one starts, and proxies learn late that the old one
//! is gone. So at first the new container's addresses lead to the old one; after the gate the old one's lead to the new.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::redirect::peers::{AddressLead, PeerTable};

/// Addresses of one container: network by network, at most one of each IP version.
pub type Addresses = BTreeSet<(String, IpAddr)>;

/// A network namespace whose processes may call the containers of a deploy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// How to call it in front of users: the container's name, or the host.
    pub name: String,
    /// The namespace; empty is the host's own.
    pub sandbox: String,
    /// Its own addresses; none for the host, which reaches every network.
    pub addresses: Addresses,
}

/// Where the addresses of containers lead now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leads {
    /// Whether UDP flows under way move as well. Finding them takes some 20 ms a namespace.
    udp: bool,
    to: BTreeMap<(String, IpAddr), IpAddr>,
}

impl Leads {
    /// No leads yet; `udp` says whether UDP flows under way move as well.
    pub fn new(udp: bool) -> Self {
        Self { udp, to: BTreeMap::new() }
    }

    /// Leads every address of one container to that of another on the same network. What led to the first leads to the
    /// second from now on, too; the second's own addresses lead nowhere else any more.
    pub fn lead(&mut self, from: &Addresses, to: &Addresses) {
        self.forget(to);
        for (network, address) in from {
            let same = |other: &&(String, IpAddr)| other.0 == *network && other.1.is_ipv4() == address.is_ipv4();
            let Some((_, target)) = to.iter().find(same) else { continue };
            for led in self.to.values_mut().filter(|led| *led == address) {
                *led = *target;
            }
            self.to.insert((network.clone(), *address), *target);
        }
        self.to.retain(|(_, address), led| address != led);
    }

    /// A lead that an earlier deploy has kept.
    pub fn adopt(&mut self, network: &str, lead: AddressLead) {
        self.to.insert((network.to_owned(), lead.from), lead.to);
    }

    /// The addresses belong to whoever has them: to a container that is ready, or to one that is not of this deploy.
    pub fn forget(&mut self, addresses: &Addresses) {
        self.to.retain(|from, _| !addresses.contains(from));
    }

    /// The addresses that are led somewhere.
    pub fn led(&self) -> impl Iterator<Item = IpAddr> {
        self.to.keys().map(|(_, address)| *address)
    }

    /// Whether nothing is led.
    pub fn is_empty(&self) -> bool {
        self.to.is_empty()
    }

    /// What a peer needs of it: leads on the networks that it is on, apart from those from and to itself.
    pub fn table(&self, peer: &Peer) -> PeerTable {
        let on_its_networks =
            |network: &str| peer.sandbox.is_empty() || peer.addresses.iter().any(|(own, _)| own == network);
        let own = |address: &IpAddr| peer.addresses.iter().any(|(_, own)| own == address);
        let leads = self
            .to
            .iter()
            .filter(|((network, from), to)| on_its_networks(network) && !own(from) && !own(to))
            .map(|((_, from), to)| AddressLead { from: *from, to: *to });
        let leads: Vec<AddressLead> = leads.collect();
        // Without leads the table stays: what was led before goes on through it.
        PeerTable {
            sandbox: peer.sandbox.clone().into(),
            keep: leads.is_empty(),
            leads,
            move_udp: self.udp,
            ..PeerTable::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(last: &[(&str, u8)]) -> Addresses {
        last.iter().map(|(network, last)| ((*network).to_owned(), IpAddr::from([10, 0, 0, *last]))).collect()
    }

    fn peer(addresses: Addresses) -> Peer {
        Peer { name: "peer".into(), sandbox: "/proc/1/ns/net".into(), addresses }
    }

    fn led(leads: &Leads, peer: &Peer) -> Vec<(u8, u8)> {
        let last = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        };
        leads.table(peer).leads.iter().map(|lead| (last(lead.from), last(lead.to))).collect()
    }

    #[test]
    fn before_the_gate_the_new_one_leads_to_the_old_and_after_it_the_other_way() {
        let (old, new) = (container(&[("a", 1)]), container(&[("a", 2)]));
        let peer = peer(container(&[("a", 9)]));
        let mut leads = Leads::default();
        leads.lead(&new, &old);
        assert_eq!(led(&leads, &peer), [(2, 1)]);
        leads.lead(&old, &new);
        assert_eq!(led(&leads, &peer), [(1, 2)]);
    }

    #[test]
    fn what_led_to_a_container_follows_it() {
        let [first, second, third] = [1, 2, 3].map(|last| container(&[("a", last)]));
        let mut leads = Leads::default();
        leads.lead(&first, &second);
        leads.lead(&second, &third);
        assert_eq!(led(&leads, &peer(container(&[("a", 9)]))), [(1, 3), (2, 3)]);
    }

    #[test]
    fn an_address_that_a_ready_container_gets_again_leads_nowhere() {
        let [first, second] = [1, 2].map(|last| container(&[("a", last)]));
        let mut leads = Leads::default();
        leads.lead(&first, &second);
        leads.forget(&first);
        assert!(leads.is_empty());
    }

    #[test]
    fn a_peer_gets_the_leads_of_its_own_networks_and_none_about_itself() {
        let old = container(&[("a", 1), ("b", 11)]);
        let new = container(&[("a", 2), ("b", 12)]);
        let mut leads = Leads::default();
        leads.lead(&old, &new);
        assert_eq!(led(&leads, &peer(container(&[("b", 19)]))), [(11, 12)]);
        assert_eq!(led(&leads, &peer(new)), []);
        let host = Peer { name: "the host".into(), sandbox: String::new(), addresses: Addresses::new() };
        assert_eq!(led(&leads, &host), [(1, 2), (11, 12)]);
    }

    #[test]
    fn a_network_that_only_one_of_the_two_is_on_is_not_led() {
        let mut leads = Leads::default();
        leads.lead(&container(&[("a", 1), ("b", 11)]), &container(&[("a", 2)]));
        assert_eq!(led(&leads, &peer(container(&[("b", 19)]))), []);
    }

    #[test]
    fn a_peer_without_leads_keeps_its_table_for_what_was_led() {
        assert!(Leads::default().table(&peer(container(&[("a", 9)]))).keep);
    }
}
