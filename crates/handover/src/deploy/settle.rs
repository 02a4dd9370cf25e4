//! Settle: Compose recreates the real containers from the original files, its own way, while nobody is looking.

use futures_util::StreamExt;
use handover_core::compose::service_names::{Asked, ServiceNames};
use handover_core::observation::Observation;
use handover_core::plan::{Plan, Renewal, StandInPlan};

use crate::cli::UpArgs;
use crate::compose::Compose;
use crate::deploy::context::Deploy;
use crate::deploy::gate::{ContainerEvents, Gate};
use crate::deploy::traffic::internal_clients::Inside;
use crate::engine::Engine;
use crate::event::{Events, Proof, Step};
use crate::failure::{Exit, Failure, Result};
use crate::interrupt::Interrupt;

/// Makes what the stand-in needs and nobody uses yet: networks, volumes, and new services that keep state. May be repeated.
pub(crate) async fn create_first(compose: &Compose, plan: &Plan, standin: &StandInPlan, events: &Events) -> Result<()> {
    if !plan.create_resources && plan.create_first.is_empty() {
        return Ok(());
    }
    events
        .step(Step::CreateFirst, async {
            if plan.create_resources
                && let Some(members) = ServiceNames::new(standin.tiers.iter().flatten().cloned())
            {
                compose.create_missing(&members, events).await?;
            }
            if let Some(first) = ServiceNames::new(plan.create_first.iter().cloned()) {
                compose.up_services(&["--no-recreate"], &first, events).await.map_err(failed)?;
            }
            Ok(())
        })
        .await
}

impl Deploy {
    /// The road without a stand-in: rolling, first deploys, workers, restarts in place.
    pub(crate) async fn settle_without_standin(
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
        self.remove_old_code(plan).await;
        Ok(proof)
    }

    /// Compose recreates the real containers; those of services that are rolled one by one, beside their old ones.
    pub(crate) async fn settle(
        &self,
        plan: &Plan,
        observed: &Observation,
        interrupt: &Interrupt,
        inside: Option<&Inside<'_>>,
        proof: &mut Proof,
    ) -> Result<()> {
        if plan.rolling.is_empty() && inside.is_none() {
            let settling = recreate(&self.compose, plan, &self.args, &self.events);
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

    /// Gates the containers that Compose has made; `led`: on the host their addresses lead elsewhere meanwhile.
    pub(crate) async fn gate_real(&self, services: &[&str], observed: &Observation, led: bool) -> Result<()> {
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

    /// Removes the volumes of old code that this deploy has orphaned, unless something mounts them. A volume that stays is no
    /// failure.
    pub(crate) async fn remove_old_code(&self, plan: &Plan) {
        if plan.inherited_code.is_empty() && plan.renew.iter().all(|renewal| renewal.volumes.is_empty()) {
            return;
        }
        let removing = async {
            remove_renewed_volumes(&self.engine, &plan.renew).await;
            for volume in &plan.inherited_code {
                self.engine.remove_volume_if_unused(volume).await;
            }
        };
        self.events.step(Step::OldCode, removing).await;
    }
}

/// `docker compose up -d`, after renewing what carries only code. May be repeated.
pub(crate) async fn recreate(compose: &Compose, plan: &Plan, args: &UpArgs, events: &Events) -> Result<()> {
    renew(compose, &plan.renew, events).await?;
    let mut flags = Vec::new();
    if args.plan.remove_orphans {
        flags.push("--remove-orphans");
    }
    if args.plan.force_recreate {
        flags.push("--force-recreate");
    }
    compose.up(&flags, &Asked::by_user(&args.plan.services), events).await.map_err(failed)
}

/// `docker compose up -d` for some services alone, after renewing what of them carries only code. May be repeated.
pub(crate) async fn settle_services(
    compose: &Compose,
    services: &ServiceNames,
    renewals: &[Renewal],
    events: &Events,
) -> Result<()> {
    renew(compose, renewals, events).await?;
    compose.up_services(&["--no-deps"], services, events).await.map_err(failed)
}

async fn renew(compose: &Compose, renewals: &[Renewal], events: &Events) -> Result<()> {
    match ServiceNames::new(renewals.iter().map(|renewal| renewal.service.clone())) {
        Some(services) => {
            let flags = ["--no-deps", "--renew-anon-volumes"];
            compose.up_services(&flags, &services, events).await.map_err(failed)
        }
        None => Ok(()),
    }
}

/// Removes the anonymous volumes that this deploy has orphaned, unless something mounts them. A volume that stays is no
/// failure.
pub(crate) async fn remove_renewed_volumes(engine: &Engine, renewals: &[Renewal]) {
    for volume in renewals.iter().flat_map(|renewal| &renewal.volumes) {
        engine.remove_volume_if_unused(volume).await;
    }
}

fn failed(words: String) -> Failure {
    Failure::new(Exit::DeployFailed, "docker compose up failed").because(words)
}
