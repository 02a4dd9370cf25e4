//! A service that publishes its port itself and dies on SIGTERM, under every kind of HTTP client, from everywhere.

use handover_lab::load::{Kind, StreamSpec};

use crate::harness::client::Client;
use crate::harness::net::{OtherHost, own_address};
use crate::harness::{Stack, assert_few_retries, get};

fn post(spec: StreamSpec, ms: u64) -> StreamSpec {
    StreamSpec { body_ms: Some(ms), ..spec }
}

#[test]
fn no_request_fails_from_loopback() {
    let mut stack = Stack::web("loopback");
    let streams = [
        stack.stream(Kind::New, 50.0),
        stack.stream(Kind::Keepalive, 60.0),
        post(stack.stream(Kind::Post, 10.0), 200),
        post(stack.stream(Kind::PostNew, 10.0), 300),
        stack.stream(Kind::Slow, 10.0),
    ];
    let (report, _) = stack.hand_over(streams, &[]);
    assert_few_retries(&report);
}

#[test]
fn no_request_fails_from_the_hosts_own_address_and_over_ipv6() {
    let mut stack = Stack::web("own");
    let own = format!("{}:{}", own_address(), stack.port);
    let six = format!("[::1]:{}", stack.port);
    if get(&six, "/").is_none() {
        eprintln!("left out: {six} does not answer before the deploy either");
    }
    let mut streams = Vec::new();
    for (name, target) in [("own", own), ("six", six)] {
        if get(&target, "/").is_some() {
            streams.extend([
                StreamSpec::new(Kind::New, 30.0, &target).named(format!("{name}-new")),
                StreamSpec::new(Kind::Keepalive, 30.0, &target).named(format!("{name}-keepalive")),
                post(StreamSpec::new(Kind::Post, 8.0, &target).named(format!("{name}-post")), 200),
                post(StreamSpec::new(Kind::PostNew, 8.0, &target).named(format!("{name}-post-new")), 300),
                StreamSpec::new(Kind::Slow, 10.0, &target).named(format!("{name}-slow")),
            ]);
        }
    }
    let (report, _) = stack.hand_over(streams, &[]);
    assert_few_retries(&report);
}

#[test]
fn no_request_fails_from_another_host() {
    let mut stack = Stack::web("other");
    let other = OtherHost::new();
    let mut streams = Vec::new();
    for (name, address) in [("four", other.gateway.to_string()), ("six", format!("[{}]", other.gateway6))] {
        let target = format!("{address}:{}", stack.port);
        let stream = |kind, rate, word: &str| {
            StreamSpec::new(kind, rate, &target).named(format!("{name}-{word}")).netns(other.netns())
        };
        streams.extend([
            stream(Kind::New, 30.0, "new"),
            stream(Kind::Keepalive, 30.0, "keepalive"),
            post(stream(Kind::Post, 8.0, "post"), 200),
            post(stream(Kind::PostNew, 8.0, "post-new"), 300),
            stream(Kind::Slow, 10.0, "slow"),
        ]);
    }
    let (report, _) = stack.hand_over(streams, &[]);
    assert_few_retries(&report);
}

#[test]
fn no_request_fails_from_containers_on_the_same_and_on_another_network() {
    let mut stack = Stack::web("containers");
    let target = format!("{}:{}", own_address(), stack.port);
    let same = format!("{}_default", stack.name);
    let mut clients = Vec::new();
    for network in [same.as_str(), "bridge"] {
        if Client::reaches(network, &target) {
            let streams = [
                format!("new=15@{target}"),
                format!("keepalive=15@{target}"),
                format!("post=4@{target}"),
                format!("post-new=4@{target},body_ms=300"),
                format!("slow=5@{target}"),
            ];
            clients.push(Client::start(network, &streams));
        } else {
            eprintln!("left out: {target} does not answer containers on {network} before the deploy either");
        }
    }
    assert!(!clients.is_empty(), "no container reaches {target}");
    let from_here = [stack.stream(Kind::New, 10.0)];
    stack.hand_over(from_here, &[]);
    for client in clients {
        let report = client.finish();
        assert_few_retries(&report);
        for stream in &report.streams {
            let seen: Vec<&str> = stream.versions.iter().map(|seen| seen.value.as_str()).collect();
            assert_eq!(seen, ["v1", "v2"], "{}", report.table());
        }
    }
}

#[test]
fn containers_are_as_compose_makes_them() {
    let mut stack = Stack::web("made");
    let keepalive = [stack.stream(Kind::Keepalive, 20.0)];
    stack.hand_over(keepalive, &[]);
    let ours = stack.made();
    stack.compose(&["up", "-d", "--force-recreate"]).expect_success();
    assert_eq!(ours, stack.made());
}
