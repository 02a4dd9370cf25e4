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
    Replaced,
}

/// Compose at work on all containers side by side, in an order and with failures as `choices` say.
fn converse(replicas: usize, parallelism: usize, action: &str, choices: &[u8]) -> Result<(), TestCaseError> {
    let config = format!(
        r#","deploy":{{"update_config":{{"parallelism":{parallelism},"failure_action":"{action}","delay":"1s"}}}}"#
    );
    let mut talk = Conversation::of(u32::try_from(replicas).unwrap(), &config);
    let mut stages = vec![Stage::Created; replicas];
    for number in 1..=replicas {
        talk.creates(&format!("new{number}"), &format!("app{number}"));
    }
    let (mut working, mut delayed, mut refused): (Vec<(CallId, Work)>, bool, bool) = Default::default();
    let mut well: BTreeSet<String> = BTreeSet::new();
    let mut open: BTreeSet<CallId> = BTreeSet::new();
    for choice in choices.iter().copied().chain(std::iter::repeat_n(0, 200)) {
        // Work under way, the delay, and containers that Compose can go on with. It gives all up at the first refusal.
        let ready = |stage: &Stage| matches!(stage, Stage::Created | Stage::Stopped | Stage::Removed) && !refused;
        let free: Vec<usize> = (0..replicas).filter(|number| ready(&stages[*number])).collect();
        let possible = working.len() + usize::from(delayed) + free.len();
        if possible == 0 {
            break;
        }
        let pick = usize::from(choice / 4) % possible;
        let input = if let Some((call, work)) = working.get(pick).cloned() {
            working.remove(pick);
            let failed = choice % 4 == 3;
            if let (false, Work::Replace { old, .. }) = (failed, &work) {
                well.insert(old.clone());
            }
            Input::Ended { call, outcome: if failed { Err("failed".to_owned()) } else { Ok(()) } }
        } else if delayed && pick == working.len() {
            delayed = false;
            Input::DelayIsOver { service: "app".to_owned() }
        } else {
            let number = free[pick - working.len() - usize::from(delayed)];
            let container = format!("app{}", number + 1);
            talk.calls += 1;
            let call = talk.calls;
            let ending = match stages[number] {
                Stage::Created => Ending::Stop,
                _ => Ending::Remove,
            };
            match stages[number] {
                Stage::Created => stages[number] = Stage::Stopping(call),
                Stage::Stopped => stages[number] = Stage::Removing(call),
                _ => stages[number] = Stage::Replaced,
            }
            if stages[number] == Stage::Replaced {
                Input::Renamed { id: format!("new{}", number + 1) }
            } else {
                open.insert(call);
                Input::Held { call, container, wants: Wants::End(ending) }
            }
        };
        for command in talk.machine.on(input) {
            match command {
                Command::Pass(call) | Command::Done(call) => {
                    prop_assert!(open.remove(&call), "call {call} is answered twice");
                    let number =
                        stages.iter().position(|it| [Stage::Stopping(call), Stage::Removing(call)].contains(it));
                    let number = number.expect("it is one of Compose's calls");
                    let old = format!("app{}", number + 1);
                    prop_assert!(well.contains(&old), "{old} ends, and nothing has replaced it");
                    stages[number] =
                        if stages[number] == Stage::Stopping(call) { Stage::Stopped } else { Stage::Removed };
                }
                Command::Refuse(call, _) => {
                    prop_assert!(open.remove(&call), "call {call} is answered twice");
                    prop_assert!(working.is_empty(), "a refusal cuts off {working:?}");
                    refused = true;
                }
                Command::Begin { call, work } => {
                    prop_assert!(!refused, "{work:?} begins after a refusal");
                    working.push((call, work));
                    let replacing = working.iter().filter(|(_, work)| matches!(work, Work::Replace { .. })).count();
                    prop_assert!(replacing <= parallelism, "{replacing} at once");
                }
                Command::Delay { .. } => delayed = true,
                Command::NotNamed { .. } | Command::HooksAreDone { .. } => prop_assert!(false, "{command:?}"),
            }
        }
    }
    prop_assert!(open.is_empty() || refused, "calls {open:?} wait for ever: {stages:?}");
    let all = stages.iter().all(|stage| *stage == Stage::Replaced);
    prop_assert!(all || refused, "it ends with {stages:?}");
    Ok(())
}

#[test]
fn whatever_comes_in_whatever_order_nothing_ends_without_a_successor_and_nothing_waits_for_ever() {
    let config = Config { cases: Config::default().cases.max(1000), failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let actions = prop_oneof![Just("pause"), Just("continue"), Just("rollback")];
    let inputs = (1..=4usize, 1..=3usize, actions, prop::collection::vec(any::<u8>(), 0..60));
    let outcome = runner
        .run(&inputs, |(replicas, parallelism, action, choices)| converse(replicas, parallelism, action, &choices));
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
