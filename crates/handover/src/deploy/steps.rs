//! The steps of a deploy with a stand-in, in order, and the ways back.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use handover_core::gate::State;
use handover_core::observation::Observation;
use handover_core::plan::{Plan, Renewal, Request, StandInPlan, plan};
use handover_core::project::Project;
use handover_core::standin::{project_name, service_name};
use handover_core::switch::{PortLead, Protocol};

use super::cutover::{Guard, port_table};
use super::drain::{Drains, forget_udp, udp_flows};
use super::gate::{ContainerEvents, Gate};
use super::preflight::Host;
use super::{Outcome, settle, standin};
use crate::cli::UpArgs;
use crate::compose::Compose;
use crate::engine::{Engine, Inspected};
use crate::event::{DrainSummary, Event, Events, Proof, Step};
use crate::failure::{Exit, Failure, Result};
use crate::helper::Helper;
use crate::interrupt::Interrupt;

const DEFAULT_GATE: Duration = Duration::from_secs(120);
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// One deploy, with the lock taken.
pub(super) struct Deploy {
    pub(super) compose: Compose,
    pub(super) engine: Engine,
    /// The session helper. It is the lock, too.
    pub(super) session: Helper,
    pub(super) events: Events,
    pub(super) project: Project,
    pub(super) args: UpArgs,
    /// Image of the guard.
    pub(super) image: String,
    /// Networks that end on the engine's host, as first address and length of the prefix.
    pub(super) near: Vec<(IpAddr, u8)>,
}

/// Where traffic has moved to the stand-in.
struct Moved {
    /// The containers that held the fixed ports, with their service.
    old: Vec<(String, Inspected)>,
    /// What listens to their connections.
    drains: Drains,
    /// The stand-in's containers.
    containers: Vec<Inspected>,
    leads: Vec<PortLead>,
}

impl Deploy {
    /// The road of the stand-in, from its start to its end.
    pub(super) async fn hand_over(
        &self,
        plan: &Plan,
        standin: &StandInPlan,
        observed: &Observation,
        host: &Host,
        guard: Guard,
        interrupt: &Interrupt,
    ) -> Result<Proof> {
        let mut changes: ContainerEvents = self.engine.container_events(&standin.project).boxed();
        let moving = self.move_traffic(plan, standin, observed, host, &guard, &mut changes, interrupt).await;
        let Moved { old, drains, containers, leads } = match moving {
            Ok(moved) => moved,
            Err(failure) => return Err(self.remove_standin_after(failure, standin, guard).await),
        };
        let ids: Vec<String> = containers.iter().map(|container| container.id.clone()).collect();
        self.events.emit(Event::Live);
        let live = self.events.elapsed();

        // The old containers are still warm: if the stand-in fails now, deleting the rules brings them back at once.
        let gate = self.gate(observed);
        let requests = drains.requests();
        let watched = tokio::select! {
            failure = gate.watch_for_failure(&ids, &mut changes) => Err(failure),
            watched = self.events.step(Step::Drain, self.drain_and_monitor(drains, standin, plan, observed)) => watched,
        };
        let mut proof = Proof { live: Some(live), ..Proof::default() };
        match watched {
            Ok(drained) => proof.drained.add(&drained),
            Err(failure) => {
                Drains::give_up(&self.session, &requests);
                let back = self.cut_back(guard, standin, &leads, &mut proof);
                self.note_what_is_left(self.events.step(Step::Back, back).await);
                return Err(failure);
            }
        }
        if interrupt.is_asked() {
            self.events.emit(Event::Note("traffic has moved already: the deploy goes on to its end".to_owned()));
        }
        // Nothing after this can go back; everything after this is invisible to clients, and is finished by the next run if
        // this one ends.
        let finished = async {
            self.stop_old(standin, observed, &old).await?;
            self.settle(plan, observed, interrupt, &mut proof).await?;
            let services: Vec<&str> = plan.settled_services().collect();
            self.gate_real(&services, observed).await?;
            self.tell_routers_afterwards(plan).await;
            self.cut_back(guard, standin, &leads, &mut proof).await?;
            settle::remove_old_code(&self.engine, plan).await;
            Ok(())
        };
        finished.await.map_err(unfinished)?;
        Ok(proof)
    }

    /// The road without a stand-in: rolling, first deploys, workers, restarts in place.
    pub(super) async fn settle_without_standin(
        &self,
        plan: &Plan,
        observed: &Observation,
        interrupt: &Interrupt,
    ) -> Result<Proof> {
        let mut proof = Proof::default();
        self.settle(plan, observed, interrupt, &mut proof).await?;
        let services: Vec<&str> = plan.settled_services().collect();
        self.gate_real(&services, observed).await?;
        self.tell_routers_afterwards(plan).await;
        settle::remove_old_code(&self.engine, plan).await;
        Ok(proof)
    }

    /// Compose recreates the real containers; those of services that are rolled one by one, beside their old ones.
    async fn settle(
        &self,
        plan: &Plan,
        observed: &Observation,
        interrupt: &Interrupt,
        proof: &mut Proof,
    ) -> Result<()> {
        if plan.rolling.is_empty() {
            let settling = settle::settle(&self.compose, plan, &self.args, &self.events);
            return self.events.step(Step::Settle, settling).await;
        }
        let rolled = self.settle_rolling(plan, observed, interrupt).await?;
        proof.live = proof.live.or(rolled.live);
        proof.led.push(("rolled containers".to_owned(), rolled.led));
        proof.drained.add(&rolled.drained);
        Ok(())
    }

    /// Goes on where a run ended that is gone: where its stand-in serves, the real containers are settled and traffic goes
    /// back to them; where it does not serve yet, it is removed.
    pub(super) async fn finish_earlier_run(&self, observed: &Observation) -> Result<()> {
        let standin = self.standin_of_earlier_run(observed);
        let found = Guard::find(&self.engine, observed).await?;
        let guard = match found {
            Some(guard) if !guard.counters().await?.is_empty() => guard,
            idle => return self.remove_what_does_not_serve(&standin, idle, observed).await,
        };
        self.events
            .emit(Event::Resumed("the stand-in of an earlier run serves; its deploy is finished first".to_owned()));
        let finished = async {
            let services: Vec<String> = standin.tiers.iter().flatten().cloned().collect();
            let old = self.entry_containers(&standin, observed).await?;
            let drains = Drains::listen(self, &old)?;
            self.events.step(Step::Drain, drains.finish(&self.session, &self.events)).await?;
            self.stop_old(&standin, observed, &old).await?;
            let renewals: Vec<Renewal> = plan(&self.project, observed, &Request::default())
                .renew
                .into_iter()
                .filter(|renewal| services.contains(&renewal.service))
                .collect();
            let settling = settle::settle_services(&self.compose, &services, &renewals, &self.events);
            self.events.step(Step::Settle, settling).await?;
            let names: Vec<&str> = services.iter().map(String::as_str).collect();
            self.gate_real(&names, observed).await?;
            self.cut_back(guard, &standin, &[], &mut Proof::default()).await?;
            settle::remove_renewed_volumes(&self.engine, &renewals).await;
            Ok(())
        };
        finished.await.map_err(unfinished)
    }

    /// Removes a stand-in that nothing is led to, and its guard, whether it runs or not.
    async fn remove_what_does_not_serve(
        &self,
        standin: &StandInPlan,
        guard: Option<Guard>,
        observed: &Observation,
    ) -> Result<()> {
        let what = "an earlier run left a stand-in that does not serve; it is removed";
        self.events.emit(Event::Resumed(what.to_owned()));
        let entries = self.standin_entries(standin).await?;
        let drains = Drains::listen(self, &entries)?;
        self.events.step(Step::CleanUp, self.retire_standin(standin, &entries, drains)).await?;
        match (guard, &observed.guard) {
            (Some(guard), _) => guard.remove(&self.engine).await,
            (None, Some(stopped)) => self.engine.remove_all(std::slice::from_ref(&stopped.id)).await,
            (None, None) => Ok(()),
        }
    }

    /// Looks at the engine again.
    pub(super) async fn observe(&self) -> Outcome<Observation> {
        super::observe(&self.compose, &self.engine, &self.project, self.args.plan.remove_orphans).await
    }

    /// Until traffic has moved. Until cutover the old version serves and is not touched.
    #[allow(clippy::too_many_arguments)]
    async fn move_traffic(
        &self,
        plan: &Plan,
        standin: &StandInPlan,
        observed: &Observation,
        host: &Host,
        guard: &Guard,
        changes: &mut ContainerEvents,
        interrupt: &Interrupt,
    ) -> Result<Moved> {
        let old = self.entry_containers(standin, observed).await?;
        let drains = Drains::listen(self, &old)?;
        let moving = async {
            let containers = self.raise(plan, standin, observed, changes, interrupt).await?;
            let cutover = self.cut_over(standin, &containers, observed, host, guard);
            let leads = self.events.step(Step::Cutover, cutover).await?;
            Ok((containers, leads))
        };
        match moving.await {
            Ok((containers, leads)) => Ok(Moved { old, drains, containers, leads }),
            Err(failure) => {
                Drains::give_up(&self.session, &drains.requests());
                Err(failure)
            }
        }
    }

    /// Brings up and gates the stand-in.
    async fn raise(
        &self,
        plan: &Plan,
        standin: &StandInPlan,
        observed: &Observation,
        changes: &mut ContainerEvents,
        interrupt: &Interrupt,
    ) -> Result<Vec<Inspected>> {
        settle::create_first(&self.compose, plan, standin, &self.events).await?;
        let bring_up = standin::bring_up(&self.compose, &self.engine, standin, &self.events);
        let ids = match self.events.step(Step::StandIn, bring_up).await {
            Ok(ids) => ids,
            Err(mut failure) => {
                failure.logs = standin::logs_of_failed(&self.engine, &standin.project).await;
                return Err(failure);
            }
        };
        let gate = self.gate(observed);
        tokio::select! {
            () = interrupt.asked() => Err(Failure::new(Exit::Interrupted, "interrupted before traffic moved")),
            passed = self.events.step(Step::Gate, gate.pass(&ids, changes)) => passed,
        }
    }

    /// Asks Compose itself, while the old containers still run, whether it would recreate what the plan leaves alone.
    async fn plan_names_all(&self, plan: &Plan, observed: &Observation) -> Result<()> {
        if self.args.plan.force_recreate {
            return Ok(());
        }
        let recreated = self.compose.would_recreate(&self.args.plan.services, &self.events).await?;
        let not_named = plan.not_named(&recreated, observed);
        if not_named.is_empty() {
            return Ok(());
        }
        Err(Failure::new(Exit::Host, format!("Compose would also recreate {}", not_named.join(", ")))
            .because("the plan does not name it, so its restart would be an interruption that nobody agreed to")
            .hint("another version of Compose may have made it: docker compose up -d once with this version, or --force-recreate"))
    }

    async fn cut_over(
        &self,
        standin: &StandInPlan,
        containers: &[Inspected],
        observed: &Observation,
        host: &Host,
        guard: &Guard,
    ) -> Result<Vec<PortLead>> {
        let table = port_table(&self.project.name, standin, containers, observed, host, &self.session).await?;
        let leads = table.leads.clone();
        guard.load(table).await?;
        Ok(leads)
    }

    /// Lets what is under way with the old containers end, and watches at least as long as the services' `monitor` says.
    async fn drain_and_monitor(
        &self,
        drains: Drains,
        standin: &StandInPlan,
        plan: &Plan,
        observed: &Observation,
    ) -> Result<DrainSummary> {
        let members = standin.tiers.iter().flatten().filter_map(|name| self.project.services.get(name));
        let monitor = members.map(|service| service.update.monitor).fold(0.0, f64::max);
        let monitored = tokio::time::sleep(Duration::try_from_secs_f64(monitor).unwrap_or_default());
        let _waiting = self.events.waiting();
        let drained = drains.finish(&self.session, &self.events);
        let (drained, (), named) = tokio::join!(drained, monitored, self.plan_names_all(plan, observed));
        named?;
        drained
    }

    /// Stops the real containers of the group, entry services first, then what they use. UDP flows move to the stand-in before
    /// and, should one have come back meanwhile, after its container has stopped.
    async fn stop_old(
        &self,
        standin: &StandInPlan,
        observed: &Observation,
        entries: &[(String, Inspected)],
    ) -> Result<()> {
        let flows = udp_flows(&standin.ports, entries);
        self.events
            .step(Step::Stop, async {
                for tier in &standin.tiers {
                    forget_udp(&self.session, &flows).await?;
                    let ids: Vec<String> = tier
                        .iter()
                        .flat_map(|service| observed.of_service(service))
                        .filter(|container| container.running)
                        .map(|container| container.id.clone())
                        .collect();
                    self.engine.stop(&ids).await?;
                }
                forget_udp(&self.session, &flows).await
            })
            .await
    }

    /// Gates the containers that Compose has made.
    async fn gate_real(&self, services: &[&str], observed: &Observation) -> Result<()> {
        let mut changes: ContainerEvents = self.engine.container_events(&self.project.name).boxed();
        let containers = self.engine.containers_of_project(&self.project.name).await?;
        let ids: Vec<String> = containers
            .into_iter()
            .filter(|(_, service)| services.contains(&service.as_str()))
            .map(|(id, _)| id)
            .collect();
        self.events.step(Step::GateReal, self.gate(observed).pass(&ids, &mut changes)).await?;
        Ok(())
    }

    /// Leads new connections to the real containers again, drains the stand-in and removes it.
    async fn cut_back(&self, guard: Guard, standin: &StandInPlan, leads: &[PortLead], proof: &mut Proof) -> Result<()> {
        let entries = self.standin_entries(standin).await?;
        let drains = Drains::listen(self, &entries)?;
        self.events
            .step(Step::Cutback, async {
                let counters = guard.counters().await?;
                proof.led.extend(leads.iter().zip(counters).map(|(lead, count)| (port_name(lead), count)));
                guard.release().await
            })
            .await?;
        let retired = self.events.step(Step::CleanUp, self.retire_standin(standin, &entries, drains)).await?;
        proof.drained.add(&retired);
        guard.remove(&self.engine).await
    }

    /// Lets what is under way with a stand-in that nothing new reaches end, and removes it.
    async fn retire_standin(
        &self,
        standin: &StandInPlan,
        entries: &[(String, Inspected)],
        drains: Drains,
    ) -> Result<DrainSummary> {
        let flows = udp_flows(&standin.ports, entries);
        forget_udp(&self.session, &flows).await?;
        let drained = drains.finish(&self.session, &self.events).await?;
        standin::remove(&self.engine, &standin.project, &standin.tiers).await?;
        forget_udp(&self.session, &flows).await?;
        Ok(drained)
    }

    /// The way back before anything of the user's was touched: traffic to the old containers, stand-in and guard away.
    async fn remove_standin_after(&self, failure: Failure, standin: &StandInPlan, guard: Guard) -> Failure {
        let back = async {
            guard.remove(&self.engine).await?;
            standin::remove(&self.engine, &standin.project, &standin.tiers).await
        };
        self.note_what_is_left(self.events.step(Step::Back, back).await);
        failure
    }

    fn note_what_is_left(&self, back: Result<()>) {
        if let Err(left) = back {
            self.events.emit(Event::Note(format!(
                "the stand-in could not be removed ({}); the next handover up removes it",
                left.why.unwrap_or(left.what)
            )));
        }
    }

    pub(super) fn gate<'a>(&'a self, observed: &'a Observation) -> Gate<'a> {
        Gate {
            engine: &self.engine,
            session: &self.session,
            events: &self.events,
            project: &self.project,
            observed,
            deadline: self
                .args
                .gate_timeout
                .or_else(|| Duration::try_from_secs_f64(self.project.settings.gate_seconds?).ok())
                .unwrap_or(DEFAULT_GATE),
            used: None,
        }
    }

    pub(super) fn drain_deadline(&self) -> Duration {
        self.args
            .drain
            .or_else(|| Duration::try_from_secs_f64(self.project.settings.drain_seconds?).ok())
            .unwrap_or(DEFAULT_DRAIN)
    }

    /// The running containers that hold the fixed ports now, with their service.
    async fn entry_containers(
        &self,
        standin: &StandInPlan,
        observed: &Observation,
    ) -> Result<Vec<(String, Inspected)>> {
        let mut entries = Vec::new();
        for service in entry_services(standin) {
            for container in observed.of_service(&service).filter(|container| container.running) {
                if let Some(found) = self.engine.inspect(&container.id).await? {
                    entries.push((service.clone(), found));
                }
            }
        }
        Ok(entries)
    }

    async fn standin_entries(&self, standin: &StandInPlan) -> Result<Vec<(String, Inspected)>> {
        let services = entry_services(standin);
        let mut entries = Vec::new();
        for (id, name) in self.engine.containers_of_project(&standin.project).await? {
            let Some(service) = services.iter().find(|service| service_name(service) == name) else {
                continue;
            };
            if let Some(found) = self.engine.inspect(&id).await?.filter(|found| found.state == State::Running) {
                entries.push((service.clone(), found));
            }
        }
        Ok(entries)
    }

    /// What is known of a stand-in whose plan is gone: its services, entry services first.
    fn standin_of_earlier_run(&self, observed: &Observation) -> StandInPlan {
        let members: Vec<String> = observed
            .standin
            .iter()
            .filter_map(|container| container.service.strip_prefix("standin-").map(str::to_owned))
            .collect();
        let is_entry = |name: &String| self.project.services.get(name).is_some_and(|service| service.is_entry());
        let (front, back): (Vec<String>, Vec<String>) = members.into_iter().partition(is_entry);
        let ports = front
            .iter()
            .filter_map(|name| self.project.services.get(name))
            .flat_map(|service| service.fixed_ports().map(|port| (service.name.clone(), port.clone())))
            .collect();
        StandInPlan {
            project: project_name(&self.project.name),
            tiers: vec![front, back],
            ports,
            document: serde_json::Value::Null,
        }
    }
}

fn entry_services(standin: &StandInPlan) -> Vec<String> {
    let mut services: Vec<String> = standin.ports.iter().map(|(service, _)| service.clone()).collect();
    services.dedup();
    services
}

fn port_name(lead: &PortLead) -> String {
    let protocol = if lead.protocol == Protocol::Udp { "/udp" } else { "" };
    match lead.host_ip {
        Some(address) => format!("port {address}:{}{protocol}", lead.published),
        None => format!("port {}{protocol}", lead.published),
    }
}

/// After cutover a failure is no outage: the stand-in serves until the next run.
fn unfinished(failure: Failure) -> Failure {
    let why = match &failure.why {
        Some(why) => format!("{}: {why}", failure.what),
        None => failure.what.clone(),
    };
    Failure {
        exit: Exit::Unfinished,
        what: "the deploy stopped half-way; the new version serves from its stand-in".to_owned(),
        why: Some(why),
        hint: Some("run handover up again: it goes on from here".to_owned()),
        logs: failure.logs,
    }
}
