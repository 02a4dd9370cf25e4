//! The end of a stand-in: the old containers stop, traffic goes to the real ones, the stand-in is drained and removed.

use handover_core::net::Protocol;
use handover_core::observation::Observation;
use handover_core::plan::StandInPlan;
use handover_core::redirect::ports::PortLead;

use crate::deploy::context::Deploy;
use crate::deploy::drain::{Drains, forget_udp, udp_flows};
use crate::deploy::standin::bring_up;
use crate::deploy::standin::guard::Guard;
use crate::deploy::traffic::internal_clients::Inside;
use crate::engine::Inspected;
use crate::event::{DrainSummary, Event, Proof, Step};
use crate::failure::{Exit, Failure, Result};

impl Deploy {
    /// Stops the real containers of the group, entry services first, then what they use. UDP flows move to the stand-in before
    /// and, should one have come back meanwhile, after its container has stopped.
    pub(crate) async fn stop_old(
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

    /// Leads new connections to the real containers again, drains the stand-in and removes it. The guard leads nothing more and stays:
    /// by it the next run sees that something is left, should this one end before all redirects are gone.
    pub(crate) async fn cut_back(
        &self,
        guard: Guard,
        standin: &StandInPlan,
        leads: &[PortLead],
        inside: Option<&Inside<'_>>,
        proof: &mut Proof,
    ) -> Result<Guard> {
        let entries = self.standin_entries(standin).await?;
        let drains = Drains::listen(self, &entries)?;
        let behind = match inside {
            Some(inside) => inside.listen_behind(true).await?,
            None => Drains::default(),
        };
        let guard = self
            .events
            .step(Step::Cutback, async {
                let guard = guard.alive(&self.engine, &self.image).await?;
                let counters = guard.counters().await?;
                proof.led.extend(leads.iter().zip(counters).map(|(lead, count)| (port_name(lead), count)));
                guard.release().await?;
                Ok::<_, Failure>(guard)
            })
            .await?;
        let retired = self.events.step(Step::CleanUp, self.retire_standin(standin, &entries, drains, behind)).await?;
        proof.drained.add(&retired);
        Ok(guard)
    }

    /// Lets what is under way with a stand-in that nothing new reaches end, and removes it.
    pub(crate) async fn retire_standin(
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
        bring_up::remove(&self.engine, &standin.project, &standin.tiers).await?;
        forget_udp(&self.session, &flows).await?;
        Ok(drained)
    }

    pub(crate) fn note_what_is_left(&self, back: Result<()>) {
        if let Err(left) = back {
            self.events.emit(Event::Note(format!(
                "the stand-in could not be removed ({}); the next handover up removes it",
                left.why.unwrap_or(left.what)
            )));
        }
    }
}

fn port_name(lead: &PortLead) -> String {
    let protocol = if lead.protocol == Protocol::Udp { "/udp" } else { "" };
    match lead.host_ip {
        Some(address) => format!("port {address}:{}{protocol}", lead.published),
        None => format!("port {}{protocol}", lead.published),
    }
}

/// After cutover a failure is no outage: the stand-in serves until the next run.
pub(crate) fn unfinished(failure: Failure) -> Failure {
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
