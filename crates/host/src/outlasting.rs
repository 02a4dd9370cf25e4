//! Redirects that nobody holds ([`handover_core::redirect::ungated`]), in the network namespace of this thread.

use handover_core::redirect::outlasting::{Outlasting, rules as rules_of, table_name};
use nlink::netlink::nftables::Family;
use nlink::netlink::{Connection, Nftables};

use crate::error::HostError;
use crate::rules;

/// Puts what is wanted in place of what was there `before`, if that is known: where nobody knows, an earlier run may have left a table.
/// May be repeated. Killed in between, nothing is redirected beyond whoever holds the other tables.
pub(crate) async fn load(wanted: &Outlasting, before: Option<&Outlasting>) -> Result<(), HostError> {
    if before == Some(wanted) {
        return Ok(());
    }
    let connection = Connection::<Nftables>::new();
    let connection = connection.map_err(HostError::netlink("opening a netlink socket for nftables"))?;
    let name = table_name(&wanted.project);
    if before.is_none_or(|before| !before.redirects.is_empty()) {
        let removed = connection.transaction().del_table(&name, Family::Inet).commit(&connection).await;
        removed
            .or_else(|error| if error.errno() == Some(libc::ENOENT) { Ok(()) } else { Err(error) })
            .map_err(HostError::netlink(format!("deleting nftables table {name}")))?;
    }
    if wanted.redirects.is_empty() {
        return Ok(());
    }
    let doing = || HostError::netlink(format!("loading nftables table {name}"));
    let transaction = connection.transaction().add_table(&name, Family::Inet);
    rules::fill(transaction, &rules_of(wanted)).map_err(doing())?.commit(&connection).await.map_err(doing())
}
