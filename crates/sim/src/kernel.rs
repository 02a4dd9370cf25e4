//! Who gets a new connection: the rules that core makes, interpreted as the kernel would.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use handover_core::net::{IpVersion, Protocol, contains};
use handover_core::redirect::peers::AddressLead;
use handover_core::redirect::rules::{Action, ChainHook, Match, RuleTable};
use handover_core::redirect::{peers, ports};
use tokio::time::Instant;

use crate::world::{Container, World};

/// The host's own address.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The port at which every program in this world listens.
const SERVED: u16 = 80;

/// Who takes a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A container that answers.
    By {
        /// Its id.
        id: String,
        /// Its image.
        image: String,
    },
    /// A container that does not answer yet.
    TooEarly(String),
    /// Nobody listens there.
    Refused,
    /// The first packet is dropped, and sent again a second later.
    Dropped,
}

/// The first packet of a TCP connection.
struct Packet {
    to: IpAddr,
    port: u16,
    /// By which interface it comes or goes.
    interface: &'static str,
}

/// What a chain says.
enum Verdict {
    Nothing,
    Dropped,
    To(IpAddr, u16),
}

impl World {
    /// A connection from another machine to a published port.
    pub fn connect_from_outside(&self, port: u16) -> Taken {
        let packet = Packet { to: HOST.into(), port, interface: "eth0" };
        let tables: Vec<RuleTable> = self.port_tables.values().map(ports::rules).collect();
        for table in &tables {
            if let Verdict::Dropped = ask(table, ChainHook::FilterPrerouting, &packet, &|_| true) {
                return Taken::Dropped;
            }
        }
        let led = tables.iter().find_map(|table| match ask(table, ChainHook::NatPrerouting, &packet, &|_| true) {
            Verdict::To(address, port) => Some((address, port)),
            _ => None,
        });
        match led {
            Some((address, port)) if address == IpAddr::V4(HOST) => self.at_published(port),
            Some((address, port)) => self.at_address(address, port),
            None => self.at_published(port),
        }
    }

    /// A connection from a process in a container's namespace to another container.
    pub fn connect_from_container(&mut self, process: u32, to: Ipv4Addr, port: u16) -> Taken {
        let packet = Packet { to: to.into(), port, interface: "eth0" };
        let mut led = None;
        for table in self.client_tables.iter().filter(|table| table.process == process) {
            let Ok(rules) = peers::rules("sim", &table.table) else { continue };
            if let Verdict::Dropped = ask(&rules, ChainHook::FilterOutput, &packet, &|_| true) {
                return Taken::Dropped;
            }
            if let Verdict::To(address, _) = ask(&rules, ChainHook::NatOutput, &packet, &|_| true) {
                led = led.or(Some(address));
            }
        }
        let now = Instant::now();
        let outlasting = self.outlasting.iter().filter(|((of, _), (_, until))| *of == process && *until > now);
        let mut last = outlasting.filter_map(|(_, (one, _))| {
            let rules = handover_core::redirect::outlasting::rules(one);
            let sets = rules.expiring.clone();
            let holds = |name: &str| sets.iter().any(|set| set.name == name && set.address == packet.to);
            match ask(&rules, ChainHook::NatOutputLast, &packet, &holds) {
                Verdict::To(address, _) => Some(address),
                _ => None,
            }
        });
        let address = led.or_else(|| last.next()).unwrap_or(packet.to);
        if address != packet.to {
            *self.redirected.entry((process, AddressLead { from: packet.to, to: address })).or_default() += 1;
        }
        self.at_address(address, port)
    }

    /// The engine's own rules: whoever has the port on the host.
    fn at_published(&self, port: u16) -> Taken {
        let has = |container: &&Container| container.ports.iter().any(|one| one.bound == Some(port));
        self.containers.values().filter(|one| one.runs()).find(has).map_or(Taken::Refused, taken)
    }

    fn at_address(&self, address: IpAddr, port: u16) -> Taken {
        if port != SERVED {
            return Taken::Refused;
        }
        let has = |container: &&Container| {
            container.attached.values().any(|one| one.address.map(IpAddr::V4) == Some(address))
        };
        self.containers.values().filter(|one| one.runs()).find(has).map_or(Taken::Refused, taken)
    }
}

fn taken(container: &Container) -> Taken {
    // Our helpers listen at nothing.
    if !container.label("handover.role").is_empty() {
        return Taken::Refused;
    }
    if container.is_ready() {
        Taken::By { id: container.id.clone(), image: container.image.clone() }
    } else {
        Taken::TooEarly(container.name.clone())
    }
}

fn ask(table: &RuleTable, hook: ChainHook, packet: &Packet, in_set: &dyn Fn(&str) -> bool) -> Verdict {
    let Some(mut chain) = table.chains.iter().find(|chain| chain.hook == Some(hook)) else { return Verdict::Nothing };
    'chain: loop {
        for rule in &chain.rules {
            if !rule.matches.iter().all(|one| holds(one, packet, in_set)) {
                continue;
            }
            match &rule.action {
                Action::Accept => return Verdict::Nothing,
                Action::Drop => return Verdict::Dropped,
                Action::Goto(name) => match table.chains.iter().find(|chain| chain.name == *name) {
                    Some(next) => {
                        chain = next;
                        continue 'chain;
                    }
                    None => return Verdict::Nothing,
                },
                Action::LeadTo(to) => return Verdict::To(to.ip(), to.port()),
                Action::LeadToAddress(to) => return Verdict::To(*to, packet.port),
                Action::LeadToPort(_, port) => return Verdict::To(packet.to, *port),
            }
        }
        return Verdict::Nothing;
    }
}

fn holds(condition: &Match, packet: &Packet, in_set: &dyn Fn(&str) -> bool) -> bool {
    match condition {
        Match::Interface(name) => name == packet.interface,
        Match::NotLeavingBy(name) => name != packet.interface,
        Match::Ip(version) => (*version == IpVersion::V4) == packet.to.is_ipv4(),
        Match::DestinationLocal => packet.to == IpAddr::V4(HOST),
        Match::Destination(network, prefix) => contains((*network, *prefix), packet.to),
        Match::DestinationNot(network, prefix) => !contains((*network, *prefix), packet.to),
        Match::DestinationIn(_, set) => in_set(set),
        Match::Port(protocol, port) => *protocol == Protocol::Tcp && *port == packet.port,
        Match::Syn => true,
        Match::NotTcp | Match::UnderWay => false,
    }
}

/// How long a client waits for an answer to its first packet before it sends it again.
pub const SENT_AGAIN: Duration = Duration::from_secs(1);
