//! Services with several containers: never more at once than agreed, and as many afterwards as wanted.

use std::collections::BTreeSet;

use crate::harness::proxies::{HEALTHCHECK, LABELS, app, behind_traefik};
use crate::harness::{Finished, Running, Stack, get, inspect, wait_until};
use crate::rolling::{requests, rolled};

/// Listens to which containers of `app` run.
struct Watch {
    events: Running,
    running: BTreeSet<String>,
}

impl Watch {
    fn begin(stack: &Stack) -> Self {
        let ids = stack.container_ids();
        let running = ids.into_iter().filter(|(name, _)| name.contains("-app-")).map(|(_, id)| id).collect();
        let since = stack.command("date").args(["+%s.%N"]).output().expect("coreutils");
        let mut command = stack.command("docker");
        command.args(["events", "--since", String::from_utf8_lossy(&since.stdout).trim()]);
        for filter in ["project", "service"] {
            let value = if filter == "project" { &stack.name } else { "app" };
            command.args(["--filter", &format!("label=com.docker.compose.{filter}={value}")]);
        }
        command.args(["--filter", "event=start", "--filter", "event=die", "--format", "{{.Action}} {{.ID}}"]);
        Self { events: Running::start(command), running }
    }

    /// How many ran at once at most.
    #[track_caller]
    fn most(self) -> usize {
        self.events.signal("TERM");
        let mut running = self.running;
        let mut most = running.len();
        for line in self.events.finish().stdout.lines() {
            match line.split_once(' ') {
                Some(("start", id)) => running.insert(id.to_owned()),
                Some(("die", id)) => running.remove(id),
                _ => false,
            };
            most = most.max(running.len());
        }
        most
    }
}

/// A stack behind Traefik with so many containers and these lines of `update_config`, that runs.
fn replicas(name: &str, count: usize, update: &str) -> Stack {
    let deploy = format!("    deploy:\n      replicas: ${{REPLICAS}}\n      update_config: {{ {update} }}\n");
    let mut stack = behind_traefik(name, &app(&[("LAB_BOOT_MS", "200")], &[LABELS, HEALTHCHECK, &deploy]));
    stack.set("REPLICAS", &count.to_string());
    stack.start();
    stack
}

/// Names of the containers of `app`, without the project.
fn names(stack: &Stack) -> Vec<String> {
    let own = |name: &String| name.strip_prefix(&format!("{}-app-", stack.name)).map(str::to_owned);
    stack.container_ids().keys().filter_map(own).collect()
}

/// Deploys under load; nobody notices, and at most so many run at once.
#[track_caller]
fn nobody_notices(stack: &mut Stack, most: usize) -> (Vec<String>, Finished) {
    let watch = Watch::begin(stack);
    let streams = requests(stack);
    let (report, finished) = stack.hand_over(streams, &[]);
    report.assert_nothing_noticed();
    rolled(&finished);
    let seen = watch.most();
    assert!(seen <= most, "{seen} ran at once\n{finished}");
    (names(stack), finished)
}

#[test]
fn one_more_than_before_runs_when_they_are_replaced_one_by_one() {
    let mut stack = replicas("roll-one", 3, "parallelism: 1");
    assert_eq!(nobody_notices(&mut stack, 4).0, ["1", "2", "3"]);
}

#[test]
fn two_more_run_when_two_are_replaced_at_once() {
    let mut stack = replicas("roll-two", 3, "parallelism: 2");
    assert_eq!(nobody_notices(&mut stack, 5).0, ["1", "2", "3"]);
}

#[test]
fn the_delay_between_one_and_the_next_is_kept() {
    let mut stack = replicas("roll-delay", 2, "parallelism: 1, delay: 3s");
    let (names, finished) = nobody_notices(&mut stack, 3);
    assert_eq!(names, ["1", "2"]);
    let switched = |event: &serde_json::Value| (event["event"] == "switched").then(|| event["at_s"].as_f64())?;
    let at: Vec<f64> = finished.events().iter().filter_map(switched).collect();
    assert_eq!(at.len(), 2, "{finished}");
    assert!(at[1] - at[0] > 3.0, "{at:?}\n{finished}");
}

#[test]
fn more_containers_with_a_new_version() {
    let mut stack = replicas("roll-more", 2, "parallelism: 1");
    stack.set("REPLICAS", "4");
    assert_eq!(nobody_notices(&mut stack, 5).0, ["1", "2", "3", "4"]);
}

/// A stack behind Traefik whose containers have no health check and listen only after two seconds: who reaches one earlier, fails.
fn slow(name: &str, count: usize, update: &str) -> Stack {
    let deploy = format!("    deploy:\n      replicas: ${{REPLICAS}}\n      update_config: {{ {update} }}\n");
    let mut stack = behind_traefik(name, &app(&[("LAB_BOOT_MS", "2000")], &[LABELS, &deploy]));
    stack.set("REPLICAS", &count.to_string());
    stack.start();
    stack
}

#[test]
fn more_containers_with_a_new_version_that_boots_slowly() {
    let mut stack = slow("roll-more-slow", 1, "parallelism: 1");
    stack.set("REPLICAS", "3");
    assert_eq!(nobody_notices(&mut stack, 4).0, ["1", "2", "3"]);
}

#[test]
fn more_containers_that_boot_slowly_get_no_request_before_they_listen() {
    let mut stack = slow("roll-number-slow", 1, "parallelism: 1");
    let load = stack.load(requests(&stack));
    stack.set("REPLICAS", "3");
    let finished = stack.up(&["--output", "json"]).expect_success();
    load.stop().assert_nothing_noticed();
    assert_eq!(names(&stack), ["1", "2", "3"], "{finished}");
    stack.assert_done();
}

#[test]
fn one_of_more_that_never_listens_is_removed_again() {
    let mut stack = slow("roll-number-mute", 1, "parallelism: 1");
    let first = stack.container_id("app");
    let load = stack.load(requests(&stack));
    stack.set("REPLICAS", "2");
    let finished = stack.up(&["--output", "json", "--gate-timeout", "1s"]).expect_code(1);
    load.stop().assert_nothing_noticed();
    assert_eq!((names(&stack), stack.container_id("app")), (vec!["1".to_owned()], first), "{finished}");
    stack.assert_nothing_left();
}

#[test]
fn twenty_containers() {
    let deploy = "    deploy: { replicas: 20, update_config: { parallelism: 5 } }\n";
    let mut stack = behind_traefik("roll-twenty", &app(&[("LAB_BOOT_MS", "200")], &[LABELS, deploy]));
    stack.start();
    // One that answers is enough for Traefik to answer; without a health check it calls the others, too.
    for container in names(&stack) {
        let networks = inspect(&format!("{}-app-{container}", stack.name))["NetworkSettings"]["Networks"].clone();
        let address = networks[format!("{}_default", stack.name)]["IPAddress"].as_str().expect("an address").to_owned();
        wait_until("all of them listen", || get(&format!("{address}:80"), "/").is_some());
    }
    let (names, finished) = nobody_notices(&mut stack, 25);
    assert_eq!(names.len(), 20, "{finished}");
    eprintln!("twenty containers: done after {} s", finished.event("proof")["done_s"]);
}

#[test]
fn fewer_containers_with_a_new_version() {
    let mut stack = replicas("roll-fewer", 3, "parallelism: 1");
    stack.set("REPLICAS", "1");
    // Which one stays is Compose's choice when all have changed.
    assert_eq!(nobody_notices(&mut stack, 4).0.len(), 1);
}

#[test]
fn another_number_of_containers_alone() {
    let mut stack = replicas("roll-number", 1, "parallelism: 1");
    for (count, after) in [("3", &["1", "2", "3"][..]), ("1", &["1"])] {
        let first = stack.container_id("app");
        let load = stack.load(requests(&stack));
        stack.set("REPLICAS", count);
        let finished = stack.up(&["--output", "json"]).expect_success();
        load.stop().assert_nothing_noticed();
        assert_eq!(finished.event("plan")["services"][0]["action"], "scale", "{finished}");
        stack.assert_done();
        assert_eq!(names(&stack), after, "{finished}");
        assert_eq!(stack.container_id("app"), first, "the one that stays was touched");
    }
}
