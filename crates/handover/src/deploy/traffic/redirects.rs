//! The switch: new connections of everybody who may call a rolled container are led by the kernel, in each peer's own network
//! namespace and on the host, at one instant for each.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use handover_core::net::contains;
use handover_core::observation::Observation;
use handover_core::redirect::outlasting::Outlasting;
use handover_core::redirect::peers::{AddressLead, ClosedNetwork, PeerTable};
use handover_core::redirect::table::{Addresses, Leads, Peer};
use handover_host::protocol::{LeadCount, PeerState, PeersCounted, PeersLoaded, SessionOp};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::deploy::context::Deploy;
use crate::engine::{Engine, Inspected};
use crate::failure::{Exit, Failure, Result};
use crate::helper::Helper;

/// The kernel tells no one that a counter has changed.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The leads of one deploy. They are held by the session helper and go with it, however it ends.
pub(crate) struct Switch {
    engine: Engine,
    session: Helper,
    project: String,
    /// How long containers that have not passed their gate are kept from clients should everything of ours die at once; `None`: the
    /// containers that are started are kept from them by what outlives us anyway.
    ungated_for: Option<Duration>,
    /// The networks that the rolled containers are on, with their address ranges.
    networks: BTreeMap<String, Vec<(IpAddr, u8)>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By container id; the host by an empty one.
    peers: BTreeMap<String, Peer>,
    leads: Leads,
    /// Containers whose addresses this deploy leads itself.
    ours: BTreeSet<String>,
    /// Addresses of those that were started and have not passed their gate, by the container's id.
    ungated: BTreeMap<String, Addresses>,
    /// For how long all redirects outlive us, should everything of ours die at once.
    all_outlast: Option<Duration>,
    /// Whether what has outlasted us or an earlier run is not needed any more.
    lets_go: bool,
    /// Peers that run nginx.
    nginx: BTreeSet<String>,
    /// Gateways of the networks, which are no containers.
    gateways: BTreeSet<IpAddr>,
    /// Containers that are being started and whose addresses are not known yet.
    starting: BTreeSet<String>,
    /// Addresses of containers that are on these networks and are no peers.
    others: BTreeSet<IpAddr>,
    /// The connections when last looked at, and since when there are no more of them.
    used: Option<(Counted, Instant)>,
}

impl Switch {
    /// Finds the peers: all containers on these networks but the `others`, and the host. Only what an earlier deploy has kept
    /// is led. `udp`: whether UDP is served. What an earlier run has left for containers that it did not gate ends.
    pub(crate) async fn begin(
        deploy: &Deploy,
        observed: &Observation,
        networks: BTreeSet<String>,
        others: &[Inspected],
        udp: bool,
        kept: &[AddressLead],
        ungated_for: Option<Duration>,
    ) -> Result<Self> {
        let Deploy { engine, session, .. } = deploy;
        let subnets = |name: &String| observed.networks.get(name).map(|network| network.subnets.clone());
        let networks: BTreeMap<String, Vec<(IpAddr, u8)>> =
            networks.into_iter().map(|name| (name.clone(), subnets(&name).unwrap_or_default())).collect();
        let mut leads = Leads::new(udp);
        for lead in kept {
            let holds = |subnets: &Vec<(IpAddr, u8)>| subnets.iter().any(|subnet| contains(*subnet, lead.from));
            if let Some((network, _)) = networks.iter().find(|(_, subnets)| holds(subnets)) {
                leads.adopt(network, *lead);
            }
        }
        let addresses = others.iter().flat_map(addresses).map(|(_, address)| address).collect();
        let state = Mutex::new(State { leads, others: addresses, ..State::default() });
        let project = deploy.project.name.clone();
        let (engine_of, session) = (engine.clone(), session.clone());
        let switch = Self { engine: engine_of, session, project, ungated_for, networks, state };
        let ours = observed.containers.iter().chain(&observed.half_replaced);
        let near = ours
            .chain(&observed.standin)
            .chain(&observed.foreign)
            .filter(|container| container.running && !others.iter().any(|other| other.id == container.id))
            .filter(|container| container.networks.keys().any(|network| switch.networks.contains_key(network)));
        let inspected = join_all(near.map(|container| engine.inspect(&container.id))).await;
        let mut state = switch.state.lock().await;
        state.peers.insert(
            String::new(),
            Peer { name: "the host".to_owned(), sandbox: String::new(), addresses: Addresses::new() },
        );
        for found in inspected {
            // One that has ended meanwhile calls nobody.
            if let Some(found) = found? {
                switch.add(&mut state, &found);
            }
        }
        switch.load(&mut state).await?;
        drop(state);
        Ok(switch)
    }

    /// Starts a container that nobody may reach before it is ready: what calls it is led to another. Names resolve to it from
    /// its start on, and its address is known a moment later; for that long nobody reaches an unknown address of its networks.
    pub(crate) async fn start(&self, id: &str, to: &Inspected) -> Result<Inspected> {
        self.starting(|starting| starting.insert(id.to_owned())).await?;
        let started = async {
            let of_service = |failure: Failure| match failure.exit {
                Exit::DeployFailed => {
                    Failure { what: format!("a container of {} could not be started", to.service), ..failure }
                }
                _ => failure,
            };
            self.engine.start(id).await.map_err(of_service)?;
            let started = self.engine.inspect(id).await?;
            let started =
                started.ok_or_else(|| Failure::new(Exit::DeployFailed, "a container that was started is gone"))?;
            let mut state = self.state.lock().await;
            self.add(&mut state, &started);
            state.ours.insert(started.id.clone());
            state.ungated.insert(started.id.clone(), addresses(&started));
            state.leads.lead(&addresses(&started), &addresses(to));
            Ok(started)
        };
        let started = started.await;
        if started.is_err() {
            // It may run, at an address that nobody knows: clients would reach it once the networks are open again.
            let _ = self.engine.stop(&[id.to_owned()]).await;
        }
        self.starting(|starting| starting.remove(id)).await?;
        started
    }

    async fn starting(&self, change: impl FnOnce(&mut BTreeSet<String>) -> bool) -> Result<()> {
        let mut state = self.state.lock().await;
        change(&mut state.starting);
        self.load(&mut state).await
    }

    /// Leads new connections for one container to another, at one instant for each peer.
    pub(crate) async fn lead(&self, from: &Inspected, to: &Inspected) -> Result<()> {
        let mut state = self.state.lock().await;
        state.ours.extend([from.id.clone(), to.id.clone()]);
        state.ungated.remove(&to.id);
        let before = state.leads.clone();
        state.leads.lead(&addresses(from), &addresses(to));
        let loaded = self.load(&mut state).await;
        if loaded.is_err() {
            state.leads = before;
            let _ = self.load(&mut state).await;
        }
        // Who has called nobody before says nothing of those who may call this one.
        state.used = None;
        loaded
    }

    /// A container that is ready has its addresses for itself.
    pub(crate) async fn free(&self, container: &Inspected) -> Result<()> {
        let mut state = self.state.lock().await;
        state.ungated.remove(&container.id);
        state.leads.forget(&addresses(container));
        self.load(&mut state).await
    }

    /// From the next change on all redirects outlive us for so long, should everything of ours die at once.
    pub(crate) async fn outlast(&self, time: Duration) {
        self.state.lock().await.all_outlast = Some(time);
    }

    /// Nobody needs redirects that outlast us any more, nor those of an earlier run.
    pub(crate) async fn let_go(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        state.all_outlast = None;
        state.ungated.clear();
        state.lets_go = true;
        self.load(&mut state).await
    }

    /// A container that was not gated is gone: its address may be another's next.
    pub(crate) async fn forget_ungated(&self, id: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        if state.ungated.remove(id).is_some() { self.load(&mut state).await } else { Ok(()) }
    }

    /// A container has started or joined a network: it is a peer, and an address that it was given is its own.
    pub(crate) async fn newcomer(&self, id: &str) -> Result<()> {
        let Some(found) = self.engine.inspect(id).await? else {
            return Ok(());
        };
        let mut state = self.state.lock().await;
        // The engine tells of it before it has answered whoever starts it; known without a lead, its address would be open.
        if state.starting.contains(&found.id) {
            return Ok(());
        }
        let knows = self.add(&mut state, &found);
        let mut moved = false;
        if !state.ours.contains(&found.id) {
            let before = state.leads.clone();
            state.leads.forget(&addresses(&found));
            moved = before != state.leads;
        }
        if moved || knows { self.load(&mut state).await } else { Ok(()) }
    }

    /// The peers that run nginx, by id and name: it resolves the names in its configuration once.
    pub(crate) async fn nginx(&self) -> Vec<(String, String)> {
        let state = self.state.lock().await;
        let peers = state.peers.iter().filter(|(id, _)| state.nginx.contains(*id));
        peers.map(|(id, peer)| (id.clone(), peer.name.clone())).collect()
    }

    /// Waits until nobody has opened a connection to an address that is led for so long, at most until the deadline. What was
    /// watched before counts.
    pub(crate) async fn until_quiet(&self, quiet: Duration, deadline: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            let left = quiet.saturating_sub(self.unused_for().await?);
            if left.is_zero() || began.elapsed() >= deadline || self.state.lock().await.leads.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY.min(left)).await;
        }
    }

    /// Waits until whoever is led from the old container of a pair has opened a connection to the new one by itself: that proxy has
    /// found it. At least and at most so long; those that run nginx are told later.
    pub(crate) async fn until_found(
        &self,
        pair: (&Inspected, &Inspected),
        at_least: Duration,
        at_most: Duration,
    ) -> Result<()> {
        let began = Instant::now();
        let before = self.uses(pair).await?;
        tokio::time::sleep(at_least).await;
        while began.elapsed() < at_most {
            let now = self.uses(pair).await?;
            let overlooks = |(peer, now): (&String, &Uses)| {
                let before = before.get(peer).copied().unwrap_or_default();
                now.old > before.old && now.new == before.new
            };
            if !now.iter().any(overlooks) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// What each peer has opened to a pair of containers, by its namespace.
    async fn uses(&self, (old, new): (&Inspected, &Inspected)) -> Result<BTreeMap<String, Uses>> {
        let counted = self.counters().await?;
        let has = |container: &Inspected, address| addresses(container).iter().any(|(_, own)| *own == address);
        let state = self.state.lock().await;
        let nginx: BTreeSet<&str> =
            state.nginx.iter().filter_map(|id| state.peers.get(id)).map(|peer| peer.sandbox.as_str()).collect();
        let mut all: BTreeMap<String, Uses> = BTreeMap::new();
        for peer in counted.peers {
            let sandbox = peer.sandbox.to_string_lossy().into_owned();
            if nginx.contains(sandbox.as_str()) {
                continue;
            }
            let uses = all.entry(sandbox).or_default();
            for lead in peer.leads.iter().filter(|lead| has(old, lead.from) && has(new, lead.to)) {
                uses.old += lead.connections;
                uses.new += lead.straight;
            }
        }
        Ok(all)
    }

    /// Watches, while something else is done, whether anybody opens connections to addresses that are led: the wait for that is
    /// shorter then.
    pub(crate) async fn watching<T>(&self, work: impl Future<Output = T>) -> T {
        match select(pin!(work), pin!(self.watch())).await {
            Either::Left((done, _)) => done,
            Either::Right((never, _)) => match never {},
        }
    }

    async fn watch(&self) -> Infallible {
        loop {
            // What hinders is told by whoever waits afterwards.
            let _ = self.unused_for().await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// For how long nobody has, as far as was looked.
    async fn unused_for(&self) -> Result<Duration> {
        let now = self.counted().await?;
        let used = &mut self.state.lock().await.used;
        if used.as_ref().is_none_or(|(before, _)| *before != now) {
            *used = Some((now, Instant::now()));
        }
        Ok(used.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed()))
    }

    /// The connections that were led and are still open, by the container that they were led to.
    pub(crate) async fn open_connections(&self) -> Result<Vec<Led>> {
        let counted = self.counters().await?;
        let state = self.state.lock().await;
        let mut led: BTreeMap<String, Led> = BTreeMap::new();
        for lead in counted.peers.into_iter().flat_map(|peer| peer.leads).filter(|lead| lead.led) {
            let has = |peer: &&Peer| peer.addresses.iter().any(|(_, address)| *address == lead.to);
            let Some(target) = state.peers.values().find(has).filter(|_| !lead.clients.is_empty()) else { continue };
            let fresh = Led { sandbox: target.sandbox.clone(), clients: Vec::new() };
            led.entry(target.sandbox.clone()).or_insert(fresh).clients.extend(lead.clients);
        }
        Ok(led.into_values().collect())
    }

    /// What these peers need for the addresses that are gone, for longer than this deploy.
    pub(crate) async fn tables_for(&self, names: &[&str]) -> Vec<PeerTable> {
        let state = self.state.lock().await;
        let peers = state.peers.values().filter(|peer| names.contains(&peer.name.as_str()));
        peers.map(|peer| PeerTable { move_udp: false, ..state.leads.table(peer) }).collect()
    }

    /// Connections that were led, over all peers.
    pub(crate) async fn led(&self) -> Result<u64> {
        Ok(self.counted().await?.into_values().sum())
    }

    /// Connections that each peer has opened to each address that was led.
    pub(crate) async fn counted(&self) -> Result<Counted> {
        let counted = self.counters().await?;
        let state = self.state.lock().await;
        let mut all = Counted::new();
        for peer in counted.peers {
            let sandbox = peer.sandbox.to_string_lossy();
            let Some(known) = state.peers.values().find(|known| known.sandbox == sandbox) else { continue };
            for LeadCount { from, connections, .. } in peer.leads {
                *all.entry((known.name.clone(), from)).or_default() += connections;
            }
        }
        Ok(all)
    }

    /// What every peer's table has led, and what is open.
    async fn counters(&self) -> Result<PeersCounted> {
        self.session.ask(SessionOp::PeerCounters { sandboxes: Vec::new() }).await
    }

    /// Takes a container among the peers; whether it is one.
    fn add(&self, state: &mut State, found: &Inspected) -> bool {
        let on_network = found.networks.iter().any(|(network, _)| self.networks.contains_key(network));
        if !on_network || found.sandbox.is_empty() {
            return false;
        }
        if found.command.contains("nginx") {
            state.nginx.insert(found.id.clone());
        }
        state.gateways.extend(found.networks.iter().filter_map(|(_, endpoint)| endpoint.gateway.map(IpAddr::from)));
        let peer = Peer { name: found.name.clone(), sandbox: found.sandbox.clone(), addresses: addresses(found) };
        state.peers.insert(found.id.clone(), peer);
        true
    }

    /// While a container starts, the networks with all addresses on them that are known.
    fn closed(&self, state: &State) -> Vec<ClosedNetwork> {
        if state.starting.is_empty() {
            return Vec::new();
        }
        let containers = state.peers.values().flat_map(|peer| peer.addresses.iter().map(|(_, address)| *address));
        let known = containers.chain(state.gateways.iter().chain(&state.others).copied());
        let known: Vec<IpAddr> = known.chain(state.leads.led()).collect();
        let subnets = self.networks.values().flatten();
        subnets
            .map(|(network, prefix)| ClosedNetwork { network: *network, prefix: *prefix, known: known.clone() })
            .collect()
    }

    /// Those of a peer's redirects that are to outlive us.
    /// Those of the host do so only while a container is ungated: on its address more depends there, other deploys' gates above all.
    fn outlasting(&self, state: &State, peer: &Peer, redirects: &[AddressLead]) -> Option<Outlasting> {
        let all = state.all_outlast.filter(|_| !peer.sandbox.is_empty());
        let is_ungated =
            |redirect: &AddressLead| state.ungated.values().flatten().any(|(_, address)| *address == redirect.from);
        let outlasts = |redirect: &&AddressLead| all.is_some() || is_ungated(redirect);
        let time = state.all_outlast.or(self.ungated_for).or(state.lets_go.then_some(Duration::ZERO))?;
        Some(Outlasting {
            project: self.project.clone(),
            redirects: redirects.iter().filter(outlasts).copied().collect(),
            seconds: time.as_secs(),
        })
    }

    async fn load(&self, state: &mut State) -> Result<()> {
        let closed = self.closed(state);
        let table = |peer: &Peer| {
            let table = state.leads.table(peer);
            PeerTable { closed: closed.clone(), outlasting: self.outlasting(state, peer, &table.leads), ..table }
        };
        let tables = state.peers.values().map(table).collect();
        let loaded: PeersLoaded = self.session.ask(SessionOp::Peers { tables }).await?;
        for peer in loaded.peers {
            let sandbox = peer.sandbox.to_string_lossy();
            match peer.state {
                PeerState::Loaded | PeerState::Unloaded => {}
                PeerState::Gone => state.peers.retain(|_, known| known.sandbox != sandbox),
                PeerState::Failed(why) => {
                    let name = state.peers.values().find(|known| known.sandbox == sandbox).map(|known| &known.name);
                    let name = name.cloned().unwrap_or_default();
                    let failure =
                        Failure::new(Exit::Host, format!("the traffic of {name} cannot be led")).because(why.what);
                    return Err(match why.hint {
                        Some(hint) => failure.hint(hint),
                        None => failure,
                    });
                }
            }
        }
        Ok(())
    }
}

/// Connections that one peer has opened to a pair of containers.
#[derive(Clone, Copy, Default)]
struct Uses {
    /// To the old one, and was led.
    old: u64,
    /// To the new one by itself.
    new: u64,
}

/// Connections that were led to one container.
pub(crate) struct Led {
    /// Its network namespace.
    pub(crate) sandbox: String,
    /// Their other ends, as it sees them.
    pub(crate) clients: Vec<SocketAddr>,
}

/// Connections by the peer's name and the address.
pub(crate) type Counted = BTreeMap<(String, IpAddr), u64>;

fn addresses(container: &Inspected) -> Addresses {
    let both = container.networks.iter().flat_map(|(network, endpoint)| {
        let v4 = endpoint.address.map(IpAddr::from);
        let v6 = endpoint.address_v6.map(IpAddr::from);
        v4.into_iter().chain(v6).map(|address| (network.clone(), address))
    });
    both.collect()
}
