//! Everything of ours dies while a rolled container is being gated: whoever calls its service by name meets only what is ready.

use handover_lab::load::Kind;

use crate::harness::proxies::{HEALTHCHECK, JOINS, NETWORK, app, outside};
use crate::harness::{SOON, docker_lines, wait_until};

const NGINX: &str = "handover-lab/nginx:1.22";
/// Looks the name up every second, and opens a connection for every request.
const CALLER: &str = r#"
  nginx:
    image: handover-lab/nginx:1.22
    ports: ["${PORT}:80"]
    volumes: ["./nginx.conf:/etc/nginx/nginx.conf:ro"]
"#;
const CONFIGURATION: &str = "events {}
http {
    access_log off;
    server {
        listen 80;
        resolver 127.0.0.11 valid=1s ipv6=off;
        location / {
            set $app app;
            proxy_pass http://$app:80;
            proxy_next_upstream off;
        }
    }
}
";

#[test]
fn a_container_that_was_not_gated_gets_no_client_when_everything_of_ours_is_killed() {
    let (proxies, mut stack) = outside("ungated", NGINX, CALLER, &[("nginx.conf", CONFIGURATION)]);
    let file =
        |ready: &str| format!("services:{}{NETWORK}", app(&[("LAB_READY_AFTER_MS", ready)], &[JOINS, HEALTHCHECK]));
    stack.compose_file(&file("0"));
    stack.compose(&["up", "-d"]).expect_success();
    proxies.wait_http(proxies.port);
    let load = proxies.load([proxies.stream(Kind::New, 40.0), proxies.stream(Kind::Post, 20.0)]);
    stack.set("VERSION", "v2");
    // It runs, Compose's name resolves to it, it answers whoever asks, and it says that it is not ready.
    stack.compose_file(&file("600000"));
    let project = stack.name.clone();
    let running = || {
        let label = format!("label=com.docker.compose.project={project}");
        docker_lines(&["ps", "--quiet", "--filter", &label, "--filter", "label=com.docker.compose.service=app"]).len()
    };
    let mut up = stack.spawn_up(&[]);
    up.wait_step("roll");
    wait_until("the new container runs beside the old", || running() == 2);
    // What the deploy says last before its gate is that the new one is redirected; a request meets neither before.
    let before = load.progress().total.ok + 20;
    assert!(load.wait_for(SOON, |progress| progress.total.ok > before));
    up.signal("KILL");
    drop(up);
    let more = load.progress().total.ok + 200;
    let goes_on = load.wait_for(SOON, |progress| progress.total.ok > more);
    let report = load.stop();
    assert_eq!(running(), 2, "the new container is gone: nothing was tried");
    assert!(goes_on, "{}", report.table());
    report.assert_nothing_noticed();
    assert!(report.first_seen("v2").is_none(), "{}", report.table());
    // The next run takes out what was left for it.
    stack.compose_file(&file("0"));
    let load = proxies.load([proxies.stream(Kind::New, 40.0), proxies.stream(Kind::Post, 20.0)]);
    stack.up(&[]).expect_success();
    crate::harness::finish(load, "v2").assert_nothing_noticed();
    stack.assert_done();
}
