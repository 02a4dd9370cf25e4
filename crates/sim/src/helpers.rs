//! Our helpers in their containers: the real protocol, over the world's tables in place of the kernel's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use handover_core::net::Protocol;
use handover_core::redirect::peers::{AddressLead, PeerTable, rules};
use handover_host::protocol::{
    AllReady, Callers, Check, Counters, Drain, DrainReport, Failure, Forgotten, Gateway, GuardOp, LeadCount, Line,
    Listener, Listeners, Loaded, MountsInUse, PeerCounted, PeerLoaded, PeerState, PeersCounted, PeersLoaded, Request,
    SessionOp, Spread, Support, Unloaded,
};
use serde_json::json;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::world::{ClientTable, Container, Sim};

/// Which helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Holds the rules of published ports.
    Guard,
    /// The lock, and whatever is asked of the kernel.
    Session,
    /// Keeps redirects.
    Keeper,
}

impl Role {
    /// The helper that a container is.
    pub fn of(container: &Container) -> Option<Self> {
        match container.command.as_str() {
            "/handover guard" => Some(Self::Guard),
            "/handover session" => Some(Self::Session),
            "/handover keeper" => Some(Self::Keeper),
            _ => None,
        }
    }
}

/// Longest life of a keeper here; a real one waits for its clients' ends.
const KEPT: Duration = Duration::from_secs(300);

/// Runs until its input ends, it has no more to do, or its container does.
pub async fn run(sim: Sim, id: String, process: u32, role: Role) {
    let Some((console, output)) = sim.world().containers.get(&id).map(|one| {
        let lines = one.console.lines.lock().ok().and_then(|mut lines| lines.take());
        (lines, one.console.output.clone())
    }) else {
        return;
    };
    let Some(mut lines) = console else { return };
    let helper = Helper { sim: sim.clone(), id: id.clone(), output, drains: watch::Sender::new(BTreeMap::new()) };
    if role == Role::Guard {
        let mut world = sim.world();
        if let Some(table) = world.containers.get(&id).and_then(|guard| guard.rules_file.clone()) {
            world.port_tables.insert(table.project.clone(), table);
        }
    }
    let kept_until = Instant::now() + KEPT;
    let mut changed = sim.world().changed.subscribe();
    let is_alive = || sim.world().containers.get(&id).and_then(Container::process) == Some(process);
    while is_alive() {
        let line = tokio::select! {
            biased;
            line = lines.recv() => line.flatten(),
            _ = changed.changed() => continue,
            () = tokio::time::sleep_until(kept_until), if role == Role::Keeper => None,
        };
        match line {
            // What it was told in the moment of its end it does no more.
            _ if !is_alive() => break,
            Some(line) if role == Role::Guard => {
                if helper.guard(&line) {
                    sim.end(&id, process, 0);
                }
            }
            Some(line) => helper.session(&line),
            // A guard that holds something stays.
            None if role == Role::Guard => break,
            None => {
                sim.end(&id, process, 0);
                break;
            }
        }
    }
    // For its next start.
    if let Some(container) = sim.world().containers.get(&id)
        && let Ok(mut place) = container.console.lines.lock()
    {
        *place = Some(lines);
    }
}

/// What is said to a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Hold,
    Proceed,
    Leave,
}

#[derive(Clone)]
struct Helper {
    sim: Sim,
    id: String,
    output: broadcast::Sender<String>,
    /// By the drain's request.
    drains: watch::Sender<BTreeMap<u64, Word>>,
}

impl Helper {
    fn say(&self, line: &Line) {
        let _ = self.output.send(serde_json::to_string(line).unwrap_or_default());
    }

    fn ok(&self, id: u64, answer: impl serde::Serialize) {
        self.say(&Line { id: Some(id), ok: serde_json::to_value(answer).ok(), ..Line::default() });
    }

    fn error(&self, id: u64, what: &str) {
        let failure = Failure { what: what.to_owned(), hint: None, cancelled: false };
        self.say(&Line { id: Some(id), error: Some(failure), ..Line::default() });
    }

    /// Whether the guard has come to its end.
    fn guard(&self, line: &str) -> bool {
        let Ok(Request { id, op }) = serde_json::from_str::<Request<GuardOp>>(line) else { return false };
        let mut world = self.sim.world();
        let project = world.containers.get(&self.id).map(|one| one.label("handover.project").to_owned());
        let project = project.unwrap_or_default();
        match op {
            GuardOp::Hello => self.ok(id, json!({})),
            GuardOp::Load { table } => {
                let leads = table.leads.len();
                if let Some(guard) = world.containers.get_mut(&self.id) {
                    guard.rules_file = Some(table.clone());
                }
                world.port_tables.insert(project.clone(), table);
                world.has_changed();
                self.ok(id, Loaded { table: project, leads, took_us: 1 });
            }
            GuardOp::Release => {
                let Some(table) = world.containers.get(&self.id).and_then(|guard| guard.rules_file.clone()) else {
                    self.error(id, "release: no table is loaded");
                    return false;
                };
                let released = table.released();
                if let Some(guard) = world.containers.get_mut(&self.id) {
                    guard.rules_file = Some(released.clone());
                }
                world.port_tables.insert(project.clone(), released);
                world.has_changed();
                self.ok(id, Loaded { table: project, leads: 0, took_us: 1 });
            }
            GuardOp::Counters => {
                let leads = world.port_tables.get(&project).map(|table| table.leads.len());
                self.ok(id, Counters { loaded: leads.is_some(), connections: vec![0; leads.unwrap_or(0)] });
            }
            GuardOp::Unload => {
                if let Some(guard) = world.containers.get_mut(&self.id) {
                    guard.rules_file = None;
                }
                let was_loaded = world.port_tables.remove(&project).is_some();
                world.has_changed();
                self.ok(id, Unloaded { was_loaded });
                return true;
            }
        }
        false
    }

    fn session(&self, line: &str) {
        let Ok(Request { id, op }) = serde_json::from_str::<Request<SessionOp>>(line) else { return };
        match op {
            SessionOp::Hello | SessionOp::Heartbeat => self.ok(id, json!({})),
            SessionOp::Support { .. } => self.ok(id, support()),
            SessionOp::Listeners { sandbox } => self.ok(id, self.listeners(sandbox.as_deref())),
            SessionOp::Gateway { sandbox } => self.ok(id, self.gateway(&sandbox)),
            SessionOp::Accepts { targets } => {
                let addresses: Vec<IpAddr> = targets.iter().map(|target| target.address.ip()).collect();
                self.when_ready(id, move |one| {
                    one.attached.values().any(|at| at.address.is_some_and(|own| addresses.contains(&own.into())))
                });
            }
            SessionOp::Listens { sandbox, .. } => {
                let process = process_of(&sandbox);
                self.when_ready(id, move |one| one.process() == process);
            }
            SessionOp::Drain(drain) => self.drain(id, drain),
            SessionOp::Proceed { request } => self.word(id, request, Word::Proceed),
            SessionOp::Hold { request } => self.word(id, request, Word::Hold),
            SessionOp::Leave { request } => self.word(id, request, Word::Leave),
            SessionOp::ForgetUdp { .. } => self.ok(id, Forgotten { flows: 0 }),
            SessionOp::Peers { tables } => {
                let peers = tables.into_iter().map(|table| self.load(table)).collect();
                self.sim.world().has_changed();
                self.ok(id, PeersLoaded { peers, took_us: 1 });
            }
            SessionOp::PeerCounters { .. } => self.ok(id, self.counters()),
            SessionOp::Callers { .. } => self.ok(id, Callers { callers: Vec::new() }),
            SessionOp::OpenFiles { .. } => self.ok(id, MountsInUse { mounts: Vec::new() }),
            SessionOp::Ports { project } => {
                let leads = self.sim.world().port_tables.get(&project).map(|table| table.leads.len());
                self.ok(id, Counters { loaded: leads.is_some(), connections: vec![0; leads.unwrap_or(0)] });
            }
            SessionOp::UnloadPorts { project } => {
                let was_loaded = self.sim.world().port_tables.remove(&project).is_some();
                self.sim.world().has_changed();
                self.ok(id, Unloaded { was_loaded });
            }
            SessionOp::Cancel { .. } => self.ok(id, json!({})),
            SessionOp::ReadFile { .. }
            | SessionOp::WriteFile { .. }
            | SessionOp::Processes { .. }
            | SessionOp::Converse { .. } => self.error(id, "there are no files and no processes in this world"),
        }
    }

    fn listeners(&self, sandbox: Option<&Path>) -> Listeners {
        let world = self.sim.world();
        let of = |port: u16, protocol: Protocol| Listener {
            protocol,
            address: IpAddr::from([0, 0, 0, 0]),
            port,
            only_ipv6: None,
            uid: 0,
            inode: 1,
        };
        let listeners = match sandbox {
            None => {
                let bound = world.containers.values().flat_map(|one| &one.ports);
                bound.filter_map(|port| Some(of(port.bound?, port.protocol))).collect()
            }
            Some(sandbox) => {
                let process = process_of(sandbox);
                let ready = world.containers.values().find(|one| one.process() == process && one.is_ready());
                ready.map(|_| of(80, Protocol::Tcp)).into_iter().collect()
            }
        };
        Listeners { listeners }
    }

    fn gateway(&self, sandbox: &Path) -> Gateway {
        let world = self.sim.world();
        let process = process_of(sandbox);
        let container = world.containers.values().find(|one| one.process() == process);
        let network = container.and_then(|one| one.attached.keys().next()).and_then(|name| world.networks.get(name));
        Gateway { ipv4: network.map(|network| network.address(1).into()), ipv6: None }
    }

    /// Answers once all containers that are meant answer.
    fn when_ready(&self, id: u64, is_meant: impl Fn(&Container) -> bool + Send + 'static) {
        let helper = self.clone();
        tokio::spawn(async move {
            let mut changed = helper.sim.world().changed.subscribe();
            loop {
                let (all, next) = {
                    let world = helper.sim.world();
                    let meant: Vec<&Container> = world.containers.values().filter(|one| is_meant(one)).collect();
                    let all = !meant.is_empty() && meant.iter().all(|one| one.is_ready());
                    (all, meant.iter().filter(|one| !one.is_ready()).filter_map(|one| one.ready_at()).max())
                };
                if all {
                    return helper.ok(id, AllReady { took_ms: 1 });
                }
                tokio::select! {
                    biased;
                    gone = changed.changed() => if gone.is_err() { return },
                    () = until(next) => {}
                }
            }
        });
    }

    fn drain(&self, id: u64, drain: Drain) {
        let helper = self.clone();
        let first = if drain.hold { Word::Hold } else { Word::Proceed };
        self.drains.send_modify(|words| {
            words.insert(id, first);
        });
        tokio::spawn(async move {
            let mut words = helper.drains.subscribe();
            let mut changed = helper.sim.world().changed.subscribe();
            let process = process_of(&drain.sandbox);
            let mut deadline = None;
            loop {
                let word = words.borrow_and_update().get(&id).copied();
                let open = {
                    let world = helper.sim.world();
                    world.containers.values().find(|one| one.process() == process).map_or(0, |one| one.open)
                };
                match word {
                    Some(Word::Leave) | None => break,
                    Some(Word::Proceed) if open == 0 && !drain.lasts => break,
                    Some(Word::Proceed) => {
                        let end = *deadline.get_or_insert(Instant::now() + Duration::from_millis(drain.deadline_ms));
                        if end <= Instant::now() {
                            break;
                        }
                    }
                    Some(Word::Hold) => deadline = None,
                }
                tokio::select! {
                    biased;
                    told = words.changed() => if told.is_err() { return },
                    gone = changed.changed() => if gone.is_err() { return },
                    () = until(deadline) => {}
                }
            }
            helper.drains.send_modify(|words| {
                words.remove(&id);
            });
            helper.ok(id, report());
        });
    }

    fn word(&self, id: u64, request: u64, word: Word) {
        self.drains.send_modify(|words| {
            if let Some(before) = words.get_mut(&request) {
                *before = word;
            }
        });
        self.ok(id, json!({}));
    }

    fn load(&self, table: PeerTable) -> PeerLoaded {
        let mut world = self.sim.world();
        let sandbox = table.sandbox.clone();
        let process = if sandbox.as_os_str().is_empty() { Some(0) } else { process_of(&sandbox) };
        let runs = |process: u32| process == 0 || world.containers.values().any(|one| one.process() == Some(process));
        let state = match process.filter(|process| runs(*process)) {
            None => PeerState::Gone,
            Some(process) => match rules("sim", &table) {
                Err(error) => PeerState::Failed(Failure { what: error.to_string(), hint: None, cancelled: false }),
                Ok(_) => {
                    if let Some(outlasting) = &table.outlasting {
                        let key = (process, outlasting.project.clone());
                        if outlasting.redirects.is_empty() {
                            world.outlasting.remove(&key);
                        } else if world.outlasting.get(&key).is_none_or(|(before, _)| before != outlasting) {
                            let until = Instant::now() + Duration::from_secs(outlasting.seconds);
                            world.outlasting.insert(key, (outlasting.clone(), until));
                        }
                    }
                    let is = |one: &ClientTable| one.holder == self.id && one.process == process;
                    let mut known = world.client_tables.iter().find(|one| is(one)).map(|one| one.known.clone());
                    world.client_tables.retain(|one| !is(one));
                    if table.is_removal() {
                        PeerState::Unloaded
                    } else {
                        let mut known = known.take().unwrap_or_default();
                        known.extend(table.leads.iter().copied());
                        world.client_tables.push(ClientTable { holder: self.id.clone(), process, table, known });
                        PeerState::Loaded
                    }
                }
            },
        };
        PeerLoaded { sandbox, state, udp_flows_moved: 0, took_us: 1 }
    }

    fn counters(&self) -> PeersCounted {
        let world = self.sim.world();
        let count = |process: u32, lead: &AddressLead| world.redirected.get(&(process, *lead)).copied().unwrap_or(0);
        let held = world.client_tables.iter().filter(|table| table.holder == self.id);
        let peers = held.map(|table| PeerCounted {
            sandbox: table.table.sandbox.clone(),
            state: PeerState::Loaded,
            leads: table
                .known
                .iter()
                .map(|lead| LeadCount {
                    from: lead.from,
                    to: lead.to,
                    led: table.table.leads.contains(lead),
                    connections: count(table.process, lead),
                    straight: 0,
                    open: 0,
                    clients: Vec::new(),
                })
                .collect(),
        });
        PeersCounted { peers: peers.collect() }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn process_of(sandbox: &Path) -> Option<u32> {
    sandbox.strip_prefix("/proc").ok()?.iter().next()?.to_str()?.parse().ok()
}

fn support() -> Support {
    let works = Check { works: true, why_not: None };
    Support {
        kernel: "6.1.0".to_owned(),
        arch: "x86_64".to_owned(),
        lead_ports: Some(works.clone()),
        read_sockets: works.clone(),
        close_sockets: works.clone(),
        read_packets: works.clone(),
        read_flows: works.clone(),
        lead_peers: Some(works.clone()),
        enter_sandbox: Some(works),
        input_dropped_by: Vec::new(),
        routing_loopback: Vec::new(),
    }
}

fn report() -> DrainReport {
    DrainReport {
        closed_idle: 0,
        handed_on: 0,
        ended_by_themselves: 0,
        left: Vec::new(),
        look_to_close_us: Spread::default(),
        takeover_us: Spread::default(),
        doubts: 0,
        took_ms: 1,
    }
}
