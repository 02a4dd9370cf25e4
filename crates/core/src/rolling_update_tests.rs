use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;
use crate::plan::Request;
use crate::plan::fixtures::{checked_plan, new_image, parse, settled};

/// The machine, and the calls that Compose has made so far.
struct Conversation {
    machine: RollingUpdate,
    calls: CallId,
}

impl Conversation {
    /// Service app with so many containers and these keys besides, all of whose containers are to be replaced, and a worker that
    /// nobody touches.
    fn of(replicas: u32, more: &str) -> Self {
        Self::scaled(replicas, replicas, more, true)
    }

    fn scaled(from: u32, to: u32, more: &str, changed: bool) -> Self {
        let project = |scale: u32| {
            parse(&format!(
                r#"{{"name":"p","services":{{
                  "app":{{"image":"app:1","scale":{scale},"labels":{{"traefik.enable":"true"}},"networks":{{"default":null}}{more}}},
                  "worker":{{"image":"worker:1","networks":{{"other":null}}}}}},
                  "networks":{{"default":{{"name":"d"}},"other":{{"name":"o"}}}}}}"#
            ))
        };
        let mut observed = settled(&project(from));
        if changed {
            new_image(&mut observed, "app:1");
        }
        for container in &mut observed.containers {
            container.id = format!("{}{}", container.service, container.number);
        }
        let plan = checked_plan(&project(to), &observed, &Request::default());
        assert_eq!(plan.refusals, []);
        assert_eq!(plan.rolling.len(), 1);
        Self { machine: RollingUpdate::new(&plan, &observed, BTreeSet::new()), calls: 0 }
    }

    fn on(&mut self, input: Input) -> Vec<String> {
        self.machine.on(input).iter().map(printed).collect()
    }

    /// Compose makes the container that is to replace one.
    fn creates(&mut self, new: &str, old: &str) {
        let (id, name, replaces) = (new.to_owned(), format!("{old}_p-app-1"), Some(old.to_owned()));
        assert_eq!(self.on(Input::Created { id, name, replaces }), Vec::<String>::new());
    }

    /// Compose wants something of a container; the number of its call is one more than that of the last.
    fn wants(&mut self, container: &str, wants: Wants) -> Vec<String> {
        self.calls += 1;
        self.on(Input::Held { call: self.calls, container: container.to_owned(), wants })
    }

    fn stops(&mut self, container: &str) -> Vec<String> {
        self.wants(container, Wants::End(Ending::Stop))
    }

    fn removes(&mut self, container: &str) -> Vec<String> {
        self.wants(container, Wants::End(Ending::Remove))
    }

    fn well(&mut self, call: CallId) -> Vec<String> {
        self.on(Input::Ended { call, outcome: Ok(()) })
    }

    fn fails(&mut self, call: CallId) -> Vec<String> {
        self.on(Input::Ended { call, outcome: Err("unhealthy".to_owned()) })
    }

    fn renames(&mut self, id: &str) -> Vec<String> {
        self.on(Input::Renamed { id: id.to_owned() })
    }
}

fn printed(command: &Command) -> String {
    match command {
        Command::Pass(call) => format!("pass {call}"),
        Command::Done(call) => format!("done {call}"),
        Command::Refuse(call, why) => format!("refuse {call}: {why}"),
        Command::NotNamed { container } => format!("not named: {container}"),
        Command::Delay { service, seconds } => format!("delay {service} {seconds}"),
        Command::HooksAreDone { service } => format!("hooks done {service}"),
        Command::Begin { call, work } => {
            let work = match work {
                Work::Replace { old, new, monitor } => format!("replace {old} by {new}, watch {monitor}"),
                Work::ReplaceStarted { old, new, hooks, keep } => {
                    format!("replace {old} by started {new}, hooks {hooks}, keep {keep}")
                }
                Work::Retire { old } => format!("retire {old}"),
                Work::SetAside { old, name } => format!("set {old} aside as {name}"),
                Work::Join { new, not_ready, .. } => format!("join {new}, not ready {}", not_ready.len()),
                Work::StartInside { service } => format!("start inside {service}"),
            };
            format!("{call}: {work}")
        }
    }
}

#[test]
fn an_old_container_ends_when_its_successor_has_the_traffic() {
    let mut one = Conversation::of(1, r#","deploy":{"update_config":{"monitor":"2s"}}"#);
    one.creates("new1", "app1");
    assert_eq!(one.stops("app1"), ["1: replace app1 by new1, watch 2"]);
    assert_eq!(one.well(1), ["pass 1"]);
    assert_eq!(one.removes("app1"), ["pass 2"]);
    assert_eq!(one.wants("new1", Wants::Rename), ["pass 3"]);
    assert_eq!(one.renames("new1"), Vec::<String>::new());
    assert_eq!(one.machine.pairs(), [("app1", "new1")]);
    assert_eq!(one.machine.goes_back(), []);
}

#[test]
fn one_is_replaced_after_the_other_each_when_the_one_before_has_its_name() {
    let mut two = Conversation::of(2, r#","deploy":{"update_config":{"delay":"3s"}}"#);
    two.creates("new1", "app1");
    two.creates("new2", "app2");
    assert_eq!(two.stops("app1"), ["1: replace app1 by new1, watch 0"]);
    assert_eq!(two.stops("app2"), Vec::<String>::new());
    assert_eq!(two.well(1), ["pass 1"]);
    assert_eq!(two.removes("app1"), ["pass 3"]);
    assert_eq!(two.renames("new1"), ["delay app 3"]);
    assert_eq!(two.on(Input::DelayIsOver { service: "app".to_owned() }), ["2: replace app2 by new2, watch 0"]);
}

#[test]
fn after_a_failure_the_others_stay_and_compose_hears_it_when_nothing_else_is_under_way() {
    let mut three = Conversation::of(3, r#","deploy":{"update_config":{"parallelism":2}}"#);
    for number in 1..=3 {
        three.creates(&format!("new{number}"), &format!("app{number}"));
    }
    assert_eq!(three.stops("app1").len() + three.stops("app2").len(), 2);
    assert_eq!(three.stops("app3"), Vec::<String>::new());
    assert_eq!(three.fails(1), Vec::<String>::new(), "the second is under way: a refusal now would cut it off");
    assert_eq!(three.well(2), ["pass 2"]);
    assert_eq!(three.removes("app2"), ["pass 4"]);
    assert_eq!(three.renames("new2"), ["refuse 1: unhealthy", "refuse 3: a container before it has failed"]);
    assert_eq!(three.machine.goes_back(), []);
}

#[test]
fn what_may_have_to_go_back_is_kept_and_goes_back_after_a_failure() {
    let mut two = Conversation::of(2, r#","deploy":{"update_config":{"failure_action":"rollback"}}"#);
    two.creates("new1-0123456789", "app1");
    two.creates("new2-0123456789", "app2");
    assert_eq!(two.stops("app1").len(), 1);
    assert_eq!(two.stops("app2"), Vec::<String>::new());
    assert_eq!(two.well(1), ["pass 1"]);
    assert_eq!(two.removes("app1"), ["3: set app1 aside as new1-0123456_p-app-1"]);
    assert_eq!(two.well(3), ["done 3"]);
    assert_eq!(two.renames("new1-0123456789"), ["2: replace app2 by new2-0123456789, watch 0"]);
    assert_eq!(two.fails(2), ["refuse 2: unhealthy"]);
    let replaced = vec![("app1".to_owned(), "new1-0123456789".to_owned())];
    assert_eq!(two.machine.goes_back(), [GoesBack { service: "app".to_owned(), replaced, joined: vec![] }]);
    assert_eq!(two.machine.pairs(), [("app2", "new2-0123456789")], "the kept one is not put right, but put back");
}

#[test]
fn of_fewer_containers_those_that_go_are_retired_and_those_that_are_more_join() {
    let mut fewer = Conversation::scaled(2, 1, "", false);
    assert_eq!(fewer.stops("app2"), ["1: retire app2"]);
    assert_eq!(fewer.well(1), ["pass 1"]);
    assert_eq!(fewer.removes("app2"), ["pass 2"]);

    let mut more = Conversation::scaled(1, 2, "", false);
    let created = |name: &str| Input::Created { id: "more".to_owned(), name: name.to_owned(), replaces: None };
    assert_eq!(more.on(created("p-app-2")), Vec::<String>::new());
    assert_eq!(more.wants("more", Wants::Start), ["hooks done app", "1: join more, not ready 1"]);
    assert_eq!(more.well(1), Vec::<String>::new());

    let mut other = Conversation::scaled(1, 2, "", false);
    assert_eq!(other.on(created("p-worker-2")), Vec::<String>::new());
    assert_eq!(other.wants("more", Wants::Start), ["pass 1"], "it is not of a service that is rolled");
}

#[test]
fn where_compose_starts_the_new_one_it_hears_at_once_that_the_old_one_is_gone() {
    let mut one = Conversation::of(1, r#","post_start":[{"command":["x"]}]"#);
    one.creates("new1", "app1");
    assert_eq!(one.stops("app1"), ["done 1"]);
    assert_eq!(one.removes("app1"), ["done 2"]);
    assert_eq!(one.wants("new1", Wants::Rename), ["done 3"]);
    let begun = one.wants("new1", Wants::Start);
    assert_eq!(begun, ["hooks done app", "4: replace app1 by started new1, hooks true, keep false"]);
    assert_eq!(one.well(4), Vec::<String>::new());
}

#[test]
fn what_the_plan_does_not_name_is_not_ended() {
    let mut one = Conversation::of(1, "");
    assert_eq!(one.stops("worker1"), ["refuse 1: Compose would also end p-worker-1", "not named: p-worker-1"]);
    assert_eq!(one.stops("stranger"), ["refuse 2: handover does not know this container"]);
}

#[test]
fn when_compose_has_ended_nothing_new_is_begun() {
    let mut two = Conversation::of(2, "");
    two.creates("new1", "app1");
    two.creates("new2", "app2");
    assert_eq!(two.stops("app1").len(), 1);
    two.stops("app2");
    assert_eq!(two.on(Input::ComposeEnded), Vec::<String>::new());
    assert_eq!(two.fails(1), ["refuse 1: unhealthy"]);
    assert_eq!(two.renames("new1"), Vec::<String>::new());
}

/// How far Compose is with one container.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Created,
    Stopping(CallId),
    Stopped,
    Removing(CallId),
    Removed,
    Renaming(CallId),
    Renamed,
    Starting(CallId),
    /// It is replaced, or its replacement has failed while Compose went on.
    Over,
}

impl Stage {
    fn waits_for(self, answered: CallId) -> bool {
        matches!(self, Self::Stopping(call) | Self::Removing(call) | Self::Renaming(call) | Self::Starting(call) if call == answered)
    }

    /// Its call has been answered well.
    fn answered(self) -> Self {
        match self {
            Self::Stopping(_) => Self::Stopped,
            Self::Removing(_) => Self::Removed,
            Self::Renaming(_) => Self::Renamed,
            Self::Starting(_) => Self::Over,
            other => other,
        }
    }
}

/// Compose at work on all containers side by side.
struct World {
    talk: Conversation,
    parallelism: usize,
    /// Compose starts the new containers itself.
    starts: bool,
    stages: Vec<Stage>,
    working: Vec<(CallId, Work)>,
    delayed: bool,
    refused: bool,
    /// Old containers that have been replaced.
    well: BTreeSet<String>,
    /// Calls that wait.
    open: BTreeSet<CallId>,
}

impl World {
    fn new(replicas: usize, parallelism: usize, action: &str, starts: bool) -> Self {
        let hooks = if starts { r#","post_start":[{"command":["x"]}]"# } else { "" };
        let config = format!(
            r#"{hooks},"deploy":{{"update_config":{{"parallelism":{parallelism},"failure_action":"{action}","delay":"1s"}}}}"#
        );
        let mut talk = Conversation::of(u32::try_from(replicas).unwrap(), &config);
        for number in 1..=replicas {
            talk.creates(&format!("new{number}"), &format!("app{number}"));
        }
        let (working, delayed, refused, well, open) = Default::default();
        let stages = vec![Stage::Created; replicas];
        Self { talk, parallelism, starts, stages, working, delayed, refused, well, open }
    }

    /// Containers that Compose can go on with. It gives all up at the first refusal.
    fn free(&self) -> Vec<usize> {
        let ready = |stage: &Stage| {
            matches!(stage, Stage::Created | Stage::Stopped | Stage::Removed | Stage::Renamed) && !self.refused
        };
        (0..self.stages.len()).filter(|number| ready(&self.stages[*number])).collect()
    }

    /// What happens next, of all that may; none when nothing does.
    fn next(&mut self, choice: u8) -> Option<Input> {
        let free = self.free();
        let possible = self.working.len() + usize::from(self.delayed) + free.len();
        let pick = usize::from(choice / 4).checked_rem(possible)?;
        if pick < self.working.len() {
            return Some(self.end_work(pick, choice % 4 == 3));
        }
        if self.delayed && pick == self.working.len() {
            self.delayed = false;
            return Some(Input::DelayIsOver { service: "app".to_owned() });
        }
        Some(self.compose_goes_on(free[pick - self.working.len() - usize::from(self.delayed)]))
    }

    fn end_work(&mut self, pick: usize, fails: bool) -> Input {
        let (call, work) = self.working.remove(pick);
        match work {
            Work::Replace { old, .. } if !fails => drop(self.well.insert(old)),
            Work::ReplaceStarted { old, .. } => {
                // The work answers the call in any case.
                let number = self.stages.iter().position(|stage| stage.waits_for(call)).expect("it is Compose's call");
                self.stages[number] = Stage::Over;
                self.well.extend((!fails).then_some(old));
            }
            _ => {}
        }
        Input::Ended { call, outcome: if fails { Err("failed".to_owned()) } else { Ok(()) } }
    }

    fn compose_goes_on(&mut self, number: usize) -> Input {
        let (old, new) = (format!("app{}", number + 1), format!("new{}", number + 1));
        if self.stages[number] == Stage::Removed && !self.starts {
            self.stages[number] = Stage::Over;
            return Input::Renamed { id: new };
        }
        self.talk.calls += 1;
        let call = self.talk.calls;
        let (stage, container, wants) = match self.stages[number] {
            Stage::Created => (Stage::Stopping(call), old, Wants::End(Ending::Stop)),
            Stage::Stopped => (Stage::Removing(call), old, Wants::End(Ending::Remove)),
            Stage::Removed => (Stage::Renaming(call), new, Wants::Rename),
            _ => (Stage::Starting(call), new, Wants::Start),
        };
        self.stages[number] = stage;
        self.open.insert(call);
        Input::Held { call, container, wants }
    }

    fn carry_out(&mut self, command: Command) -> Result<(), TestCaseError> {
        match command {
            Command::Pass(call) | Command::Done(call) => {
                prop_assert!(self.open.remove(&call), "call {call} is answered twice");
                let number = self.stages.iter().position(|stage| stage.waits_for(call));
                let number = number.expect("it is one of Compose's calls");
                let old = format!("app{}", number + 1);
                let ends = matches!(self.stages[number], Stage::Stopping(_) | Stage::Removing(_));
                let passed = matches!(command, Command::Pass(_));
                // Where Compose starts the new one it only believes that the old one has ended.
                let may_end = if self.starts { !passed } else { self.well.contains(&old) };
                prop_assert!(!ends || may_end, "{old} ends, and nothing has replaced it");
                self.stages[number] = self.stages[number].answered();
            }
            Command::Refuse(call, _) => {
                prop_assert!(self.open.remove(&call), "call {call} is answered twice");
                prop_assert!(self.working.is_empty(), "a refusal cuts off {:?}", self.working);
                self.refused = true;
            }
            Command::Begin { call, work } => {
                prop_assert!(!self.refused, "{work:?} begins after a refusal");
                if work.answers() {
                    prop_assert!(self.open.remove(&call), "call {call} is answered twice");
                }
                self.working.push((call, work));
                let sets_aside = |work: &Work| matches!(work, Work::SetAside { .. });
                let replacing = self.working.iter().filter(|(_, work)| !sets_aside(work)).count();
                prop_assert!(replacing <= self.parallelism, "{replacing} at once");
            }
            Command::Delay { .. } => self.delayed = true,
            Command::HooksAreDone { .. } => prop_assert!(self.starts),
            Command::NotNamed { .. } => prop_assert!(false, "{command:?}"),
        }
        Ok(())
    }
}

/// In an order and with failures as `choices` say.
fn converse(mut world: World, choices: &[u8]) -> Result<(), TestCaseError> {
    for choice in choices.iter().copied().chain(std::iter::repeat_n(0, 200)) {
        let Some(input) = world.next(choice) else { break };
        for command in world.talk.machine.on(input) {
            world.carry_out(command)?;
        }
    }
    let World { open, refused, stages, .. } = &world;
    prop_assert!(open.is_empty() || *refused, "calls {open:?} wait for ever: {stages:?}");
    let all = stages.iter().all(|stage| *stage == Stage::Over);
    prop_assert!(all || *refused, "it ends with {stages:?}");
    let back = world.talk.machine.goes_back();
    let replaced = back.iter().flat_map(|back| &back.replaced).map(|(old, _)| old);
    prop_assert!(replaced.clone().all(|old| world.well.contains(old)), "{back:?} go back, and were not replaced");
    Ok(())
}

#[test]
fn whatever_comes_in_whatever_order_nothing_ends_without_a_successor_and_nothing_waits_for_ever() {
    let config = Config { cases: Config::default().cases.max(1000), failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let actions = prop_oneof![Just("pause"), Just("continue"), Just("rollback")];
    let inputs = (1..=4usize, 1..=3usize, actions, any::<bool>(), prop::collection::vec(any::<u8>(), 0..60));
    let outcome = runner.run(&inputs, |(replicas, parallelism, action, starts, choices)| {
        converse(World::new(replicas, parallelism, action, starts), &choices)
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
