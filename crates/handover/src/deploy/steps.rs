//! The steps that the roads of a deploy have in common.

use futures_util::StreamExt;
use handover_core::gate::State;
use handover_core::observation::Observation;
use handover_core::plan::{Plan, StandInPlan};
use handover_core::standin::service_name;
use handover_core::switch::{PortLead, Protocol};

use super::cutover::Guard;
use super::drain::{Drains, forget_udp, udp_flows};
use super::gate::{ContainerEvents, Gate};
use super::inside::Inside;
use super::locked::Deploy;
use super::{Outcome, settle, standin};
use crate::engine::Inspected;
use crate::event::{DrainSummary, Event, Proof, Step};
use crate::failure::{Exit, Failure, Result};
use crate::interrupt::Interrupt;

impl Deploy {
    /// The road without a stand-in: rolling, first deploys, workers, restarts in place.
    pub(super) async fn settle_without_standin(
        &self,
        plan: &Plan,
        observed: &Observation,
        interrupt: &Interrupt,
    ) -> Result<Proof> {
        let mut proof = Proof::default();
        self.settle(plan, observed, interrupt, None, &mut proof).await?;
        let services: Vec<&str> = plan.settled_services().collect();
        self.gate_real(&services, observed, false).await?;
        self.tell_routers_afterwards(plan).await;
        settle::remove_old_code(&self.engine, plan).await;
        Ok(proof)
    }

    /// Compose recreates the real containers; those of services that are rolled one by one, beside their old ones.
    pub(super) async fn settle(
        &self,
        plan: &Plan,
        observed: &Observation,
        interrupt: &Interrupt,
        inside: Option<&Inside<'_>>,
        proof: &mut Proof,
    ) -> Result<()> {
        if plan.rolling.is_empty() && inside.is_none() {
            let settling = settle::settle(&self.compose, plan, &self.args, &self.events);
            return self.events.step(Step::Settle, settling).await;
        }
        let rolled = self.settle_rolling(plan, observed, interrupt, inside).await?;
        proof.live = proof.live.or(rolled.live);
        if !plan.rolling.is_empty() {
            proof.led.push(("rolled containers".to_owned(), rolled.led));
        }
        proof.drained.add(&rolled.drained);
        Ok(())
    }

    /// Looks at the engine again.
    pub(super) async fn observe(&self) -> Outcome<Observation> {
        super::observe_again(&self.compose, &self.engine, &self.project, self.args.plan.remove_orphans).await
    }

    /// Stops the real containers of the group, entry services first, then what they use. UDP flows move to the stand-in before
    /// and, should one have come back meanwhile, after its container has stopped.
    pub(super) async fn stop_old(
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

    /// Gates the containers that Compose has made; `led`: on the host their addresses lead elsewhere meanwhile.
    pub(super) async fn gate_real(&self, services: &[&str], observed: &Observation, led: bool) -> Result<()> {
        let mut changes: ContainerEvents = self.engine.container_events(&self.project.name).boxed();
        let containers = self.engine.containers_of_project(&self.project.name).await?;
        let ids: Vec<String> = containers
            .into_iter()
            .filter(|(_, service)| services.contains(&service.as_str()))
            .map(|(id, _)| id)
            .collect();
        let gate = Gate { used: led.then(Vec::new), ..self.gate(observed) };
        self.events.step(Step::GateReal, gate.pass(&ids, &mut changes)).await?;
        Ok(())
    }

    /// Leads new connections to the real containers again, drains the stand-in and removes it.
    pub(super) async fn cut_back(
        &self,
        guard: Guard,
        standin: &StandInPlan,
        leads: &[PortLead],
        inside: Option<&Inside<'_>>,
        proof: &mut Proof,
    ) -> Result<()> {
        let entries = self.standin_entries(standin).await?;
        let drains = Drains::listen(self, &entries)?;
        let behind = match inside {
            Some(inside) => inside.listen_behind(true).await?,
            None => Drains::default(),
        };
        self.events
            .step(Step::Cutback, async {
                let counters = guard.counters().await?;
                proof.led.extend(leads.iter().zip(counters).map(|(lead, count)| (port_name(lead), count)));
                guard.release().await
            })
            .await?;
        let retired = self.events.step(Step::CleanUp, self.retire_standin(standin, &entries, drains, behind)).await?;
        proof.drained.add(&retired);
        guard.remove(&self.engine).await
    }

    /// Lets what is under way with a stand-in that nothing new reaches end, and removes it.
    pub(super) async fn retire_standin(
        &self,
        standin: &StandInPlan,
        entries: &[(String, Inspected)],
        drains: Drains,
        behind: Drains,
    ) -> Result<DrainSummary> {
        let flows = udp_flows(&standin.ports, entries);
        forget_udp(&self.session, &flows).await?;
        let mut drained = drains.finish(&self.session, &self.events).await?;
        drained.add(&behind.finish(&self.session, &self.events).await?);
        standin::remove(&self.engine, &standin.project, &standin.tiers).await?;
        forget_udp(&self.session, &flows).await?;
        Ok(drained)
    }

    pub(super) fn note_what_is_left(&self, back: Result<()>) {
        if let Err(left) = back {
            self.events.emit(Event::Note(format!(
                "the stand-in could not be removed ({}); the next handover up removes it",
                left.why.unwrap_or(left.what)
            )));
        }
    }

    /// The running containers that hold the fixed ports now, with their service.
    pub(super) async fn entry_containers(
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

    pub(super) async fn standin_entries(&self, standin: &StandInPlan) -> Result<Vec<(String, Inspected)>> {
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
pub(super) fn unfinished(failure: Failure) -> Failure {
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
