//! Rolling: Compose recreates, through our proxy to the engine. Where it wants to stop an old container, it waits until the new
//! one has been started by us, has passed its gate, has the traffic, and the old one has drained; then it goes on.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use handover_core::observation::{Container, Observation};
use handover_core::plan::{Action, Plan};
use handover_core::project::Service;
use handover_core::rolling::{Batches, Next, temporary_name};
use handover_core::switch::Protocol;
use handover_core::wire::{Containers, Ending};

use super::replace::Hands;
use super::routers::Routers;
use super::steps::Deploy;
use super::switch::Switch;
use super::{kept_leads, settle};
use crate::engine::Inspected;
use crate::engine_proxy::{Call, EngineProxy, HeldCall};
use crate::event::{DrainSummary, Event, Step};
use crate::failure::{Exit, Failure, Result};
use crate::interrupt::Interrupt;

/// What came of rolling.
#[derive(Debug, Default)]
pub(super) struct Rolled {
    /// From the start until all new connections went to new containers.
    pub(super) live: Option<Duration>,
    /// Connections that were led.
    pub(super) led: u64,
    /// What was done with connections under way.
    pub(super) drained: DrainSummary,
}

/// A container that Compose wants to end.
struct Wanted {
    call: HeldCall,
    old: Container,
    /// Id of the one that replaces it; none if there are to be fewer.
    new: Option<String>,
}

/// What has ended.
enum Ended {
    /// A container has been replaced or retired, or was not; Compose waits for the word.
    Replaced { service: String, call: HeldCall, outcome: Result<DrainSummary> },
    /// The pause between two batches is over.
    Delay { service: String },
    /// A container that has started is among the peers, or cannot be led.
    Noticed { outcome: Result<()> },
    /// A container that is more than there were is ready, or will not be.
    Joined { outcome: Result<()> },
}

type Work<'a> = FuturesUnordered<LocalBoxFuture<'a, Ended>>;

/// Compose at work, with what it was told so far.
struct Roll<'a> {
    deploy: &'a Deploy,
    plan: &'a Plan,
    observed: &'a Observation,
    hands: &'a Hands<'a>,
    batches: BTreeMap<String, Batches<Wanted>>,
    /// New containers by the old ones that they replace.
    new_of: BTreeMap<String, String>,
    /// Services of new containers that nothing is replaced by, by id.
    joining: BTreeMap<String, String>,
    /// Old containers that may end.
    released: BTreeSet<String>,
    /// New containers that Compose has still to rename, with their services.
    to_rename: BTreeMap<String, String>,
    /// Calls that are refused once nothing else is under way: Compose gives everything up at the first refusal.
    refusals: Vec<(HeldCall, String)>,
    rolled: Rolled,
    failure: Option<Failure>,
}

impl Deploy {
    /// `docker compose up -d`, with the services that the plan rolls replaced container by container. May be repeated. A
    /// failure leaves each container either as it was or replaced, under its final name.
    pub(super) async fn settle_rolling(
        &self,
        plan: &Plan,
        observed: &Observation,
        interrupt: &Interrupt,
    ) -> Result<Rolled> {
        let services: BTreeSet<&str> = plan.rolling.iter().map(|rolling| rolling.service.as_str()).collect();
        let old = || observed.containers.iter().filter(|container| services.contains(container.service.as_str()));
        let networks = old().flat_map(|container| container.networks.keys().cloned()).collect();
        let served =
            services.iter().filter_map(|name| self.project.services.get(*name)).flat_map(Service::served_ports);
        let udp = served.into_iter().any(|(_, protocol)| protocol == Protocol::Udp);
        let kept = kept_leads::kept(self, observed).await?;
        let switch = Switch::begin(&self.engine, &self.session, observed, networks, udp, &kept).await?;
        kept_leads::end_keeper(self, observed).await?;
        let serving = Cell::new(old().filter(|container| container.running).count());
        let routers = Routers::open(self, plan, observed).await.map_err(first)?;
        let hands = Hands {
            deploy: self,
            observed,
            switch: &switch,
            routers: &routers,
            interrupt,
            serving,
            live: Cell::default(),
        };
        let held = Containers::holding(observed.containers.iter().map(|one| (one.id.clone(), one.name.clone())));
        let (proxy, calls) = EngineProxy::open(&self.engine, held)?;
        let compose = self.compose.through(proxy.host());
        let batches = plan.rolling.iter().map(|rolling| {
            let all = observed.of_service(&rolling.service).filter(|container| container.running).count();
            (rolling.service.clone(), Batches::new(rolling.update.clone(), all))
        });
        let mut roll = Roll {
            deploy: self,
            plan,
            observed,
            hands: &hands,
            batches: batches.collect(),
            new_of: BTreeMap::new(),
            joining: BTreeMap::new(),
            released: BTreeSet::new(),
            to_rename: BTreeMap::new(),
            refusals: Vec::new(),
            rolled: Rolled::default(),
            failure: None,
        };
        let up = settle::settle(&compose, plan, &self.args, &self.events);
        let settled = self.events.step(Step::Roll, roll.follow(up, calls)).await;
        drop(proxy);
        let Roll { new_of, mut rolled, failure, .. } = roll;
        for (old, new) in &new_of {
            hands.mend(old, new).await?;
        }
        if let Some(failure) = failure.or(settled.err()) {
            // A proxy may have learnt the addresses of containers that were taken back.
            if let Err(left) = self.until_unused(&switch).await {
                self.events.emit(Event::Note(left.why.unwrap_or(left.what)));
            }
            return Err(failure);
        }
        self.reload_nginx(&switch, &routers.containers()).await;
        self.until_unused(&switch).await?;
        routers.note_left(self).await;
        rolled.live = hands.live.get();
        rolled.led = switch.led().await?;
        Ok(rolled)
    }
}

impl Deploy {
    /// Makes whole what an earlier run of ours, or of Compose, left half-replaced: containers under their temporary names.
    pub(super) async fn mend_half_replaced(&self, observed: &Observation, interrupt: &Interrupt) -> Result<()> {
        self.events
            .emit(Event::Resumed("an earlier run left containers half-replaced; that is put right first".to_owned()));
        let networks = observed.half_replaced.iter().flat_map(|one| one.networks.keys().cloned()).collect();
        let switch = Switch::begin(&self.engine, &self.session, observed, networks, false, &[]).await?;
        let (serving, live) = (Cell::new(usize::MAX), Cell::default());
        let routers = Routers::default();
        let hands = Hands { deploy: self, observed, switch: &switch, routers: &routers, interrupt, serving, live };
        for half in &observed.half_replaced {
            if let Some((old, _)) = temporary_name(&half.name) {
                hands.mend(old, &half.id).await?;
            }
        }
        // A router may have been told of what is gone now.
        self.reload_nginx(&switch, &BTreeSet::new()).await;
        self.until_unused(&switch).await
    }
}

/// Only what was in order at preflight and is not any more fails here.
fn first(failures: Vec<Failure>) -> Failure {
    failures.into_iter().next().unwrap_or_else(|| Failure::new(Exit::Host, "a router cannot be told"))
}

impl<'a> Roll<'a> {
    /// Answers Compose's calls until it has ended, and ends what was begun.
    async fn follow(
        &mut self,
        up: impl Future<Output = Result<()>>,
        mut calls: tokio::sync::mpsc::UnboundedReceiver<Call>,
    ) -> Result<()> {
        let mut work: Work<'a> = FuturesUnordered::new();
        let newcomers = self.deploy.engine.newcomers();
        tokio::pin!(up, newcomers);
        let settled = loop {
            tokio::select! {
                biased;
                Some(call) = calls.recv() => self.hear(call, &mut work),
                Some(id) = newcomers.next() => {
                    // Not awaited here: whoever replaces a container may have the switch, and only goes on when we do.
                    let hands = self.hands;
                    work.push(async move { Ended::Noticed { outcome: hands.switch.newcomer(&id).await } }.boxed_local());
                }
                Some(ended) = work.next(), if !work.is_empty() => self.note(ended, &mut work),
                settled = &mut up => break settled,
            }
            self.refuse_when_alone(&work);
        };
        // Compose is gone: what it waited for is given up by whoever works on it, and nothing new is begun.
        self.batches.clear();
        while let Some(ended) = work.next().await {
            self.note(ended, &mut work);
        }
        settled
    }

    fn hear(&mut self, call: Call, work: &mut Work<'a>) {
        match call {
            Call::Created { id, replaces: Some(old), .. } => {
                self.new_of.insert(old, id);
            }
            Call::Created { name, id, replaces: None } => {
                if let Some(service) = self.rolled_service_of(&name) {
                    self.joining.insert(id, service);
                }
            }
            Call::Started { id: container } => {
                if let Some(service) = self.joining.remove(&container) {
                    let hands = self.hands;
                    let joining = async move { Ended::Joined { outcome: hands.join(&container, &service).await } };
                    work.push(joining.boxed_local());
                }
            }
            Call::Renamed { id: container, .. } => {
                if let Some(service) = self.to_rename.remove(&container) {
                    self.end_one(&service, true, work);
                }
            }
            Call::Held(call) => self.hear_ending(call, work),
        }
    }

    /// The service that is rolled and that a new container without a predecessor belongs to, by Compose's way to name them.
    fn rolled_service_of(&self, name: &str) -> Option<String> {
        let beginning = |service: &&String, separator: char| {
            let prefix = format!("{}{separator}{service}{separator}", self.deploy.project.name);
            name.strip_prefix(&prefix).is_some_and(|number| number.parse::<u32>().is_ok())
        };
        self.batches.keys().find(|service| beginning(service, '-') || beginning(service, '_')).cloned()
    }

    fn hear_ending(&mut self, call: HeldCall, work: &mut Work<'a>) {
        let Some(old) = self.observed.containers.iter().find(|one| one.id == call.container) else {
            return call.refuse("handover does not know this container");
        };
        let may_end = self.released.contains(&old.id) || !old.running;
        if may_end {
            if call.ending == Ending::Remove && !self.new_of.contains_key(&old.id) {
                // One that is not replaced is through with its removal.
                let service = old.service.clone();
                call.pass();
                return self.end_one(&service, true, work);
            }
            return call.pass();
        }
        if let Some(batches) = self.batches.get_mut(&old.service) {
            let new = self.new_of.get(&old.id).cloned();
            batches.add(Wanted { call, old: old.clone(), new });
            let service = old.service.clone();
            return self.go_on(&service, work);
        }
        let named = self.plan.services.iter().any(|one| one.service == old.service && one.action != Action::Keep);
        if named || self.plan.remove_orphans.contains(&old.name) {
            return call.pass();
        }
        let failure = Failure::new(Exit::Host, format!("Compose would also end {}", old.name))
            .because("the plan does not name it, so its restart would be an interruption that nobody agreed to")
            .hint("another version of Compose may have made it: docker compose up -d once with this version, or --force-recreate");
        call.refuse(failure.what.clone());
        self.failure.get_or_insert(failure);
    }

    /// Begins what is next in a service.
    fn go_on(&mut self, service: &str, work: &mut Work<'a>) {
        let Some(batches) = self.batches.get_mut(service) else { return };
        match batches.what_next() {
            Next::Nothing => {}
            Next::Begin(all) => {
                let hands = self.hands;
                for Wanted { mut call, old, new } in all {
                    let service = service.to_owned();
                    let replacing = async move {
                        let outcome = match new {
                            Some(new) => hands.replace(&old, &new, &mut call).await,
                            None => hands.retire(&old, &mut call).await,
                        };
                        Ended::Replaced { service, call, outcome }
                    };
                    work.push(replacing.boxed_local());
                }
            }
            Next::Delay(seconds) => {
                let service = service.to_owned();
                let delay = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                work.push(
                    async move { tokio::time::sleep(delay).map(|()| Ended::Delay { service }).await }.boxed_local(),
                );
            }
            Next::GiveUp(all) => {
                let why = "a container before it has failed";
                self.refusals.extend(all.into_iter().map(|wanted| (wanted.call, why.to_owned())));
            }
        }
    }

    fn note(&mut self, ended: Ended, work: &mut Work<'a>) {
        match ended {
            Ended::Delay { service } => {
                if let Some(batches) = self.batches.get_mut(&service) {
                    batches.delay_is_over();
                }
                self.go_on(&service, work);
            }
            Ended::Noticed { outcome } => {
                if let Err(failure) = outcome {
                    let why = failure.why.map(|why| format!(" ({why})")).unwrap_or_default();
                    self.deploy.events.emit(Event::Note(format!("{}{why}", failure.what)));
                }
            }
            Ended::Joined { outcome } => {
                if let Err(failure) = outcome {
                    self.failure.get_or_insert(failure);
                }
            }
            Ended::Replaced { service, call, outcome: Ok(drained) } => {
                self.rolled.drained.add(&drained);
                if let Some(new) = self.new_of.get(&call.container) {
                    self.to_rename.insert(new.clone(), service);
                }
                self.released.insert(call.container.clone());
                call.pass();
            }
            Ended::Replaced { service, call, outcome: Err(failure) } => {
                self.refusals.push((call, failure.what.clone()));
                self.failure.get_or_insert(failure);
                self.end_one(&service, false, work);
            }
        }
    }

    fn end_one(&mut self, service: &str, well: bool, work: &mut Work<'a>) {
        if let Some(batches) = self.batches.get_mut(service) {
            batches.ended(well);
            self.go_on(service, work);
        }
    }

    /// Tells Compose what was not done, when nothing is under way that this would cut off.
    fn refuse_when_alone(&mut self, work: &Work<'a>) {
        if work.is_empty() && self.to_rename.is_empty() {
            self.refusals.drain(..).for_each(|(call, why)| call.refuse(why));
        }
    }
}

/// A container of the user's as the engine has it now; an error if it is gone.
pub(super) async fn found(deploy: &Deploy, id: &str, name: &str) -> Result<Inspected> {
    let found = deploy.engine.inspect(id).await?;
    found.ok_or_else(|| Failure::new(Exit::DeployFailed, format!("{name} is gone")).because("somebody else removed it"))
}
