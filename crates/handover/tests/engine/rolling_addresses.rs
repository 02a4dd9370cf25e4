//! Whoever calls a rolled service by its addresses is led: IPv4 and IPv6, TCP and UDP, from another container and from the host;
//! beyond the deploy, until the address is another's.

use handover_lab::load::{Kind, StreamSpec};

use crate::harness::client::Client;
use crate::harness::docker::{docker, docker_lines, lab_image};
use crate::harness::{Stack, assert_few_retries, get, inspect, wait_until};
use crate::rolling::rolled;

/// A service with both kinds of address; `${SUBNET}` is its own.
const APP: &str = r#"
services:
  app:
    image: ${LAB}
    environment: { VERSION: "${VERSION}", LAB_BOOT_MS: "500", LAB_HTTP: "[::]:80", LAB_UDP: "[::]:53" }
    expose: ["80", "53/udp"]
networks:
  default: { enable_ipv6: true, ipam: { config: [{ subnet: "${SUBNET}" }] } }
x-handover:
  services:
    app: { strategy: rolling }
"#;

#[test]
fn who_calls_by_ipv4_or_ipv6_address_over_tcp_or_udp_notices_nothing() {
    let mut stack = Stack::new("roll-addresses");
    stack.set("SUBNET", &format!("fd00:7e57:{:x}::/64", stack.port));
    stack.compose_file(APP);
    stack.compose(&["up", "-d"]).expect_success();
    let network = format!("{}_default", stack.name);
    let app = inspect(&stack.container_id("app"));
    let address =
        |key: &str| app["NetworkSettings"]["Networks"][&network][key].as_str().expect("an address").to_owned();
    let both = [("4", address("IPAddress")), ("6", format!("[{}]", address("GlobalIPv6Address")))];
    for (_, address) in &both {
        wait_until("it answers", || get(&format!("{address}:80"), "/").is_some());
    }
    let streams = both.iter().flat_map(|(name, address)| {
        let of = |kind: &str, rate: u32, port: u32| format!("{kind}={rate}@{address}:{port},name={kind}-{name}");
        let udp = format!("{},new_socket=true", of("udp", 15, 53));
        [of("new", 15, 80), of("keepalive", 15, 80), of("post", 5, 80), of("slow", 5, 80), udp]
    });
    let client = Client::start(&network, &streams.collect::<Vec<_>>());
    let load = stack.load(both.iter().flat_map(|(name, address)| {
        let of =
            |kind, port| StreamSpec::new(kind, 10.0, format!("{address}:{port}")).named(format!("{kind:?}-{name}"));
        [of(Kind::New, 80), of(Kind::Keepalive, 80), StreamSpec { new_socket: true, ..of(Kind::Udp, 53) }]
    }));
    stack.set("VERSION", "v2");
    let finished = stack.up(&["--output", "json"]).expect_success();
    rolled(&finished);
    let reports = [load.stop(), client.finish()];
    for report in &reports {
        assert_few_retries(report);
        for stream in &report.streams {
            let seen: Vec<&str> = stream.versions.iter().map(|seen| seen.value.as_str()).collect();
            assert_eq!(seen, ["v1", "v2"], "{}: {}\n{finished}", stream.name, report.table());
        }
    }
    // They go on calling addresses that are gone, are named, and are led on as long as they are there.
    finished.expect_says("the host goes on calling");
    let [(_, four), (_, six)] = &both;
    let answers = |address: &str, version: &str| {
        get(&format!("{address}:80"), "/").is_some_and(|answer| answer.contains(version))
    };
    assert!(answers(four, "v2") && answers(six, "v2"));
    // The engine gives such an address to another container: whoever calls it means that one.
    let (label, six_bare) = (format!("com.docker.compose.project={}", stack.name), six.trim_matches(['[', ']']));
    let mut another = vec!["run", "-d", "--label", &label, "--network", &network, "--ip6", six_bare];
    another.extend(["-e", "VERSION=another", "-e", "LAB_HTTP=[::]:80", lab_image()]);
    let another = docker(&another);
    wait_until("the address is the other container's", || answers(six, "another"));
    docker(&["rm", "-fv", &another]);
    // What is led for the host ends with the network.
    stack.compose(&["down"]).expect_success();
    let keeper = format!("name=^/handover-{}-keeper$", stack.name);
    wait_until("the keeper has ended", || docker_lines(&["ps", "-aq", "--filter", &keeper]).is_empty());
}
