//! The conversation with Compose while it recreates services that are rolled, as a machine without effects: what has happened goes
//! in, what is to be done comes out. Whoever carries it out holds the calls and the work.
//!
//! Compose's calls that would end a container of the user's wait for an answer. It is given when the new container has been started,
//! has passed its gate and has the traffic, and the old one has drained. Where Compose has to start the new one itself it is told at
//! once that the old one is gone, and its call to start waits in place of that.

use std::collections::{BTreeMap, BTreeSet};

use crate::compose::calls::{Ending, Wants, name_aside};
use crate::observation::Observation;
use crate::plan::{Action, ComposeStarts, Plan, RollingPlan};
use crate::replace::{Batches, Next};

/// A call of Compose that waits for an answer; numbers are given by whoever holds the calls, each once.
pub type CallId = u64;

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The engine has made a container for Compose.
    Created {
        /// Its id.
        id: String,
        /// The name that Compose asked for.
        name: String,
        /// Id of the container that it is to replace, by its temporary name.
        replaces: Option<String>,
    },
    /// The engine has renamed a container for Compose.
    Renamed {
        /// Its id.
        id: String,
    },
    /// Compose wants something of a container, and waits.
    Held {
        /// The call.
        call: CallId,
        /// Id of the container.
        container: String,
        /// What of it.
        wants: Wants,
    },
    /// The work on a call has ended.
    Ended {
        /// The call that the work was begun with.
        call: CallId,
        /// Well, or why not.
        outcome: Result<(), String>,
    },
    /// The pause between two batches is over.
    DelayIsOver {
        /// Of which service.
        service: String,
    },
    /// Compose has ended.
    ComposeEnded,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// The call is passed on to the engine.
    Pass(CallId),
    /// Compose hears that it has been done; the engine hears nothing.
    Done(CallId),
    /// Compose hears why not; the engine hears nothing.
    Refuse(CallId, String),
    /// A container is to end that the plan does not name: the deploy fails. The call is refused by another command.
    NotNamed {
        /// Name of the container.
        container: String,
    },
    /// Work begins; its end is an [`Input::Ended`]. The call is kept for the answer, or given to the work, as the work says.
    Begin {
        /// The call that it is begun with.
        call: CallId,
        /// The work.
        work: Work,
    },
    /// [`Input::DelayIsOver`] is due.
    Delay {
        /// Of which service.
        service: String,
        /// After how many seconds.
        seconds: f64,
    },
    /// Compose is through with what it does after it has started a container of this service.
    HooksAreDone {
        /// Which service.
        service: String,
    },
}

/// Work on containers, by their ids.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// The new container is started, gated and given the traffic; the old one drains. The call is answered afterwards.
    Replace {
        /// The old container.
        old: String,
        /// The one that Compose has created.
        new: String,
        /// For how many seconds the new one is watched.
        monitor: f64,
    },
    /// The same, where the call is Compose's to start the new one; the work answers it.
    ReplaceStarted {
        /// The old container.
        old: String,
        /// The one that Compose starts.
        new: String,
        /// Whether Compose does something after the start, which must go well.
        hooks: bool,
        /// Whether the old one is kept in the end, in case that the service goes back.
        keep: bool,
    },
    /// Nothing replaces the old container; another of its service takes its traffic. The call is answered afterwards.
    Retire {
        /// The old container.
        old: String,
    },
    /// An old container is kept under another name. The call is answered afterwards.
    SetAside {
        /// The old container.
        old: String,
        /// The other name.
        name: String,
    },
    /// A container that is more than there were is started and gets traffic when it is ready; the work answers the call.
    Join {
        /// The container.
        new: String,
        /// Of which service.
        service: String,
        /// Containers of it to which nothing may be redirected.
        not_ready: BTreeSet<String>,
    },
    /// A real container that a stand-in has stood in for is started, and not reached before it is ready; the work answers the call.
    StartInside {
        /// Of which service.
        service: String,
    },
}

impl Work {
    /// Whether the work answers the call that it is begun with.
    pub fn answers(&self) -> bool {
        matches!(self, Self::ReplaceStarted { .. } | Self::Join { .. } | Self::StartInside { .. })
    }
}

/// A service whose replaced containers go back to the old version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoesBack {
    /// Which service.
    pub service: String,
    /// Ids of old containers that are kept, each with that of the one that has replaced it.
    pub replaced: Vec<(String, String)>,
    /// Ids of containers that are more than there were.
    pub joined: Vec<String>,
}

/// A container as it was when all began.
#[derive(Clone, Debug)]
struct Old {
    id: String,
    name: String,
    service: String,
    running: bool,
}

/// A container that Compose wants to end, or whose successor it wants to start.
#[derive(Clone, Debug)]
struct Wanted {
    call: CallId,
    starts: bool,
    old: String,
    /// The one that replaces it; none if there are to be fewer.
    new: Option<String>,
}

/// Compose at work, with what it was told so far.
#[derive(Clone, Debug)]
pub struct RollingUpdate {
    project: String,
    rolling: BTreeMap<String, RollingPlan>,
    batches: BTreeMap<String, Batches<Wanted>>,
    old: Vec<Old>,
    /// Services and containers that Compose may end in its own way.
    named: BTreeSet<String>,
    orphans: BTreeSet<String>,
    /// Services whose clients are redirected while their real containers are away.
    inside: BTreeSet<String>,
    /// New containers by the old ones that they replace.
    new_of: BTreeMap<String, String>,
    /// Services of new containers that replace nothing, by id, before they start and after.
    joining: BTreeMap<String, String>,
    joined: BTreeMap<String, String>,
    /// Old containers that may end.
    released: BTreeSet<String>,
    /// New containers that Compose has still to rename, with their services.
    to_rename: BTreeMap<String, String>,
    /// Old containers that are kept under another name.
    aside: BTreeSet<String>,
    /// Services that go back to the old version.
    back: BTreeSet<String>,
    /// What is under way, by the call that it was begun with.
    working: BTreeMap<CallId, (String, Work)>,
    /// Services whose next batch waits.
    delayed: BTreeSet<String>,
    /// Calls that are refused once nothing else is under way: Compose gives everything up at the first refusal.
    refusals: Vec<(CallId, String)>,
    compose_has_ended: bool,
    commands: Vec<Command>,
}

impl RollingUpdate {
    /// Nothing has been heard yet. `inside`: services whose clients are redirected to a stand-in meanwhile.
    pub fn new(plan: &Plan, observed: &Observation, inside: BTreeSet<String>) -> Self {
        let batches = plan.rolling.iter().map(|rolling| {
            let all = observed.of_service(&rolling.service).filter(|container| container.running).count();
            (rolling.service.clone(), Batches::new(rolling.update.clone(), all))
        });
        let old = observed.containers.iter().map(|one| Old {
            id: one.id.clone(),
            name: one.name.clone(),
            service: one.service.clone(),
            running: one.running,
        });
        let named = plan.services.iter().filter(|planned| planned.action != Action::Keep);
        Self {
            project: plan.project.clone(),
            rolling: plan.rolling.iter().map(|rolling| (rolling.service.clone(), rolling.clone())).collect(),
            batches: batches.collect(),
            old: old.collect(),
            named: named.map(|planned| planned.service.clone()).collect(),
            orphans: plan.remove_orphans.iter().cloned().collect(),
            inside,
            new_of: BTreeMap::new(),
            joining: BTreeMap::new(),
            joined: BTreeMap::new(),
            released: BTreeSet::new(),
            to_rename: BTreeMap::new(),
            aside: BTreeSet::new(),
            back: BTreeSet::new(),
            working: BTreeMap::new(),
            delayed: BTreeSet::new(),
            refusals: Vec::new(),
            compose_has_ended: false,
            commands: Vec::new(),
        }
    }

    /// Something has happened: what is to be done, in this order.
    pub fn on(&mut self, input: Input) -> Vec<Command> {
        match input {
            Input::Created { id, replaces: Some(old), .. } => drop(self.new_of.insert(old, id)),
            Input::Created { id, name, replaces: None } => {
                if let Some(service) = self.rolled_service_of(&name) {
                    self.joining.insert(id, service);
                }
            }
            Input::Renamed { id } => {
                if let Some(service) = self.to_rename.remove(&id) {
                    self.end_one(&service, true);
                }
            }
            Input::Held { call, container, wants: Wants::End(ending) } => self.held_ending(call, &container, ending),
            Input::Held { call, container, wants: Wants::Start } => self.held_start(call, container),
            Input::Held { call, container, wants: Wants::Rename } => {
                let by_compose = self.predecessor(&container).is_none();
                self.commands.push(if by_compose { Command::Pass(call) } else { Command::Done(call) });
            }
            Input::Ended { call, outcome } => self.ended(call, outcome),
            Input::DelayIsOver { service } => {
                self.delayed.remove(&service);
                if let Some(batches) = self.batches.get_mut(&service) {
                    batches.delay_is_over();
                }
                self.go_on(&service);
            }
            Input::ComposeEnded => self.compose_has_ended = true,
        }
        self.refuse_when_alone();
        std::mem::take(&mut self.commands)
    }

    /// The service of a container that was there when all began.
    pub fn service_of(&self, id: &str) -> Option<&str> {
        self.old_of(id).map(|old| old.service.as_str())
    }

    /// Old containers of services that are rolled, each with the one that Compose has made to replace it, but for those that are
    /// kept and go back.
    pub fn pairs(&self) -> Vec<(&str, &str)> {
        let rolled = |old: &str| self.service_of(old).filter(|service| self.rolling.contains_key(*service));
        let stays = |old: &str, service: &str| !(self.aside.contains(old) && self.back.contains(service));
        let pairs = self.new_of.iter().filter(|(old, _)| rolled(old).is_some_and(|service| stays(old, service)));
        pairs.map(|(old, new)| (old.as_str(), new.as_str())).collect()
    }

    /// What goes back once Compose has ended.
    pub fn goes_back(&self) -> Vec<GoesBack> {
        let kept = |service: &str| {
            let old = self.old.iter().filter(|old| old.service == service && self.aside.contains(&old.id));
            old.filter_map(|old| Some((old.id.clone(), self.new_of.get(&old.id)?.clone()))).collect()
        };
        let joined =
            |service: &str| self.joined.iter().filter(|(_, of)| *of == service).map(|(id, _)| id.clone()).collect();
        self.back
            .iter()
            .map(|service| GoesBack { service: service.clone(), replaced: kept(service), joined: joined(service) })
            .filter(|back| !back.replaced.is_empty() || !back.joined.is_empty())
            .collect()
    }

    fn held_start(&mut self, call: CallId, id: String) {
        if let Some(service) = self.joining.remove(&id) {
            self.hooks_are_done(&service);
            self.joined.insert(id.clone(), service.clone());
            let not_ready = self.joining.keys().chain(self.joined.keys()).cloned().collect();
            return self.begin(call, &service.clone(), Work::Join { new: id, service, not_ready });
        }
        let Some(old) = self.predecessor(&id).cloned() else { return self.held_start_of_another(call, &id) };
        self.hooks_are_done(&old.service);
        self.wanted(&old.service, Wanted { call, starts: true, old: old.id, new: Some(id) });
    }

    /// A container that is not rolled starts; one that a stand-in has stood in for is not reached before it is ready.
    fn held_start_of_another(&mut self, call: CallId, id: &str) {
        let replaced = self.new_of.iter().find(|(_, new)| *new == id);
        let service = replaced.and_then(|(old, _)| self.service_of(old)).filter(|it| self.inside.contains(*it));
        match service.map(str::to_owned) {
            Some(service) => self.begin(call, &service.clone(), Work::StartInside { service }),
            None => self.commands.push(Command::Pass(call)),
        }
    }

    fn held_ending(&mut self, call: CallId, id: &str, ending: Ending) {
        let Some(old) = self.old_of(id).cloned() else {
            return self.commands.push(Command::Refuse(call, "handover does not know this container".to_owned()));
        };
        if self.released.contains(&old.id) || !old.running {
            return self.held_ending_of_released(call, &old, ending);
        }
        if self.compose_starts_successor(&old) {
            return self.commands.push(Command::Done(call));
        }
        if self.batches.contains_key(&old.service) {
            let new = self.new_of.get(&old.id).cloned();
            return self.wanted(&old.service, Wanted { call, starts: false, old: old.id, new });
        }
        if self.named.contains(&old.service) || self.orphans.contains(&old.name) {
            return self.commands.push(Command::Pass(call));
        }
        self.commands.push(Command::Refuse(call, format!("Compose would also end {}", old.name)));
        self.commands.push(Command::NotNamed { container: old.name });
    }

    fn held_ending_of_released(&mut self, call: CallId, old: &Old, ending: Ending) {
        let removal = ending == Ending::Remove;
        match self.new_of.get(&old.id) {
            // One that is not replaced is through with its removal.
            None if removal => {
                self.commands.push(Command::Pass(call));
                self.end_one(&old.service, true);
            }
            Some(new) if removal && old.running && self.is_kept(&old.service) => {
                let name = name_aside(new, &old.name);
                self.begin(call, &old.service, Work::SetAside { old: old.id.clone(), name });
            }
            _ => self.commands.push(Command::Pass(call)),
        }
    }

    /// Compose wants a container of a service replaced or ended.
    fn wanted(&mut self, service: &str, wanted: Wanted) {
        if let Some(batches) = self.batches.get_mut(service) {
            batches.add(wanted);
            self.go_on(service);
        }
    }

    /// Begins what is next in a service.
    fn go_on(&mut self, service: &str) {
        if self.compose_has_ended {
            return;
        }
        let Some(batches) = self.batches.get_mut(service) else { return };
        match batches.what_next() {
            Next::Nothing => {}
            Next::Begin(all) => all.into_iter().for_each(|wanted| self.begin_replacing(service, wanted)),
            Next::Delay(seconds) => {
                self.delayed.insert(service.to_owned());
                self.commands.push(Command::Delay { service: service.to_owned(), seconds });
            }
            Next::GiveUp(all) => {
                let why = "a container before it has failed";
                self.refusals.extend(all.into_iter().map(|wanted| (wanted.call, why.to_owned())));
            }
        }
    }

    fn begin_replacing(&mut self, service: &str, Wanted { call, starts, old, new }: Wanted) {
        let rolling = self.rolling.get(service);
        let monitor = rolling.map_or(0.0, |rolling| rolling.update.monitor);
        let hooks = rolling.is_some_and(|rolling| rolling.compose_starts == Some(ComposeStarts::Hooks));
        let work = match new {
            Some(new) if starts => Work::ReplaceStarted { old, new, hooks, keep: self.is_kept(service) },
            Some(new) => Work::Replace { old, new, monitor },
            None => Work::Retire { old },
        };
        self.begin(call, service, work);
    }

    fn begin(&mut self, call: CallId, service: &str, work: Work) {
        self.working.insert(call, (service.to_owned(), work.clone()));
        self.commands.push(Command::Begin { call, work });
    }

    fn ended(&mut self, call: CallId, outcome: Result<(), String>) {
        let Some((service, work)) = self.working.remove(&call) else { return };
        match (work, outcome) {
            (Work::StartInside { .. }, _) | (Work::Join { .. }, Ok(())) => {}
            (Work::Join { .. }, Err(_)) => {
                if let Some(batches) = self.batches.get_mut(&service) {
                    batches.newcomer_failed();
                }
                self.note_way_back(&service);
                self.go_on(&service);
            }
            (Work::SetAside { old, .. }, Ok(())) => {
                self.aside.insert(old);
                self.commands.push(Command::Done(call));
            }
            (Work::SetAside { old, .. }, Err(why)) => {
                if let Some(new) = self.new_of.get(&old) {
                    self.to_rename.remove(new);
                }
                self.refusals.push((call, why));
                self.fail_one(&service);
            }
            (Work::ReplaceStarted { old, .. }, Ok(())) => {
                if self.is_kept(&service) {
                    self.aside.insert(old);
                }
                self.end_one(&service, true);
            }
            (Work::ReplaceStarted { .. }, Err(_)) => self.fail_one(&service),
            (Work::Replace { old, .. } | Work::Retire { old }, Ok(())) => {
                if let Some(new) = self.new_of.get(&old) {
                    self.to_rename.insert(new.clone(), service);
                }
                self.released.insert(old);
                self.commands.push(Command::Pass(call));
            }
            (Work::Replace { .. } | Work::Retire { .. }, Err(why)) => {
                self.refusals.push((call, why));
                self.fail_one(&service);
            }
        }
    }

    fn fail_one(&mut self, service: &str) {
        self.end_one(service, false);
        self.note_way_back(service);
    }

    /// If too many have failed, those that were replaced go back once Compose has ended.
    fn note_way_back(&mut self, service: &str) {
        if self.batches.get(service).is_some_and(Batches::goes_back) {
            self.back.insert(service.to_owned());
        }
    }

    fn end_one(&mut self, service: &str, well: bool) {
        if let Some(batches) = self.batches.get_mut(service) {
            batches.ended(well);
            self.go_on(service);
        }
    }

    /// Tells Compose what was not done, when nothing is under way that this would cut off.
    fn refuse_when_alone(&mut self) {
        if self.working.is_empty() && self.delayed.is_empty() && self.to_rename.is_empty() {
            self.commands.extend(self.refusals.drain(..).map(|(call, why)| Command::Refuse(call, why)));
        }
    }

    /// Compose starts one container of a service after the other, each when it is through with the one before.
    fn hooks_are_done(&mut self, service: &str) {
        self.commands.push(Command::HooksAreDone { service: service.to_owned() });
    }

    fn old_of(&self, id: &str) -> Option<&Old> {
        self.old.iter().find(|old| old.id == id)
    }

    /// The running container that a new one is to replace, where Compose starts the new one itself.
    fn predecessor(&self, new: &str) -> Option<&Old> {
        let (old, _) = self.new_of.iter().find(|(_, id)| *id == new)?;
        self.old_of(old).filter(|old| self.compose_starts_successor(old))
    }

    fn compose_starts_successor(&self, old: &Old) -> bool {
        let starts = self.rolling.get(&old.service).and_then(|rolling| rolling.compose_starts);
        old.running && starts.is_some() && self.new_of.contains_key(&old.id)
    }

    /// Whether those of a service that were replaced go back if others fail.
    fn is_kept(&self, service: &str) -> bool {
        self.rolling.get(service).is_some_and(|rolling| rolling.update.rolls_back())
    }

    /// The service that is rolled and that a new container without a predecessor belongs to, by Compose's way to name them.
    fn rolled_service_of(&self, name: &str) -> Option<String> {
        let beginning = |service: &&String, separator: char| {
            let prefix = format!("{}{separator}{service}{separator}", self.project);
            name.strip_prefix(&prefix).is_some_and(|number| number.parse::<u32>().is_ok())
        };
        self.batches.keys().find(|service| beginning(service, '-') || beginning(service, '_')).cloned()
    }
}

#[cfg(test)]
#[path = "rolling_update_tests.rs"]
mod tests;
