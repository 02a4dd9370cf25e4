//! Rolling: Compose recreates, through our proxy to the engine. What its calls and the ends of our work mean is decided by
//! [`RollingUpdate`]; here its commands are carried out, with Compose's calls in hand.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use handover_core::observation::{Container, Observation};
use handover_core::plan::Plan;
use handover_core::rolling_update::{CallId, Command, Input, RollingUpdate, Work};
use tokio::sync::{mpsc, oneshot};

use crate::deploy::context::Deploy;
use crate::deploy::rolling::replace::Hands;
use crate::deploy::rolling::roll_back::GoesBack;
use crate::deploy::traffic::internal_clients::Inside;
use crate::engine_proxy::{Call, HeldCall};
use crate::event::{DrainSummary, Event};
use crate::failure::{Exit, Failure, Result};

/// What has ended.
enum Ended {
    /// Work that was begun with a call; with the call, where it has still to be answered.
    Work { call: CallId, held: Option<HeldCall>, outcome: Result<DrainSummary> },
    /// A container that has started is among the peers, or cannot be redirected. `call`: Compose's to start it, if it was one.
    Noticed { call: Option<CallId>, outcome: Result<()> },
}

type UnderWay<'a> = FuturesUnordered<LocalBoxFuture<'a, Ended>>;

/// Compose at work.
pub(crate) struct Roll<'a> {
    deploy: &'a Deploy,
    plan: &'a Plan,
    observed: &'a Observation,
    /// The clients inside of a stand-in.
    inside: Option<&'a Inside<'a>>,
    hands: &'a Hands<'a>,
    /// What was heard and done so far, and what follows from it.
    pub(crate) update: RollingUpdate,
    /// Calls that wait for their answer.
    calls: BTreeMap<CallId, HeldCall>,
    last_call: CallId,
    /// Who waits for what Compose does after it has started a container, by service.
    hooks: Vec<(String, oneshot::Sender<bool>)>,
    /// Pauses between batches; each ends with its service.
    delays: FuturesUnordered<LocalBoxFuture<'static, String>>,
    /// What was done with connections in flight.
    pub(crate) drained: DrainSummary,
    /// The first failure.
    pub(crate) failure: Option<Failure>,
}

impl<'a> Roll<'a> {
    /// Nothing has been heard yet. `inside`: the clients inside of a stand-in.
    pub(crate) fn new(hands: &'a Hands<'a>, plan: &'a Plan, inside: Option<&'a Inside<'a>>) -> Self {
        let (deploy, observed) = (hands.deploy, hands.observed);
        let members: BTreeSet<String> =
            deploy.project.services.keys().filter(|name| inside.is_some_and(|it| it.has(name))).cloned().collect();
        Self {
            deploy,
            plan,
            observed,
            inside,
            hands,
            update: RollingUpdate::new(plan, observed, members),
            calls: BTreeMap::new(),
            last_call: 0,
            hooks: Vec::new(),
            delays: FuturesUnordered::new(),
            drained: DrainSummary::default(),
            failure: None,
        }
    }

    /// Answers Compose's calls until it has ended, and ends what was begun.
    pub(crate) async fn follow(
        &mut self,
        up: impl Future<Output = Result<()>>,
        mut calls: mpsc::UnboundedReceiver<Call>,
    ) -> Result<()> {
        let mut under_way: UnderWay<'a> = FuturesUnordered::new();
        let newcomers = self.deploy.engine.newcomers();
        tokio::pin!(up, newcomers);
        let settled = loop {
            tokio::select! {
                biased;
                Some(call) = calls.recv() => self.hear(call, &mut under_way),
                Some(id) = newcomers.next() => {
                    // Not awaited here: whoever replaces a container may have the switch, and only goes on when we do.
                    let hands = self.hands;
                    let noticing = async move { Ended::Noticed { call: None, outcome: hands.switch.newcomer(&id).await } };
                    under_way.push(noticing.boxed_local());
                }
                Some(ended) = under_way.next(), if !under_way.is_empty() => self.note(ended, &mut under_way),
                Some(service) = self.delays.next(), if !self.delays.is_empty() => {
                    self.tell(Input::DelayIsOver { service }, &mut under_way);
                }
                settled = &mut up => break settled,
            }
        };
        for (_, waiting) in self.hooks.drain(..) {
            let _ = waiting.send(settled.is_ok());
        }
        // Compose is gone: what it waited for is given up by whoever works on it, and nothing new is begun.
        self.tell(Input::ComposeEnded, &mut under_way);
        while let Some(ended) = under_way.next().await {
            self.note(ended, &mut under_way);
        }
        settled
    }

    /// The services whose replaced containers go back now that Compose has ended.
    pub(crate) fn services_that_go_back(&self) -> Vec<GoesBack<'a>> {
        let container = |id: &str| self.observed.containers.iter().find(|one| one.id == id);
        let back = self.update.goes_back().into_iter().filter_map(|back| {
            let plan = self.plan.rolling.iter().find(|rolling| rolling.service == back.service)?;
            let replaced = back.replaced.into_iter().filter_map(|(old, new)| Some((container(&old)?, new))).collect();
            Some(GoesBack { plan, replaced, joined: back.joined })
        });
        back.collect()
    }

    fn hear(&mut self, call: Call, under_way: &mut UnderWay<'a>) {
        let input = match call {
            Call::Created { name, id, replaces } => Input::Created { id, name, replaces },
            Call::Renamed { id } => Input::Renamed { id },
            Call::Held(held) => {
                self.last_call += 1;
                let (call, container, wants) = (self.last_call, held.container.clone(), held.wants);
                self.calls.insert(call, held);
                Input::Held { call, container, wants }
            }
        };
        self.tell(input, under_way);
    }

    fn note(&mut self, ended: Ended, under_way: &mut UnderWay<'a>) {
        match ended {
            Ended::Work { call, held, outcome } => {
                self.calls.extend(held.map(|held| (call, held)));
                let outcome = match outcome {
                    Ok(drained) => {
                        self.drained.add(&drained);
                        Ok(())
                    }
                    Err(failure) => {
                        let what = failure.what.clone();
                        self.failure.get_or_insert(failure);
                        Err(what)
                    }
                };
                self.tell(Input::Ended { call, outcome }, under_way);
            }
            Ended::Noticed { call, outcome } => {
                if let Err(failure) = outcome {
                    self.deploy.events.emit(Event::Note(failure.to_string()));
                }
                if let Some(call) = call {
                    self.tell(Input::Ended { call, outcome: Ok(()) }, under_way);
                }
            }
        }
    }

    fn tell(&mut self, input: Input, under_way: &mut UnderWay<'a>) {
        for command in self.update.on(input) {
            self.carry_out(command, under_way);
        }
    }

    fn carry_out(&mut self, command: Command, under_way: &mut UnderWay<'a>) {
        match command {
            Command::Pass(call) => drop(self.calls.remove(&call).map(HeldCall::pass)),
            Command::Done(call) => drop(self.calls.remove(&call).map(HeldCall::done)),
            Command::Refuse(call, why) => drop(self.calls.remove(&call).map(|held| held.refuse(why))),
            Command::NotNamed { container } => {
                let failure = Failure::new(Exit::Host, format!("Compose would also end {container}"))
                    .because("the plan does not name it, so its restart would be an interruption that nobody agreed to")
                    .hint("another version of Compose may have made it: docker compose up -d once with this version, or --force-recreate");
                self.failure.get_or_insert(failure);
            }
            Command::Begin { call, work } => {
                if let Some(held) = self.calls.remove(&call) {
                    let begun = self.begin(call, held, work);
                    under_way.push(begun);
                }
            }
            Command::Delay { service, seconds } => {
                let delay = tokio::time::sleep(Duration::try_from_secs_f64(seconds).unwrap_or_default());
                self.delays.push(delay.map(|()| service).boxed_local());
            }
            Command::HooksAreDone { service } => {
                for (_, waiting) in self.hooks.extract_if(.., |(of, _)| *of == service) {
                    // Whoever has given up does not wait any more.
                    let _ = waiting.send(true);
                }
            }
        }
    }

    fn begin(&mut self, call: CallId, mut held: HeldCall, work: Work) -> LocalBoxFuture<'a, Ended> {
        let (hands, observed, inside) = (self.hands, self.observed, self.inside);
        match work {
            Work::Replace { old, new, monitor } => async move {
                let replacing = async {
                    let old = container(observed, &old)?;
                    hands.replace(old, &new, monitor, ready(Ok(())), held.abandoned()).await
                };
                let outcome = replacing.await;
                Ended::Work { call, held: Some(held), outcome }
            }
            .boxed_local(),
            Work::ReplaceStarted { old, new, hooks, keep } => {
                let hooks = hooks.then(|| {
                    let (sender, receiver) = oneshot::channel();
                    self.hooks.extend(container(observed, &old).ok().map(|old| (old.service.clone(), sender)));
                    receiver
                });
                async move {
                    let outcome = match container(observed, &old) {
                        Ok(old) => hands.replace_when_compose_starts(old, &new, held, hooks, keep).await,
                        Err(failure) => Err(failure),
                    };
                    Ended::Work { call, held: None, outcome }
                }
                .boxed_local()
            }
            Work::Retire { old } => async move {
                let outcome = match container(observed, &old) {
                    Ok(old) => hands.retire(old, &mut held).await,
                    Err(failure) => Err(failure),
                };
                Ended::Work { call, held: Some(held), outcome }
            }
            .boxed_local(),
            Work::SetAside { old, name } => async move {
                let outcome = hands.deploy.engine.rename(&old, &name).await.map(|()| DrainSummary::default());
                Ended::Work { call, held: Some(held), outcome }
            }
            .boxed_local(),
            Work::Join { new, service, not_ready } => async move {
                let outcome = hands.join(&new, &service, &not_ready, held).await.map(|()| DrainSummary::default());
                Ended::Work { call, held: None, outcome }
            }
            .boxed_local(),
            Work::StartInside { service } => async move {
                let outcome = match inside {
                    Some(inside) => inside.start(&service, held).await,
                    None => {
                        held.pass();
                        Ok(())
                    }
                };
                Ended::Noticed { call: Some(call), outcome }
            }
            .boxed_local(),
        }
    }
}

/// A container that was there when all began.
fn container<'a>(observed: &'a Observation, id: &str) -> Result<&'a Container> {
    let found = observed.containers.iter().find(|one| one.id == id);
    found.ok_or_else(|| Failure::new(Exit::DeployFailed, format!("container {id} was not there before")))
}
