//! Settle: Compose recreates the real containers from the original files, its own way, while nobody is looking.

use handover_core::plan::{Plan, Renewal, StandInPlan};

use crate::cli::UpArgs;
use crate::compose::Compose;
use crate::engine::Engine;
use crate::event::{Events, Step};
use crate::failure::{Exit, Failure, Result};

/// Makes what the stand-in needs and nobody uses yet: networks, volumes, and new services that keep state. May be repeated.
pub(super) async fn create_first(compose: &Compose, plan: &Plan, standin: &StandInPlan, events: &Events) -> Result<()> {
    if !plan.create_resources && plan.create_first.is_empty() {
        return Ok(());
    }
    events
        .step(Step::CreateFirst, async {
            if plan.create_resources {
                let members: Vec<String> = standin.tiers.iter().flatten().cloned().collect();
                compose.create_missing(&members, events).await?;
            }
            if !plan.create_first.is_empty() {
                compose.up(&["--no-recreate"], &plan.create_first, events).await.map_err(failed)?;
            }
            Ok(())
        })
        .await
}

/// `docker compose up -d`, after renewing what carries only code. May be repeated.
pub(super) async fn settle(compose: &Compose, plan: &Plan, args: &UpArgs, events: &Events) -> Result<()> {
    renew(compose, &plan.renew, events).await?;
    let mut flags = Vec::new();
    if args.plan.remove_orphans {
        flags.push("--remove-orphans");
    }
    if args.plan.force_recreate {
        flags.push("--force-recreate");
    }
    compose.up(&flags, &args.plan.services, events).await.map_err(failed)
}

/// `docker compose up -d` for some services alone, after renewing what of them carries only code. May be repeated.
pub(super) async fn settle_services(
    compose: &Compose,
    services: &[String],
    renewals: &[Renewal],
    events: &Events,
) -> Result<()> {
    renew(compose, renewals, events).await?;
    compose.up(&["--no-deps"], services, events).await.map_err(failed)
}

async fn renew(compose: &Compose, renewals: &[Renewal], events: &Events) -> Result<()> {
    let services: Vec<String> = renewals.iter().map(|renewal| renewal.service.clone()).collect();
    if services.is_empty() {
        return Ok(());
    }
    compose.up(&["--no-deps", "--renew-anon-volumes"], &services, events).await.map_err(failed)
}

/// Removes the volumes of old code that this deploy has orphaned, unless something mounts them. A volume that stays is no failure.
pub(super) async fn remove_old_code(engine: &Engine, plan: &Plan) {
    remove_renewed_volumes(engine, &plan.renew).await;
    for volume in &plan.inherited_code {
        engine.remove_volume_if_unused(volume).await;
    }
}

/// Removes the anonymous volumes that this deploy has orphaned, unless something mounts them. A volume that stays is no
/// failure.
pub(super) async fn remove_renewed_volumes(engine: &Engine, renewals: &[Renewal]) {
    for volume in renewals.iter().flat_map(|renewal| &renewal.volumes) {
        engine.remove_volume_if_unused(volume).await;
    }
}

fn failed(words: String) -> Failure {
    Failure::new(Exit::DeployFailed, "docker compose up failed").because(words)
}
