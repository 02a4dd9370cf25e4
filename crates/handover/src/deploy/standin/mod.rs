//! The road of a stand-in, from its start to its end, and the ways back.

pub(crate) mod bring_up;
pub(crate) mod cutback;
pub(crate) mod cutover;
pub(crate) mod guard;

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use handover_core::compose::service_names::Asked;
use handover_core::observation::Observation;
use handover_core::plan::{InsidePlan, Plan, StandInPlan};
use handover_core::redirect::ports::PortLead;

use crate::deploy::context::Deploy;
use crate::deploy::drain::Drains;
use crate::deploy::gate::ContainerEvents;
use crate::deploy::preflight::Host;
use crate::deploy::settle;
use crate::deploy::standin::bring_up::BringUp;
use crate::deploy::standin::cutback::unfinished;
use crate::deploy::standin::cutover::port_table;
use crate::deploy::standin::guard::Guard;
use crate::deploy::traffic::internal_clients::{Inside, OUTLASTS};
use crate::deploy::traffic::proxy_clients::ProxyClients;
use crate::engine::Inspected;
use crate::event::{DrainSummary, Event, Proof, Step};
use crate::failure::{Exit, Failure, Result};
use crate::interrupt::Interrupt;

/// The road of one stand-in.
pub(crate) struct HandOver<'a> {
    pub(crate) deploy: &'a Deploy,
    pub(crate) plan: &'a Plan,
    pub(crate) standin: &'a StandInPlan,
    pub(crate) observed: &'a Observation,
    pub(crate) host: &'a Host,
    pub(crate) interrupt: &'a Interrupt,
}

/// Where traffic has moved to the stand-in.
struct Moved<'a> {
    guard: Guard,
    /// The containers that held the fixed ports, with their service.
    old: Vec<(String, Inspected)>,
    /// What listens to their connections.
    drains: Drains,
    /// The stand-in's containers.
    containers: Vec<Inspected>,
    leads: Vec<PortLead>,
    inside: Option<ClientsInside<'a>>,
}

/// Clients inside, where there are any and they have been led.
struct ClientsInside<'a> {
    led: Inside<'a>,
    /// What listens to the connections of members behind the entry services.
    behind: Drains,
}

impl<'a> HandOver<'a> {
    /// From the stand-in's start to its end.
    /// `begun`: the stand-in, if it is on its way already.
    pub(crate) async fn run(&self, begun: &mut Option<BringUp>) -> Result<Proof> {
        let Self { deploy, plan, standin, observed, .. } = self;
        let mut changes: ContainerEvents = deploy.engine.container_events(&standin.project).boxed();
        let moved = self.move_traffic(begun, &mut changes).await?;
        let Moved { guard, old, drains, containers, leads, inside } = moved;
        let ids: Vec<String> = containers.iter().map(|container| container.id.clone()).collect();
        deploy.events.emit(Event::Live);
        let live = deploy.events.elapsed();

        // The old containers are still warm: if the stand-in fails now, deleting the rules brings them back at once.
        let gate = deploy.gate(observed);
        let (inside, behind) = inside.map(|inside| (inside.led, inside.behind)).unzip();
        let (inside, behind) = (inside.as_ref(), behind.unwrap_or_default());
        let requests: Vec<u64> = [drains.requests(), behind.requests()].concat();
        let watched = tokio::select! {
            biased;
            failure = gate.watch_for_failure(&ids, &mut changes) => Err(failure),
            watched = deploy.events.step(Step::Drain, self.drain_and_monitor(drains, behind, inside)) => watched,
        };
        let mut proof = Proof { live: Some(live), ..Proof::default() };
        match watched {
            Ok(drained) => proof.drained.add(&drained),
            Err(failure) => {
                Drains::give_up(&deploy.session, &requests);
                let back = async {
                    if let Some(inside) = inside {
                        inside.lead_back().await?;
                    }
                    let guard = deploy.cut_back(guard, standin, &leads, inside, &mut proof).await?;
                    guard.remove(&deploy.engine, &deploy.session).await
                };
                deploy.note_what_is_left(deploy.events.step(Step::Back, back).await);
                return Err(failure);
            }
        }
        // Nothing after this can go back; everything after this is invisible to clients, and is finished by the next run if
        // this one ends.
        let finished = async {
            deploy.stop_old(standin, observed, &old).await?;
            deploy.settle(plan, observed, self.interrupt, inside, &mut proof).await?;
            let services: Vec<&str> = plan.settled_services().collect();
            deploy.gate_real(&services, observed, inside.is_some()).await?;
            deploy.tell_routers_afterwards(plan).await;
            let clients_back = async {
                match inside {
                    Some(inside) => inside.lead_to_real().await,
                    None => Ok(()),
                }
            };
            if standin.inside.is_some() {
                deploy.events.step(Step::ClientsBack, clients_back).await?;
            }
            let proxies = match inside {
                Some(inside) => inside.switch.nginx().await.into_iter().map(|(id, _)| id).collect(),
                None => BTreeSet::new(),
            };
            let clients = ProxyClients::listen(deploy, proxies).await;
            let cutting_back = deploy.cut_back(guard, standin, &leads, inside, &mut proof);
            let guard = match inside {
                Some(inside) => inside.switch.watching(cutting_back).await?,
                None => cutting_back.await?,
            };
            if let Some(inside) = inside {
                proof.led.push(("clients inside".to_owned(), inside.end(&clients).await?));
                proof.drained.add(&clients.finish().await);
            }
            guard.remove(&deploy.engine, &deploy.session).await?;
            deploy.remove_old_code(plan).await;
            Ok(())
        };
        finished.await.map_err(unfinished)?;
        Ok(proof)
    }

    /// Until traffic has moved. Until cutover the old version serves and is not touched.
    async fn move_traffic(&self, begun: &mut Option<BringUp>, changes: &mut ContainerEvents) -> Result<Moved<'a>> {
        let Deploy { engine, project, image, session, .. } = self.deploy;
        let old = self.deploy.entry_containers(self.standin, self.observed).await?;
        let drains = Drains::listen(self.deploy, &old)?;
        // The guard is needed last, and its start takes as long as the stand-in's.
        let (raised, guard) = tokio::join!(self.raise(begun, changes), Guard::start(engine, &project.name, image));
        let (failure, guard) = match (raised, guard) {
            (Ok(containers), Ok(guard)) => match self.lead_everybody(&containers, &guard).await {
                Ok((leads, inside)) => return Ok(Moved { guard, old, drains, containers, leads, inside }),
                Err(failure) => (failure, Some(guard)),
            },
            (Ok(_), Err(failure)) => (failure, None),
            (Err(failure), guard) => (failure, guard.ok()),
        };
        Drains::give_up(session, &drains.requests());
        Err(self.remove_standin_after(failure, guard).await)
    }

    /// Cutover: the ports, then clients inside.
    async fn lead_everybody(
        &self,
        containers: &[Inspected],
        guard: &Guard,
    ) -> Result<(Vec<PortLead>, Option<ClientsInside<'a>>)> {
        let inside = self.find_inside(containers).await?;
        let leading = async {
            let leads = self.cut_over(containers, guard).await?;
            let inside = match inside {
                Some(inside) => self.lead_inside(inside).await?,
                None => None,
            };
            Ok((leads, inside))
        };
        self.deploy.events.step(Step::Cutover, leading).await
    }

    /// Brings up and gates the stand-in.
    async fn raise(&self, begun: &mut Option<BringUp>, changes: &mut ContainerEvents) -> Result<Vec<Inspected>> {
        let Self { deploy: Deploy { compose, engine, events, .. }, plan, standin, observed, interrupt, .. } = self;
        let bring_up = match begun.take() {
            Some(bring_up) => bring_up,
            None => {
                settle::create_first(compose, plan, standin, events).await?;
                BringUp::begin(compose, engine, standin, events)?
            }
        };
        let ids = match events.step(Step::StandIn, bring_up.finish(engine)).await {
            Ok(ids) => ids,
            Err(mut failure) => {
                failure.logs = bring_up::logs_of_failed(engine, &standin.project).await;
                return Err(failure);
            }
        };
        let gate = self.deploy.gate(observed);
        tokio::select! {
            biased;
            () = interrupt.asked() => Err(Failure::new(Exit::Interrupted, "interrupted before traffic moved")),
            passed = events.step(Step::Gate, gate.pass(&ids, changes)) => passed,
        }
    }

    /// The clients inside. A kernel that cannot redirect them is told of, and they see the restart then, as with Compose.
    async fn find_inside(&self, containers: &[Inspected]) -> Result<Option<ClientsInside<'a>>> {
        let Self { deploy, plan, standin, observed, .. } = *self;
        let Some(inside) = standin.inside.as_ref() else { return Ok(None) };
        let rolled = plan.rolling.iter().map(|rolling| rolling.service.as_str()).collect();
        let found = async {
            let led = Inside::find(deploy, &rolled, inside, observed, containers).await?;
            let behind = led.listen_behind(false).await?;
            Ok(ClientsInside { led, behind })
        };
        match found.await {
            Ok(found) => Ok(Some(found)),
            Err(failure) => self.not_led(inside, failure).map(|()| None),
        }
    }

    async fn lead_inside(&self, inside: ClientsInside<'a>) -> Result<Option<ClientsInside<'a>>> {
        inside.led.switch.outlast(OUTLASTS).await;
        let Err(failure) = inside.led.lead_to_standin().await else { return Ok(Some(inside)) };
        Drains::give_up(&self.deploy.session, &inside.behind.requests());
        // What was led is led nowhere else once the tables go with it.
        let _ = inside.led.lead_back().await;
        match &self.standin.inside {
            Some(plan) => self.not_led(plan, failure).map(|()| None),
            None => Err(failure),
        }
    }

    /// What the host does not allow it will not allow the next time either. Anything else is no reason to let clients notice: the old
    /// version still serves, and goes on.
    fn not_led(&self, inside: &InsidePlan, failure: Failure) -> Result<()> {
        if failure.exit != Exit::Host {
            return Err(failure);
        }
        let why = failure.why.as_ref().unwrap_or(&failure.what);
        let members: Vec<&str> = inside.members.iter().map(|member| member.service.as_str()).collect();
        self.deploy.events.emit(Event::Note(format!(
            "{} cannot be led ({why}): if they call {}, they see its restart",
            inside.peers.join(", "),
            members.join(", ")
        )));
        Ok(())
    }

    async fn cut_over(&self, containers: &[Inspected], guard: &Guard) -> Result<Vec<PortLead>> {
        let Self { deploy, standin, observed, host, .. } = self;
        let table = port_table(&deploy.project.name, standin, containers, observed, host, &deploy.session).await?;
        let leads = table.leads.clone();
        guard.load(table).await?;
        Ok(leads)
    }

    /// Lets what is under way with the old containers end, and watches at least as long as the services' `monitor` says.
    async fn drain_and_monitor(
        &self,
        drains: Drains,
        behind: Drains,
        inside: Option<&Inside<'_>>,
    ) -> Result<DrainSummary> {
        let Deploy { project, session, events, .. } = self.deploy;
        let members = self.standin.tiers.iter().flatten().filter_map(|name| project.services.get(name));
        let monitor = members.map(|service| service.update.monitor).fold(0.0, f64::max);
        let monitored = tokio::time::sleep(Duration::try_from_secs_f64(monitor).unwrap_or_default());
        let _waiting = events.waiting();
        // Front to back: what the entry services have under way, they have with those behind them.
        let drained = async {
            let mut drained = drains.finish(session, events).await?;
            drained.add(&behind.finish(session, events).await?);
            Ok(drained)
        };
        let holding = async {
            let Some(inside) = inside else { return Ok(()) };
            match (inside.hold_names().await, &self.standin.inside) {
                (Err(failure), Some(plan)) => self.not_led(plan, failure),
                (held, _) => held,
            }
        };
        let (drained, (), named, held) = tokio::join!(drained, monitored, self.plan_names_all(), holding);
        named.and(held)?;
        drained
    }

    /// Asks Compose itself, while the old containers still run, whether it would recreate what the plan leaves alone.
    async fn plan_names_all(&self) -> Result<()> {
        let Deploy { args, compose, events, .. } = self.deploy;
        if args.plan.force_recreate {
            return Ok(());
        }
        let asked = Asked::by_user(&args.plan.services);
        let observed = self.observed;
        let expected = |name: &str| {
            observed.containers.iter().any(|one| one.running && one.name == name && asked.contains(&one.service))
        };
        let recreated = compose.would_recreate(&asked, expected, events).await?;
        let not_named = self.plan.not_named(&recreated, self.observed);
        if not_named.is_empty() {
            return Ok(());
        }
        Err(Failure::new(Exit::Host, format!("Compose would also recreate {}", not_named.join(", ")))
            .because("the plan does not name it, so its restart would be an interruption that nobody agreed to")
            .hint("another version of Compose may have made it: docker compose up -d once with this version, or --force-recreate"))
    }

    /// The way back before anything of the user's was touched: traffic to the old containers, stand-in and guard away.
    async fn remove_standin_after(&self, failure: Failure, guard: Option<Guard>) -> Failure {
        let Deploy { engine, events, .. } = self.deploy;
        let back = async {
            if let Some(guard) = guard {
                guard.remove(engine, &self.deploy.session).await?;
            }
            bring_up::remove(engine, &self.standin.project, &self.standin.tiers).await
        };
        self.deploy.note_what_is_left(events.step(Step::Back, back).await);
        failure
    }
}
