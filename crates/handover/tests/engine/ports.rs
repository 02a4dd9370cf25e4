//! Ports bound to one address, ranges, several entry services, replicas behind one.

use handover_lab::load::{Kind, StreamSpec};

use crate::harness::net::{free_port, free_ports, own_address};
use crate::harness::{Stack, WEB, assert_few_retries, get};

fn bound_to(name: &str, address: &str) -> Stack {
    let stack = Stack::new(name);
    stack.compose_file(&WEB.replace("${PORT}:80", &format!("{address}:${{PORT}}:80")));
    stack.compose(&["up", "-d"]).expect_success();
    crate::harness::wait_until("it answers", || get(&format!("{address}:{}", stack.port), "/").is_some());
    stack
}

fn some_of_each(target: &str) -> [StreamSpec; 3] {
    [Kind::New, Kind::Keepalive, Kind::Post].map(|kind| StreamSpec::new(kind, 20.0, target))
}

#[test]
fn a_port_on_loopback_alone() {
    let mut stack = bound_to("loopback-only", "127.0.0.1");
    let own = format!("{}:{}", own_address(), stack.port);
    assert!(get(&own, "/").is_none(), "{own} answers before the deploy");
    let load = stack.load(some_of_each(&format!("127.0.0.1:{}", stack.port)));
    stack.set("VERSION", "v2");
    let mut up = stack.spawn_up(&[]);
    up.wait_event("live", |event| event["event"] == "live");
    assert!(get(&own, "/").is_none(), "{own} answers during the deploy: the port is led where it was never published");
    up.finish().expect_success();
    assert_few_retries(&crate::harness::finish(load, "v2"));
    stack.assert_done();
}

#[test]
fn a_port_on_the_hosts_own_address_alone() {
    let own = own_address().to_string();
    let mut stack = bound_to("own-only", &own);
    let streams = some_of_each(&format!("{own}:{}", stack.port));
    assert_few_retries(&stack.hand_over(streams, &[]).0);
}

#[test]
fn a_range_of_ports() {
    let mut stack = Stack::new("range");
    let first = free_ports(3);
    stack.set("RANGE", &format!("{first}-{}", first + 2));
    stack.compose_file(
        &WEB.replace("${PORT}:80", "${RANGE}:8080-8082")
            .replace("environment:\n", "environment:\n      LAB_HTTP: 0.0.0.0:8080,0.0.0.0:8081,0.0.0.0:8082\n"),
    );
    stack.compose(&["up", "-d"]).expect_success();
    (first..first + 3).for_each(|port| stack.wait_http(port));
    let streams = (first..first + 3).flat_map(|port| {
        [Kind::New, Kind::Post].map(|kind| {
            StreamSpec::new(kind, 15.0, format!("127.0.0.1:{port}")).named(format!("{kind}-{}", port - first))
        })
    });
    assert_few_retries(&stack.hand_over(streams.collect::<Vec<_>>(), &[]).0);
}

#[test]
fn two_entry_services_at_once() {
    let mut stack = Stack::new("two");
    let second = free_port();
    stack.set("SECOND", &second.to_string());
    stack.compose_file(&format!(
        "{WEB}{}",
        WEB.replace("services:\n", "").replace("web:", "api:").replace("PORT", "SECOND")
    ));
    stack.start();
    stack.wait_http(second);
    let mut streams = some_of_each(&format!("127.0.0.1:{}", stack.port)).to_vec();
    streams.extend(some_of_each(&format!("127.0.0.1:{second}")));
    let before = stack.container_ids();
    assert_few_retries(&stack.hand_over(streams, &[]).0);
    let after = stack.container_ids();
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert!(before.iter().all(|(name, id)| after[name] != *id), "all were recreated");
}

const REPLICAS: &str = r#"
services:
  front:
    image: ${LAB}
    environment:
      VERSION: ${VERSION}
      LAB_BACKEND: http://app:80
    depends_on: [app]
    ports:
      - "${PORT}:80"
  app:
    image: ${LAB}
    environment:
      VERSION: ${VERSION}
      LAB_ON_TERM: graceful
    deploy:
      replicas: 3
"#;

#[test]
fn three_replicas_behind_an_entry_service() {
    let mut stack = Stack::new("replicas");
    stack.compose_file(REPLICAS);
    stack.start();
    let streams = some_of_each(&format!("127.0.0.1:{}", stack.port));
    let (report, finished) = stack.hand_over(streams, &[]);
    assert_few_retries(&report);
    for stream in &report.streams {
        let backends: Vec<&str> = stream.backend_versions.iter().map(|seen| seen.value.as_str()).collect();
        assert_eq!(backends, ["v1", "v2"], "{}\n{finished}", report.table());
    }
    let names: Vec<String> = stack.container_ids().into_keys().collect();
    let expected = ["app-1", "app-2", "app-3", "front-1"].map(|name| format!("{}-{name}", stack.name));
    assert_eq!(names, expected);
}
