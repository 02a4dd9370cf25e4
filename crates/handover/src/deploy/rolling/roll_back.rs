//! `failure_action: rollback`: when too many new containers of a service fail, those that were replaced go back to the old
//! version. The old containers have been kept, stopped and under another name, so what comes back is what was there: the same
//! containers, with their ids, names and volumes.

use std::collections::BTreeSet;
use std::future::{pending, ready};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use handover_core::compose::update_config::Order;
use handover_core::gate::State;
use handover_core::observation::Container;
use handover_core::plan::RollingPlan;
use handover_core::replace::{Batches, Next};

use crate::deploy::context::Deploy;
use crate::deploy::drain::Drains;
use crate::deploy::gate::ContainerEvents;
use crate::deploy::rolling::replace::{Hands, found};
use crate::engine::Inspected;
use crate::event::Event;
use crate::failure::Result;

/// A service that goes back.
pub(crate) struct GoesBack<'a> {
    pub(crate) plan: &'a RollingPlan,
    /// Old containers that are kept, each with the id of the one that has replaced it.
    pub(crate) replaced: Vec<(&'a Container, String)>,
    /// Ids of containers that are more than there were.
    pub(crate) joined: Vec<String>,
}

impl Hands<'_> {
    /// Gives the traffic of one service back to its old containers, as `rollback_config` says, and removes the new ones. A container
    /// that does not go back leaves the new one serving.
    pub(crate) async fn roll_back(&self, service: GoesBack<'_>) -> Result<()> {
        let name = &service.plan.service;
        let count = service.replaced.len();
        let mut batches = Batches::new(service.plan.rollback.clone(), count);
        let going: BTreeSet<String> =
            service.replaced.iter().map(|(_, new)| new).chain(&service.joined).cloned().collect();
        service.replaced.into_iter().for_each(|pair| batches.add(pair));
        let mut work = FuturesUnordered::new();
        let mut failure = None;
        loop {
            match batches.what_next() {
                Next::Begin(all) => {
                    work.extend(all.into_iter().map(|(old, new)| self.put_back(service.plan, old, new, &going)))
                }
                Next::Delay(seconds) => {
                    tokio::time::sleep(Duration::try_from_secs_f64(seconds).unwrap_or_default()).await;
                    batches.delay_is_over();
                    continue;
                }
                Next::GiveUp(_) | Next::Nothing => {}
            }
            let Some(outcome) = work.next().await else { break };
            batches.ended(outcome.is_ok());
            failure = failure.or(outcome.err());
        }
        for id in &service.joined {
            if let Some(other) = self.another(name, &going).await? {
                if let Some(joined) = self.deploy.engine.inspect(id).await? {
                    self.routers.ends(name, &joined).await?;
                }
                self.take_back(&other, id, None).await?;
            }
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        self.deploy.events.emit(Event::Note(format!(
            "{name} is as it was: {count} of its containers had been replaced, and are the old ones again (failure_action: rollback)"
        )));
        Ok(())
    }

    /// Puts one old container back into the place of the new one that has replaced it. `going`: new ones that go.
    async fn put_back(&self, plan: &RollingPlan, old: &Container, new: String, going: &BTreeSet<String>) -> Result<()> {
        let engine = &self.deploy.engine;
        let now = found(self.deploy, &new, &old.name).await?;
        if now.state == State::Running && plan.rollback.order != Some(Order::StopFirst) {
            let serving = Container {
                id: new.clone(),
                name: old.name.clone(),
                service: old.service.clone(),
                ..Container::default()
            };
            self.replace(&serving, &old.id, plan.rollback.monitor, ready(Ok(())), pending()).await?;
            engine.stop(std::slice::from_ref(&new)).await?;
        } else {
            self.put_back_stopped_first(&now, old, going).await?;
        }
        engine.remove_all(&[new]).await?;
        engine.rename(&old.id, &old.name).await
    }

    /// The new one stops before the old one starts; an old container of the service that serves has the traffic meanwhile.
    async fn put_back_stopped_first(&self, now: &Inspected, old: &Container, going: &BTreeSet<String>) -> Result<()> {
        let Deploy { engine, session, events, project, .. } = self.deploy;
        let other = self.another(&old.service, going).await?;
        let mut ports = Vec::new();
        if now.state == State::Running {
            ports = self.deploy.used_ports(now).await?;
            let drains = Drains::of_ports(self.deploy, now, &ports)?;
            if let Some(other) = &other {
                self.switch.lead(now, other).await?;
            }
            drains.finish(session, events).await?;
            engine.stop(std::slice::from_ref(&now.id)).await?;
        }
        let mut changes: ContainerEvents = engine.container_events(&project.name).boxed();
        let started = self.switch.start(&old.id, other.as_ref().unwrap_or(now)).await?;
        let passed = self.gate(&ports).pass(std::slice::from_ref(&old.id), &mut changes).await;
        if let Err(failure) = passed {
            engine.start(&now.id).await?;
            engine.remove_all(std::slice::from_ref(&old.id)).await?;
            return Err(failure);
        }
        self.switch.lead(now, &started).await?;
        self.routers.serves(&old.service, &started).await
    }

    /// Takes containers among the peers that start while something is done.
    pub(crate) async fn noticing<T>(&self, work: impl Future<Output = T>) -> T {
        let notice = self.deploy.engine.newcomers().for_each(|id| async move {
            if let Err(failure) = self.switch.newcomer(&id).await {
                self.deploy.events.emit(Event::Note(failure.what));
            }
        });
        match select(pin!(work), pin!(notice)).await {
            Either::Left((done, _)) => done,
            Either::Right(((), work)) => work.await,
        }
    }
}
