//! While connections change hands, no packet is answered with a reset because it meets no socket.

use std::sync::atomic::{AtomicU32, Ordering};

use nlink::netlink::nftables::{
    BaseChain, Chain, Family, FilterHook, NFT_TABLE_F_OWNER, Policy, Priority, Rule, TcpFlags,
};
use nlink::netlink::{Connection, Nftables};

/// A table of the network namespace in which it was made; it goes with this value.
pub(crate) struct ResetGuard {
    _connection: Connection<Nftables>,
}

impl ResetGuard {
    /// Drops the resets that answer a packet of an unknown connection: they acknowledge nothing, unlike those that
    /// end a connection or refuse one. Needs NET_ADMIN, and Linux 5.12 for a table that goes with its owner.
    pub(crate) async fn load() -> Result<Self, nlink::Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let table = format!("handover_drain-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let connection = Connection::<Nftables>::new()?;
        let output = BaseChain::filter(FilterHook::Output, Priority::Filter).policy(Policy::Accept);
        let unknown = Rule::new(&table, "output").family(Family::Inet);
        let unknown = unknown.match_tcp_flags(TcpFlags::RST, TcpFlags::RST | TcpFlags::ACK).drop();
        connection
            .transaction()
            .add_table_with_flags(&table, Family::Inet, NFT_TABLE_F_OWNER)
            .add_chain(Chain::new(table.as_str(), "output")?.family(Family::Inet).base(output))
            .add_rule(unknown)
            .commit(&connection)
            .await?;
        Ok(ResetGuard { _connection: connection })
    }
}
