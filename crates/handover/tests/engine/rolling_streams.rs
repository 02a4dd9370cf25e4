//! Rolled behind Traefik: what takes long, and HTTP/2.

use handover_lab::load::Kind;

use crate::harness::finish;
use crate::harness::proxies::{HEALTHCHECK, LABELS, app, behind_traefik};
use crate::rolling::rolled;

#[test]
fn websocket_sessions_and_downloads_under_way_survive() {
    let mut stack = behind_traefik("roll-under-way", &app(&[], &[LABELS, HEALTHCHECK]));
    stack.start();
    let streams = [
        stack.stream(Kind::Websocket, 5.0),
        stack.stream(Kind::Download, 3.0),
        stack.stream(Kind::New, 20.0),
        stack.stream(Kind::Post, 10.0),
    ];
    let (report, finished) = stack.hand_over(streams, &[]);
    report.assert_nothing_noticed();
    assert_eq!(finished.event("proof")["cut"], serde_json::json!([]), "{finished}");
}

#[test]
fn long_streams_are_left_until_the_deadline_and_then_cut_once() {
    let mut stack = behind_traefik("roll-long", &app(&[], &[LABELS, HEALTHCHECK]));
    stack.start();
    let load = stack.load([
        stack.stream(Kind::WebsocketLong, 20.0).connections(2),
        stack.stream(Kind::Sse, 10.0).connections(2),
        stack.stream(Kind::New, 20.0),
    ]);
    stack.set("VERSION", "v2");
    let finished = stack.up(&["--output", "json", "--drain", "3s"]).expect_success();
    rolled(&finished);
    let report = finish(load, "v2");
    report.assert_no_failures();
    for name in ["websocket-long", "sse"] {
        let stream = report.stream(name).expect("it is in the load");
        assert_eq!(stream.total.cut, 2, "{name}\n{}\n{finished}", report.table());
        assert!(stream.longest_reconnect_ms < 1000.0, "{name}\n{}", report.table());
    }
    let told = finished.event("proof")["cut"].as_array().map_or(0, Vec::len) as u64;
    assert_eq!(told, report.total_cut(), "the proof tells as many as there were\n{finished}");
    stack.assert_done();
}

#[test]
fn an_h2c_service() {
    let label = "      traefik.http.services.app.loadbalancer.server.scheme: h2c\n";
    let mut stack = behind_traefik("roll-h2c", &app(&[], &[LABELS, label, HEALTHCHECK]));
    stack.start();
    // Traefik sends all of them over one connection, which is hardly ever quiet.
    let streams =
        [stack.stream(Kind::H2c, 60.0).path("/"), stack.stream(Kind::New, 10.0), stack.stream(Kind::Keepalive, 10.0)];
    let (report, finished) = stack.hand_over(streams, &[]);
    report.assert_no_failures();
    rolled(&finished);
}
