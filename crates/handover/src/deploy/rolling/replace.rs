//! One container is replaced by another: started, gated, given the traffic; then the old one drains. And the way back.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use handover_core::compose::calls::temporary_name;
use handover_core::gate::State;
use handover_core::net::Protocol;
use handover_core::observation::{Container, Observation};
use handover_core::replace::{Half, Mend, mend};
use handover_host::protocol::{Listeners, SessionOp};

use crate::deploy::context::Deploy;
use crate::deploy::drain::Drains;
use crate::deploy::gate::{ContainerEvents, Gate};
use crate::deploy::traffic::redirects::Switch;
use crate::deploy::traffic::routers::Routers;
use crate::engine::Inspected;
use crate::engine_proxy::HeldCall;
use crate::event::{DrainSummary, Event};
use crate::failure::{Exit, Failure, Result};
use crate::interrupt::Interrupt;

/// How long both run at least when the new one is ready: a proxy that finds containers by itself looks at one after the other, and must
/// not come to the new one too early and to the old one too late.
const SEEN_TOGETHER: Duration = Duration::from_secs(1);

/// How long they do at most where a proxy is announced that calls the old one and has not called the new one yet: its look may take
/// longer.
const FOUND: Duration = Duration::from_secs(5);

/// What replacing takes.
pub(crate) struct Hands<'a> {
    pub(crate) deploy: &'a Deploy,
    pub(crate) observed: &'a Observation,
    pub(crate) switch: &'a Switch,
    pub(crate) routers: &'a Routers,
    /// What gives up a replacement before traffic moves, where anything does.
    pub(crate) interrupt: Option<&'a Interrupt>,
    /// Old containers that still get new connections.
    pub(crate) serving: Cell<usize>,
    /// From the start of the deploy until none of them did.
    pub(crate) live: Cell<Option<Duration>>,
}

impl Hands<'_> {
    /// Replaces a container by one that Compose has created. A failure leaves the old one serving and the new one removed.
    /// `started`: what else must go well once it has started. `given_up`: ends when nobody wants it replaced any more. `monitor`: for
    /// how many seconds the new one is watched for failure.
    pub(crate) async fn replace(
        &self,
        old: &Container,
        new: &str,
        monitor: f64,
        started: impl Future<Output = Result<()>>,
        given_up: impl Future<Output = ()>,
    ) -> Result<DrainSummary> {
        let Deploy { engine, session, events, project, .. } = self.deploy;
        tokio::pin!(given_up);
        let before = found(self.deploy, &old.id, &old.name).await?;
        let ports = self.deploy.used_ports(&before).await?;
        let drains = Drains::of_ports(self.deploy, &before, &ports)?;
        let requests = drains.requests();
        let mut changes: ContainerEvents = engine.container_events(&project.name).boxed();
        let mut known = None;
        let replaced = async {
            let new_one = &*known.insert(self.switch.start(new, &before).await?);
            let ids = [new.to_owned()];
            let gate = self.gate(&ports);
            let ready = tokio::select! {
                biased;
                ready = async { tokio::try_join!(gate.pass(&ids, &mut changes), started) } => ready?.0,
                () = &mut given_up => return Err(abandoned()),
                () = self.interrupted() => {
                    return Err(Failure::new(Exit::Interrupted, format!("interrupted before {} was replaced", old.name)));
                }
            };
            let ready = ready.into_iter().next().unwrap_or_else(|| new_one.clone());
            self.switch.lead(&before, &ready).await?;
            events.emit(Event::Switched { container: old.name.clone() });
            self.routers.serves(&old.service, &ready).await?;
            self.switched();
            let found_by_itself = !ports.is_empty() && !self.routers.tell_of(&old.service);
            let together = async {
                if found_by_itself {
                    self.seen_together(&old.service, &before, &ready).await;
                }
            };
            let monitored = tokio::time::sleep(Duration::try_from_secs_f64(monitor).unwrap_or_default());
            let drained = async { tokio::join!(drains.finish(session, events), monitored, together).0 };
            tokio::select! {
                biased;
                failure = gate.watch_for_failure(&ids, &mut changes) => Err(failure),
                drained = drained => drained,
                () = &mut given_up => Err(abandoned()),
            }
        };
        let replaced = replaced.await;
        if replaced.is_err() {
            Drains::give_up(session, &requests);
            self.take_back(&before, new, known.as_ref()).await?;
        }
        replaced
    }

    /// Lets what is under way with a container end that is not to be replaced: another of its service takes its traffic.
    pub(crate) async fn retire(&self, old: &Container, call: &mut HeldCall) -> Result<DrainSummary> {
        let Deploy { session, events, .. } = self.deploy;
        let before = found(self.deploy, &old.id, &old.name).await?;
        let ports = self.deploy.used_ports(&before).await?;
        let drains = Drains::of_ports(self.deploy, &before, &ports)?;
        let requests = drains.requests();
        if let Some(other) = &self.another(&old.service, &BTreeSet::from([old.id.clone()])).await? {
            self.switch.lead(&before, other).await?;
            self.routers.ends(&old.service, &before).await?;
        }
        self.switched();
        tokio::select! {
            biased;
            drained = drains.finish(session, events) => drained,
            () = call.abandoned() => {
                Drains::give_up(session, &requests);
                self.switch.free(&before).await?;
                self.routers.serves(&old.service, &before).await?;
                Err(abandoned())
            }
        }
    }

    /// Makes a pair whole whose replacement ended half-way. May be repeated. `starts`: what takes the place of an old one that has
    /// ended is started.
    pub(crate) async fn mend(&self, old: &str, new: &str, starts: bool) -> Result<()> {
        let (before, after) = tokio::try_join!(self.deploy.engine.inspect(old), self.deploy.engine.inspect(new))?;
        let half = |one: &Option<Inspected>| match one {
            Some(found) if found.state == State::Running => Half::Runs,
            Some(_) => Half::Stopped,
            None => Half::Gone,
        };
        match mend(half(&before), half(&after)) {
            Mend::Nothing => Ok(()),
            Mend::Back => match before {
                Some(before) => self.take_back(&before, new, None).await,
                None => Ok(()),
            },
            Mend::Forward => {
                let engine = &self.deploy.engine;
                if before.is_some() {
                    engine.remove_replaced(old).await?;
                }
                let name = after.map(|after| after.name).unwrap_or_default();
                if let Some((_, name)) = temporary_name(&name) {
                    engine.rename(new, name).await?;
                }
                if starts { engine.start(new).await } else { Ok(()) }
            }
        }
    }

    /// Gives the traffic back to the old container, and removes the new one once nothing is under way with it. Who has learnt the
    /// new one's address is led to the old one from then on. `known`: the new one as it was started, if that is known: one that has
    /// ended has no address any more.
    pub(crate) async fn take_back(&self, old: &Inspected, new: &str, known: Option<&Inspected>) -> Result<()> {
        let Deploy { engine, session, events, .. } = self.deploy;
        if let Some(known) = known {
            self.switch.lead(known, old).await?;
        }
        if let Err(failure) = self.routers.serves(&old.service, old).await {
            events.emit(Event::Note(failure.to_string()));
        }
        let Some(found) = engine.inspect(new).await? else { return Ok(()) };
        if found.state == State::Running {
            self.switch.lead(&found, old).await?;
            let ports = self.deploy.used_ports(&found).await?;
            Drains::of_ports(self.deploy, &found, &ports)?.finish(session, events).await?;
        }
        engine.remove_all(&[new.to_owned()]).await?;
        self.switch.forget_ungated(new).await
    }

    /// A container of a service, under its final name, that runs and is none of these.
    pub(crate) async fn another(&self, service: &str, except: &BTreeSet<String>) -> Result<Option<Inspected>> {
        let engine = &self.deploy.engine;
        let all = engine.containers_of_project(&self.deploy.project.name).await?;
        for (id, _) in all.into_iter().filter(|(id, of)| of == service && !except.contains(id)) {
            let candidate = engine.inspect(&id).await?;
            let candidate = candidate.filter(|one| one.state == State::Running && temporary_name(&one.name).is_none());
            if candidate.is_some() {
                return Ok(candidate);
            }
        }
        Ok(None)
    }

    /// Waits until proxies that find containers by themselves have found the new one beside the old.
    async fn seen_together(&self, service: &str, old: &Inspected, new: &Inspected) {
        let announced = self.deploy.project.services.get(service).is_some_and(|one| one.announcement().is_some());
        let at_most = if announced { FOUND } else { SEEN_TOGETHER };
        // A session that is gone cannot be asked, and fails the drain.
        let _ = self.switch.until_found((old, new), SEEN_TOGETHER, at_most).await;
    }

    /// Ends when the user wants to stop and nothing has to be finished first.
    async fn interrupted(&self) {
        match self.interrupt {
            Some(interrupt) => interrupt.asked().await,
            None => std::future::pending().await,
        }
    }

    /// One old container less gets new connections.
    fn switched(&self) {
        let left = self.serving.get().saturating_sub(1);
        self.serving.set(left);
        if left == 0 {
            self.deploy.events.emit(Event::Live);
            self.live.set(Some(self.deploy.events.elapsed()));
        }
    }

    pub(crate) fn gate(&self, used: &[(u16, Protocol)]) -> Gate<'_> {
        Gate { used: Some(used.to_vec()), ..self.deploy.gate(self.observed) }
    }
}

fn abandoned() -> Failure {
    Failure::new(Exit::DeployFailed, "Compose ended before it was told to go on")
}

impl Deploy {
    /// The ports that others can call: those that something listens at now, inside the container, beyond its loopback.
    pub(crate) async fn used_ports(&self, container: &Inspected) -> Result<Vec<(u16, Protocol)>> {
        let sandbox = Some(container.sandbox.clone().into());
        let found: Listeners = self.session.ask(SessionOp::Listeners { sandbox }).await?;
        let reachable = found.listeners.into_iter().filter(|one| !one.address.is_loopback());
        Ok(reachable.map(|one| (one.port, one.protocol)).collect())
    }
}

/// A container of the user's as the engine has it now; an error if it is gone.
pub(crate) async fn found(deploy: &Deploy, id: &str, name: &str) -> Result<Inspected> {
    let found = deploy.engine.inspect(id).await?;
    found.ok_or_else(|| Failure::new(Exit::DeployFailed, format!("{name} is gone")).because("somebody else removed it"))
}
