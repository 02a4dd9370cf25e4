//! `failure_action: rollback` and `max_failure_ratio`: some new containers are good, and another fails.

use std::collections::BTreeMap;

use crate::harness::proxies::HEALTHCHECK;
use crate::harness::{Finished, Running, SOON, Stack, docker_lines, inspect, wait_until};
use crate::rolling::{requests, rolled};
use crate::rolling_failures::{file, running};

/// A version that is healthy only while the file `flag/good` is there.
fn depends_on_a_file(deploy: &str) -> String {
    let health = HEALTHCHECK.replace("retries: 3", "retries: 100");
    file(&[("LAB_HEALTH_FILE", "/flag/good")], &[deploy, "    volumes: [\"./flag:/flag:ro\"]\n"])
        .replace(HEALTHCHECK, &health)
}

/// Three containers that run in v1, with these lines below `deploy`, and a v2 whose file is there or not.
fn three(name: &str, deploy: &str, good: bool) -> (Stack, String) {
    let deploy = format!("    deploy:\n      replicas: 3\n{deploy}");
    let mut stack = running(name, &[&deploy]);
    std::fs::create_dir(stack.path().join("flag")).expect("the stack's directory can be written to");
    if good {
        stack.write("flag/good", "");
    }
    stack.set("VERSION", "v2");
    (stack, depends_on_a_file(&deploy))
}

/// The containers of `app` by name.
fn app(stack: &Stack) -> BTreeMap<String, String> {
    stack.container_ids().into_iter().filter(|(name, _)| name.contains("app")).collect()
}

/// The first of three passes, the second fails: all are the old ones again, and nobody has noticed.
#[track_caller]
fn goes_back(name: &str, deploy: &str) -> Finished {
    let (stack, bad) = three(name, deploy, true);
    let before = app(&stack);
    let load = stack.load(requests(&stack));
    let old = std::fs::read_to_string(stack.path().join("compose.yaml")).expect("it was written");
    stack.compose_file(&bad);
    let mut up = stack.spawn_up(&["--gate-timeout", "8s"]);
    up.wait_event("the switch", |event| event["event"] == "switched");
    std::fs::remove_file(stack.path().join("flag/good")).expect("it is there");
    let finished = up.finish().expect_code(1);
    load.mark("after");
    let more = load.progress().total.ok + 100;
    let goes_on = load.wait_for(SOON, |progress| progress.total.ok > more);
    let report = load.stop();
    rolled(&finished);
    assert!(goes_on, "{}\n{finished}", report.table());
    report.assert_nothing_noticed();
    assert!(report.first_seen("v2").is_some(), "none was replaced\n{}\n{finished}", report.table());
    let names = [1, 2, 3].map(|number| format!("{}-app-{number}", stack.name));
    assert_eq!(before.keys().cloned().collect::<Vec<_>>(), names);
    assert_eq!(app(&stack), before, "other containers than before\n{finished}");
    for id in before.values() {
        assert_eq!(inspect(id)["State"]["Status"], "running", "{finished}");
    }
    let finished = finished.expect_says("are the old ones again");
    stack.compose_file(&old);
    let mut stack = stack;
    stack.set("VERSION", "v1");
    stack.assert_done();
    finished
}

#[test]
fn those_that_were_replaced_are_the_old_ones_again_when_another_fails() {
    goes_back("rollback", "      update_config: { parallelism: 1, failure_action: rollback }\n");
}

#[test]
fn they_go_back_as_rollback_config_says() {
    let update = "      update_config: { parallelism: 2, failure_action: rollback }\n";
    let rollback = "      rollback_config: { parallelism: 0, order: stop-first, monitor: 1s }\n";
    goes_back("rollback-config", &format!("{update}{rollback}"));
}

#[test]
fn a_version_that_is_good_leaves_no_container_that_was_kept() {
    let (mut stack, good) =
        three("rollback-good", "      update_config: { parallelism: 1, failure_action: rollback }\n", true);
    stack.compose_file(&good);
    let streams = requests(&stack);
    let (report, finished) = stack.hand_over(streams, &[]);
    report.assert_nothing_noticed();
    rolled(&finished);
    assert_eq!(app(&stack).len(), 3, "{finished}");
}

#[test]
fn a_deploy_that_is_killed_while_old_containers_are_kept_is_finished_by_the_next() {
    let (stack, good) =
        three("rollback-kill", "      update_config: { parallelism: 1, failure_action: rollback }\n", true);
    stack.compose_file(&good);
    let load = stack.load(requests(&stack));
    let mut up: Running = stack.spawn_up(&[]);
    for _ in 0..2 {
        up.wait_event("a switch", |event| event["event"] == "switched");
    }
    up.signal("KILL");
    drop(up);
    let finished = stack.up(&["--output", "json"]).expect_success();
    let report = crate::harness::finish(load, "v2");
    crate::harness::assert_few_retries(&report);
    let names: Vec<String> = app(&stack).into_keys().collect();
    assert_eq!(names, [1, 2, 3].map(|number| format!("{}-app-{number}", stack.name)), "{finished}");
    stack.assert_done();
}

#[test]
fn failures_within_the_ratio_stop_nothing() {
    let (stack, sometimes) = three(
        "rollback-ratio",
        "      update_config: { parallelism: 1, max_failure_ratio: 0.4, failure_action: rollback }\n",
        false,
    );
    let before = app(&stack);
    let load = stack.load(requests(&stack));
    stack.compose_file(&sometimes);
    let up = stack.spawn_up(&["--gate-timeout", "4s"]);
    let filter = format!("label=com.docker.compose.project={}", stack.name);
    let list = ["ps", "-q", "--no-trunc", "--filter", &filter, "--filter", "label=com.docker.compose.service=app"];
    let mut new = std::collections::BTreeSet::new();
    wait_until("a second one is tried", || {
        new.extend(docker_lines(&list).into_iter().filter(|id| !before.values().any(|old| old == id)));
        new.len() == 2
    });
    stack.write("flag/good", "");
    let finished = up.finish().expect_code(1);
    crate::harness::finish(load, "v2").assert_nothing_noticed();
    rolled(&finished);
    let after = app(&stack);
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{finished}");
    assert_eq!(after.values().filter(|id| before.values().any(|old| old == *id)).count(), 1, "{finished}");
    stack.assert_nothing_left();
}
