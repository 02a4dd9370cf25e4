//! Services that are rolled in the user's own HAProxy, which is told by its runtime API.

use crate::harness::proxies::{HEALTHCHECK, app, with_images};
use crate::harness::{Stack, assert_few_retries, docker, finish};
use crate::rolling::{requests, rolled};
use crate::router_nginx::{applications, told};

const HAPROXY: &str = r#"
services:
  haproxy:
    image: handover-lab/haproxy:2.6
    restart: on-failure
    ports: ["${PORT}:80"]
    volumes: ["./haproxy.cfg:/etc/haproxy/haproxy.cfg"]
"#;

const SETTINGS: &str =
    "\nx-handover: { services: { app: { router: { haproxy: { service: haproxy, backend: app } } } } }\n";

/// A configuration with a line for each of these containers.
fn configuration(names: &[String]) -> String {
    let lines: String = names.iter().map(|name| format!("    server {name} {name}:80 weight 10\n")).collect();
    format!(
        r"global
    maxconn 1000
    stats socket /run/haproxy.sock mode 600 level admin
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
frontend web
    bind :80
    default_backend app
backend app
    balance roundrobin
{lines}"
    )
}

fn behind_haproxy(name: &str, count: u32) -> Stack {
    let stack = with_images(name, &["handover-lab/haproxy:2.6"]);
    let names: Vec<String> = (1..=count).map(|number| format!("{}-app-{number}", stack.name)).collect();
    stack.write("haproxy.cfg", &configuration(&names));
    replicas(&stack, count);
    stack.start();
    stack
}

fn replicas(stack: &Stack, count: u32) {
    let deploy = format!("    deploy: {{ replicas: {count}, update_config: {{ parallelism: 1 }} }}\n");
    stack.compose_file(&format!("{HAPROXY}{}{SETTINGS}", app(&[("LAB_BOOT_MS", "500")], &[HEALTHCHECK, &deploy])));
}

fn written(stack: &Stack) -> String {
    std::fs::read_to_string(stack.path().join("haproxy.cfg")).expect("the file is there")
}

#[test]
fn nobody_notices_and_haproxy_and_its_file_stay_as_they_were() {
    let mut stack = behind_haproxy("haproxy", 1);
    let haproxy = stack.container_id("haproxy");
    let streams = requests(&stack);
    let (report, finished) = stack.hand_over(streams, &[]);
    assert_few_retries(&report);
    assert!(rolled(&finished).contains("router haproxy (service haproxy, backend app)"), "{finished}");
    assert_eq!(told(&finished), 1, "{finished}");
    assert_eq!(stack.container_id("haproxy"), haproxy, "HAProxy was recreated");
    assert_eq!(written(&stack), configuration(&applications(&stack)));
    docker(&["restart", "--time", "5", &haproxy]);
    stack.wait_http(stack.port);
}

#[test]
fn replicas_are_told_one_by_one_and_more_and_fewer_of_them_are_written_down() {
    let mut stack = behind_haproxy("haproxy-replicas", 2);
    let haproxy = stack.container_id("haproxy");
    let load = stack.load(requests(&stack));
    for (version, count) in [("v2", 2), ("v3", 3), ("v4", 2)] {
        stack.set("VERSION", version);
        replicas(&stack, count);
        let finished = stack.up(&["--output", "json"]).expect_success();
        let names = applications(&stack);
        assert_eq!(names.len(), count as usize, "{finished}");
        assert_eq!(written(&stack), configuration(&names), "{finished}");
        stack.assert_nothing_left();
    }
    assert_few_retries(&finish(load, "v4"));
    assert_eq!(stack.container_id("haproxy"), haproxy, "HAProxy was recreated");
    stack.assert_done();
}

/// A deploy of v2 is refused before anything is started; says this.
#[track_caller]
fn refused(stack: &mut Stack, says: &[&str]) {
    let untouched = stack.untouched();
    stack.set("VERSION", "v2");
    let mut finished = stack.up(&[]).expect_code(7);
    for text in says {
        finished = finished.expect_says(text);
    }
    untouched();
    stack.assert_nothing_left();
}

#[test]
fn a_haproxy_that_cannot_be_told_is_refused_before_anything_is_started() {
    let mut stack = behind_haproxy("haproxy-bad", 1);
    let good = configuration(&applications(&stack));
    let settings = |stack: &Stack, keys: &str| {
        let settings = SETTINGS.replace("backend: app", keys);
        stack.compose_file(&format!("{HAPROXY}{}{settings}", app(&[], &[HEALTHCHECK])));
    };
    settings(&stack, "backend: apps");
    refused(&mut stack, &["has no backend apps", "none of the files that it was started with has it"]);
    settings(&stack, "backend: apps, file: /etc/haproxy/haproxy.cfg");
    refused(&mut stack, &["it has no backend apps", "did you mean `app`?"]);
    settings(&stack, "backend: app, socket: /run/nothing.sock");
    refused(&mut stack, &["the runtime API of", "/run/nothing.sock does not answer", "No such file"]);
    settings(&stack, "backend: app, port: 8080");
    refused(&mut stack, &["no server of backend app is the service's"]);
    settings(&stack, "backend: app");
    stack.write("haproxy.cfg", &good.replace("balance roundrobin", "balance nonsense"));
    refused(&mut stack, &["haproxy -c fails", "balance only supports"]);
    stack.write("haproxy.cfg", &good.replace("level admin", "level user"));
    docker(&["restart", "--time", "5", &stack.container_id("haproxy")]);
    stack.wait_http(stack.port);
    refused(&mut stack, &["refuses `", "Permission denied", "level admin"]);
}
