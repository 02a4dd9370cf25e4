//! Settling where services are rolled: before Compose is called, and after it has ended.

pub(crate) mod compose_calls;
pub(crate) mod compose_starts;
pub(crate) mod replace;
pub(crate) mod roll_back;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use handover_core::compose::calls::Containers;
use handover_core::compose::calls::temporary_name;
use handover_core::compose::project::Service;
use handover_core::net::Protocol;
use handover_core::observation::Observation;
use handover_core::plan::Plan;
use handover_core::plan::standin::service_name;

use crate::deploy::context::Deploy;
use crate::deploy::rolling::compose_calls::Roll;
use crate::deploy::rolling::replace::Hands;
use crate::deploy::settle;
use crate::deploy::traffic::internal_clients::Inside;
use crate::deploy::traffic::kept;
use crate::deploy::traffic::proxy_clients::ProxyClients;
use crate::deploy::traffic::redirects::Switch;
use crate::deploy::traffic::routers::Routers;
use crate::engine_proxy::EngineProxy;
use crate::event::{DrainSummary, Event, Step};
use crate::failure::{Exit, Failure, Result};
use crate::interrupt::Interrupt;

/// What came of rolling.
#[derive(Debug)]
pub(crate) struct Rolled {
    /// From the start until all new connections went to new containers.
    pub(crate) live: Option<Duration>,
    /// Connections that were led.
    pub(crate) led: u64,
    /// What was done with connections under way.
    pub(crate) drained: DrainSummary,
}

impl Deploy {
    /// `docker compose up -d`, with the services that the plan rolls replaced container by container. May be repeated. A
    /// failure leaves each container either as it was or replaced, under its final name.
    pub(crate) async fn settle_rolling(
        &self,
        plan: &Plan,
        observed: &Observation,
        interrupt: &Interrupt,
        inside: Option<&Inside<'_>>,
    ) -> Result<Rolled> {
        let services: BTreeSet<&str> = plan.rolling.iter().map(|rolling| rolling.service.as_str()).collect();
        let old = || observed.containers.iter().filter(|container| services.contains(container.service.as_str()));
        let networks = old().flat_map(|container| container.networks.keys().cloned()).collect();
        let served =
            services.iter().filter_map(|name| self.project.services.get(*name)).flat_map(Service::served_ports);
        let udp = served.into_iter().any(|(_, protocol)| protocol == Protocol::Udp);
        let own = match inside {
            Some(_) => None,
            None => {
                let ungated_for = Some(self.gate(observed).deadline);
                let kept = kept::kept(self, observed).await?;
                let own = Switch::begin(self, observed, networks, &[], udp, &kept, ungated_for).await?;
                kept::end_keeper(self, observed).await?;
                Some(own)
            }
        };
        let switch = inside.map(|inside| &inside.switch).or(own.as_ref());
        let switch = switch.ok_or_else(|| Failure::new(Exit::Engine, "nothing leads the traffic"))?;
        let serving = Cell::new(old().filter(|container| container.running).count());
        let mut routers = Routers::open(self, plan, observed).await.map_err(first)?;
        let mut reloading = routers.that_close_idle_clients();
        if inside.is_none() {
            let nginx = switch.nginx().await.into_iter().map(|(id, _)| id);
            reloading.extend(nginx.filter(|id| !old().any(|container| container.id == *id)));
        }
        let clients = Rc::new(ProxyClients::listen(self, reloading).await);
        routers.spare(&clients);
        let hands = Hands {
            deploy: self,
            observed,
            switch,
            routers: &routers,
            interrupt: Some(interrupt),
            serving,
            live: Cell::default(),
        };
        let held = Containers::holding(observed.containers.iter().map(|one| (one.id.clone(), one.name.clone())));
        let (proxy, calls) = EngineProxy::open(&self.engine, held)?;
        let compose = self.compose.through(proxy.host());
        let mut roll = Roll::new(&hands, plan, inside);
        let up = settle::recreate(&compose, plan, &self.args, &self.events);
        let step = if plan.rolling.is_empty() { Step::Settle } else { Step::Roll };
        let routed = self.are_all_routed(plan, observed).await?;
        let following = roll.follow(up, calls);
        let following = async { if routed { switch.watching(following).await } else { following.await } };
        let settled = self.events.step(step, following).await;
        drop(proxy);
        for (old, new) in roll.update.pairs() {
            hands.mend(old, new, true).await?;
        }
        let back = roll.services_that_go_back();
        if !back.is_empty() {
            let (serving, live) = (Cell::new(usize::MAX), Cell::default());
            let routers = &routers;
            let hands = Hands { deploy: self, observed, switch, routers, interrupt: None, serving, live };
            let going_back = async {
                for service in back {
                    hands.roll_back(service).await?;
                }
                Ok(())
            };
            self.events.step(Step::Back, hands.noticing(going_back)).await.map_err(not_gone_back)?;
        }
        let Roll { mut drained, failure, .. } = roll;
        if let Some(failure) = failure.or(settled.err()) {
            // A proxy may have learnt the addresses of containers that were taken back.
            if let Err(left) = self.until_unused(switch, false).await {
                self.events.emit(Event::Note(left.why.unwrap_or(left.what)));
            }
            clients.finish().await;
            return Err(failure);
        }
        // With clients inside, this comes when the stand-in is gone.
        if inside.is_none() {
            self.reload_nginx(switch, &routers.containers(), &clients).await;
            self.until_unused(switch, routed).await?;
        }
        drained.add(&clients.finish().await);
        routers.note_left(self).await;
        Ok(Rolled { live: hands.live.get(), led: switch.led().await?, drained })
    }

    /// Whether routers confirm where all containers are that anybody can call: others, code carriers say, listen at no port.
    async fn are_all_routed(&self, plan: &Plan, observed: &Observation) -> Result<bool> {
        let (routed, others): (Vec<_>, Vec<_>) = plan.rolling.iter().partition(|rolling| rolling.router.is_some());
        if routed.is_empty() {
            return Ok(false);
        }
        let all = others.into_iter().flat_map(|rolling| observed.of_service(&rolling.service));
        for container in all.filter(|container| container.running) {
            let listens = match self.engine.inspect(&container.id).await? {
                Some(found) => !self.used_ports(&found).await?.is_empty(),
                None => false,
            };
            if listens {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes whole what an earlier run of ours, or of Compose, left half-replaced: containers under their temporary names.
    pub(crate) async fn mend_half_replaced(&self, observed: &Observation, interrupt: &Interrupt) -> Result<()> {
        self.events
            .emit(Event::Resumed("an earlier run left containers half-replaced; that is put right first".to_owned()));
        let networks = observed.half_replaced.iter().flat_map(|one| one.networks.keys().cloned()).collect();
        // While a stand-in is there, clients may still need what outlasted the earlier run; it is taken out later.
        let ungated_for = Some(self.gate(observed).deadline).filter(|_| observed.standin.is_empty());
        let switch = Switch::begin(self, observed, networks, &[], false, &[], ungated_for).await?;
        let (serving, live) = (Cell::new(usize::MAX), Cell::default());
        let routers = Routers::default();
        let interrupt = Some(interrupt);
        let hands = Hands { deploy: self, observed, switch: &switch, routers: &routers, interrupt, serving, live };
        for half in &observed.half_replaced {
            if let Some((old, _)) = temporary_name(&half.name) {
                // While its stand-in serves it is started as such, so that nobody meets it before it is ready.
                let standin = service_name(&half.service);
                let is_stood_in_for = observed.standin.iter().any(|one| one.running && one.service == standin);
                hands.mend(old, &half.id, !is_stood_in_for).await?;
            }
        }
        // A router may have been told of what is gone now.
        let clients = ProxyClients::listen(self, BTreeSet::new()).await;
        self.reload_nginx(&switch, &BTreeSet::new(), &clients).await;
        self.until_unused(&switch, false).await
    }
}

/// Only what was in order at preflight and is not any more fails here.
fn first(failures: Vec<Failure>) -> Failure {
    failures.into_iter().next().unwrap_or_else(|| Failure::new(Exit::Host, "a router cannot be told"))
}

/// What was replaced serves on where it could not be taken back.
fn not_gone_back(failure: Failure) -> Failure {
    let why = failure.why.map_or(failure.what.clone(), |why| format!("{}: {why}", failure.what));
    Failure {
        exit: Exit::Unfinished,
        what: "not all containers could go back to the old version; those that could not serve the new one".to_owned(),
        why: Some(why),
        hint: Some("run handover up again, with a version that starts".to_owned()),
        logs: failure.logs,
    }
}
