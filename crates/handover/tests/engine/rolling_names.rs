//! Rolled services whose clients know them by name, from another project over a network that both are on.

use handover_lab::load::Kind;

use crate::harness::proxies::{JOINS, NETWORK, app, outside};
use crate::harness::{Finished, Stack, docker_lines, wait_until};
use crate::rolling::{requests, rolled};

/// Deploys `app` behind this proxy under load, once the proxy has settled; nobody notices, and the proxy is not touched.
#[track_caller]
fn nobody_notices(
    name: &str,
    image: &str,
    proxy: &str,
    files: &[(&str, &str)],
    settled: impl FnOnce(&Stack),
) -> Finished {
    let (proxies, mut stack) = outside(name, image, proxy, files);
    stack.compose_file(&format!("services:{}{NETWORK}", app(&[("LAB_BOOT_MS", "500")], &[JOINS])));
    stack.compose(&["up", "-d"]).expect_success();
    proxies.wait_http(proxies.port);
    settled(&proxies);
    let untouched = proxies.untouched();
    let (report, finished) = stack.hand_over(requests(&proxies), &[]);
    report.assert_nothing_noticed();
    assert!(rolled(&finished).contains("shares network"), "the plan does not name the network\n{finished}");
    untouched();
    finished
}

#[test]
fn a_client_with_pooled_connections_that_resolves_anew() {
    let proxy = r#"
  forward:
    image: ${LAB}
    environment: { VERSION: forward, LAB_BACKEND: "http://app", LAB_BACKEND_FORWARD: "true" }
    ports: ["${PORT}:80"]
"#;
    nobody_notices("roll-pooled", "", proxy, &[], |_| ());
}

#[test]
fn caddy_that_resolves_names_anew() {
    let proxy = r#"
  caddy:
    image: handover-lab/caddy:2.6
    ports: ["${PORT}:80"]
    volumes: ["./Caddyfile:/etc/caddy/Caddyfile:ro"]
"#;
    let dynamic = "{\n    admin off\n}\n:80 {\n    reverse_proxy {\n        dynamic a app 80 {\n            refresh 1s\n        }\n    }\n}\n";
    nobody_notices("roll-caddy", "handover-lab/caddy:2.6", proxy, &[("Caddyfile", dynamic)], |_| ());
}

#[test]
fn haproxy_with_resolvers() {
    let proxy = r#"
  haproxy:
    image: handover-lab/haproxy:2.6
    ports: ["${PORT}:80"]
    volumes: ["./haproxy.cfg:/etc/haproxy/haproxy.cfg:ro"]
"#;
    let configuration = r"global
    maxconn 1000
    log stdout format raw local0
defaults
    mode http
    log global
    option log-health-checks
    timeout connect 2s
    timeout client 30s
    timeout server 30s
resolvers docker
    nameserver dns 127.0.0.11:53
    hold valid 1s
    hold nx 10s
    hold timeout 10s
    hold refused 10s
    hold other 10s
frontend web
    bind :80
    default_backend app
backend app
    server app app:80 resolvers docker init-addr none check inter 500ms
";
    // HAProxy sends to a server as soon as its name resolves, before it has checked it. A check that met it while it was
    // booting may still take it out for a second, although it has answered meanwhile.
    let checked = |proxies: &Stack| {
        let haproxy = proxies.container_id("haproxy");
        let found = || docker_lines(&["logs", &haproxy]).iter().any(|line| line.contains("status: 3/3 UP"));
        wait_until("HAProxy has checked the server", found);
    };
    nobody_notices("roll-haproxy", "handover-lab/haproxy:2.6", proxy, &[("haproxy.cfg", configuration)], checked);
}

#[test]
fn nginx_that_resolves_names_once_is_reloaded() {
    let proxy = r#"
  nginx:
    image: handover-lab/nginx:1.22
    ports: ["${PORT}:80"]
    volumes: ["./nginx.conf:/etc/nginx/nginx.conf:ro"]
"#;
    let configuration = r"
events {}
http {
    upstream app { server app:80; keepalive 8; }
    server {
        listen 80;
        location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ''; }
    }
}
";
    let (proxies, mut stack) = {
        // nginx does not start while the name is not there: the application comes first.
        let first = "\n  holder:\n    image: ${LAB}\n    environment: { VERSION: holder }\n";
        let (proxies, stack) =
            outside("roll-nginx", "handover-lab/nginx:1.22", first, &[("nginx.conf", configuration)]);
        stack.compose_file(&format!("services:{}{NETWORK}", app(&[], &[JOINS])));
        stack.compose(&["up", "-d"]).expect_success();
        proxies.compose_file(&format!("services:{proxy}\nnetworks: {{ default: {{ name: \"${{NETWORK}}\" }} }}\n"));
        proxies.compose(&["up", "-d", "--remove-orphans"]).expect_success();
        (proxies, stack)
    };
    proxies.wait_http(proxies.port);
    let untouched = proxies.untouched();
    let (report, finished) = stack.hand_over(requests(&proxies), &[]);
    // nginx closes what was opened just before it reloads.
    crate::harness::assert_few_retries(&report);
    rolled(&finished);
    untouched();
    let load = stack.load([proxies.stream(Kind::New, 30.0)]);
    assert!(load.wait_for(crate::harness::SOON, |progress| progress.total.ok > 20), "{}", load.stop().table());
    load.stop().assert_nothing_noticed();
    let logs = docker_lines(&["logs", &proxies.container_id("nginx")]);
    assert!(!logs.iter().any(|line| line.contains("emerg")), "{logs:?}");
}
