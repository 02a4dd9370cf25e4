//! A request that is handed on comes from us, and the server is to see the address of its client: it may log it, or let only some in.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};

use nlink::netlink::nftables::{
    BaseChain, Chain, Family, Field, Match, NFT_TABLE_F_OWNER, NatHook, NatStatement, Policy, Priority, Rule,
};
use nlink::netlink::{Connection, Nftables};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

const CHAIN: &str = "postrouting";

/// The ports that connections seem to come from: no client chooses them by itself, so that none of its own is met.
const PORTS: RangeInclusive<u16> = 512..=1023;

/// A table of the network namespace in which it was made. It goes with the last clone: when the last NAT chain of a namespace goes,
/// the kernel stops translating connections under way.
#[derive(Clone, Debug)]
pub(crate) struct ClientAddresses {
    wanted: mpsc::UnboundedSender<Wanted>,
}

/// A connection that will be opened from `own` to `server`, as if by `client`.
#[derive(Clone, Copy)]
struct Shown {
    own: SocketAddr,
    server: SocketAddr,
    client: IpAddr,
}

struct Wanted {
    shown: Shown,
    done: oneshot::Sender<()>,
}

impl ClientAddresses {
    /// A table without rules. Needs NET_ADMIN, and Linux 5.12 for a table that goes with its owner.
    pub(crate) fn load(runtime: &Handle) -> Result<Self, nlink::Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let table = format!("handover_clients-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        // Of this thread's namespace, whoever uses it.
        let connection = runtime.block_on(make(&table))?;
        let (wanted, asked) = mpsc::unbounded_channel();
        runtime.spawn(serve(connection, table, asked));
        Ok(Self { wanted })
    }

    /// From now on a connection from `own` to `server` comes from the client's address and a port that no client chooses; false if it
    /// does not. To be called before it is opened. May be repeated.
    pub(crate) async fn show(&self, own: SocketAddr, server: SocketAddr, client: IpAddr) -> bool {
        let (done, shown) = oneshot::channel();
        let sent = self.wanted.send(Wanted { shown: Shown { own, server, client }, done });
        sent.is_ok() && shown.await.is_ok()
    }
}

async fn make(table: &str) -> Result<Connection<Nftables>, nlink::Error> {
    let connection = Connection::<Nftables>::new()?;
    // Not `input`: a connection over loopback has passed here before, and is not translated a second time.
    let chain = BaseChain::nat(NatHook::Postrouting, Priority::SrcNat).policy(Policy::Accept);
    connection
        .transaction()
        .add_table_with_flags(table, Family::Inet, NFT_TABLE_F_OWNER)
        .add_chain(Chain::new(table, CHAIN)?.family(Family::Inet).base(chain))
        .commit(&connection)
        .await?;
    Ok(connection)
}

/// Adds what is wanted, all that waits in one transaction: each takes the kernel some 10 ms.
async fn serve(connection: Connection<Nftables>, table: String, mut asked: mpsc::UnboundedReceiver<Wanted>) {
    let mut known: HashMap<SocketAddr, Shown> = HashMap::new();
    let mut all: Vec<Wanted> = Vec::new();
    while asked.recv_many(&mut all, usize::MAX).await > 0 {
        let mut rules: Vec<Shown> = all.iter().map(|one| one.shown).collect();
        let mut transaction = connection.transaction();
        let before = known.len();
        known.extend(rules.iter().map(|one| (one.own, *one)));
        if known.len() < before + rules.len() {
            // Of two rules for one port of ours the first would count, and it is another client's.
            transaction = transaction.flush_table(&table, Family::Inet);
            rules = known.values().copied().collect();
        }
        let transaction = rules.iter().fold(transaction, |transaction, one| transaction.add_rule(rule(&table, one)));
        if transaction.commit(&connection).await.is_ok() {
            // Who has given up does not wait any more.
            all.drain(..).for_each(|one| one.done.send(()).unwrap_or_default());
        }
        // Dropped, they are told that it failed.
        all.clear();
    }
}

fn rule(table: &str, Shown { own, server, client }: &Shown) -> Rule {
    let family = if client.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    Rule::new(table, CHAIN)
        .family(Family::Inet)
        .then(Match::eq(Field::NfProto, u8::try_from(family).unwrap_or_default()))
        .match_daddr(server.ip(), if server.is_ipv4() { 32 } else { 128 })
        .match_tcp_sport(own.port())
        .match_tcp_dport(server.port())
        .nat(NatStatement::snat(*client).ports(*PORTS.start(), *PORTS.end()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn who_is_shown_last_for_a_port_of_ours_is_the_client() -> Result<(), Box<dyn std::error::Error>> {
        let runtime = tokio::runtime::Runtime::new()?;
        let addresses = ClientAddresses::load(runtime.handle())?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let server = listener.local_addr()?;
        let mut own = SocketAddr::from(([127, 0, 0, 1], 0));
        for client in ["127.0.0.77", "127.0.0.88", "127.0.0.1"] {
            let client: IpAddr = client.parse()?;
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&own.into())?;
            own = socket.local_addr()?.as_socket().ok_or("no address")?;
            assert!(runtime.block_on(addresses.show(own, server, client)));
            socket.connect(&server.into())?;
            let (accepted, seen) = listener.accept()?;
            assert_eq!(seen.ip(), client);
            assert!(PORTS.contains(&seen.port()), "{seen}");
            // The server closes first, so that our port is free at once.
            drop(accepted);
            assert_eq!(TcpStream::from(socket).read(&mut [0])?, 0);
        }
        Ok(())
    }
}
