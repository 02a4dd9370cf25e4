//! A deploy with the lock taken: what its stages work with.

use std::net::IpAddr;
use std::time::Duration;

use handover_core::compose::project::Project;
use handover_core::gate::State;
use handover_core::observation::Observation;
use handover_core::plan::StandInPlan;
use handover_core::plan::standin::service_name;

use crate::cli::UpArgs;
use crate::compose::Compose;
use crate::deploy::Outcome;
use crate::deploy::gate::Gate;
use crate::engine::{Engine, Inspected};
use crate::event::Events;
use crate::failure::Result;
use crate::helper::Helper;

const DEFAULT_GATE: Duration = Duration::from_secs(120);
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// One deploy, with the lock taken.
pub(crate) struct Deploy {
    pub(crate) compose: Compose,
    pub(crate) engine: Engine,
    /// The session helper. It is the lock, too.
    pub(crate) session: Helper,
    pub(crate) events: Events,
    pub(crate) project: Project,
    pub(crate) args: UpArgs,
    /// Image of the guard.
    pub(crate) image: String,
    /// Networks that end on the engine's host, as first address and length of the prefix.
    pub(crate) near: Vec<(IpAddr, u8)>,
}

impl Deploy {
    pub(crate) fn gate<'a>(&'a self, observed: &'a Observation) -> Gate<'a> {
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

    pub(crate) fn drain_deadline(&self) -> Duration {
        self.args
            .drain
            .or_else(|| Duration::try_from_secs_f64(self.project.settings.drain_seconds?).ok())
            .unwrap_or(DEFAULT_DRAIN)
    }

    /// Looks at the engine again.
    pub(crate) async fn observe(&self) -> Outcome<Observation> {
        crate::deploy::observe_again(&self.compose, &self.engine, &self.project, self.args.plan.remove_orphans).await
    }

    /// The running containers that hold the fixed ports now, with their service.
    pub(crate) async fn entry_containers(
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

    pub(crate) async fn standin_entries(&self, standin: &StandInPlan) -> Result<Vec<(String, Inspected)>> {
        let services = entry_services(standin);
        let mut entries = Vec::new();
        for (id, name) in self.engine.containers_of_standin(&standin.project).await? {
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
