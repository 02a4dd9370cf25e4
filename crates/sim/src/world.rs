//! The simulated host: containers, networks and the kernel's tables, as plain data behind one lock. Nothing here waits; what takes
//! time is a task that changes the world later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use handover_core::net::Protocol;
use handover_core::redirect::outlasting::Outlasting;
use handover_core::redirect::peers::{AddressLead, PeerTable};
use handover_core::redirect::ports::PortTable;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;

use crate::helpers;

/// How many events the engine remembers.
const REMEMBERED: usize = 256;

/// A handle of the world. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sim(Arc<Mutex<World>>);

/// Everything that is there.
#[derive(Debug)]
pub struct World {
    /// By id.
    pub containers: BTreeMap<String, Container>,
    /// By name.
    pub networks: BTreeMap<String, Network>,
    /// References of images that are there.
    pub images: BTreeSet<String>,
    /// How the programs in images behave, by reference.
    pub behaviours: BTreeMap<String, Behaviour>,
    /// The compose file, as `docker compose config` prints it.
    pub file: Value,
    /// In Compose's own words.
    pub compose_version: &'static str,
    /// The kernel's tables of published ports, by project.
    pub port_tables: BTreeMap<String, PortTable>,
    /// Tables in the network namespaces of clients.
    pub client_tables: Vec<ClientTable>,
    /// Redirects that nobody holds, by process (0 is the host) and project, with the end of their time.
    pub outlasting: BTreeMap<(u32, String), (Outlasting, Instant)>,
    /// What the engine has told, last things last.
    pub log: VecDeque<EngineEvent>,
    /// What it tells.
    pub told: broadcast::Sender<EngineEvent>,
    /// Connections so far, by the client's process and where it was redirected from and to.
    pub redirected: BTreeMap<(u32, AddressLead), u64>,
    /// What nobody should have seen.
    pub violations: Vec<String>,
    /// Containers that somebody has stopped, removed or renamed by a call.
    pub touched: Vec<(String, &'static str)>,
    /// Changes whenever anything in the world does.
    pub changed: watch::Sender<u64>,
    began: Instant,
    last_id: u64,
    last_process: u32,
    last_port: u16,
}

/// The table of one session in the namespace of one process.
#[derive(Clone, Debug)]
pub struct ClientTable {
    /// Id of the helper that holds it.
    pub holder: String,
    /// Whose namespace; 0 is the host's.
    pub process: u32,
    /// What it does.
    pub table: PeerTable,
    /// All redirects that it has ever had.
    pub known: BTreeSet<AddressLead>,
}

/// A network.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its id.
    pub id: String,
    /// Third byte of its addresses.
    pub subnet: u8,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Network {
    /// The address with this last byte.
    pub fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, self.subnet, last)
    }
}

/// How a program behaves.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    /// How long it takes from its start until it answers.
    pub ready_after: Option<Duration>,
    /// Whether the image has a HEALTHCHECK, which is told a moment after it answers.
    pub health: bool,
    /// When it ends by itself.
    pub ends_after: Option<Duration>,
    /// How long it takes to end once it was asked to.
    pub stop: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        let stop = Duration::from_millis(20);
        Self { ready_after: Some(Duration::from_millis(300)), health: false, ends_after: None, stop }
    }
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Reference of its image.
    pub image: String,
    /// Its program, with arguments.
    pub command: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it runs, and since when.
    pub state: State,
    /// The networks that it is on.
    pub attached: BTreeMap<String, Attached>,
    /// Its published ports.
    pub ports: Vec<Published>,
    /// How its program behaves.
    pub behaviour: Behaviour,
    /// Whether the engine starts it again, unless somebody stops it.
    pub restarts_itself: bool,
    /// How often it has.
    pub restarts: u32,
    /// Whether it is removed when it ends.
    pub auto_remove: bool,
    /// Whether its input ends with the connection of whoever attaches.
    pub stdin_once: bool,
    /// Connections in flight.
    pub open: u32,
    /// The input and output of one of our helpers.
    pub console: Console,
    /// The rules file of a guard.
    pub rules_file: Option<PortTable>,
}

/// State of a container.
#[derive(Clone, Debug)]
pub enum State {
    /// Never started.
    Created,
    /// Its process, since when.
    Running {
        /// The process, as the host counts.
        process: u32,
        /// Since when.
        since: Instant,
    },
    /// Ended.
    Exited(i64),
}

/// A container on a network.
#[derive(Clone, Debug, Default)]
pub struct Attached {
    /// Its names there.
    pub aliases: Vec<String>,
    /// Its address, while it runs.
    pub address: Option<Ipv4Addr>,
}

/// A published port.
#[derive(Clone, Debug)]
pub struct Published {
    /// Protocol.
    pub protocol: Protocol,
    /// Port inside.
    pub target: u16,
    /// The fixed port on the host; `None`: the engine chooses one.
    pub fixed: Option<u16>,
    /// The port on the host, while it runs.
    pub bound: Option<u16>,
}

/// Where a helper reads and writes.
#[derive(Clone, Debug)]
pub struct Console {
    /// Lines to the helper; an empty option is the end of its input.
    pub input: mpsc::UnboundedSender<Option<String>>,
    /// Taken by the helper when it starts.
    pub lines: Arc<Mutex<Option<mpsc::UnboundedReceiver<Option<String>>>>>,
    /// What it prints.
    pub output: broadcast::Sender<String>,
}

impl Default for Console {
    fn default() -> Self {
        let (input, lines) = mpsc::unbounded_channel();
        Self { input, lines: Arc::new(Mutex::new(Some(lines))), output: broadcast::channel(256).0 }
    }
}

/// What the engine tells of.
#[derive(Clone, Debug)]
pub struct EngineEvent {
    /// `container` or `network`.
    pub kind: &'static str,
    /// `start`, `die`, …
    pub action: String,
    /// Of what.
    pub id: String,
    /// Labels, and the container of a network's event.
    pub attributes: BTreeMap<String, String>,
}

impl EngineEvent {
    /// As the engine prints it.
    pub fn json(&self) -> Value {
        json!({"Type": self.kind, "Action": self.action, "scope": "local", "time": 1, "timeNano": 1,
            "Actor": {"ID": self.id, "Attributes": self.attributes}})
    }
}

impl Container {
    /// Its process, while it runs.
    pub fn process(&self) -> Option<u32> {
        match self.state {
            State::Running { process, .. } => Some(process),
            _ => None,
        }
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.process().is_some()
    }

    /// When it answers, if it runs and ever does.
    pub fn ready_at(&self) -> Option<Instant> {
        match self.state {
            State::Running { since, .. } => Some(since + self.behaviour.ready_after?),
            _ => None,
        }
    }

    /// Whether it answers.
    pub fn is_ready(&self) -> bool {
        self.ready_at().is_some_and(|at| at <= Instant::now())
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> &str {
        self.labels.get(key).map_or("", String::as_str)
    }

    /// `running`, `created` or `exited`.
    pub fn state_word(&self) -> &'static str {
        match self.state {
            State::Created => "created",
            State::Running { .. } => "running",
            State::Exited(_) => "exited",
        }
    }
}

impl Default for Sim {
    fn default() -> Self {
        let world = World {
            containers: BTreeMap::new(),
            networks: BTreeMap::new(),
            images: BTreeSet::new(),
            behaviours: BTreeMap::new(),
            file: Value::Null,
            compose_version: "2.40.3",
            port_tables: BTreeMap::new(),
            client_tables: Vec::new(),
            outlasting: BTreeMap::new(),
            log: VecDeque::new(),
            told: broadcast::channel(4096).0,
            redirected: BTreeMap::new(),
            violations: Vec::new(),
            touched: Vec::new(),
            changed: watch::Sender::new(0),
            began: Instant::now(),
            last_id: 0,
            last_process: 100,
            last_port: 32767,
        };
        Self(Arc::new(Mutex::new(world)))
    }
}

impl Sim {
    /// The world, for as long as nobody waits.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a container; what its program does by itself later is begun. The engine's complaint, if it cannot be started.
    pub fn start(&self, id: &str) -> Result<(), (u16, String)> {
        let (process, behaviour, role) = {
            let mut world = self.world();
            let process = world.start(id)?;
            let Some(container) = world.containers.get(id) else { return Err((404, "gone".to_owned())) };
            (process, container.behaviour, helpers::Role::of(container))
        };
        let (sim, id) = (self.clone(), id.to_owned());
        if let Some(role) = role {
            tokio::spawn(helpers::run(sim, id, process, role));
            return Ok(());
        }
        tokio::spawn(async move {
            if let Some(ready) = behaviour.ready_after.filter(|_| behaviour.health) {
                tokio::time::sleep(ready + Duration::from_millis(50)).await;
                sim.world().tell_of_health(&id, process);
            }
            if let Some(after) = behaviour.ends_after {
                tokio::time::sleep(after.saturating_sub(behaviour.ready_after.unwrap_or_default())).await;
                sim.end(&id, process, 1);
            }
        });
        Ok(())
    }

    /// A container's process ends with this code, if it is still this one. What the engine does about it is begun.
    pub fn end(&self, id: &str, process: u32, code: i64) {
        let again = {
            let mut world = self.world();
            if world.containers.get(id).and_then(Container::process) != Some(process) {
                return;
            }
            world.end(id, code);
            world.containers.get(id).is_some_and(|container| container.restarts_itself)
        };
        if again {
            let (sim, id) = (self.clone(), id.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let stopped = {
                    let mut world = sim.world();
                    let container = world.containers.get_mut(&id).filter(|container| !container.runs());
                    container.map(|container| container.restarts += 1).is_none()
                };
                if !stopped {
                    let _ = sim.start(&id);
                }
            });
        }
    }

    /// Asks a container to end and waits until it has.
    pub async fn stop(&self, id: &str) -> Result<(), (u16, String)> {
        let (process, patience, is_guard) = {
            let mut world = self.world();
            let Some(container) = world.containers.get_mut(id) else { return Err((404, no_such(id))) };
            let Some(process) = container.process() else { return Err((304, String::new())) };
            container.restarts_itself = false;
            (process, container.behaviour.stop, helpers::Role::of(container) == Some(helpers::Role::Guard))
        };
        tokio::time::sleep(patience).await;
        if is_guard {
            let mut world = self.world();
            let project = world.containers.get(id).map(|guard| guard.label("handover.project").to_owned());
            if let Some(project) = project.filter(|_| world.containers[id].process() == Some(process)) {
                world.port_tables.remove(&project);
            }
        }
        self.end(id, process, 0);
        Ok(())
    }

    /// Kills and removes a container, as `docker rm -f`.
    pub fn remove_by_force(&self, id: &str) {
        let mut world = self.world();
        if let Some(container) = world.containers.get_mut(id) {
            container.restarts_itself = false;
        }
        if world.containers.get(id).is_some_and(Container::runs) {
            world.end(id, 137);
        }
        world.remove(id);
    }
}

impl World {
    /// Time since the world began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Something that nobody should have seen.
    pub fn violated(&mut self, what: String) {
        let at = self.elapsed().as_millis();
        self.violations.push(format!("at {at} ms: {what}"));
    }

    /// The container that a call means: by id, name, or the beginning of an id.
    pub fn find(&self, named: &str) -> Option<&Container> {
        let named = named.trim_start_matches('/');
        let by_name = || self.containers.values().find(|one| one.name == named);
        let by_beginning = || self.containers.values().find(|one| named.len() >= 12 && one.id.starts_with(named));
        self.containers.get(named).or_else(by_name).or_else(by_beginning)
    }

    /// A fresh id, as long as the engine's.
    pub fn fresh_id(&mut self) -> String {
        self.last_id += 1;
        // Ids have nothing in common at their beginning.
        let mixed = self.last_id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("{mixed:016x}{:048x}", self.last_id)
    }

    /// Tells of something that has happened.
    pub fn tell(&mut self, kind: &'static str, action: &str, id: &str, extra: &[(&str, &str)]) {
        let mut attributes = self.containers.get(id).map(|one| one.labels.clone()).unwrap_or_default();
        if let Some(container) = self.containers.get(id) {
            attributes.insert("name".to_owned(), container.name.clone());
        }
        attributes.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let event = EngineEvent { kind, action: action.to_owned(), id: id.to_owned(), attributes };
        self.log.push_back(event.clone());
        if self.log.len() > REMEMBERED {
            self.log.pop_front();
        }
        let _ = self.told.send(event);
        self.has_changed();
    }

    /// Whoever waits for anything looks again.
    pub fn has_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn tell_of_health(&mut self, id: &str, process: u32) {
        if self.containers.get(id).and_then(Container::process) == Some(process) {
            self.tell("container", "health_status: healthy", id, &[]);
        }
    }

    fn start(&mut self, id: &str) -> Result<u32, (u16, String)> {
        let Some(container) = self.containers.get(id) else { return Err((404, no_such(id))) };
        if container.runs() {
            return Err((304, String::new()));
        }
        let taken = |port: u16| {
            let others = self.containers.values().filter(|one| one.id != id && one.runs());
            others.flat_map(|one| &one.ports).any(|published| published.bound == Some(port))
        };
        if let Some(port) = container.ports.iter().filter_map(|port| port.fixed).find(|port| taken(*port)) {
            return Err((500, format!("Bind for 0.0.0.0:{port} failed: port is already allocated")));
        }
        let mut addresses = BTreeMap::new();
        for name in container.attached.keys() {
            let Some(network) = self.networks.get(name) else { return Err((404, format!("network {name} not found"))) };
            let used = |address| {
                let mut all = self.containers.values().flat_map(|one| one.attached.values());
                all.any(|one| one.address == Some(address))
            };
            // An address is given again as soon as nobody has it.
            let free = (2..250).map(|last| network.address(last)).find(|address| !used(*address));
            addresses.insert(name.clone(), free);
        }
        self.last_process += 1;
        let process = self.last_process;
        let mut last_port = self.last_port;
        let Some(container) = self.containers.get_mut(id) else { return Err((404, no_such(id))) };
        for (name, address) in addresses {
            if let Some(attached) = container.attached.get_mut(&name) {
                attached.address = address;
            }
        }
        for port in &mut container.ports {
            port.bound = port.fixed.or_else(|| {
                last_port += 1;
                Some(last_port)
            });
        }
        container.state = State::Running { process, since: Instant::now() };
        let networks: Vec<String> = container.attached.keys().cloned().collect();
        self.last_port = last_port;
        for network in networks {
            let network = self.networks.get(&network).map(|network| network.id.clone()).unwrap_or_default();
            self.tell("network", "connect", &network, &[("container", id)]);
        }
        self.tell("container", "start", id, &[]);
        Ok(process)
    }

    fn end(&mut self, id: &str, code: i64) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let process = container.process();
        let (open, name) = (std::mem::take(&mut container.open), container.name.clone());
        container.state = State::Exited(code);
        for attached in container.attached.values_mut() {
            attached.address = None;
        }
        for port in &mut container.ports {
            port.bound = None;
        }
        let auto_remove = container.auto_remove;
        if open > 0 {
            self.violated(format!("{open} requests in flight were cut when {name} ended"));
        }
        if let Some(process) = process {
            self.client_tables.retain(|table| table.process != process && table.holder != id);
            self.outlasting.retain(|(of, _), _| *of != process);
        }
        self.tell("container", "die", id, &[]);
        if auto_remove {
            self.remove(id);
        }
    }

    /// Removes a container that does not run.
    pub fn remove(&mut self, id: &str) {
        self.tell("container", "destroy", id, &[]);
        self.containers.remove(id);
        self.has_changed();
    }
}

/// The engine's words.
pub fn no_such(id: &str) -> String {
    format!("No such container: {id}")
}
