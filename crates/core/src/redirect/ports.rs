//! The switch at the host's ports: which published port leads where while a stand-in serves.
//!
//! [`PortTable`] says what is wanted; [`rules`] turns it into the chains and rules of one nftables table, as plain data
//! that `handover-host` hands to the kernel in one transaction. `Display` of a [`RuleTable`] reads like `nft list`.
//!
//! Facts the rules rest on (Linux 6.18, Engine 20.10.24):
//! - NAT rules are asked for the first packet of a connection only; later packets follow what was decided then. So
//!   connections under way stay where they are when the table comes, changes or goes.
//! - *But* connection tracking runs for IPv6 only while something asks for it, and the engine's own rules may not.
//!   Loaded under way, it takes the next packet of an old connection for the first of a new one. Hence every TCP rule
//!   asks for a SYN.
//! - For the same reason IPv6 connections that are led lose their way when the last rule goes that asks for connection
//!   tracking (NAT chains without rules do not): keep a table without leads ([`PortTable::released`]) until the last of
//!   them has ended, then delete it.
//! - `dnat to :port` keeps the address that the client chose; `redirect` would replace it, and miss a listener that is
//!   bound to one address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::{IpVersion, Protocol};
use crate::redirect::rules::{Action, ChainHook, Match, Rule, RuleChain, RuleTable};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What every table of ours begins with.
pub const TABLE_PREFIX: &str = "handover-";

/// Names of all chains that a table of ports may hold. A table with any other chain is not ours and is never touched.
pub const CHAINS: [&str; 4] = [ARRIVING, FROM_CONTAINERS, LEAVING, DIRECT_HITS];

const ARRIVING: &str = "lead_arriving";
const FROM_CONTAINERS: &str = "lead_from_containers";
const LEAVING: &str = "lead_from_host";
const DIRECT_HITS: &str = "direct_hits";

/// All leads of one project at the host's ports; one nftables table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortTable {
    /// Name of the Compose project; the table's name is made of it ([`table_name`]).
    pub project: String,
    /// One entry a published port (and host address, where a port is published on several).
    pub leads: Vec<PortLead>,
    /// Names of the host's interfaces that are bridges of the engine: what arrives there from containers is led
    /// to the stand-in's own published port, because the engine drops what is led from one bridge straight to another.
    pub bridges: Vec<String>,
    /// Whether the engine runs its userland proxy, so that the stand-in's ephemeral ports have a listener on the host.
    pub userland_proxy: bool,
}

impl PortTable {
    /// The same table without leads: nothing new is led, connections that were led before go on being translated.
    pub fn released(&self) -> PortTable {
        PortTable { leads: Vec::new(), ..self.clone() }
    }
}

/// New connections to one published port are led to a stand-in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortLead {
    /// Protocol of the port.
    pub protocol: Protocol,
    /// Address that the port is published on; `None` means every local address, IPv4 and IPv6, `0.0.0.0` every IPv4
    /// address, `::` every IPv6 address.
    pub host_ip: Option<IpAddr>,
    /// The fixed port on the host that clients use.
    pub published: u16,
    /// The stand-in container's own address on the network that the engine publishes it through.
    pub container_ip: Ipv4Addr,
    /// The same for IPv6, only where the engine itself leads IPv6 to containers (`ip6tables`, an IPv6 network);
    /// without it IPv6 goes to `ephemeral_v6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_ipv6: Option<Ipv6Addr>,
    /// The port inside the container.
    pub container_port: u16,
    /// The ephemeral port on the host where the engine publishes the stand-in, for IPv4.
    pub ephemeral_v4: Option<u16>,
    /// The same for IPv6.
    pub ephemeral_v6: Option<u16>,
}

/// Name of the nftables table of a project, valid for every Compose project name and never longer than the kernel
/// allows (255 bytes): a longer one is cut and told apart by a hash.
pub fn table_name(project: &str) -> String {
    const LONGEST: usize = 200;
    if project.len() <= LONGEST {
        return format!("{TABLE_PREFIX}{project}");
    }
    let cut = (0..=LONGEST).rev().find(|&at| project.is_char_boundary(at)).unwrap_or(0);
    let hash: String = Sha256::digest(project.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{TABLE_PREFIX}{}-{hash}", &project[..cut])
}

/// Name of the counter that counts the connections led by lead number `index` of a table.
pub fn counter_name(index: usize) -> String {
    format!("lead-{index}")
}

/// The nftables table that does what `table` says. Without leads it only keeps connection
/// tracking at work (see [`PortTable::released`]).
pub fn rules(table: &PortTable) -> RuleTable {
    let mut arriving: Vec<Rule> = Vec::new();
    let mut from_containers: Vec<Rule> = Vec::new();
    let mut leaving: Vec<Rule> = Vec::new();
    let mut direct_hits: Vec<Rule> = Vec::new();

    let containers_apart = table.userland_proxy && !table.bridges.is_empty() && !table.leads.is_empty();
    if containers_apart {
        arriving.extend(table.bridges.iter().map(|bridge| Rule {
            matches: vec![Match::Interface(bridge.clone())],
            counter: None,
            action: Action::Goto(FROM_CONTAINERS),
        }));
    }
    for (index, lead) in table.leads.iter().enumerate() {
        let one = LeadRules { lead, index, userland_proxy: table.userland_proxy };
        arriving.extend(one.leads_for_other_machines());
        if containers_apart {
            from_containers.extend(one.leads_for_containers());
        }
        leaving.extend(one.leads_for_the_host());
        direct_hits.extend(one.direct_hits());
    }
    // Also without leads: this rule alone keeps connection tracking at work for IPv6, and with it what was led.
    let mut first = vec![Rule { matches: vec![Match::UnderWay], counter: None, action: Action::Accept }];
    if !direct_hits.is_empty() {
        let local = std::iter::once("lo").chain(table.bridges.iter().map(String::as_str));
        first.extend(local.map(|name| Rule {
            matches: vec![Match::Interface(name.to_owned())],
            counter: None,
            action: Action::Accept,
        }));
    }
    direct_hits.splice(0..0, first);

    let mut chains = Vec::new();
    if containers_apart {
        chains.push(RuleChain { name: FROM_CONTAINERS, hook: None, rules: from_containers });
    }
    chains.push(RuleChain { name: ARRIVING, hook: Some(ChainHook::NatPrerouting), rules: arriving });
    chains.push(RuleChain { name: LEAVING, hook: Some(ChainHook::NatOutput), rules: leaving });
    chains.push(RuleChain { name: DIRECT_HITS, hook: Some(ChainHook::FilterPrerouting), rules: direct_hits });
    RuleTable {
        name: table_name(&table.project),
        expiring: Vec::new(),
        counters: (0..table.leads.len()).map(counter_name).collect(),
        chains,
    }
}

const LOOPBACK_V4: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8);
const LOOPBACK_V6: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::LOCALHOST), 128);

/// The rules of one lead, by where the connection comes from.
struct LeadRules<'a> {
    lead: &'a PortLead,
    index: usize,
    userland_proxy: bool,
}

/// Which destinations of one IP version a lead is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Nothing,
    EveryLocalAddress,
    Only(IpAddr),
}

impl LeadRules<'_> {
    fn scope(&self, version: IpVersion) -> Scope {
        match (self.lead.host_ip, version) {
            (None, _) => Scope::EveryLocalAddress,
            (Some(ip @ IpAddr::V4(_)), IpVersion::V4) | (Some(ip @ IpAddr::V6(_)), IpVersion::V6) => {
                if ip.is_unspecified() { Scope::EveryLocalAddress } else { Scope::Only(ip) }
            }
            (Some(_), _) => Scope::Nothing,
        }
    }

    fn container_v4(&self) -> Action {
        Action::LeadTo(SocketAddr::from((self.lead.container_ip, self.lead.container_port)))
    }

    fn container_v6(&self) -> Option<Action> {
        self.lead.container_ipv6.map(|ip| Action::LeadTo(SocketAddr::from((ip, self.lead.container_port))))
    }

    /// To the engine's userland proxy at the ephemeral port, where there is one.
    fn proxy(&self, version: IpVersion) -> Option<Action> {
        let port = match version {
            IpVersion::V4 => self.lead.ephemeral_v4,
            IpVersion::V6 => self.lead.ephemeral_v6,
        };
        port.filter(|_| self.userland_proxy).map(|port| Action::LeadToPort(version, port))
    }

    fn rule(&self, version: IpVersion, port: u16, narrower: Option<Match>, action: Action) -> Option<Rule> {
        let mut matches = vec![Match::Ip(version)];
        match self.scope(version) {
            Scope::Nothing => return None,
            Scope::Only(ip) => matches.push(Match::Destination(ip, if ip.is_ipv4() { 32 } else { 128 })),
            Scope::EveryLocalAddress => {}
        }
        matches.extend(narrower);
        matches.push(Match::Port(self.lead.protocol, port));
        if self.lead.protocol == Protocol::Tcp {
            matches.push(Match::Syn);
        }
        // The look-up in the routing table costs most, so it comes last.
        matches.push(Match::DestinationLocal);
        let counter = (action != Action::Drop).then(|| counter_name(self.index));
        Some(Rule { matches, counter, action })
    }

    fn published(&self, version: IpVersion, narrower: Option<Match>, action: Action) -> Option<Rule> {
        self.rule(version, self.lead.published, narrower, action)
    }

    /// Outside 127.0.0.0/8 (or ::1), unless the lead is for one address anyway.
    fn not_loopback(&self, version: IpVersion) -> Option<Match> {
        let (network, prefix) = loopback(version);
        (self.scope(version) == Scope::EveryLocalAddress).then_some(Match::DestinationNot(network, prefix))
    }

    fn is_for_loopback_only(&self, version: IpVersion) -> bool {
        matches!(self.scope(version), Scope::Only(ip) if ip.is_loopback())
    }

    fn leads_for_other_machines(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if !self.is_for_loopback_only(IpVersion::V4) {
            rules.extend(self.published(IpVersion::V4, self.not_loopback(IpVersion::V4), self.container_v4()));
        }
        if !self.is_for_loopback_only(IpVersion::V6)
            && let Some(action) = self.container_v6().or(self.proxy(IpVersion::V6))
        {
            rules.extend(self.published(IpVersion::V6, self.not_loopback(IpVersion::V6), action));
        }
        rules
    }

    /// Only asked where the engine has a userland proxy: it is what the engine itself leaves such connections to.
    fn leads_for_containers(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if !self.is_for_loopback_only(IpVersion::V4) {
            let action = self.proxy(IpVersion::V4).unwrap_or(self.container_v4());
            rules.extend(self.published(IpVersion::V4, self.not_loopback(IpVersion::V4), action));
        }
        if !self.is_for_loopback_only(IpVersion::V6)
            && let Some(action) = self.proxy(IpVersion::V6).or(self.container_v6())
        {
            rules.extend(self.published(IpVersion::V6, self.not_loopback(IpVersion::V6), action));
        }
        rules
    }

    fn leads_for_the_host(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let container = match version {
                IpVersion::V4 => Some(self.container_v4()),
                IpVersion::V6 => self.container_v6(),
            };
            let proxy = self.proxy(version);
            // Without a proxy the engine makes 127.0.0.0/8 routable (route_localnet); nothing does that for ::1.
            let at_loopback = match version {
                IpVersion::V4 => proxy.clone().or(container.clone()),
                IpVersion::V6 => proxy.clone(),
            };
            let elsewhere = container.or(proxy);
            let (network, prefix) = loopback(version);
            match self.scope(version) {
                Scope::Nothing => {}
                Scope::Only(ip) if ip.is_loopback() => {
                    rules.extend(at_loopback.and_then(|action| self.published(version, None, action)));
                }
                Scope::Only(_) => rules.extend(elsewhere.and_then(|action| self.published(version, None, action))),
                Scope::EveryLocalAddress if at_loopback == elsewhere => {
                    rules.extend(elsewhere.and_then(|action| self.published(version, None, action)));
                }
                Scope::EveryLocalAddress => {
                    let at = Match::Destination(network, prefix);
                    rules.extend(at_loopback.and_then(|action| self.published(version, Some(at), action)));
                    let not_at = Match::DestinationNot(network, prefix);
                    rules.extend(elsewhere.and_then(|action| self.published(version, Some(not_at), action)));
                }
            }
        }
        rules
    }

    /// The ephemeral ports are for this table alone: other machines must not get around the host's firewall by them.
    fn direct_hits(&self) -> Vec<Rule> {
        let ports = [(IpVersion::V4, self.lead.ephemeral_v4), (IpVersion::V6, self.lead.ephemeral_v6)];
        ports
            .into_iter()
            .filter_map(|(version, port)| {
                let mut rule = self.rule(version, port?, None, Action::Drop)?;
                // Whatever it is, it is not part of a connection that began before.
                rule.matches.retain(|one| *one != Match::Syn);
                Some(rule)
            })
            .collect()
    }
}

fn loopback(version: IpVersion) -> (IpAddr, u8) {
    match version {
        IpVersion::V4 => LOOPBACK_V4,
        IpVersion::V6 => LOOPBACK_V6,
    }
}

#[cfg(test)]
#[path = "ports_tests.rs"]
mod tests;
