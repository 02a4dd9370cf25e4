//! A new version that is no good: the old one never notices.

use handover_lab::load::Kind;

use crate::harness::{Finished, SOON, Stack, WEB};

/// The stack of one service with more environment and, below, more keys.
fn web_with(environment: &[(&str, &str)], keys: &str) -> String {
    let lines: String = environment.iter().map(|(key, value)| format!("      {key}: \"{value}\"\n")).collect();
    format!("{}{keys}", WEB.replace("environment:\n", &format!("environment:\n{lines}")))
}

const HEALTHCHECK: &str = r#"
    healthcheck:
      test: ["CMD", "/handover-lab", "healthcheck", "http://127.0.0.1:80/healthz"]
      interval: 500ms
      timeout: 2s
      retries: 2
"#;

/// Deploys this file as v2 under load and asserts that the old version serves on, untouched.
#[track_caller]
fn refused(stack: &mut Stack, file: &str, args: &[&str]) -> Finished {
    let load = stack.load([
        stack.stream(Kind::New, 40.0),
        stack.stream(Kind::Keepalive, 40.0),
        stack.stream(Kind::Post, 10.0),
        stack.stream(Kind::Slow, 10.0),
    ]);
    let untouched = stack.untouched();
    stack.set("VERSION", "v2");
    stack.compose_file(file);
    let finished = stack.up(args);
    load.mark("after");
    let more = load.progress().total.ok + 50;
    assert!(load.wait_for(SOON, |progress| progress.total.ok > more), "{}", load.stop().table());
    let report = load.stop();
    let finished = finished.expect_code(1);
    report.assert_nothing_noticed();
    assert!(report.first_seen("v2").is_none(), "the new version has been seen\n{}\n{finished}", report.table());
    untouched();
    stack.assert_nothing_left();
    finished
}

#[test]
fn a_version_that_exits_at_once_is_refused_with_its_last_words() {
    let mut stack = Stack::web("exits");
    let file = web_with(&[("LAB_EXIT_AFTER_MS", "0"), ("LAB_EXIT_CODE", "3")], "");
    let finished = refused(&mut stack, &file, &[]);
    assert!(finished.stderr.contains("stopped with code 3"), "no log lines\n{finished}");
}

#[test]
fn a_version_that_cannot_start_is_refused() {
    let mut stack = Stack::web("no-start");
    let file = web_with(&[], "    entrypoint: [\"/there/is/no/such/program\"]\n");
    let finished = refused(&mut stack, &file, &[]);
    assert!(finished.stderr.contains("/there/is/no/such/program"), "{finished}");
}

#[test]
fn a_version_that_restarts_again_and_again_is_refused() {
    let mut stack = Stack::web("restarts");
    let file = web_with(&[("LAB_EXIT_AFTER_MS", "50"), ("LAB_NEVER_LISTEN", "true")], "    restart: always\n");
    let finished = refused(&mut stack, &file, &[]);
    assert!(finished.stderr.contains("never listening"), "no log lines\n{finished}");
}

#[test]
fn a_version_that_never_listens_is_refused_after_the_gate_timeout() {
    let mut stack = Stack::web("never");
    let file = web_with(&[("LAB_NEVER_LISTEN", "true")], "");
    let finished = refused(&mut stack, &file, &["--gate-timeout", "3s"]);
    assert!(finished.stderr.contains("never listening"), "no log lines\n{finished}");
    assert!(finished.stderr.contains("not ready after 3s"), "{finished}");
}

#[test]
fn a_version_that_fails_its_healthcheck_is_refused_before_the_gate_timeout() {
    let mut stack = Stack::new("unhealthy");
    stack.compose_file(&web_with(&[], HEALTHCHECK));
    stack.start();
    let file = web_with(&[("LAB_READY_AFTER_MS", "1000000")], HEALTHCHECK);
    let finished = refused(&mut stack, &file, &["--gate-timeout", "60s"]);
    assert!(finished.stderr.contains("unhealthy"), "{finished}");
    assert!(finished.stderr.contains("listening http"), "no log lines\n{finished}");
}

#[test]
fn a_version_that_turns_unhealthy_while_it_is_watched_is_taken_back() {
    let mut stack = Stack::new("turns");
    stack.compose_file(&web_with(&[], HEALTHCHECK));
    stack.start();
    // The WebSocket holds the drain of the old container open, and with it the way back.
    let load = stack.load([
        stack.stream(Kind::New, 40.0),
        stack.stream(Kind::PostNew, 10.0),
        stack.stream(Kind::WebsocketLong, 20.0),
    ]);
    let untouched = stack.untouched();
    stack.set("VERSION", "v2");
    stack.compose_file(&web_with(&[("LAB_UNHEALTHY_AFTER_MS", "3000")], HEALTHCHECK));
    let finished = stack.up(&["--output", "json"]);
    load.mark("after");
    let more = load.progress().total.ok + 50;
    assert!(load.wait_for(SOON, |progress| progress.total.ok > more), "{}", load.stop().table());
    let report = load.stop();
    let finished = finished.expect_code(1).expect_says("unhealthy");
    assert!(report.first_seen("v2").is_some(), "it was never live\n{}\n{finished}", report.table());
    assert!(report.last_seen("v2") < report.phase_start("after"), "{}", report.table());
    untouched();
    stack.assert_nothing_left();
    assert_eq!(report.total_cut(), 0, "the WebSocket stayed with the old container\n{}", report.table());
    report.assert_no_failures();
}
