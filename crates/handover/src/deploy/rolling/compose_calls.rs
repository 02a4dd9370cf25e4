//! Rolling: Compose recreates, through our proxy to the engine. Where it wants to stop an old container, it waits until the new
//! one has been started by us, has passed its gate, has the traffic, and the old one has drained; then it goes on. Where Compose has
//! to start the new one itself, it is told at once that the old one is gone, and its call to start waits in place of that.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use handover_core::compose::calls::Ending;
use handover_core::compose::calls::name_aside;
use handover_core::observation::{Container, Observation};
use handover_core::plan::{Action, ComposeStarts, Plan, RollingPlan};
use handover_core::replace::{Batches, Next};
use tokio::sync::oneshot;

use crate::deploy::context::Deploy;
use crate::deploy::rolling::replace::Hands;
use crate::deploy::rolling::roll_back::GoesBack;
use crate::deploy::traffic::internal_clients::Inside;
use crate::engine_proxy::{Call, HeldCall, Wants};
use crate::event::{DrainSummary, Event};
use crate::failure::{Exit, Failure, Result};

/// A container that Compose wants to end, or whose successor it wants to start.
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
    /// A container has been replaced by one that Compose has started, or was not.
    Succeeded { old: String, service: String, outcome: Result<DrainSummary> },
    /// An old container that Compose wants to remove has been set aside.
    Aside { service: String, call: HeldCall, outcome: Result<()> },
    /// The pause between two batches is over.
    Delay { service: String },
    /// A container that has started is among the peers, or cannot be led.
    Noticed { outcome: Result<()> },
    /// A container that is more than there were is ready, or will not be.
    Joined { service: String, outcome: Result<()> },
}

type Work<'a> = FuturesUnordered<LocalBoxFuture<'a, Ended>>;

/// Compose at work, with what it was told so far.
pub(crate) struct Roll<'a> {
    deploy: &'a Deploy,
    plan: &'a Plan,
    observed: &'a Observation,
    /// The clients inside of a stand-in.
    inside: Option<&'a Inside<'a>>,
    hands: &'a Hands<'a>,
    batches: BTreeMap<String, Batches<Wanted>>,
    /// New containers by the old ones that they replace.
    pub(crate) new_of: BTreeMap<String, String>,
    /// Services of new containers that nothing is replaced by, by id.
    joining: BTreeMap<String, String>,
    /// Those of them that have been started.
    joined: BTreeMap<String, String>,
    /// Old containers that may end.
    released: BTreeSet<String>,
    /// New containers that Compose has still to rename, with their services.
    to_rename: BTreeMap<String, String>,
    /// Old containers that are kept under another name.
    aside: BTreeSet<String>,
    /// Compose has ended.
    over: bool,
    /// Services that go back to the old version.
    back: BTreeSet<String>,
    /// Who waits for what Compose does after it has started a container, by service.
    hooks: Vec<(String, oneshot::Sender<bool>)>,
    /// Calls that are refused once nothing else is under way: Compose gives everything up at the first refusal.
    refusals: Vec<(HeldCall, String)>,
    /// What was done with connections under way.
    pub(crate) drained: DrainSummary,
    pub(crate) failure: Option<Failure>,
}

impl<'a> Roll<'a> {
    /// Nothing has been heard yet. `inside`: the clients inside of a stand-in.
    pub(crate) fn new(hands: &'a Hands<'a>, plan: &'a Plan, inside: Option<&'a Inside<'a>>) -> Self {
        let (deploy, observed) = (hands.deploy, hands.observed);
        let batches = plan.rolling.iter().map(|rolling| {
            let all = observed.of_service(&rolling.service).filter(|container| container.running).count();
            (rolling.service.clone(), Batches::new(rolling.update.clone(), all))
        });
        Self {
            deploy,
            plan,
            observed,
            inside,
            hands,
            batches: batches.collect(),
            new_of: BTreeMap::new(),
            joining: BTreeMap::new(),
            joined: BTreeMap::new(),
            released: BTreeSet::new(),
            to_rename: BTreeMap::new(),
            aside: BTreeSet::new(),
            over: false,
            back: BTreeSet::new(),
            hooks: Vec::new(),
            refusals: Vec::new(),
            drained: DrainSummary::default(),
            failure: None,
        }
    }

    /// Answers Compose's calls until it has ended, and ends what was begun.
    pub(crate) async fn follow(
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
        for (_, waiting) in self.hooks.drain(..) {
            let _ = waiting.send(settled.is_ok());
        }
        // Compose is gone: what it waited for is given up by whoever works on it, and nothing new is begun.
        self.over = true;
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
            Call::Renamed { id: container, .. } => {
                if let Some(service) = self.to_rename.remove(&container) {
                    self.end_one(&service, true, work);
                }
            }
            Call::Held(call) => match call.wants {
                Wants::End(ending) => self.hear_ending(call, ending, work),
                Wants::Start => self.hear_start(call, work),
                Wants::Rename if self.predecessor(&call.container).is_some() => call.done(),
                Wants::Rename => call.pass(),
            },
        }
    }

    fn hear_start(&mut self, call: HeldCall, work: &mut Work<'a>) {
        let id = call.container.clone();
        if let Some(service) = self.joining.remove(&id) {
            self.hooks_are_done(&service);
            self.joined.insert(id.clone(), service.clone());
            let not_ready = self.joining.keys().chain(self.joined.keys()).cloned().collect();
            let hands = self.hands;
            let joining = async move {
                let outcome = hands.join(&id, &service, &not_ready, call).await;
                Ended::Joined { service, outcome }
            };
            return work.push(joining.boxed_local());
        }
        let Some(old) = self.predecessor(&id) else { return self.start_another(call, work) };
        let service = &old.service;
        self.hooks_are_done(service);
        if let Some(batches) = self.batches.get_mut(service) {
            batches.add(Wanted { call, old: old.clone(), new: Some(id) });
            self.go_on(service, work);
        }
    }

    /// A container that is not rolled starts; one that a stand-in has stood in for is not reached before it is ready.
    fn start_another(&self, call: HeldCall, work: &mut Work<'a>) {
        let replaced = self.new_of.iter().find(|(_, new)| **new == call.container);
        let service = replaced.and_then(|(old, _)| self.service_of(old));
        let Some((inside, service)) = self.inside.zip(service).filter(|(inside, service)| inside.has(service)) else {
            return call.pass();
        };
        work.push(async move { Ended::Noticed { outcome: inside.start(service, call).await } }.boxed_local());
    }

    /// Compose starts one container of a service after the other, each when it is through with the one before.
    fn hooks_are_done(&mut self, service: &str) {
        for (_, waiting) in self.hooks.extract_if(.., |(of, _)| of == service) {
            // Whoever has given up does not wait any more.
            let _ = waiting.send(true);
        }
    }

    fn rolling(&self, service: &str) -> Option<&'a RollingPlan> {
        self.plan.rolling.iter().find(|rolling| rolling.service == service)
    }

    /// The running container that a new one is to replace, where Compose starts the new one itself.
    fn predecessor(&self, new: &str) -> Option<&'a Container> {
        let (old, _) = self.new_of.iter().find(|(_, id)| *id == new)?;
        self.observed.containers.iter().find(|one| one.id == *old).filter(|old| self.compose_starts_successor(old))
    }

    fn compose_starts_successor(&self, old: &Container) -> bool {
        let starts = self.rolling(&old.service).and_then(|rolling| rolling.compose_starts);
        old.running && starts.is_some() && self.new_of.contains_key(&old.id)
    }

    /// Whether those of a service that were replaced go back if others fail.
    fn is_kept(&self, service: &str) -> bool {
        self.rolling(service).is_some_and(|rolling| rolling.update.rolls_back())
    }

    pub(crate) fn service_of(&self, id: &str) -> Option<&'a str> {
        self.observed.containers.iter().find(|one| one.id == id).map(|one| one.service.as_str())
    }

    /// Whether an old container is kept and its service goes back.
    pub(crate) fn goes_back(&self, old: &str) -> bool {
        self.aside.contains(old) && self.service_of(old).is_some_and(|service| self.back.contains(service))
    }

    pub(crate) fn services_that_go_back(&self) -> Vec<GoesBack<'a>> {
        let kept = |service: &str| {
            let all = self.observed.containers.iter();
            let old = all.filter(|old| old.service == service && self.aside.contains(&old.id));
            old.filter_map(|old| Some((old, self.new_of.get(&old.id)?.clone()))).collect()
        };
        let plans = self.back.iter().filter_map(|service| self.rolling(service));
        plans
            .map(|plan| GoesBack {
                plan,
                replaced: kept(&plan.service),
                joined: self.joined.iter().filter(|(_, of)| **of == plan.service).map(|(id, _)| id.clone()).collect(),
            })
            .filter(|back: &GoesBack<'_>| !back.replaced.is_empty() || !back.joined.is_empty())
            .collect()
    }

    /// The service that is rolled and that a new container without a predecessor belongs to, by Compose's way to name them.
    fn rolled_service_of(&self, name: &str) -> Option<String> {
        let beginning = |service: &&String, separator: char| {
            let prefix = format!("{}{separator}{service}{separator}", self.deploy.project.name);
            name.strip_prefix(&prefix).is_some_and(|number| number.parse::<u32>().is_ok())
        };
        self.batches.keys().find(|service| beginning(service, '-') || beginning(service, '_')).cloned()
    }

    fn hear_ending(&mut self, call: HeldCall, ending: Ending, work: &mut Work<'a>) {
        let Some(old) = self.observed.containers.iter().find(|one| one.id == call.container) else {
            return call.refuse("handover does not know this container");
        };
        let may_end = self.released.contains(&old.id) || !old.running;
        if may_end {
            let new = self.new_of.get(&old.id);
            if ending == Ending::Remove && new.is_none() {
                // One that is not replaced is through with its removal.
                let service = old.service.clone();
                call.pass();
                return self.end_one(&service, true, work);
            }
            if let Some(new) = new.filter(|_| ending == Ending::Remove && old.running && self.is_kept(&old.service)) {
                let (hands, service, name) = (self.hands, old.service.clone(), name_aside(new, &old.name));
                let setting_aside = async move {
                    let outcome = hands.deploy.engine.rename(&call.container, &name).await;
                    Ended::Aside { service, call, outcome }
                };
                return work.push(setting_aside.boxed_local());
            }
            return call.pass();
        }
        if self.compose_starts_successor(old) {
            return call.done();
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
        let Some(batches) = self.batches.get_mut(service).filter(|_| !self.over) else { return };
        match batches.what_next() {
            Next::Nothing => {}
            Next::Begin(all) => {
                let hands = self.hands;
                let monitor = self.rolling(service).map_or(0.0, |rolling| rolling.update.monitor);
                for Wanted { mut call, old, new } in all {
                    let service = service.to_owned();
                    let work_on_it = match new {
                        Some(new) if call.wants == Wants::Start => {
                            let (hooks, keep) = (self.wait_for_hooks(&service), self.is_kept(&service));
                            async move {
                                let replacing = hands.replace_when_compose_starts(&old, &new, call, hooks, keep);
                                let outcome = replacing.await;
                                Ended::Succeeded { old: old.id, service, outcome }
                            }
                            .boxed_local()
                        }
                        Some(new) => async move {
                            let replacing = hands.replace(&old, &new, monitor, ready(Ok(())), call.abandoned());
                            let outcome = replacing.await;
                            Ended::Replaced { service, call, outcome }
                        }
                        .boxed_local(),
                        None => async move {
                            let outcome = hands.retire(&old, &mut call).await;
                            Ended::Replaced { service, call, outcome }
                        }
                        .boxed_local(),
                    };
                    work.push(work_on_it);
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

    /// What tells whether Compose is through with what it does after a start; none where it does nothing.
    fn wait_for_hooks(&mut self, service: &str) -> Option<oneshot::Receiver<bool>> {
        let starts = self.rolling(service)?.compose_starts;
        if starts != Some(ComposeStarts::Hooks) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.hooks.push((service.to_owned(), sender));
        Some(receiver)
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
            Ended::Joined { service, outcome } => {
                if let Err(failure) = outcome {
                    self.failure.get_or_insert(failure);
                    if let Some(batches) = self.batches.get_mut(&service) {
                        batches.newcomer_failed();
                    }
                    self.note_way_back(&service);
                    self.go_on(&service, work);
                }
            }
            Ended::Aside { call, outcome: Ok(()), .. } => {
                self.aside.insert(call.container.clone());
                call.done();
            }
            Ended::Aside { service, call, outcome: Err(failure) } => {
                if let Some(new) = self.new_of.get(&call.container) {
                    self.to_rename.remove(new);
                }
                self.refusals.push((call, failure.what.clone()));
                self.fail_one(&service, failure, work);
            }
            Ended::Succeeded { old, service, outcome: Ok(drained) } => {
                self.drained.add(&drained);
                if self.is_kept(&service) {
                    self.aside.insert(old);
                }
                self.end_one(&service, true, work);
            }
            Ended::Succeeded { service, outcome: Err(failure), .. } => self.fail_one(&service, failure, work),
            Ended::Replaced { service, call, outcome: Ok(drained) } => {
                self.drained.add(&drained);
                if let Some(new) = self.new_of.get(&call.container) {
                    self.to_rename.insert(new.clone(), service);
                }
                self.released.insert(call.container.clone());
                call.pass();
            }
            Ended::Replaced { service, call, outcome: Err(failure) } => {
                self.refusals.push((call, failure.what.clone()));
                self.fail_one(&service, failure, work);
            }
        }
    }

    fn fail_one(&mut self, service: &str, failure: Failure, work: &mut Work<'a>) {
        self.failure.get_or_insert(failure);
        self.end_one(service, false, work);
        self.note_way_back(service);
    }

    /// If too many have failed, those that were replaced go back once Compose has ended.
    fn note_way_back(&mut self, service: &str) {
        if self.batches.get(service).is_some_and(Batches::goes_back) {
            self.back.insert(service.to_owned());
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
