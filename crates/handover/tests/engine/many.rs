//! Deploy after deploy.

use handover_lab::load::Kind;

use crate::harness::{Stack, assert_few_retries, finish};

#[test]
fn ten_deploys_in_a_row_under_one_load() {
    let mut stack = Stack::web("ten");
    let load = stack.load([
        stack.stream(Kind::New, 30.0),
        stack.stream(Kind::Keepalive, 30.0),
        stack.stream(Kind::Post, 8.0),
        stack.stream(Kind::Slow, 8.0),
    ]);
    for number in 2..=11 {
        let version = format!("v{number}");
        stack.set("VERSION", &version);
        load.mark(&version);
        stack.up(&[]).expect_success();
        stack.assert_nothing_left();
    }
    let report = finish(load, "v11");
    assert_few_retries(&report);
    stack.assert_done();
    let names: Vec<String> = stack.container_ids().into_keys().collect();
    assert_eq!(names, [format!("{}-web-1", stack.name)]);
}
