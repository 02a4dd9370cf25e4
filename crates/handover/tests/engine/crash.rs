//! handover itself ends half-way: by Ctrl-C, or by `kill -9`.

use handover_lab::load::Kind;

use crate::harness::{Stack, WEB, assert_few_retries, finish};

#[test]
fn an_interrupt_before_traffic_moves_leaves_everything_as_it_was() {
    let mut stack = Stack::web("interrupt");
    let load = stack.load([stack.stream(Kind::New, 40.0), stack.stream(Kind::Keepalive, 40.0)]);
    let untouched = stack.untouched();
    stack.set("VERSION", "v2");
    stack.compose_file(&WEB.replace("environment:\n", "environment:\n      LAB_NEVER_LISTEN: \"true\"\n"));
    let mut up = stack.spawn_up(&[]);
    up.wait_step("gate");
    up.signal("INT");
    let finished = up.finish().expect_code(130);
    untouched();
    stack.assert_nothing_left();
    let report = load.stop();
    report.assert_nothing_noticed();
    assert!(report.first_seen("v2").is_none(), "{}\n{finished}", report.table());
}

#[test]
fn an_interrupt_after_traffic_has_moved_waits_for_the_end() {
    let mut stack = Stack::web("interrupt-late");
    let load = stack.load([stack.stream(Kind::New, 40.0), stack.stream(Kind::Slow, 10.0)]);
    stack.set("VERSION", "v2");
    let mut up = stack.spawn_up(&[]);
    up.wait_event("live", |event| event["event"] == "live");
    up.signal("TERM");
    up.finish().expect_success();
    assert_few_retries(&finish(load, "v2"));
    stack.assert_done();
}

#[track_caller]
fn killed_at(step: &str) {
    let mut stack = Stack::web(&format!("kill-{step}"));
    let load = stack.load([
        stack.stream(Kind::New, 40.0),
        stack.stream(Kind::Keepalive, 40.0),
        stack.stream(Kind::Post, 10.0),
    ]);
    stack.set("VERSION", "v2");
    let mut up = stack.spawn_up(&[]);
    up.wait_step(step);
    up.signal("KILL");
    drop(up);
    load.mark("killed");
    let more = load.progress().total.ok + 50;
    let goes_on = load.wait_for(crate::harness::SOON, |progress| progress.total.ok > more);
    load.mark("again");
    let finished = stack.up(&["--output", "json"]);
    let report = finish(load, "v2");
    let finished = finished.expect_success();
    assert!(goes_on, "{}", report.table());
    if let Some(failures) = report.failures() {
        panic!("{failures}\n{finished}");
    }
    assert_few_retries(&report);
    stack.assert_done();
}

#[test]
fn killed_while_the_stand_in_is_brought_up() {
    killed_at("stand-in");
}

#[test]
fn killed_while_the_stand_in_is_gated() {
    killed_at("gate");
}

#[test]
fn killed_while_old_containers_are_drained() {
    killed_at("drain");
}

#[test]
fn killed_while_compose_settles() {
    killed_at("settle");
}

#[test]
fn killed_while_real_containers_are_gated() {
    killed_at("gate-real");
}

#[test]
fn killed_while_it_cleans_up() {
    killed_at("clean-up");
}
