//! A [`RuleTable`] for the kernel: the messages that make it, the counters read back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use handover_core::net::{IpVersion, Protocol};
use handover_core::redirect::rules::{
    Action, ChainHook, DIRECT_HITS_PRIORITY, HOLD_PRIORITY, LAST_LEAD_PRIORITY, LEAD_PRIORITY, Match, RuleChain,
    RuleTable,
};
use nlink::netlink::nftables::{
    BaseChain, Chain, ChainName, CtState, Family, FibFlags, FilterHook, NatHook, NatStatement, Object, ObjectState,
    PacketField, Policy, Priority, Rule, Set, SetElement, SetKeyType, TcpFlags, Transaction,
};
use nlink::netlink::types::route::RouteType;
use nlink::netlink::{Connection, Nftables};

use crate::error::HostError;

/// Number of the protocol (IPPROTO_TCP).
const TCP: u8 = 6;

/// Adds counters, chains and rules to a table that the transaction has just made.
pub(crate) fn fill(mut transaction: Transaction, table: &RuleTable) -> Result<Transaction, nlink::Error> {
    let name = table.name.as_str();
    for expiring in &table.expiring {
        let (kind, element) = match expiring.address {
            IpAddr::V4(address) => (SetKeyType::Ipv4Addr, SetElement::ipv4(address)),
            IpAddr::V6(address) => (SetKeyType::Ipv6Addr, SetElement::ipv6(address)),
        };
        let set = Set::new(name, &expiring.name).family(Family::Inet).key_type(kind).timeout(expiring.after);
        transaction = transaction.add_set(set.clone()).add_set_elements(&set, &[element]);
    }
    for counter in &table.counters {
        transaction = add_counter(transaction, name, counter);
    }
    for chain in &table.chains {
        let mut made = Chain::new(name, chain.name)?.family(Family::Inet);
        if let Some(hook) = chain.hook {
            made = made.base(base_chain(hook));
        }
        transaction = transaction.add_chain(made);
        transaction = add_rules(transaction, name, chain)?;
    }
    Ok(transaction)
}

/// Adds the rules and new counters of `table` to the table of the same name and chains, in place of its rules now.
/// Counters in `known` are there already and go on counting; those that no rule uses any more stay.
pub(crate) fn refill(
    transaction: Transaction,
    table: &RuleTable,
    known: &BTreeSet<String>,
) -> Result<Transaction, nlink::Error> {
    let name = table.name.as_str();
    let mut transaction = transaction.flush_table(name, Family::Inet);
    for counter in table.counters.iter().filter(|counter| !known.contains(*counter)) {
        transaction = add_counter(transaction, name, counter);
    }
    for chain in &table.chains {
        transaction = add_rules(transaction, name, chain)?;
    }
    Ok(transaction)
}

/// What the counters of a table have counted, in packets, by name.
pub(crate) async fn counts(connection: &Connection<Nftables>, table: &str) -> Result<BTreeMap<String, u64>, HostError> {
    let reading = HostError::netlink(format!("reading the counters of nftables table {table}"));
    let objects = connection.list_objects_in(table, Family::Inet).await.map_err(reading)?;
    let counters = objects.into_iter().filter_map(|object| match object.state {
        ObjectState::Counter { packets, .. } => Some((object.name, packets)),
        _ => None,
    });
    Ok(counters.collect())
}

fn add_counter(transaction: Transaction, table: &str, counter: &str) -> Transaction {
    transaction.add_object(&Object::counter(table, counter).family(Family::Inet))
}

fn add_rules(mut transaction: Transaction, table: &str, chain: &RuleChain) -> Result<Transaction, nlink::Error> {
    for rule in &chain.rules {
        transaction = transaction.add_rule(kernel_rule(table, chain.name, rule)?);
    }
    Ok(transaction)
}

fn base_chain(hook: ChainHook) -> BaseChain {
    let lead = Priority::Custom(LEAD_PRIORITY);
    let base = match hook {
        ChainHook::NatPrerouting => BaseChain::nat(NatHook::Prerouting, lead),
        ChainHook::NatOutput => BaseChain::nat(NatHook::Output, lead),
        ChainHook::NatOutputLast => BaseChain::nat(NatHook::Output, Priority::Custom(LAST_LEAD_PRIORITY)),
        ChainHook::FilterPrerouting => {
            BaseChain::filter(FilterHook::Prerouting, Priority::Custom(DIRECT_HITS_PRIORITY))
        }
        ChainHook::FilterOutput => BaseChain::filter(FilterHook::Output, Priority::Custom(HOLD_PRIORITY)),
    };
    base.policy(Policy::Accept)
}

fn kernel_rule(table: &str, chain: &str, rule: &handover_core::redirect::rules::Rule) -> Result<Rule, nlink::Error> {
    let mut made = Rule::new(table, chain).family(Family::Inet);
    for one in &rule.matches {
        made = match one {
            Match::Interface(name) => made.match_iif(name),
            Match::NotLeavingBy(name) => made.match_oif_not(name),
            Match::Ip(version) => made.then(nlink::netlink::nftables::Match::eq(
                nlink::netlink::nftables::Field::NfProto,
                u8::try_from(version_number(*version)).unwrap_or_default(),
            )),
            Match::DestinationLocal => made.match_fib_type(FibFlags::DADDR, RouteType::Local),
            Match::Destination(ip, prefix) => made.match_daddr(*ip, *prefix),
            Match::DestinationNot(ip, prefix) => made.match_daddr_not(*ip, *prefix),
            Match::DestinationIn(IpVersion::V4, set) => made.match_in_set(PacketField::Ip4Daddr, set),
            Match::DestinationIn(IpVersion::V6, set) => made.match_in_set(PacketField::Ip6Daddr, set),
            Match::Port(Protocol::Tcp, port) => made.match_tcp_dport(*port),
            Match::Port(Protocol::Udp, port) => made.match_udp_dport(*port),
            Match::Syn => {
                made.match_tcp_flags(TcpFlags::SYN, TcpFlags::FIN | TcpFlags::SYN | TcpFlags::RST | TcpFlags::ACK)
            }
            Match::NotTcp => made.match_l4proto_not(TCP),
            Match::UnderWay => made.match_ct_state(CtState::ESTABLISHED | CtState::RELATED),
        };
    }
    if let Some(counter) = &rule.counter {
        made = made.counter_named(counter);
    }
    Ok(match &rule.action {
        Action::Accept => made.accept(),
        Action::Drop => made.drop(),
        Action::Goto(target) => made.goto(ChainName::new(*target)?),
        Action::LeadTo(to) => made.nat(NatStatement::dnat(to.ip()).port(to.port())),
        Action::LeadToAddress(to) => made.nat(NatStatement::dnat(*to)),
        Action::LeadToPort(version, port) => {
            let family = match version {
                IpVersion::V4 => Family::Ip,
                IpVersion::V6 => Family::Ip6,
            };
            made.nat(NatStatement::dnat_to_port(family, *port))
        }
    })
}

/// NFPROTO_IPV4 and NFPROTO_IPV6, which are the numbers of the address families.
fn version_number(version: IpVersion) -> i32 {
    match version {
        IpVersion::V4 => libc::AF_INET,
        IpVersion::V6 => libc::AF_INET6,
    }
}
