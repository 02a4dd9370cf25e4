//! Services that are rolled in the user's own Caddy, which is told by its admin API.

use crate::harness::proxies::{HEALTHCHECK, app, with_images};
use crate::harness::{Stack, assert_few_retries, docker_lines, finish};
use crate::rolling::{requests, rolled};
use crate::router_nginx::{applications, told};

const CADDY: &str = r#"
services:
  caddy:
    image: handover-lab/caddy:2.6
    ports: ["${PORT}:80"]
    volumes: ["./Caddyfile:/etc/caddy/Caddyfile:ro"]
"#;

const SETTINGS: &str = "\nx-handover: { services: { app: { router: { caddy: { service: caddy } } } } }\n";

/// Caddy in front of containers by name.
fn behind_caddy(name: &str, options: &str, count: u32) -> Stack {
    let stack = with_images(name, &["handover-lab/caddy:2.6"]);
    let names: String = (1..=count).map(|number| format!(" {}-app-{number}:80", stack.name)).collect();
    stack.write("Caddyfile", &format!("{{\n    auto_https off\n{options}}}\n:80 {{\n    reverse_proxy{names}\n}}\n"));
    replicas(&stack, count, SETTINGS);
    stack.start();
    stack
}

fn replicas(stack: &Stack, count: u32, settings: &str) {
    let deploy = format!("    deploy: {{ replicas: {count}, update_config: {{ parallelism: 1 }} }}\n");
    stack.compose_file(&format!("{CADDY}{}{settings}", app(&[("LAB_BOOT_MS", "500")], &[HEALTHCHECK, &deploy])));
}

/// The upstreams that Caddy has now.
fn upstreams(stack: &Stack) -> Vec<String> {
    let caddy = stack.container_id("caddy");
    let printed = docker_lines(&["exec", &caddy, "curl", "-s", "http://localhost:2019/reverse_proxy/upstreams"]);
    let all: serde_json::Value = serde_json::from_str(&printed.concat()).expect("Caddy's answer is JSON");
    let mut names: Vec<String> =
        all.as_array().into_iter().flatten().filter_map(|one| Some(one["address"].as_str()?.to_owned())).collect();
    names.sort();
    names
}

#[test]
fn nobody_notices_and_caddy_confirms() {
    let mut stack = behind_caddy("caddy", "", 1);
    let (caddy, before) = (stack.container_id("caddy"), upstreams(&stack));
    let streams = requests(&stack);
    let (report, finished) = stack.hand_over(streams, &[]);
    assert_few_retries(&report);
    assert!(rolled(&finished).contains("router caddy (service caddy, admin API at localhost:2019)"), "{finished}");
    assert_eq!(told(&finished), 1, "{finished}");
    assert_eq!(stack.container_id("caddy"), caddy, "Caddy was recreated");
    assert_eq!(upstreams(&stack), before);
}

#[test]
fn more_and_fewer_replicas_are_told() {
    let mut stack = behind_caddy("caddy-replicas", "", 1);
    let load = stack.load(requests(&stack));
    for (version, count) in [("v2", 2), ("v3", 3), ("v4", 1)] {
        stack.set("VERSION", version);
        replicas(&stack, count, SETTINGS);
        let finished = stack.up(&["--output", "json"]).expect_success();
        let names: Vec<String> = applications(&stack).into_iter().map(|name| format!("{name}:80")).collect();
        assert_eq!(names.len(), count as usize, "{finished}");
        assert_eq!(upstreams(&stack), names, "{finished}");
        stack.assert_nothing_left();
    }
    assert_few_retries(&finish(load, "v4"));
    stack.assert_done();
}

#[test]
fn a_caddy_that_cannot_be_told_is_refused_before_anything_is_started() {
    let mut stack = behind_caddy("caddy-bad", "    admin off\n", 1);
    let refused = |stack: &mut Stack, settings: &str, says: &[&str]| {
        let untouched = stack.untouched();
        stack.set("VERSION", "v2");
        replicas(stack, 1, settings);
        let mut finished = stack.up(&[]).expect_code(7);
        for text in says {
            finished = finished.expect_says(text);
        }
        untouched();
        stack.assert_nothing_left();
    };
    refused(&mut stack, SETTINGS, &["the admin API of", "localhost:2019 does not answer", "Connection refused"]);
    stack
        .write("Caddyfile", "{\n    admin localhost:2020\n    auto_https off\n}\n:80 {\n    reverse_proxy app:80\n}\n");
    stack.set("VERSION", "v1");
    stack.compose(&["restart", "--timeout", "5", "caddy"]).expect_success();
    stack.wait_http(stack.port);
    let with = |keys: &str| SETTINGS.replace("service: caddy", &format!("service: caddy, {keys}"));
    refused(
        &mut stack,
        &with("admin: \"localhost:2020\", port: 81"),
        &["no reverse_proxy sends to the service", "app:80"],
    );
    refused(&mut stack, &with("admin: \"localhost:2020\", id: shop"), &["no reverse_proxy with @id shop"]);
}
