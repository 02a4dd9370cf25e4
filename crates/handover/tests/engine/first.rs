//! What `docker compose up -d` does without a stand-in: first deploys, and nothing.

use std::time::Duration;

use handover_lab::load::Kind;

use crate::harness::{Running, Stack, WEB, get};

#[test]
fn a_first_deploy_makes_what_compose_makes() {
    let stack = Stack::new("first");
    stack.compose_file(&WEB.replace("environment:\n", "environment:\n      LAB_BOOT_MS: \"700\"\n"));
    let planned = stack.plan().expect_success().expect_says("web");
    assert!(stack.container_ids().is_empty(), "plan made containers\n{planned}");
    stack.up(&[]).expect_success();
    assert!(get(&format!("127.0.0.1:{}", stack.port), "/").is_some(), "up ended before the service was ready");
    stack.assert_done();
    let ours = stack.made();
    stack.compose(&["down"]).expect_success();
    stack.compose(&["up", "-d"]).expect_success();
    assert_eq!(ours, stack.made());
}

#[test]
fn nothing_is_touched_when_nothing_has_changed() {
    let stack = Stack::web("nothing");
    let untouched = stack.untouched();
    stack.plan().expect_success();
    let finished = stack.up(&[]).expect_success().expect_says("nothing to do");
    untouched();
    assert!(finished.took < Duration::from_secs(20), "{finished}");
    stack.assert_done();
}

#[test]
fn a_plan_names_what_changes_and_changes_nothing() {
    let mut stack = Stack::web("plan");
    let load = stack.load([stack.stream(Kind::New, 20.0)]);
    let untouched = stack.untouched();
    stack.set("VERSION", "v2");
    let port = stack.port.to_string();
    stack.plan().expect_success().expect_says("in this order:\n   1  bring up").expect_says(&port);
    let programs = stack.handover(&["plan", "--output", "json"]).expect_success().event("plan");
    assert_eq!(programs["operations"][2]["ports"][0]["published"], stack.port, "{programs}");
    untouched();
    stack.assert_nothing_left();
    let report = load.stop();
    report.assert_nothing_noticed();
    assert!(report.first_seen("v2").is_none());
}

#[test]
fn only_the_services_named_are_deployed() {
    let mut stack = Stack::new("named");
    let other = crate::harness::net::free_port();
    stack.set("OTHER", &other.to_string());
    stack.compose_file(&format!(
        "{WEB}{}",
        WEB.replace("services:\n", "").replace("web:", "api:").replace("PORT", "OTHER")
    ));
    stack.start();
    let (web, api) = (stack.container_id("web"), stack.container_id("api"));
    let load = stack.load([stack.stream(Kind::New, 20.0)]);
    stack.set("VERSION", "v2");
    stack.up(&["web"]).expect_success();
    crate::harness::finish(load, "v2").assert_no_failures();
    assert_ne!(stack.container_id("web"), web);
    assert_eq!(stack.container_id("api"), api);
    stack.assert_nothing_left();
}

#[test]
fn as_a_plugin_of_the_docker_cli_it_does_the_same() {
    let mut stack = Stack::web("plugin");
    let config = stack.path().join("docker-config");
    let plugins = config.join("cli-plugins");
    std::fs::create_dir_all(&plugins).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_handover"), plugins.join("docker-handover")).unwrap();
    // The Compose that the tests run with is found where DOCKER_CONFIG led so far.
    let compose =
        std::env::var("DOCKER_CONFIG").map(|folder| std::path::Path::new(&folder).join("cli-plugins/docker-compose"));
    if let Ok(compose) = compose {
        std::os::unix::fs::symlink(compose, plugins.join("docker-compose")).unwrap();
    }
    stack.set("DOCKER_CONFIG", &config.display().to_string());
    stack.set("VERSION", "v2");
    let mut command = stack.command("docker");
    command.args(["handover", "up"]);
    Running::start(command).finish().expect_success().expect_says("the new version is live");
    stack.assert_done();
}

#[test]
fn a_deploy_goes_on_when_nobody_reads_what_it_prints() {
    let mut stack = Stack::web("pipe");
    stack.set("VERSION", "v2");
    let mut command = stack.command(env!("CARGO_BIN_EXE_handover"));
    let mut up = command.args(["up"]).stdout(std::process::Stdio::piped()).spawn().expect("handover starts");
    drop(up.stdout.take());
    assert!(up.wait().expect("it ends").success());
    stack.assert_done();
}
