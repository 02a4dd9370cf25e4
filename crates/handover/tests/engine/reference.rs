//! The reference stack, exactly as it is shipped under `examples/`, deployed ten times in a row under load.

use std::path::PathBuf;

use handover_lab::load::{Kind, StreamSpec};

use crate::harness::net::free_port;
use crate::harness::{Stack, assert_few_retries, docker, docker_lines, finish, inspect};
use crate::router_nginx::told;

/// A copy of the example's files, with ports and names of its own.
fn reference(name: &str) -> (Stack, u16) {
    let mut stack = Stack::new(name);
    let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/reference");
    for file in ["docker-compose-staging.yml", ".env.staging.lc"] {
        stack.write(file, &std::fs::read_to_string(example.join(file)).expect("the example is there"));
    }
    let websocket = free_port();
    for (key, port) in [("HTTP_PORT", stack.port), ("WS_PORT", websocket)] {
        stack.set(key, &port.to_string());
    }
    for key in ["HTTPS_PORT", "REDIS_PORT", "MEMCACHED_PORT", "SDCV_PORT"] {
        stack.set(key, &free_port().to_string());
    }
    for key in ["NGINX_NAME", "APPLICATIONS_NAME", "APPLICATIONS1_NAME"] {
        stack.set(key, &format!("{}-{}", stack.name, key.to_lowercase()));
    }
    stack.set("COMPOSE_FILE", "docker-compose-staging.yml");
    stack.set("COMPOSE_ENV_FILES", ".env.staging.lc");
    stack.set("COMPOSE_COMPATIBILITY", "true");
    stack.set("TAG", "v1");
    (stack, websocket)
}

/// The volumes that the code carriers have now.
fn code_volumes(stack: &Stack) -> Vec<String> {
    ["APPLICATIONS_NAME", "APPLICATIONS1_NAME"]
        .iter()
        .map(|key| inspect(&format!("{}-{}", stack.name, key.to_lowercase())))
        .map(|carrier| carrier["Mounts"][0]["Name"].as_str().expect("a code carrier has a volume").to_owned())
        .collect()
}

/// Asserts that these volumes are gone.
#[track_caller]
fn assert_gone(code: &[String]) {
    let volumes = docker_lines(&["volume", "ls", "-q"]);
    let left: Vec<_> = code.iter().filter(|volume| volumes.contains(volume)).collect();
    assert!(left.is_empty(), "code volumes of the first release were left behind: {left:?}");
}

#[test]
fn ten_deploys_in_a_row_fail_no_request() {
    let (mut stack, websocket) = reference("reference");
    stack.up(&[]).expect_success();
    let redis = stack.container_ids().into_iter().find(|(name, _)| name.contains("redis")).expect("redis runs");
    let code = code_volumes(&stack);
    let at = |kind, rate| stack.stream(kind, rate);
    let streams = [
        at(Kind::New, 50.0).path("/").named("new"),
        at(Kind::Keepalive, 50.0).path("/").named("keepalive"),
        at(Kind::Keepalive, 20.0).path("/static/style.css").named("static"),
        at(Kind::Slow, 15.0).path("/slow.php?ms=400").named("slow"),
        StreamSpec { body_ms: Some(100), ..at(Kind::Post, 10.0).path("/post.php").named("post") },
        StreamSpec {
            any_reply: true,
            ..StreamSpec::new(Kind::Websocket, 5.0, format!("127.0.0.1:{websocket}")).named("websocket")
        },
    ];
    let load = stack.load(streams);
    for deploy in 1..=10 {
        stack.set("TAG", if deploy % 2 == 1 { "v2" } else { "v1" });
        load.mark(&format!("deploy {deploy}"));
        stack.up(&[]).expect_success().expect_says("docker compose up -d has nothing to do");
    }
    let report = finish(load, "v1");
    assert_few_retries(&report);
    stack.assert_done();
    assert_eq!(stack.container_ids().get(&redis.0), Some(&redis.1), "redis was touched");
    assert_gone(&code);
}

/// The upstream that nginx has in its file.
fn upstream(stack: &Stack) -> String {
    docker(&["exec", &format!("{}-nginx_name", stack.name), "cat", "/opt/nginx/include/upstream.include"])
}

#[test]
fn php_fpm_alone_is_rolled_in_nginx() {
    let (mut stack, _) = reference("reference-fpm");
    stack.up(&[]).expect_success();
    let (before, file, code) = (stack.container_ids(), upstream(&stack), code_volumes(&stack));
    let php = |kind, rate, path: &str, name: &str| stack.stream(kind, rate).path(path).named(name);
    let streams = [
        php(Kind::New, 30.0, "/", "new"),
        php(Kind::Keepalive, 30.0, "/", "keepalive"),
        php(Kind::Slow, 15.0, "/slow.php?ms=400", "slow"),
        StreamSpec { body_ms: Some(100), ..php(Kind::Post, 10.0, "/post.php", "post") },
    ];
    let load = stack.load(streams);
    stack.set("TAG", "v2");
    let finished = stack.up(&["--output", "json", "php-fpm"]).expect_success();
    assert_few_retries(&finish(load, "v2"));
    assert_eq!(told(&finished), 1, "{finished}");
    let action = |service: &str| {
        let plan = finished.event("plan");
        let services = plan["services"].as_array().cloned().unwrap_or_default();
        let found = services.into_iter().find(|one| one["service"] == service);
        found.map(|one| one["action"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
    };
    assert_eq!(action("php-fpm"), "rolling", "{finished}");
    assert_eq!(action("nginx"), "", "{finished}");
    assert_eq!(upstream(&stack), file, "{finished}");
    let touched = |after: &std::collections::BTreeMap<String, String>| -> Vec<String> {
        let changed = before.iter().filter(|(name, id)| after.get(*name) != Some(id));
        changed.map(|(name, _)| name.trim_start_matches(&stack.name).to_owned()).collect()
    };
    let after = stack.container_ids();
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_eq!(touched(&after), ["-applications1_name", "-applications_name", "_php-fpm_1"]);
    // nginx and the WebSocket server mount the old code until they are deployed, too; then it goes.
    let load = stack.load([stack.stream(Kind::Keepalive, 30.0).path("/static/version.txt").named("static")]);
    stack.up(&[]).expect_success();
    assert_few_retries(&load.stop());
    stack.assert_done();
    assert_gone(&code);
}
