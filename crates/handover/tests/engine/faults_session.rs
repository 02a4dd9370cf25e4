//! Our own helpers end in the middle of a deploy: the run ends or goes on, and nobody notices.

use handover_lab::load::Kind;

use crate::harness::{SOON, Stack, assert_few_retries, docker, finish};

/// Kills the session, which is the lock, at a step; the run ends by itself, and the next one finishes.
#[track_caller]
fn session_killed_at(step: &str) {
    let mut stack = Stack::web(&format!("session-{step}"));
    let load = stack.load([stack.stream(Kind::New, 40.0), stack.stream(Kind::Post, 10.0)]);
    stack.set("VERSION", "v2");
    let mut up = stack.spawn_up(&[]);
    up.wait_step(step);
    docker(&["kill", &format!("handover-{}-session", stack.name)]);
    // Whether it is told by a request that fails or by the end of the connection depends on the moment.
    let finished = up.finish();
    assert_ne!(finished.code, Some(0), "{finished}");
    let finished = finished.expect_says("hint: run handover up again");
    let more = load.progress().total.ok + 50;
    let goes_on = load.wait_for(SOON, |progress| progress.total.ok > more);
    load.mark("again");
    let again = stack.up(&["--output", "json"]);
    let report = finish(load, "v2");
    let again = again.expect_success();
    assert!(goes_on, "{}\n{finished}", report.table());
    if let Some(failures) = report.failures() {
        panic!("{failures}\n{finished}\n{again}");
    }
    assert_few_retries(&report);
    stack.assert_done();
}

#[test]
fn the_session_is_killed_while_old_containers_are_drained() {
    session_killed_at("drain");
}

#[test]
fn the_session_is_killed_while_compose_settles() {
    session_killed_at("settle");
}

/// A WebSocket that goes on keeps the drain busy; then the engine restarts the guard.
#[test]
fn a_guard_that_is_killed_while_old_containers_are_drained_does_not_hang_the_run() {
    let mut stack = Stack::web("guard-drain");
    let load = stack.load([stack.stream(Kind::New, 40.0)]);
    let busy = stack.load([stack.stream(Kind::WebsocketLong, 1.0)]);
    stack.set("VERSION", "v2");
    let mut up = stack.spawn_up(&["--drain", "3s"]);
    up.wait_step("drain");
    docker(&["kill", &format!("handover-{}-guard", stack.name)]);
    let finished = up.finish();
    let more = load.progress().total.ok + 50;
    let goes_on = load.wait_for(SOON, |progress| progress.total.ok > more);
    load.mark("again");
    let again = stack.up(&["--output", "json"]);
    let report = finish(load, "v2");
    drop(busy);
    let again = again.expect_success();
    assert!(goes_on, "{}\n{finished}", report.table());
    if let Some(failures) = report.failures() {
        panic!("{failures}\n{finished}\n{again}");
    }
    stack.assert_done();
}
