//! The switch at the host's ports, in the kernel: [`handover_core::switch::rules`] by netlink.
//!
//! Everything here acts on the network namespace of the calling thread. Loading and unloading are one transaction each:
//! every packet meets the old rules or the new ones, for all ports. Both may be repeated. The table survives this
//! process; it goes with [`unload`] or with the host.

use std::time::{Duration, Instant};

use handover_core::switch::{
    self, Action, CHAINS, ChainHook, DIRECT_HITS_PRIORITY, IpVersion, LEAD_PRIORITY, Match, PortTable, Protocol,
    RuleTable, TABLE_PREFIX, table_name,
};
use nlink::netlink::nftables::{
    BaseChain, Chain, ChainName, CtState, Family, FibFlags, FilterHook, Hook, NatHook, NatStatement, Object,
    ObjectState, Policy, Priority, Rule, TcpFlags, Transaction,
};
use nlink::netlink::types::route::RouteType;
use nlink::netlink::{Connection, Nftables};

use crate::error::HostError;

/// Loads `table` in one transaction, in place of an earlier table of the same project.
///
/// Returns the time that the transaction took. Fails without a change if the kernel refuses a rule, and if a table of
/// that name is not ours.
pub async fn load(table: &PortTable) -> Result<Duration, HostError> {
    let rules = switch::rules(table);
    let doing = || HostError::netlink(format!("loading nftables table {}", rules.name));
    let connection = open()?;
    // Between finding out whether there is a table and replacing it somebody may have changed that: look again, once.
    for last in [false, true] {
        let replace = is_ours(&connection, &rules.name).await?;
        let mut transaction = connection.transaction();
        if replace {
            transaction = transaction.del_table(&rules.name, Family::Inet);
        }
        let transaction = fill(transaction, &rules).map_err(doing())?;
        let started = Instant::now();
        match transaction.commit(&connection).await {
            Ok(()) => return Ok(started.elapsed()),
            Err(error) if !last && (error.is_not_found() || error.is_already_exists()) => {}
            Err(error) => return Err(doing()(error)),
        }
    }
    Err(HostError::Request(format!("nftables table {} changes all the time", rules.name)))
}

/// Deletes the project's table in one transaction and says whether there was one.
pub async fn unload(project: &str) -> Result<bool, HostError> {
    let name = table_name(project);
    let connection = open()?;
    if !is_ours(&connection, &name).await? {
        return Ok(false);
    }
    let deleted = connection.del_table_if_exists(name.as_str(), Family::Inet).await;
    deleted.map_err(HostError::netlink(format!("deleting nftables table {name}")))
}

/// Connections led since loading, in the order of the table's leads; none if the project's table is not loaded.
pub async fn counters(project: &str) -> Result<Option<Vec<u64>>, HostError> {
    let name = table_name(project);
    let connection = open()?;
    if !is_ours(&connection, &name).await? {
        return Ok(None);
    }
    let objects = connection
        .list_objects_in(&name, Family::Inet)
        .await
        .map_err(HostError::netlink(format!("reading the counters of nftables table {name}")))?;
    let count_of = |wanted: &str| {
        objects.iter().find(|object| object.name == wanted).map(|object| match &object.state {
            ObjectState::Counter { packets, .. } => *packets,
            _ => 0,
        })
    };
    Ok(Some((0..).map_while(|index| count_of(&switch::counter_name(index))).collect()))
}

/// Names of all tables of handover in the kernel.
pub(crate) async fn tables() -> Result<Vec<String>, HostError> {
    let tables = open()?.list_tables_in(Family::Inet).await.map_err(HostError::netlink("listing nftables tables"))?;
    Ok(tables.into_iter().map(|table| table.name).filter(|name| name.starts_with(TABLE_PREFIX)).collect())
}

/// Base chains that drop by default what comes in to the host, as `family table chain`. Rules of the old iptables are
/// not seen.
pub(crate) async fn input_dropped_by() -> Result<Vec<String>, HostError> {
    let chains = open()?.list_chains().await.map_err(HostError::netlink("listing nftables chains"))?;
    let drops = chains.into_iter().filter(|chain| {
        chain.hook.and_then(|hook| Hook::from_number(chain.family, hook)) == Some(Hook::Input)
            && chain.policy.and_then(Policy::from_u32) == Some(Policy::Drop)
            && matches!(chain.family, Family::Inet | Family::Ip | Family::Ip6)
    });
    Ok(drops.map(|chain| format!("{} {} {}", chain.family, chain.table, chain.name)).collect())
}

fn open() -> Result<Connection<Nftables>, HostError> {
    Connection::<Nftables>::new().map_err(HostError::netlink("opening a netlink socket for nftables"))
}

/// Whether there is a table of that name; an error if it is not one of ours.
async fn is_ours(connection: &Connection<Nftables>, name: &str) -> Result<bool, HostError> {
    let reading = || HostError::netlink(format!("looking for nftables table {name}"));
    let tables = connection.list_tables_in(Family::Inet).await.map_err(reading())?;
    if !tables.iter().any(|table| table.name == name) {
        return Ok(false);
    }
    let chains = connection.list_chains_in(name, Family::Inet).await.map_err(reading())?;
    match chains.into_iter().find(|chain| !CHAINS.contains(&chain.name.as_str())) {
        None => Ok(true),
        Some(chain) => Err(HostError::ForeignTable { table: name.to_owned(), chain: chain.name }),
    }
}

fn fill(mut transaction: Transaction, table: &RuleTable) -> Result<Transaction, nlink::Error> {
    let name = table.name.as_str();
    transaction = transaction.add_table(name, Family::Inet);
    for counter in &table.counters {
        transaction = transaction.add_object(&Object::counter(name, counter).family(Family::Inet));
    }
    for chain in &table.chains {
        let mut made = Chain::new(name, chain.name)?.family(Family::Inet);
        if let Some(hook) = chain.hook {
            made = made.base(base_chain(hook));
        }
        transaction = transaction.add_chain(made);
        for rule in &chain.rules {
            transaction = transaction.add_rule(kernel_rule(name, chain.name, rule)?);
        }
    }
    Ok(transaction)
}

fn base_chain(hook: ChainHook) -> BaseChain {
    let lead = Priority::Custom(LEAD_PRIORITY);
    let base = match hook {
        ChainHook::NatPrerouting => BaseChain::nat(NatHook::Prerouting, lead),
        ChainHook::NatOutput => BaseChain::nat(NatHook::Output, lead),
        ChainHook::FilterPrerouting => {
            BaseChain::filter(FilterHook::Prerouting, Priority::Custom(DIRECT_HITS_PRIORITY))
        }
    };
    base.policy(Policy::Accept)
}

fn kernel_rule(table: &str, chain: &str, rule: &switch::Rule) -> Result<Rule, nlink::Error> {
    let mut made = Rule::new(table, chain).family(Family::Inet);
    for one in &rule.matches {
        made = match one {
            Match::Interface(name) => made.match_iif(name),
            Match::Ip(version) => made.then(nlink::netlink::nftables::Match::eq(
                nlink::netlink::nftables::Field::NfProto,
                u8::try_from(version_number(*version)).unwrap_or_default(),
            )),
            Match::DestinationLocal => made.match_fib_type(FibFlags::DADDR, RouteType::Local),
            Match::Destination(ip, prefix) => made.match_daddr(*ip, *prefix),
            Match::DestinationNot(ip, prefix) => made.match_daddr_not(*ip, *prefix),
            Match::Port(Protocol::Tcp, port) => made.match_tcp_dport(*port),
            Match::Port(Protocol::Udp, port) => made.match_udp_dport(*port),
            Match::Syn => {
                made.match_tcp_flags(TcpFlags::SYN, TcpFlags::FIN | TcpFlags::SYN | TcpFlags::RST | TcpFlags::ACK)
            }
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
