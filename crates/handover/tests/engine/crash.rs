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

/// At each operation of the plan, as the plan itself lists them, the program is killed, and the next run ends what that one left.
#[test]
fn killed_at_each_operation_of_its_plan() {
    let mut stack = Stack::web("kill-each");
    let load = stack.load([
        stack.stream(Kind::New, 40.0),
        stack.stream(Kind::Keepalive, 40.0),
        stack.stream(Kind::Post, 10.0),
    ]);
    stack.set("VERSION", "v2");
    let plan = stack.handover(&["plan", "--output", "json"]).expect_success().event("plan");
    let operations = plan["operations"].as_array().expect("the plan has operations");
    assert!(operations.len() >= 10, "{plan}");
    for operation in operations {
        let number = operation["number"].as_u64().expect("operations are numbered");
        stack.set("VERSION", &format!("v{}", number + 1));
        let mut up = stack.spawn_up(&[]);
        up.wait_event("the operation", |event| event["event"] == "operation" && event["number"] == number);
        up.signal("KILL");
        drop(up);
        load.mark(&format!("killed {number}"));
        let more = load.progress().total.ok + 50;
        let goes_on = load.wait_for(crate::harness::SOON, |progress| progress.total.ok > more);
        load.mark(&format!("again {number}"));
        stack.up(&["--output", "json"]).expect_success();
        assert!(goes_on, "killed at {operation}: nobody is served");
        stack.assert_done();
    }
    let report = finish(load, &format!("v{}", operations.len() + 1));
    if let Some(failures) = report.failures() {
        panic!("{failures}");
    }
    assert_few_retries(&report);
}
