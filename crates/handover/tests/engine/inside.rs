//! Containers outside a stand-in's group that call its services by name or address: they notice as little as those who come
//! through published ports.

use handover_lab::load::{Kind, Report};

use crate::harness::client::Client;
use crate::harness::{SOON, Stack, assert_few_retries, docker_lines, finish, inspect, wait_until};

/// `web` publishes a port and passes requests to `app`; both boot slowly.
const TWO: &str = r#"
services:
  web:
    image: ${LAB}
    environment: { VERSION: "${VERSION}", LAB_BACKEND: "http://app", LAB_BOOT_MS: "700" }
    depends_on: [app]
    ports: ["${PORT}:80"]
  app:
    image: ${LAB}
    environment: { VERSION: "${VERSION}", LAB_BOOT_MS: "${APP_BOOT_MS:-700}" }
    expose: ["80"]
    networks: { default: { aliases: [application] } }
"#;

/// Requests from a container on the project's network to these targets.
fn requests(stack: &Stack, targets: &[String]) -> Client {
    let streams: Vec<String> = targets
        .iter()
        .enumerate()
        .flat_map(|(number, target)| {
            [("new", "15"), ("keepalive", "15"), ("post", "5"), ("slow", "5")]
                .map(|(kind, rate)| format!("{kind}={rate}@{target},name={kind}-{number}"))
        })
        .collect();
    Client::start(&format!("{}_default", stack.name), &streams)
}

/// The last version that each stream saw must be the new one.
#[track_caller]
fn assert_sees_the_new_version(report: &Report) {
    for stream in &report.streams {
        let seen: Vec<&str> = stream.versions.iter().map(|seen| seen.value.as_str()).collect();
        assert_eq!(seen, ["v1", "v2"], "{}: {}", stream.name, report.table());
    }
}

#[track_caller]
fn address_of(container: &str, network: &str) -> String {
    inspect(container)["NetworkSettings"]["Networks"][network]["IPAddress"].as_str().expect("an address").to_owned()
}

#[track_caller]
fn nothing_of_ours_is_left(stack: &Stack) {
    let filter = format!("label=handover.project={}", stack.name);
    wait_until("nothing of handover is left", || docker_lines(&["ps", "-aq", "--filter", &filter]).is_empty());
}

#[test]
fn who_calls_services_of_the_group_by_name_notices_nothing() {
    let mut stack = Stack::new("inside");
    stack.compose_file(TWO);
    stack.start();
    let container = format!("{}-app-1", stack.name);
    let client =
        requests(&stack, &["web:80".into(), "app:80".into(), "application:80".into(), format!("{container}:80")]);
    let (_, finished) = stack.hand_over([stack.stream(Kind::New, 20.0)], &[]);
    let report = client.finish();
    assert_few_retries(&report);
    assert_sees_the_new_version(&report);
    assert_eq!(finished.event("proof")["cut"], serde_json::json!([]), "{finished}");
    nothing_of_ours_is_left(&stack);
}

#[test]
fn who_knows_only_the_address_is_led_as_well() {
    let mut stack = Stack::web("inside-address");
    let network = format!("{}_default", stack.name);
    let address = address_of(&format!("{}-web-1", stack.name), &network);
    let client = requests(&stack, &[format!("{address}:80")]);
    let (_, finished) = stack.hand_over([stack.stream(Kind::New, 20.0)], &[]);
    let report = client.finish();
    assert_few_retries(&report);
    assert_sees_the_new_version(&report);
    // The real container may have got the same address again; if not, the keeper goes with the last that it leads.
    assert_eq!(finished.event("proof")["cut"], serde_json::json!([]), "{finished}");
    nothing_of_ours_is_left(&stack);
}

#[test]
fn a_version_that_fails_leaves_who_calls_by_name_with_the_old_one() {
    let mut stack = Stack::new("inside-fails");
    stack.compose_file(TWO);
    stack.start();
    let client = requests(&stack, &["web:80".into(), "app:80".into()]);
    let untouched = stack.untouched();
    stack.set("VERSION", "v2");
    stack.set("APP_BOOT_MS", "600000");
    stack.up(&["--gate-timeout", "3s"]).expect_code(1);
    untouched();
    let report = client.finish();
    assert_few_retries(&report);
    for stream in &report.streams {
        let seen: Vec<&str> = stream.versions.iter().map(|seen| seen.value.as_str()).collect();
        assert_eq!(seen, ["v1"], "{}", report.table());
    }
    nothing_of_ours_is_left(&stack);
}

/// Once the old containers are stopped their names are ours to hold. Killed then, nothing of ours holds anything but the kernel and
/// the engine.
#[test]
fn who_calls_by_name_notices_neither_a_killed_deploy_nor_the_run_that_finishes_it() {
    let mut stack = Stack::new("inside-killed");
    stack.compose_file(TWO);
    stack.start();
    let client = requests(&stack, &["web:80".into(), "app:80".into()]);
    let load = stack.load([stack.stream(Kind::New, 40.0)]);
    stack.set("VERSION", "v2");
    let mut up = stack.spawn_up(&[]);
    up.wait_step("settle");
    up.signal("KILL");
    drop(up);
    let more = load.progress().total.ok + 100;
    let goes_on = load.wait_for(SOON, |progress| progress.total.ok > more);
    let again = stack.up(&["--output", "json"]).expect_success();
    let report = finish(load, "v2");
    assert!(goes_on, "{}\n{again}", report.table());
    report.assert_nothing_noticed();
    let report = client.finish();
    if let Some(failures) = report.failures() {
        panic!("{failures}\n{again}");
    }
    assert_few_retries(&report);
    assert_sees_the_new_version(&report);
    stack.assert_done();
    nothing_of_ours_is_left(&stack);
}
