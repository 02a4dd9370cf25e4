//! UDP: nothing closes a flow, so the switch itself must.

use handover_lab::load::{Kind, Report, StreamSpec};

use crate::harness::Stack;
use crate::harness::net::{OtherHost, own_address};

const BOTH: &str = r#"
services:
  web:
    image: ${LAB}
    environment:
      VERSION: ${VERSION}
      LAB_UDP: 0.0.0.0:53
    ports:
      - "${PORT}:80"
      - "${PORT}:53/udp"
"#;

/// How long a flow that goes on from the same socket may be without answers: from the old container's last answer until its
/// connection tracking entry is deleted, a `docker stop` in between.
const LONGEST_GAP_MS: f64 = 2500.0;

fn flows(name: &str, target: &str) -> [StreamSpec; 2] {
    let new = StreamSpec::new(Kind::Udp, 25.0, target).named(format!("{name}-new"));
    [StreamSpec { new_socket: true, ..new }, StreamSpec::new(Kind::Udp, 15.0, target).named(format!("{name}-long"))]
}

fn assert_new_sockets_notice_nothing_and_long_flows_recover(report: &Report) {
    for stream in &report.streams {
        if stream.name.ends_with("-long") {
            eprintln!(
                "{}: {} failed, longest gap {} ms",
                stream.name, stream.total.failed, stream.total.longest_gap_ms
            );
            assert!(stream.total.longest_gap_ms < LONGEST_GAP_MS, "{}\n{}", stream.name, report.table());
        } else {
            assert_eq!(stream.total.failed, 0, "{}\n{}", stream.name, report.table());
        }
    }
}

fn both(name: &str) -> Stack {
    let stack = Stack::new(name);
    stack.compose_file(BOTH);
    stack.start();
    stack
}

#[test]
fn udp_and_tcp_on_the_same_port_from_this_host() {
    let mut stack = both("udp");
    let port = stack.port;
    let mut streams = vec![stack.stream(Kind::New, 20.0), stack.stream(Kind::Post, 10.0)];
    streams.extend(flows("loopback", &format!("127.0.0.1:{port}")));
    streams.extend(flows("own", &format!("{}:{port}", own_address())));
    streams.extend(flows("six", &format!("[::1]:{port}")));
    let (report, _) = stack.deploy(streams, &[]);
    assert_new_sockets_notice_nothing_and_long_flows_recover(&report);
}

#[test]
fn udp_from_another_host() {
    let mut stack = both("udp-other");
    let other = OtherHost::new();
    let mut streams = vec![stack.stream(Kind::New, 20.0)];
    for (name, address) in [("four", other.gateway.to_string()), ("six", format!("[{}]", other.gateway6))] {
        let from_there = |spec: StreamSpec| spec.netns(other.netns());
        streams.extend(flows(name, &format!("{address}:{}", stack.port)).map(from_there));
    }
    let (report, _) = stack.deploy(streams, &[]);
    assert_new_sockets_notice_nothing_and_long_flows_recover(&report);
}

#[test]
fn a_long_flow_recovers_when_the_deploy_is_finished_by_another_run() {
    let mut stack = both("udp-killed");
    let load = stack.load([stack.stream(Kind::Udp, 20.0).named("long"), stack.stream(Kind::New, 20.0)]);
    stack.set("VERSION", "v2");
    let mut up = stack.spawn_up(&[]);
    up.wait_step("drain");
    up.signal("KILL");
    drop(up);
    let finished = stack.up(&["--output", "json"]).expect_success();
    let all = load.wait_for(crate::harness::SOON, |progress| progress.every_stream_has_seen("v2"));
    let report = load.stop();
    assert!(all, "a flow is led to a container that is gone\n{}\n{finished}", report.table());
    let long = report.stream("long").expect("it is in the load");
    assert!(long.total.longest_gap_ms < LONGEST_GAP_MS, "{}\n{finished}", report.table());
    stack.assert_done();
}
