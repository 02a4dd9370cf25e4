//! Engines that are not on this machine's own socket.

use std::os::unix::fs::PermissionsExt;

use handover_lab::load::{Kind, StreamSpec};

use crate::harness::net::engine_over_tcp;
use crate::harness::proxies::{HEALTHCHECK, LABELS, app, behind_traefik};
use crate::harness::{Stack, assert_few_retries};
use crate::rolling::{requests, rolled};

fn deploy_through(stack: &mut Stack, host: &str) {
    let streams = [
        stack.stream(Kind::New, 40.0),
        stack.stream(Kind::Keepalive, 40.0),
        StreamSpec { body_ms: Some(200), ..stack.stream(Kind::Post, 10.0) },
    ];
    stack.set("DOCKER_HOST", host);
    let (report, _) = stack.hand_over(streams, &[]);
    assert_few_retries(&report);
}

#[test]
fn an_engine_over_tcp() {
    let mut stack = Stack::web("tcp");
    let host = format!("tcp://{}", engine_over_tcp());
    deploy_through(&mut stack, &host);
}

/// The Docker CLI runs `ssh [OPTION…] -- HOST docker system dial-stdio`; this one runs the command here, as ssh does there: all
/// words joined, by a shell.
const SSH: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do case $1 in docker*) break ;; esac; shift; done
[ $# -gt 0 ] || { echo "ssh was called without docker" >&2; exit 1; }
DOCKER_HOST=$REAL_DOCKER_HOST exec sh -c "$*"
"#;

/// Makes `ssh` in this stack a script that leads to the tests' engine; what to call that engine.
fn over_ssh(stack: &mut Stack) -> &'static str {
    stack.write("ssh", SSH);
    let script = stack.path().join("ssh");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("our own file");
    let path = std::env::var("PATH").unwrap_or_default();
    stack.set("PATH", &format!("{}:{path}", stack.path().display()));
    let real = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    stack.set("REAL_DOCKER_HOST", &real);
    "ssh://deployer@production.example"
}

#[test]
fn an_engine_over_ssh() {
    let mut stack = Stack::web("ssh");
    let host = over_ssh(&mut stack);
    deploy_through(&mut stack, host);
}

#[test]
fn a_service_is_rolled_on_an_engine_over_tcp_and_over_ssh() {
    let mut stack = behind_traefik("remote-roll", &app(&[], &[LABELS, HEALTHCHECK]));
    stack.start();
    for host in [format!("tcp://{}", engine_over_tcp()), over_ssh(&mut stack).to_owned()] {
        stack.set("VERSION", "v1");
        stack.compose(&["up", "-d"]).expect_success();
        stack.wait_http(stack.port);
        stack.set("DOCKER_HOST", &host);
        let streams = requests(&stack);
        let (report, finished) = stack.hand_over(streams, &[]);
        report.assert_nothing_noticed();
        rolled(&finished);
    }
}
