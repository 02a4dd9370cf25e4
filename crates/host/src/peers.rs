//! The switch inside peers' network namespaces, in the kernel: [`handover_core::redirect::peers::rules`] by netlink.
//!
//! Every table belongs to a netlink socket that was made inside its namespace and is kept open here (nftables flag
//! *owner*): it goes when this process ends, however it ends. Nobody else can change or delete it meanwhile.
//!
//! An open socket keeps its namespace alive, also when no process is left in it: its interfaces stay (Linux 6.18). So
//! the process that a namespace was reached by is watched, and the socket is closed when no path leads to the namespace
//! any more. A path that is not below `/proc/<pid>` has nothing to watch; it is looked at again with every request.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use futures_util::future::join_all;
use handover_core::net::Protocol;
use handover_core::redirect::outlasting::Outlasting;
use handover_core::redirect::peers::{AddressLead, PeerTable, counter_name, straight_counter_name};
use handover_core::redirect::rules::RuleTable;
use nlink::netlink::namespace::NetnsId;
use nlink::netlink::nftables::{Family, NFT_TABLE_F_OWNER};
use nlink::netlink::{Connection, Nftables};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::channel::kernel_release;
use crate::error::HostError;
use crate::inet_diag::{InetDiag, state};
use crate::namespace::run_in;
use crate::protocol::{LeadCount, PeerCounted, PeerLoaded, PeerState, PeersCounted, PeersLoaded};
use crate::{flows, outlasting, rules};

/// What names our own namespace, so that it is one like the others.
const OWN_NAMESPACE: &str = "/proc/self/ns/net";

/// The tables that this process holds in other network namespaces.
pub(crate) struct Peers {
    /// Name of every table. No name of a table of ports: those have a dash behind `handover`.
    table: String,
    held: Arc<Mutex<Namespaces>>,
}

/// Locked while it is looked at or changed, by a thread inside its namespace.
type Table = Arc<tokio::sync::Mutex<Option<Owned>>>;

type Namespaces = HashMap<NetnsId, Namespace>;

struct Namespace {
    /// By which it was reached.
    paths: BTreeSet<PathBuf>,
    table: Table,
    /// One a process in `paths`; they end with this entry.
    watchers: JoinSet<()>,
}

/// A table in the kernel; it goes with its connection.
struct Owned {
    connection: Connection<Nftables>,
    /// What it leads now.
    leads: Vec<AddressLead>,
    /// What it has ever led.
    known: BTreeSet<AddressLead>,
    /// The counters that are there.
    counters: BTreeSet<String>,
    /// What is redirected beyond its end, as far as this process has said so.
    outlasting: Option<Outlasting>,
}

impl Owned {
    fn leads(&mut self, leads: &[AddressLead], rules: &RuleTable) {
        self.leads = leads.to_vec();
        self.known.extend(leads);
        self.counters.extend(rules.counters.iter().cloned());
    }
}

/// One table on its way into the kernel.
struct Wanted {
    path: PathBuf,
    process: Option<OwnedFd>,
    rules: RuleTable,
    index: usize,
    tables: Arc<Vec<PeerTable>>,
    /// Which table of this request came first to a namespace.
    first: Arc<Mutex<HashMap<NetnsId, usize>>>,
}

impl Peers {
    /// Holds nothing yet. `purpose` tells tables of one process in one namespace apart.
    pub(crate) fn new(purpose: &str) -> Self {
        Peers { table: format!("handover_{purpose}-{}", std::process::id()), held: Arc::default() }
    }

    /// Loads all tables, side by side, each in one transaction in place of the one that was there.
    pub(crate) async fn load(&self, tables: Vec<PeerTable>) -> PeersLoaded {
        let started = Instant::now();
        release_gone(&self.held);
        let tables = Arc::new(tables);
        let first = Arc::default();
        let all = (0..tables.len()).map(|index| self.load_one(index, tables.clone(), Arc::clone(&first)));
        PeersLoaded { peers: join_all(all).await, took_us: microseconds(started) }
    }

    async fn load_one(
        &self,
        index: usize,
        tables: Arc<Vec<PeerTable>>,
        first: Arc<Mutex<HashMap<NetnsId, usize>>>,
    ) -> PeerLoaded {
        let started = Instant::now();
        let sandbox = tables.get(index).map(|table| table.sandbox.clone()).unwrap_or_default();
        let (state, udp_flows_moved) = match self.try_to_load(index, tables, first).await {
            Ok(done) => done,
            Err(error) => (state_of(&error), 0),
        };
        PeerLoaded { sandbox, state, udp_flows_moved, took_us: microseconds(started) }
    }

    async fn try_to_load(
        &self,
        index: usize,
        tables: Arc<Vec<PeerTable>>,
        first: Arc<Mutex<HashMap<NetnsId, usize>>>,
    ) -> Result<(PeerState, usize), HostError> {
        let table = tables.get(index).ok_or_else(|| HostError::Request("peers: no such table".into()))?;
        let rules = handover_core::redirect::peers::rules(&self.table, table)
            .map_err(|error| HostError::Request(error.to_string()))?;
        let path = path_of(&table.sandbox);
        // Before the namespace is entered: the number may belong to another process the next moment.
        let process = process_of(&path);
        let wanted = Wanted { path: path.clone(), process, rules, index, tables: tables.clone(), first };
        let (held, handle) = (self.held.clone(), Handle::current());
        run_in("peers", Some(path), move || handle.block_on(wanted.load(&held))).await
    }

    /// What the tables have led, and what is open to the addresses they lead. No `sandboxes` means all that are held.
    pub(crate) async fn count(&self, sandboxes: Vec<PathBuf>) -> PeersCounted {
        release_gone(&self.held);
        let sandboxes = if sandboxes.is_empty() { self.sandboxes() } else { sandboxes };
        let all = sandboxes.into_iter().map(|sandbox| async {
            match self.count_one(&sandbox).await {
                Ok((state, leads)) => PeerCounted { sandbox, state, leads },
                Err(error) => PeerCounted { sandbox, state: state_of(&error), leads: Vec::new() },
            }
        });
        PeersCounted { peers: join_all(all).await }
    }

    /// One path a namespace that has a table.
    fn sandboxes(&self) -> Vec<PathBuf> {
        let held = lock(&self.held);
        let loaded = held.values().filter(|one| one.table.try_lock().map_or(true, |table| table.is_some()));
        let mut paths: Vec<PathBuf> = loaded.filter_map(|one| one.paths.first().cloned()).collect();
        paths.sort();
        let sandbox = |path: PathBuf| if path == Path::new(OWN_NAMESPACE) { PathBuf::new() } else { path };
        paths.into_iter().map(sandbox).collect()
    }

    async fn count_one(&self, sandbox: &Path) -> Result<(PeerState, Vec<LeadCount>), HostError> {
        let (held, handle, name) = (self.held.clone(), Handle::current(), self.table.clone());
        let work = async move {
            let id = current_namespace()?;
            let Some(table) = lock(&held).get(&id).map(|one| one.table.clone()) else {
                return Ok((PeerState::Unloaded, Vec::new()));
            };
            let table = table.lock().await;
            let Some(owned) = table.as_ref() else { return Ok((PeerState::Unloaded, Vec::new())) };
            let counts = rules::counts(&owned.connection, &name).await?;
            let open = open_to()?;
            let leads = owned.known.iter().map(|lead| LeadCount {
                from: lead.from,
                to: lead.to,
                led: owned.leads.contains(lead),
                connections: counts.get(&counter_name(lead)).copied().unwrap_or_default(),
                straight: counts.get(&straight_counter_name(lead.to)).copied().unwrap_or_default(),
                open: open.get(&lead.from).map(Vec::len).unwrap_or_default(),
                clients: open.get(&lead.from).cloned().unwrap_or_default(),
            });
            Ok((PeerState::Loaded, leads.collect()))
        };
        run_in("peers", Some(path_of(sandbox)), move || handle.block_on(work)).await
    }
}

impl Wanted {
    /// Inside the namespace, on a thread of its own, and never given up in the middle.
    async fn load(self, held: &Arc<Mutex<Namespaces>>) -> Result<(PeerState, usize), HostError> {
        let Some(wanted) = self.tables.get(self.index) else { return Ok((PeerState::Unloaded, 0)) };
        let id = current_namespace()?;
        self.check_first(id, wanted)?;
        let table = reached(held, id, self.path, self.process)?;
        let mut table = table.lock().await;
        if wanted.is_removal() {
            if let Some(owned) = table.take() {
                remove(&owned.connection, &self.rules.name).await?;
            }
            return Ok((PeerState::Unloaded, 0));
        }
        match table.as_mut() {
            Some(owned) => replace(owned, &self.rules).await?,
            None => *table = Some(create(&self.rules).await?),
        }
        if let Some(owned) = table.as_mut() {
            owned.leads(&wanted.leads, &self.rules);
            if let Some(wanted) = &wanted.outlasting {
                outlasting::load(wanted, owned.outlasting.as_ref()).await?;
                owned.outlasting = Some(wanted.clone());
            }
        }
        let to_move: &[AddressLead] = if wanted.move_udp { &wanted.leads } else { &[] };
        Ok((PeerState::Loaded, flows::forget_sent_to(to_move).await?))
    }

    /// Containers may share a namespace; then they share the table.
    fn check_first(&self, id: NetnsId, wanted: &PeerTable) -> Result<(), HostError> {
        let first = *lock(&self.first).entry(id).or_insert(self.index);
        let same = |first: &&PeerTable| PeerTable { sandbox: wanted.sandbox.clone(), ..(*first).clone() } == *wanted;
        match self.tables.get(first).filter(|first| !same(first)) {
            None => Ok(()),
            Some(other) => Err(HostError::Request(format!(
                "{} is the same network namespace as {}, and another table is wanted for it",
                wanted.sandbox.display(),
                other.sandbox.display()
            ))),
        }
    }
}

/// The table of a namespace that was reached by `path`, which is watched from now on.
fn reached(
    held: &Arc<Mutex<Namespaces>>,
    id: NetnsId,
    path: PathBuf,
    process: Option<OwnedFd>,
) -> Result<Table, HostError> {
    let process = process.map(watched).transpose().map_err(HostError::kernel("watching a process"))?;
    let mut namespaces = lock(held);
    let namespace = match namespaces.entry(id) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => {
            entry.insert(Namespace { paths: BTreeSet::new(), table: Arc::default(), watchers: JoinSet::new() })
        }
    };
    if namespace.paths.insert(path)
        && let Some(process) = process
    {
        namespace.watchers.spawn(release_when_gone(process, Arc::downgrade(held)));
    }
    Ok(namespace.table.clone())
}

#[expect(deprecated, reason = "what replaces it is unsafe; an owned descriptor stays what it is while it is watched")]
fn watched(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(process, Interest::READABLE)
}

/// Ends when the process whose namespace this is has ended; never for our own namespace.
pub(crate) async fn until_process_ends(sandbox: PathBuf) {
    if sandbox.as_os_str().is_empty() {
        return std::future::pending().await;
    }
    if let Some(Ok(process)) = process_of(&sandbox).map(watched) {
        // An error says that it cannot be watched any more, which comes to the same.
        let _ = process.readable().await;
    }
}

/// A process descriptor is readable once the process has ended; its namespaces have left it by then.
async fn release_when_gone(process: AsyncFd<OwnedFd>, held: Weak<Mutex<Namespaces>>) {
    let ended = process.readable().await;
    if ended.is_ok()
        && let Some(held) = held.upgrade()
    {
        release_gone(&held);
    }
}

/// Closes the sockets of all namespaces that no path leads to any more; with the last socket the namespace goes.
fn release_gone(held: &Mutex<Namespaces>) {
    lock(held).retain(|id, namespace| {
        namespace.paths.retain(|path| match File::open(path) {
            Ok(file) => NetnsId::of(file).is_ok_and(|found| found == *id),
            Err(error) => !is_gone(error.raw_os_error()),
        });
        !namespace.paths.is_empty()
    });
}

async fn create(rules: &RuleTable) -> Result<Owned, HostError> {
    let doing = || HostError::netlink(format!("loading nftables table {}", rules.name));
    let connection = Connection::<Nftables>::new();
    let connection = connection.map_err(HostError::netlink("opening a netlink socket for nftables"))?;
    let bare = || connection.transaction().add_table_with_flags(&rules.name, Family::Inet, NFT_TABLE_F_OWNER);
    let Err(refused) = rules::fill(bare(), rules).map_err(doing())?.commit(&connection).await else {
        return Ok(Owned {
            connection,
            leads: Vec::new(),
            known: BTreeSet::new(),
            counters: BTreeSet::new(),
            outlasting: None,
        });
    };
    // An older kernel does not know the flag and says what it says to anything that it does not know.
    if matches!(refused.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP)) && bare().commit(&connection).await.is_err() {
        return Err(HostError::NoOwnedTables { kernel: kernel_release() });
    }
    Err(doing()(refused))
}

async fn replace(owned: &Owned, rules: &RuleTable) -> Result<(), HostError> {
    let doing = || HostError::netlink(format!("replacing nftables table {}", rules.name));
    let transaction = rules::refill(owned.connection.transaction(), rules, &owned.counters).map_err(doing())?;
    transaction.commit(&owned.connection).await.map_err(doing())
}

async fn remove(connection: &Connection<Nftables>, name: &str) -> Result<(), HostError> {
    let transaction = connection.transaction().del_table(name, Family::Inet);
    transaction.commit(connection).await.map_err(HostError::netlink(format!("deleting nftables table {name}")))
}

/// The near ends of this namespace's TCP connections that are not over, by the address that they were opened to.
fn open_to() -> Result<BTreeMap<IpAddr, Vec<SocketAddr>>, HostError> {
    let sockets = InetDiag::open().and_then(|mut diag| diag.dump(Protocol::Tcp, state::ALIVE));
    let mut open: BTreeMap<IpAddr, Vec<SocketAddr>> = BTreeMap::new();
    for socket in sockets.map_err(HostError::kernel("reading the sockets"))? {
        open.entry(socket.remote.ip()).or_default().push(socket.local);
    }
    Ok(open)
}

/// The namespace of this thread.
fn current_namespace() -> Result<NetnsId, HostError> {
    let file = File::open("/proc/thread-self/ns/net").map_err(HostError::kernel("looking at the network namespace"))?;
    NetnsId::of(file).map_err(HostError::netlink("looking at the network namespace"))
}

fn path_of(sandbox: &Path) -> PathBuf {
    if sandbox.as_os_str().is_empty() { PathBuf::from(OWN_NAMESPACE) } else { sandbox.to_owned() }
}

/// The process in a path `/proc/<pid>/…`, if it is there and not ourselves.
fn process_of(path: &Path) -> Option<OwnedFd> {
    let number = path.strip_prefix("/proc").ok()?.iter().next()?.to_str()?.parse().ok()?;
    pidfd_open(Pid::from_raw(number)?, PidfdFlags::NONBLOCK).ok()
}

fn state_of(error: &HostError) -> PeerState {
    match error {
        HostError::Namespace { source, .. } if source.is_not_found() || is_gone(source.errno()) => PeerState::Gone,
        error => PeerState::Failed(error.failure()),
    }
}

fn is_gone(errno: Option<i32>) -> bool {
    // A path of a process that has ended; a namespace file that was unmounted, or removed.
    matches!(errno, Some(libc::ENOENT | libc::ESRCH))
}

fn microseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked is whole at every instant, whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether all this works in the given namespace, or in ours, tried with addresses nobody has (RFC 5737, RFC 3849).
/// Leaves nothing behind, however it ends.
pub(crate) async fn try_out(sandbox: PathBuf) -> Result<(), HostError> {
    let address = |text: &str| text.parse().map_err(|_| HostError::Request(format!("no address: {text}")));
    let leads = vec![
        AddressLead { from: address("192.0.2.1")?, to: address("192.0.2.2")? },
        AddressLead { from: address("2001:db8::1")?, to: address("2001:db8::2")? },
    ];
    let held = vec![address("192.0.2.3")?, address("2001:db8::3")?];
    let table = PeerTable { sandbox, leads, held, closed: Vec::new(), keep: false, move_udp: false, outlasting: None };
    let gone = || HostError::Kernel { doing: "entering it".into(), source: io::Error::from_raw_os_error(libc::ENOENT) };
    let peers = Peers::new("trial");
    let removal = PeerTable { sandbox: table.sandbox.clone(), ..PeerTable::default() };
    for step in [table.clone(), table.released(), removal] {
        for one in peers.load(vec![step]).await.peers {
            match one.state {
                PeerState::Loaded | PeerState::Unloaded => {}
                PeerState::Gone => return Err(gone()),
                PeerState::Failed(failure) => return Err(HostError::Request(failure.what)),
            }
        }
    }
    Ok(())
}
