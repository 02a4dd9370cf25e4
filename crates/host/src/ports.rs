//! The switch at the host's ports, in the kernel: [`handover_core::redirect::ports::rules`] by netlink.
//!
//! Everything here acts on the network namespace of the calling thread. Loading and unloading are one transaction each:
//! every packet meets the old rules or the new ones, for all ports. Both may be repeated. The table survives this
//! process; it goes with [`unload`] or with the host.

use std::time::{Duration, Instant};

use handover_core::redirect::ports::{CHAINS, PortTable, counter_name, table_name};
use nlink::netlink::nftables::{Family, Hook, Policy};
use nlink::netlink::{Connection, Nftables};

use crate::error::HostError;
use crate::rules;

/// Loads `table` in one transaction, in place of an earlier table of the same project.
///
/// Returns the time that the transaction took. Fails without a change if the kernel refuses a rule, and if a table of
/// that name is not ours.
pub async fn load(table: &PortTable) -> Result<Duration, HostError> {
    let wanted = handover_core::redirect::ports::rules(table);
    let doing = || HostError::netlink(format!("loading nftables table {}", wanted.name));
    let connection = open()?;
    // Between finding out whether there is a table and replacing it somebody may have changed that: look again, once.
    for last in [false, true] {
        let replace = is_ours(&connection, &wanted.name).await?;
        let mut transaction = connection.transaction();
        if replace {
            transaction = transaction.del_table(&wanted.name, Family::Inet);
        }
        let transaction = transaction.add_table(&wanted.name, Family::Inet);
        let transaction = rules::fill(transaction, &wanted).map_err(doing())?;
        let started = Instant::now();
        match transaction.commit(&connection).await {
            Ok(()) => return Ok(started.elapsed()),
            Err(error) if !last && (error.is_not_found() || error.is_already_exists()) => {}
            Err(error) => return Err(doing()(error)),
        }
    }
    Err(HostError::Request(format!("nftables table {} changes all the time", wanted.name)))
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
    let counts = rules::counts(&connection, &name).await?;
    Ok(Some((0..).map_while(|index| counts.get(&counter_name(index)).copied()).collect()))
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
