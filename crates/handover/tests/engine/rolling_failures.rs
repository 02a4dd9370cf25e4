//! Rolling that does not come to its end: the old containers serve on, and everything is named as before.

use handover_lab::load::Kind;

use crate::harness::proxies::{HEALTHCHECK, LABELS, TRAEFIK, app, behind_traefik};
use crate::harness::{Finished, Running, SOON, Stack, assert_few_retries, docker, finish};
use crate::rolling::{requests, rolled};

/// The compose file of a service behind Traefik.
pub(crate) fn file(environment: &[(&str, &str)], keys: &[&str]) -> String {
    format!("services:{TRAEFIK}{}", app(environment, &[&[LABELS, HEALTHCHECK], keys].concat()))
}

/// A stack with one, that runs.
pub(crate) fn running(name: &str, keys: &[&str]) -> Stack {
    let stack = behind_traefik(name, "");
    stack.compose_file(&file(&[], keys));
    stack.start();
    stack
}

/// Deploys a v2 that is no good, under load: the old version serves on, untouched, and a good one can be deployed afterwards.
#[track_caller]
pub(crate) fn refused(stack: &mut Stack, bad: &str, good: &str, args: &[&str], live: bool) -> Finished {
    let untouched = stack.untouched();
    let load = stack.load(requests(stack));
    stack.set("VERSION", "v2");
    stack.compose_file(bad);
    let finished = stack.up(&[&["--output", "json"], args].concat());
    load.mark("after");
    let more = load.progress().total.ok + 50;
    let goes_on = load.wait_for(SOON, |progress| progress.total.ok > more);
    let report = load.stop();
    let finished = finished.expect_code(1);
    rolled(&finished);
    assert!(goes_on, "{}\n{finished}", report.table());
    if let Some(failures) = report.failures() {
        panic!("{failures}\n{finished}");
    }
    report.assert_nothing_noticed();
    assert_eq!(report.first_seen("v2").is_some(), live, "{}\n{finished}", report.table());
    untouched();
    stack.assert_nothing_left();
    stack.compose_file(good);
    let streams = [stack.stream(Kind::New, 20.0)];
    stack.hand_over(streams, &[]).0.assert_nothing_noticed();
    finished
}

#[test]
fn a_version_that_exits_at_once_is_removed_again() {
    let mut stack = running("rollfail-exits", &[]);
    let bad = file(&[("LAB_EXIT_AFTER_MS", "0"), ("LAB_EXIT_CODE", "3")], &[]);
    let finished = refused(&mut stack, &bad, &file(&[], &[]), &[], false);
    assert!(finished.stderr.contains("stopped with code 3"), "no log lines\n{finished}");
}

#[test]
fn a_version_that_the_engine_refuses_to_start_is_removed_again() {
    let mut stack = running("rollfail-start", &[]);
    let bad = file(&[], &["    entrypoint: [\"/no-such-program\"]\n"]);
    let finished = refused(&mut stack, &bad, &file(&[], &[]), &[], false);
    finished.expect_says("a container of app could not be started").expect_says("no-such-program");
}

#[test]
fn a_version_that_never_gets_healthy_is_removed_after_the_gate_timeout() {
    let mut stack = running("rollfail-never", &[]);
    let slow = HEALTHCHECK.replace("retries: 3", "retries: 100");
    let bad = file(&[("LAB_READY_AFTER_MS", "1000000")], &[]).replace(HEALTHCHECK, &slow);
    let finished = refused(&mut stack, &bad, &file(&[], &[]), &["--gate-timeout", "3s"], false);
    assert!(finished.stderr.contains("not ready after 3s"), "{finished}");
}

#[test]
fn a_version_that_turns_unhealthy_while_it_is_watched_is_taken_back() {
    let watched = "    deploy: { update_config: { monitor: 20s } }\n";
    let mut stack = running("rollfail-turns", &[watched]);
    let bad = file(&[("LAB_UNHEALTHY_AFTER_MS", "2500")], &[watched]);
    let good = file(&[], &["    deploy: { update_config: { monitor: 1s } }\n"]);
    let finished = refused(&mut stack, &bad, &good, &[], true);
    assert!(finished.stderr.contains("unhealthy"), "{finished}");
}

#[test]
fn a_version_that_dies_while_it_is_watched_is_taken_back() {
    let watched = "    deploy: { update_config: { monitor: 20s } }\n";
    let mut stack = running("rollfail-dies", &[watched]);
    let bad = file(&[("LAB_EXIT_AFTER_MS", "5000"), ("LAB_EXIT_CODE", "3")], &[watched]);
    let good = file(&[], &["    deploy: { update_config: { monitor: 1s } }\n"]);
    let untouched = stack.untouched();
    let load = stack.load(requests(&stack));
    stack.set("VERSION", "v2");
    stack.compose_file(&bad);
    let finished = stack.up(&["--output", "json"]).expect_code(1);
    // What was under way with it is lost with it; nothing after that is.
    load.mark("after");
    let more = load.progress().total.ok + 100;
    let goes_on = load.wait_for(SOON, |progress| progress.total.ok > more);
    let report = load.stop();
    assert!(goes_on, "{}\n{finished}", report.table());
    rolled(&finished);
    let gap = |name: &str| report.stream(name).expect("it is in the load").total.longest_gap_ms;
    assert!(gap("new") < 1000.0 && gap("keepalive") < 1000.0, "{}\n{finished}", report.table());
    let after = report.total_by_phase.iter().find(|stats| stats.phase == "after").expect("it was marked");
    assert_eq!(after.stats.failed, 0, "{}\n{finished}", report.table());
    untouched();
    stack.assert_nothing_left();
    stack.compose_file(&good);
    let streams = [stack.stream(Kind::New, 20.0)];
    stack.hand_over(streams, &[]).0.assert_nothing_noticed();
}

#[test]
fn a_version_that_never_listens_is_removed_without_a_health_check_too() {
    let plain = |environment: &[(&str, &str)]| format!("services:{TRAEFIK}{}", app(environment, &[LABELS]));
    let mut stack = behind_traefik("rollfail-mute", "");
    stack.compose_file(&plain(&[]));
    stack.start();
    let bad = plain(&[("LAB_NEVER_LISTEN", "true")]);
    let finished = refused(&mut stack, &bad, &plain(&[]), &["--gate-timeout", "4s"], false);
    assert!(finished.stderr.contains("never listening"), "no log lines\n{finished}");
}

#[test]
fn one_of_three_that_fails_leaves_the_others_as_they_were() {
    let three = "    deploy: { replicas: 3, update_config: { parallelism: 1 } }\n";
    let mut stack = running("rollfail-three", &[three]);
    let bad = file(&[("LAB_EXIT_AFTER_MS", "0")], &[three]);
    refused(&mut stack, &bad, &file(&[], &[three]), &[], false);
    let names: Vec<String> = stack.container_ids().into_keys().filter(|name| name.contains("-app-")).collect();
    assert_eq!(names, [1, 2, 3].map(|number| format!("{}-app-{number}", stack.name)));
}

#[test]
fn the_others_are_tried_too_when_failures_are_to_be_passed_over() {
    let three = "    deploy: { replicas: 3, update_config: { parallelism: 1, failure_action: continue } }\n";
    let mut stack = running("rollfail-continue", &[three]);
    let bad = file(&[("LAB_EXIT_AFTER_MS", "0")], &[three]);
    refused(&mut stack, &bad, &file(&[], &[three]), &[], false);
}

#[test]
fn an_interrupt_before_traffic_moves_leaves_everything_as_it_was() {
    let mut stack = running("rollfail-int", &[]);
    let untouched = stack.untouched();
    let load = stack.load(requests(&stack));
    stack.set("VERSION", "v2");
    stack.compose_file(&file(&[("LAB_BOOT_MS", "60000")], &["    stop_grace_period: 1s\n"]));
    let mut up = stack.spawn_up(&[]);
    up.wait_step("roll");
    wait_for_the_new_one(&stack);
    up.signal("INT");
    let finished = up.finish().expect_code(130);
    let report = load.stop();
    report.assert_nothing_noticed();
    assert!(report.first_seen("v2").is_none(), "{}\n{finished}", report.table());
    untouched();
    stack.assert_nothing_left();
}

/// Waits until the new container of `app` runs beside the old one.
#[track_caller]
fn wait_for_the_new_one(stack: &Stack) {
    let filter = format!("label=com.docker.compose.project={}", stack.name);
    let list = ["ps", "-q", "--filter", &filter, "--filter", "label=com.docker.compose.service=app"];
    crate::harness::wait_until("two run", || crate::harness::docker_lines(&list).len() == 2);
}

#[test]
fn a_peer_that_goes_away_while_it_is_led_is_no_hindrance() {
    let peer = "\n  peer:\n    image: ${LAB}\n    environment: { VERSION: peer }\n";
    let mut stack = behind_traefik("rollfail-peer", "");
    stack.compose_file(&format!("{}{peer}", file(&[], &[])));
    stack.start();
    let load = stack.load(requests(&stack));
    stack.set("VERSION", "v2");
    let up = stack.spawn_up(&[]);
    wait_for_the_new_one(&stack);
    docker(&["kill", &stack.container_id("peer")]);
    up.finish().expect_success();
    finish(load, "v2").assert_nothing_noticed();
    stack.assert_nothing_left();
}

/// Where a deploy is when something dies.
#[derive(Clone, Copy)]
enum When {
    Gate,
    Drain,
}

impl When {
    /// A running stack, a load, and a deploy that is there. A download holds the drain open.
    fn reach(self, name: &str) -> (Stack, handover_lab::load::Load, Running) {
        let mut stack = running(name, &[]);
        let mut streams = requests(&stack).to_vec();
        streams.push(stack.stream(Kind::Download, 2.0));
        let load = stack.load(streams);
        stack.set("VERSION", "v2");
        let mut up = stack.spawn_up(&[]);
        match self {
            Self::Gate => wait_for_the_new_one(&stack),
            Self::Drain => drop(up.wait_event("the switch", |event| event["event"] == "switched")),
        }
        (stack, load, up)
    }
}

/// Compose is killed then: the old container serves on, and the next deploy succeeds.
#[track_caller]
fn compose_killed(name: &str, when: When) {
    let (mut stack, load, up) = when.reach(name);
    up.kill_compose();
    let finished = up.finish().expect_code(1);
    load.mark("killed");
    assert_names(&stack, &finished);
    stack.assert_nothing_left();
    let finished = stack.up(&[]).expect_success();
    let report = finish(load, "v2");
    if let Some(failures) = report.failures() {
        panic!("{failures}\n{finished}");
    }
    report.assert_nothing_noticed();
    stack.set("VERSION", "v2");
    stack.assert_done();
}

#[test]
fn compose_is_killed_during_the_gate() {
    compose_killed("rollfail-compose-gate", When::Gate);
}

#[test]
fn compose_is_killed_during_the_drain() {
    compose_killed("rollfail-compose-drain", When::Drain);
}

/// handover is killed then: clients are served on, and the next run ends as wanted.
#[track_caller]
fn killed(name: &str, when: When) {
    let (stack, load, up) = when.reach(name);
    up.signal("KILL");
    drop(up);
    load.mark("killed");
    let more = load.progress().total.ok + 100;
    let goes_on = load.wait_for(SOON, |progress| progress.total.ok > more);
    load.mark("again");
    let finished = stack.up(&["--output", "json"]);
    let report = finish(load, "v2");
    let finished = finished.expect_success();
    assert!(goes_on, "{}", report.table());
    assert_few_retries(&report);
    assert_names(&stack, &finished);
    stack.assert_done();
}

#[test]
fn handover_is_killed_during_the_gate() {
    killed("rollfail-kill-gate", When::Gate);
}

#[test]
fn handover_is_killed_during_the_drain() {
    killed("rollfail-kill-drain", When::Drain);
}

/// Asserts that the project has the containers that it should, under their final names.
#[track_caller]
fn assert_names(stack: &Stack, finished: &Finished) {
    let names: Vec<String> = stack.container_ids().into_keys().collect();
    assert_eq!(names, ["app", "traefik"].map(|service| format!("{}-{service}-1", stack.name)), "{finished}");
}

#[test]
fn a_service_that_keeps_state_is_not_doubled_without_a_word() {
    let keys = "    volumes: [data:/data]\nvolumes: { data: }\n";
    let mut stack = running("rollfail-state", &[keys]);
    let untouched = stack.untouched();
    stack.set("VERSION", "v2");
    let finished = stack.up(&[]).expect_code(6);
    finished.expect_says("volume data at /data").expect_says("app: { volumes: share }");
    untouched();
    stack.assert_nothing_left();
}
