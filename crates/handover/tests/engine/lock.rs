//! One deploy of a project at a time.

use handover_lab::load::Kind;

use crate::harness::{Stack, finish};

#[test]
fn a_second_deploy_waits_for_the_first_and_says_for_whom() {
    let mut stack = Stack::web("lock");
    let load = stack.load([stack.stream(Kind::New, 40.0), stack.stream(Kind::Keepalive, 40.0)]);
    stack.set("VERSION", "v2");
    // A WebSocket holds the drain, and with it the first deploy, until it is closed.
    let holds = stack.load([stack.stream(Kind::WebsocketLong, 10.0)]);
    let mut first = stack.spawn_up(&["--drain", "100s"]);
    first.wait_step("drain");
    let mut second = stack.spawn_up(&[]);
    let mut third = stack.spawn_up(&[]);
    third.wait_event("it waits", |event| event["event"] == "waiting-for-lock");
    third.signal("INT");
    third.finish().expect_code(130).expect_says("interrupted before anything was done");
    let impatient = stack.up(&["--lock-wait", "1s"]);
    let waiting = second.wait_event("it waits", |event| event["event"] == "waiting-for-lock");
    let holder = waiting["holder"].as_str().unwrap_or_default().to_owned();
    drop(holds.stop());
    let first = first.finish().expect_success();
    let second = second.finish().expect_success();
    assert!(holder.contains("process "), "it does not say for whom: {waiting}");
    impatient.expect_code(8).expect_says(&holder);
    finish(load, "v2").assert_no_failures();
    let led = |finished: &crate::harness::Finished| finished.events().iter().any(|event| event["event"] == "live");
    assert!(led(&first) && !led(&second), "the second has nothing left to do\n{second}");
    stack.assert_done();
}

#[test]
fn two_projects_are_deployed_at_the_same_time() {
    let (mut one, mut other) = (Stack::web("side-a"), Stack::web("side-b"));
    let loads = [&one, &other].map(|stack| stack.load([stack.stream(Kind::New, 40.0), stack.stream(Kind::Slow, 10.0)]));
    one.set("VERSION", "v2");
    other.set("VERSION", "v2");
    let (first, second) = (one.spawn_up(&[]), other.spawn_up(&[]));
    first.finish().expect_success();
    second.finish().expect_success();
    for load in loads {
        finish(load, "v2").assert_no_failures();
    }
    one.assert_done();
    other.assert_done();
}
