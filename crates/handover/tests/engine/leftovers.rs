//! What an earlier run left, what somebody did to it meanwhile, and what only looks like it.

use handover_lab::load::Kind;

use crate::harness::docker::lab_image;
use crate::harness::{SOON, Stack, WEB, assert_few_retries, docker, finish};

/// A run is killed at a step, something happens to what it left, and a second run puts it right; nobody notices any of it.
#[track_caller]
fn put_right(name: &str, step: &str, args: &[&str], meanwhile: impl FnOnce(&Stack)) {
    let mut stack = Stack::web(name);
    let load = stack.load([stack.stream(Kind::New, 40.0), stack.stream(Kind::Post, 10.0)]);
    stack.set("VERSION", "v2");
    let mut up = stack.spawn_up(&[]);
    up.wait_step(step);
    up.signal("KILL");
    drop(up);
    meanwhile(&stack);
    let more = load.progress().total.ok + 50;
    let goes_on = load.wait_for(SOON, |progress| progress.total.ok > more);
    load.mark("again");
    let finished = stack.handover(args);
    let report = finish(load, "v2");
    let finished = finished.expect_success();
    assert!(goes_on, "{}\n{finished}", report.table());
    if let Some(failures) = report.failures() {
        panic!("{failures}\n{finished}");
    }
    assert_few_retries(&report);
    stack.assert_done();
}

#[test]
fn redirects_whose_guard_was_removed_lead_to_a_stand_in_that_serves() {
    put_right("left-rm", "gate-real", &["up"], |stack| {
        docker(&["rm", "--force", &format!("handover-{}-guard", stack.name)]);
    });
}

#[test]
fn a_guard_that_is_paused_is_replaced_by_one_that_answers() {
    put_right("left-pause", "drain", &["up"], |stack| {
        docker(&["pause", &format!("handover-{}-guard", stack.name)]);
    });
}

#[test]
fn recover_alone_finishes_what_a_killed_run_began() {
    put_right("left-recover", "settle", &["recover"], |_| ());
}

#[test]
fn recover_says_so_when_nothing_is_left() {
    let stack = Stack::web("left-nothing");
    let untouched = stack.untouched();
    stack.handover(&["recover"]).expect_success().expect_says("no earlier run has left anything");
    untouched();
    stack.assert_nothing_left();
}

/// Beside the service that moves, one that has changed in the file and that recovery has nothing to do with.
const BESIDE: &str = "
  beside:
    image: ${LAB}
    environment: { VERSION: '${BESIDE}' }
";

#[test]
fn without_the_stand_ins_containers_the_redirects_go_and_no_other_service_is_touched() {
    let mut stack = Stack::new("left-none");
    stack.set("BESIDE", "one");
    stack.compose_file(&format!("{WEB}{BESIDE}"));
    stack.start();
    stack.set("VERSION", "v2");
    let mut up = stack.spawn_up(&[]);
    up.wait_step("gate-real");
    up.signal("KILL");
    drop(up);
    for container in crate::harness::docker_lines(&[
        "ps",
        "--all",
        "--quiet",
        "--filter",
        &format!("label=com.docker.compose.project={}-standin", stack.name),
    ]) {
        docker(&["rm", "--force", &container]);
    }
    stack.set("BESIDE", "two");
    let before = stack.container_id("beside");
    stack.handover(&["recover"]).expect_success();
    assert_eq!(stack.container_id("beside"), before, "a service that recovery has nothing to do with was recreated");
    stack.wait_http(stack.port);
    stack.assert_nothing_left();
    stack.up(&[]).expect_success();
    stack.assert_done();
}

#[test]
fn a_service_that_was_renamed_meanwhile_does_not_stop_every_later_run() {
    let mut stack = Stack::web("left-renamed");
    stack.set("VERSION", "v2");
    let mut up = stack.spawn_up(&[]);
    up.wait_step("settle");
    up.signal("KILL");
    drop(up);
    stack.compose_file(&WEB.replace("  web:", "  front:"));
    stack.up(&["--remove-orphans"]).expect_success();
    stack.wait_http(stack.port);
    stack.assert_done();
}

/// The stand-in publishes the port of before, and the file another one by now; with the guard and without it.
#[track_caller]
fn with_another_port_inside(name: &str, meanwhile: impl FnOnce(&Stack)) {
    let mut stack = Stack::web(name);
    stack.set("VERSION", "v2");
    let mut up = stack.spawn_up(&[]);
    up.wait_step("settle");
    up.signal("KILL");
    drop(up);
    meanwhile(&stack);
    let moved = WEB.replace("environment:\n", "environment:\n      LAB_HTTP: 0.0.0.0:81\n").replace(":80\"", ":81\"");
    stack.compose_file(&moved);
    stack.up(&[]).expect_success();
    stack.wait_http(stack.port);
    stack.assert_done();
}

#[test]
fn a_port_inside_that_was_changed_meanwhile_does_not_stop_every_later_run() {
    with_another_port_inside("left-port", |_| ());
}

#[test]
fn nor_does_it_where_the_guard_is_gone_as_well() {
    with_another_port_inside("left-port-rm", |stack| {
        docker(&["rm", "--force", &format!("handover-{}-guard", stack.name)]);
    });
}

#[test]
fn a_project_that_is_called_like_the_stand_in_is_never_touched() {
    let mut stack = Stack::web("left-named");
    let theirs = format!("{}-standin", stack.name);
    let file = stack.path().join("theirs.yaml");
    std::fs::write(&file, "services:\n  web:\n    image: ${LAB}\n").expect("written");
    let compose = |args: &[&str]| {
        let mut command = stack.command("docker");
        command.args(["compose", "-p", &theirs, "-f", "theirs.yaml"]).args(args);
        assert!(command.status().expect("docker").success(), "docker compose {args:?}");
    };
    compose(&["up", "-d"]);
    let id = docker(&["ps", "--quiet", "--filter", &format!("label=com.docker.compose.project={theirs}")]);
    let untouched = stack.untouched();
    stack.set("VERSION", "v2");
    let refused = stack.up(&[]);
    let after = docker(&["ps", "--quiet", "--filter", &format!("label=com.docker.compose.project={theirs}")]);
    let mut down = stack.command("docker");
    let removed = down.args(["compose", "-p", &theirs, "-f", "theirs.yaml", "down", "-t", "0"]).status();
    refused.expect_code(7).expect_says("is in the way");
    assert_eq!(after, id);
    untouched();
    assert!(removed.expect("docker").success());
    stack.up(&[]).expect_success();
    stack.assert_done();
}

#[test]
fn a_container_that_only_has_our_labels_is_neither_believed_nor_touched() {
    let mut stack = Stack::web("left-labels");
    let name = format!("{}-labelled", stack.name);
    let (project, role) = (format!("handover.project={}", stack.name), "handover.role=guard");
    docker(&["run", "--detach", "--name", &name, "--label", &project, "--label", role, lab_image(), "serve"]);
    let started = docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", &name]);
    stack.set("VERSION", "v2");
    let finished = stack.up(&[]);
    let after = docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", &name]);
    docker(&["rm", "--force", &name]);
    finished.expect_success();
    assert_eq!(after, started);
    stack.assert_done();
}
