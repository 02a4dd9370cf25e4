//! The stand-in: brought up by Compose from a document of ours, stopped and removed container by container.

use handover_core::compose::calls::Containers;
use handover_core::plan::StandInPlan;
use handover_core::plan::standin;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::compose::Compose;
use crate::engine::Engine;
use crate::engine_proxy::{Call, EngineProxy, HeldCall};
use crate::event::Events;
use crate::failure::{Exit, Failure, Result};

/// A stand-in on its way: Compose makes its containers, and none of them is started before [`BringUp::finish`].
pub(crate) struct BringUp {
    project: String,
    may_start: oneshot::Sender<()>,
    compose: JoinHandle<std::result::Result<(), String>>,
}

impl BringUp {
    /// Begins. A stand-in that is there already is brought up to what is wanted.
    pub(crate) fn begin(compose: &Compose, engine: &Engine, plan: &StandInPlan, events: &Events) -> Result<Self> {
        let (proxy, calls) = EngineProxy::open(engine, Containers::default())?;
        let (may_start, word) = oneshot::channel();
        let compose = compose.through(proxy.host());
        let (project, document, events) = (plan.project.clone(), plan.document.to_string(), events.clone());
        let compose = tokio::spawn(async move {
            let up = compose.up_document(&project, &document, &events);
            let up = hold_starts(up, calls, word).await;
            drop(proxy);
            up
        });
        Ok(Self { project: plan.project.clone(), may_start, compose })
    }

    /// Lets the containers start; their ids, once Compose is through.
    pub(crate) async fn finish(self, engine: &Engine) -> Result<Vec<String>> {
        // Compose that has ended already says why below.
        let _ = self.may_start.send(());
        let up = self.compose.await.unwrap_or_else(|error| Err(error.to_string()));
        up.map_err(|words| Failure::new(Exit::DeployFailed, "the stand-in could not be brought up").because(words))?;
        let containers = engine.containers_of_standin(&self.project).await?;
        Ok(containers.into_iter().map(|(id, _)| id).collect())
    }

    /// Lets nothing start, waits until Compose has given up, and removes what it has made.
    pub(crate) async fn give_up(self, engine: &Engine) -> Result<()> {
        drop(self.may_start);
        // It fails at the first start; nothing that it makes may come after the look at what is to be removed.
        let _ = self.compose.await;
        remove(engine, &self.project, &[]).await
    }
}

/// Compose at work: what it wants to start waits for the word, and is refused if that does not come.
async fn hold_starts<T>(
    up: impl Future<Output = T>,
    mut calls: mpsc::UnboundedReceiver<Call>,
    mut word: oneshot::Receiver<()>,
) -> T {
    let mut waiting = Vec::new();
    let mut said = None;
    tokio::pin!(up);
    loop {
        tokio::select! {
            biased;
            result = &mut up => return result,
            word = &mut word, if said.is_none() => {
                said = Some(word.is_ok());
                if word.is_ok() {
                    waiting.drain(..).for_each(HeldCall::pass);
                }
                // Dropped, they are refused.
                waiting.clear();
            }
            Some(call) = calls.recv() => match (call, said) {
                (Call::Held(call), Some(true)) => call.pass(),
                (Call::Held(call), None) => waiting.push(call),
                _ => {}
            },
        }
    }
}

/// Log lines of the first stand-in container that ended with an error, for a bring-up that failed.
pub(crate) async fn logs_of_failed(engine: &Engine, project: &str) -> Option<(String, Vec<String>)> {
    for (id, _) in engine.containers_of_standin(project).await.ok()? {
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
    let containers = engine.containers_of_standin(project).await?;
    for tier in tiers {
        let in_tier = |service: &str| tier.iter().any(|member| standin::service_name(member) == service);
        let ids: Vec<String> =
            containers.iter().filter(|(_, service)| in_tier(service)).map(|(id, _)| id.clone()).collect();
        engine.stop(&ids).await?;
    }
    let ids: Vec<String> = containers.into_iter().map(|(id, _)| id).collect();
    engine.remove_all(&ids).await
}
