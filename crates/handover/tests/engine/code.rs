//! Code in image volumes, and services that are done when they exit.

use handover_lab::load::{Kind, StreamSpec};

use crate::harness::{Stack, assert_few_retries, docker_lines, get, inspect};

const CARRIER: &str = r#"
x-handover:
  services:
    code:
      volumes: renew
services:
  migrate:
    image: ${LAB}
    command: ["serve", "--exit-after-ms", "100", "--version", "${VERSION}"]
  code:
    image: ${LAB}-code-${VERSION}
    command: ["serve", "--never-listen"]
  app:
    image: ${LAB}
    volumes_from: [code]
    environment:
      LAB_VERSION_FILE: /code/version
    depends_on:
      migrate:
        condition: service_completed_successfully
      code:
        condition: service_started
    ports:
      - "${PORT}:80"
"#;

fn anonymous_volumes(container: &str) -> Vec<String> {
    let mounts = inspect(container)["Mounts"].clone();
    let names = mounts.as_array().into_iter().flatten().filter_map(|mount| mount["Name"].as_str().map(str::to_owned));
    names.collect()
}

#[test]
fn renewed_code_is_served_and_the_old_volume_is_gone() {
    let mut stack = Stack::new("code");
    stack.compose_file(CARRIER);
    stack.one_shots = vec!["migrate"];
    stack.start();
    let old = anonymous_volumes(&stack.container_id("code"));
    assert_eq!(old.len(), 1, "one anonymous volume");
    let streams = [
        stack.stream(Kind::New, 30.0),
        stack.stream(Kind::Keepalive, 30.0),
        StreamSpec { body_ms: Some(200), ..stack.stream(Kind::Post, 10.0) },
    ];
    let (report, finished) = stack.hand_over(streams, &[]);
    assert_few_retries(&report);
    let answer = get(&format!("127.0.0.1:{}", stack.port), "/").expect("it answers");
    assert!(answer.contains("version=v2"), "{answer}\n{finished}");
    let new = anonymous_volumes(&stack.container_id("code"));
    assert_ne!(old, new);
    assert_eq!(anonymous_volumes(&stack.container_id("app")), new, "the application has the carrier's volume");
    let all = docker_lines(&["volume", "ls", "-q"]);
    assert!(!all.contains(&old[0]), "the old volume is left over\n{finished}");
    assert!(all.contains(&new[0]));
    // Those of the stand-in are dangling ones that no label tells from others'; these tests make no others in this project.
    let migrate = inspect(&stack.container_id("migrate"));
    assert_eq!(migrate["State"]["ExitCode"], 0);
}

#[test]
fn a_killed_deploy_of_renewed_code_is_finished_with_the_new_code() {
    let mut stack = Stack::new("code-kill");
    stack.compose_file(CARRIER);
    stack.one_shots = vec!["migrate"];
    stack.start();
    let old = anonymous_volumes(&stack.container_id("code"));
    stack.set("VERSION", "v2");
    let mut up = stack.spawn_up(&[]);
    up.wait_step("stop");
    up.signal("KILL");
    drop(up);
    stack.up(&[]).expect_success();
    let answer = get(&format!("127.0.0.1:{}", stack.port), "/").expect("it answers");
    assert!(answer.contains("version=v2"), "{answer}");
    assert!(!docker_lines(&["volume", "ls", "-q"]).contains(&old[0]), "the old volume is left over");
    stack.assert_done();
}

#[test]
fn a_one_shot_that_fails_stops_the_deploy_before_traffic_moves() {
    let mut stack = Stack::new("one-shot");
    stack.compose_file(CARRIER);
    stack.one_shots = vec!["migrate"];
    stack.start();
    let load = stack.load([stack.stream(Kind::New, 30.0), stack.stream(Kind::Keepalive, 30.0)]);
    let app = stack.container_id("app");
    stack.set("VERSION", "v2");
    stack.compose_file(&CARRIER.replace("\"100\"", "\"100\", \"--exit-code\", \"7\""));
    let finished = stack.up(&[]).expect_code(1);
    let report = load.stop();
    report.assert_nothing_noticed();
    assert!(report.first_seen("v2").is_none(), "{}", report.table());
    assert!(finished.stderr.contains("stopped with code 7"), "no log lines\n{finished}");
    assert_eq!(stack.container_id("app"), app);
    stack.assert_nothing_left();
}
