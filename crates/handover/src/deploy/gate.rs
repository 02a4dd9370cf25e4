//! The gate, performed: containers are watched by the engine's events and, where they have no HEALTHCHECK, by connecting to
//! their ports, until the verdict is in.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bollard::models::EventMessage;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream, StreamExt};
use handover_core::compose::calls::temporary_name;
use handover_core::compose::project::Project;
use handover_core::gate::{Gated, State, Verdict, meant_to_exit, verdict};
use handover_core::net::Protocol;
use handover_core::observation::Observation;
use handover_core::plan::standin;
use handover_host::protocol::{AllReady, SessionOp, Target};

use crate::engine::{Engine, Inspected};
use crate::event::{Event, Events};
use crate::failure::{Exit, Failure, Result};
use crate::helper::Helper;

/// Events of the containers that are gated, those before the first look at them included.
pub(crate) type ContainerEvents =
    std::pin::Pin<Box<dyn Stream<Item = std::result::Result<EventMessage, bollard::errors::Error>> + Send>>;

/// A gate for the containers of some services of a Compose project.
pub(crate) struct Gate<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) session: &'a Helper,
    pub(crate) events: &'a Events,
    pub(crate) project: &'a Project,
    /// What was there before, for services whose containers have always exited.
    pub(crate) observed: &'a Observation,
    pub(crate) deadline: Duration,
    /// Ports that the containers' predecessors are called at: what a service without declared ports is asked for. With it the
    /// containers are looked at from inside, because nobody else reaches them yet.
    pub(crate) used: Option<Vec<(u16, Protocol)>>,
}

/// How many log lines of a failed container are shown.
const LOG_LINES: usize = 20;

impl Gate<'_> {
    /// Waits until the containers pass. Fails at once when one of them fails, with its last log lines, and when the
    /// deadline comes. Returns the containers as they were when they passed.
    pub(crate) async fn pass(&self, ids: &[String], changes: &mut ContainerEvents) -> Result<Vec<Inspected>> {
        let _waiting = self.events.waiting();
        let mut watch = Watch::default();
        for id in ids {
            self.look(id, &mut watch).await?;
        }
        let deadline = tokio::time::sleep(self.deadline);
        tokio::pin!(deadline);
        loop {
            self.tell_ready(&mut watch);
            match verdict(watch.gated.values()) {
                Verdict::Passed => return Ok(watch.inspected.into_values().collect()),
                Verdict::Failed { container, why } => {
                    return Err(self.failed(&watch, &container, &why).await);
                }
                Verdict::Waiting(missing) => {
                    tokio::select! {
                        biased;
                        () = &mut deadline => return Err(self.too_late(&watch, &missing).await),
                        Some(accepted) = watch.connecting.next(), if !watch.connecting.is_empty() => {
                            let (id, result) = accepted;
                            result?;
                            if let Some(gated) = watch.gated.get_mut(&id) {
                                gated.accepts = true;
                            }
                        }
                        change = changes.next() => {
                            let change = Change::of(change)?;
                            if watch.gated.get(&change.container).is_some_and(|gated| change.is_news_of(gated)) {
                                self.look(&change.container, &mut watch).await?;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Ends only when one of the containers fails: for the time between the gate and the moment from which there is no way
    /// back.
    pub(crate) async fn watch_for_failure(&self, ids: &[String], changes: &mut ContainerEvents) -> Failure {
        let mut watch = Watch::default();
        loop {
            let change = match Change::of(changes.next().await) {
                Ok(change) => change,
                Err(failure) => return failure,
            };
            if !ids.contains(&change.container) {
                continue;
            }
            if let Err(failure) = self.look(&change.container, &mut watch).await {
                return failure;
            }
            if let Verdict::Failed { container, why } = verdict(watch.gated.values()) {
                return self.failed(&watch, &container, &why).await;
            }
        }
    }

    /// Inspects one container and begins to connect to it where that is its gate.
    async fn look(&self, id: &str, watch: &mut Watch) -> Result<()> {
        let Some(found) = self.engine.inspect(id).await? else {
            if let Some(gated) = watch.gated.get_mut(id) {
                gated.state = State::Gone;
            }
            return Ok(());
        };
        let service = self.service_of(&found);
        let exited_before = service.is_some_and(|service| {
            self.observed.of_service(&service.name).any(|container| container.status.starts_with("Exited (0)"))
        });
        let known = watch.gated.get(id);
        let mut served = service.map(|service| service.served_ports()).unwrap_or_default();
        if let Some(used) = self.used.as_ref().filter(|_| served.is_empty()) {
            served.clone_from(used);
        }
        let asks_ports = found.health.is_none() && !served.is_empty();
        let gated = Gated {
            name: temporary_name(&found.name).map_or(found.name.as_str(), |(_, name)| name).to_owned(),
            meant_to_exit: service.is_some_and(|service| meant_to_exit(service, self.project, exited_before)),
            state: found.state,
            health: found.health,
            restarts: found.restarts,
            accepts: known.is_some_and(|known| known.accepts) || !asks_ports,
        };
        if gated.state == State::Running && !gated.accepts && watch.asked.insert(id.to_owned(), ()).is_none() {
            watch.connecting.push(self.connect(&found, &served));
        }
        watch.gated.insert(id.to_owned(), gated);
        watch.inspected.insert(id.to_owned(), found);
        Ok(())
    }

    fn service_of(&self, found: &Inspected) -> Option<&handover_core::compose::project::Service> {
        self.project
            .services
            .values()
            .find(|service| service.name == found.service || standin::service_name(&service.name) == found.service)
    }

    /// Waits until every served port accepts: TCP from the host, UDP and unreachable networks from inside.
    fn connect(&self, found: &Inspected, served: &[(u16, Protocol)]) -> BoxFuture<'static, (String, Result<()>)> {
        let address = found.networks.iter().find_map(|(_, endpoint)| endpoint.address).filter(|_| self.used.is_none());
        let ports = |wanted: Protocol| -> Vec<u16> {
            served.iter().filter(|(_, protocol)| *protocol == wanted).map(|(port, _)| *port).collect()
        };
        let (tcp, udp) = (ports(Protocol::Tcp), ports(Protocol::Udp));
        let mut asked = Vec::new();
        match address {
            Some(address) if !tcp.is_empty() => {
                let targets = tcp
                    .iter()
                    .map(|port| Target {
                        name: format!("{}:{port}", found.name),
                        address: SocketAddr::new(IpAddr::V4(address), *port),
                    })
                    .collect();
                asked.push(self.session.begin(SessionOp::Accepts { targets }));
            }
            // One without an address of its own (network_mode) can only be looked at from inside, too.
            None if !tcp.is_empty() => asked.push(self.listens(found, Protocol::Tcp, tcp)),
            _ => {}
        }
        if !udp.is_empty() {
            asked.push(self.listens(found, Protocol::Udp, udp));
        }
        let id = found.id.clone();
        async move {
            for under_way in asked {
                let answer: Result<AllReady> = match under_way {
                    Ok(under_way) => under_way.answer().await,
                    Err(failure) => Err(failure),
                };
                if let Err(failure) = answer {
                    return (id, Err(failure));
                }
            }
            (id, Ok(()))
        }
        .boxed()
    }

    fn listens(&self, found: &Inspected, protocol: Protocol, ports: Vec<u16>) -> Result<crate::helper::UnderWay> {
        self.session.begin(SessionOp::Listens { sandbox: found.sandbox.clone().into(), protocol, ports })
    }

    fn tell_ready(&self, watch: &mut Watch) {
        for (id, gated) in &watch.gated {
            if verdict([gated]) == Verdict::Passed && watch.told.insert(id.clone(), ()).is_none() {
                self.events.emit(Event::Ready { container: gated.name.clone() });
            }
        }
    }

    async fn failed(&self, watch: &Watch, container: &str, why: &str) -> Failure {
        let mut failure = Failure::new(Exit::DeployFailed, format!("{container} did not pass its gate")).because(why);
        failure.logs = self.logs(watch, container).await;
        failure
    }

    async fn too_late(&self, watch: &Watch, missing: &BTreeMap<String, String>) -> Failure {
        let waited: Vec<String> = missing.iter().map(|(container, what)| format!("{container} {what}")).collect();
        let mut failure = Failure::new(
            Exit::DeployFailed,
            format!("not ready after {:?}: waited for {}", self.deadline, waited.join(", ")),
        )
        .hint("allow more time with --gate-timeout, if it only starts slowly");
        if let Some(container) = missing.keys().next() {
            failure.logs = self.logs(watch, container).await;
        }
        failure
    }

    async fn logs(&self, watch: &Watch, container: &str) -> Option<(String, Vec<String>)> {
        let id = watch.gated.iter().find(|(_, gated)| gated.name == container).map(|(id, _)| id)?;
        Some((container.to_owned(), self.engine.last_log_lines(id, LOG_LINES).await))
    }
}

#[derive(Default)]
struct Watch {
    gated: BTreeMap<String, Gated>,
    inspected: BTreeMap<String, Inspected>,
    asked: HashMap<String, ()>,
    told: HashMap<String, ()>,
    connecting: FuturesUnordered<BoxFuture<'static, (String, Result<()>)>>,
}

/// What the engine tells of a container.
struct Change {
    container: String,
    starts: bool,
}

impl Change {
    fn of(change: Option<std::result::Result<EventMessage, bollard::errors::Error>>) -> Result<Self> {
        match change {
            Some(Ok(message)) => Ok(Self {
                container: message.actor.and_then(|actor| actor.id).unwrap_or_default(),
                starts: message.action.is_some_and(|action| action == "start"),
            }),
            Some(Err(error)) => Err(error.into()),
            None => {
                Err(Failure::new(Exit::Engine, "the engine ended its stream of events").because("it may be restarting"))
            }
        }
    }

    /// That it has started is known of one that runs; if it has ended in between, that was told, too.
    fn is_news_of(&self, known: &Gated) -> bool {
        !(self.starts && known.state == State::Running)
    }
}
