//! The stand-in: brought up by Compose from a document of ours, stopped and removed container by container.

use handover_core::plan::StandInPlan;
use handover_core::standin;
use tokio::task::JoinHandle;

use crate::compose::Compose;
use crate::engine::Engine;
use crate::engine_proxy::{EngineProxy, MayStart};
use crate::event::Events;
use crate::failure::{Exit, Failure, Result};

/// A stand-in on its way: Compose makes its containers, and none of them is started before [`BringUp::finish`].
pub(super) struct BringUp {
    project: String,
    may_start: MayStart,
    compose: JoinHandle<std::result::Result<(), String>>,
    proxy: EngineProxy,
}

impl BringUp {
    /// Begins. A stand-in that is there already is brought up to what is wanted.
    pub(super) fn begin(compose: &Compose, engine: &Engine, plan: &StandInPlan, events: &Events) -> Result<Self> {
        let (proxy, may_start) = EngineProxy::holding_starts(engine)?;
        let compose = compose.through(proxy.host());
        let (project, document, events) = (plan.project.clone(), plan.document.to_string(), events.clone());
        let compose = tokio::spawn(async move { compose.up_document(&project, &document, &events).await });
        Ok(Self { project: plan.project.clone(), may_start, compose, proxy })
    }

    /// Lets the containers start; their ids, once Compose is through.
    pub(super) async fn finish(self, engine: &Engine) -> Result<Vec<String>> {
        self.may_start.say();
        let up = self.compose.await.unwrap_or_else(|error| Err(error.to_string()));
        drop(self.proxy);
        up.map_err(|words| Failure::new(Exit::DeployFailed, "the stand-in could not be brought up").because(words))?;
        let containers = engine.containers_of_project(&self.project).await?;
        Ok(containers.into_iter().map(|(id, _)| id).collect())
    }

    /// Lets nothing start, waits until Compose has given up, and removes what it has made.
    pub(super) async fn give_up(self, engine: &Engine) -> Result<()> {
        drop(self.may_start);
        // It fails at the first start; nothing that it makes may come after the look at what is to be removed.
        let _ = self.compose.await;
        remove(engine, &self.project, &[]).await
    }
}

/// Log lines of the first stand-in container that ended with an error, for a bring-up that failed.
pub(crate) async fn logs_of_failed(engine: &Engine, project: &str) -> Option<(String, Vec<String>)> {
    for (id, _) in engine.containers_of_project(project).await.ok()? {
        let Some(found) = engine.inspect(&id).await.ok()? else {
            continue;
        };
        if matches!(found.state, handover_core::gate::State::Exited(code) if code != 0)
            || found.health == Some(handover_core::gate::Health::Unhealthy)
        {
            return Some((found.name, engine.last_log_lines(&id, 20).await));
        }
    }
    None
}

/// Stops the stand-in front to back and removes it with its anonymous volumes. May be repeated.
///
/// Not by `docker compose down`: that stops one after the other (**measured**: 3 s for the reference stack).
pub(crate) async fn remove(engine: &Engine, project: &str, tiers: &[Vec<String>]) -> Result<()> {
    let containers = engine.containers_of_project(project).await?;
    for tier in tiers {
        let in_tier = |service: &str| tier.iter().any(|member| standin::service_name(member) == service);
        let ids: Vec<String> =
            containers.iter().filter(|(_, service)| in_tier(service)).map(|(id, _)| id.clone()).collect();
        engine.stop(&ids).await?;
    }
    let ids: Vec<String> = containers.into_iter().map(|(id, _)| id).collect();
    engine.remove_all(&ids).await
}
