//! What takes long: downloads, event streams, WebSockets.

use std::time::Duration;

use handover_lab::load::Kind;

use crate::harness::{SOON, Stack, assert_few_retries, finish};

#[test]
fn downloads_and_websocket_sessions_under_way_survive() {
    let mut stack = Stack::web("under-way");
    let streams = [
        stack.stream(Kind::Download, 6.0),
        stack.stream(Kind::Websocket, 8.0),
        stack.stream(Kind::New, 20.0),
        stack.stream(Kind::Keepalive, 20.0),
    ];
    let (report, finished) = stack.hand_over(streams, &[]);
    assert_few_retries(&report);
    assert_eq!(finished.event("proof")["cut"], serde_json::json!([]), "{finished}");
}

#[test]
fn long_websockets_and_event_streams_are_left_until_the_deadline_and_then_cut_once() {
    let mut stack = Stack::web("long");
    let connections = 3;
    let load = stack.load([
        stack.stream(Kind::WebsocketLong, 30.0).connections(connections),
        stack.stream(Kind::Sse, 20.0).connections(2),
        stack.stream(Kind::New, 20.0),
    ]);
    stack.set("VERSION", "v2");
    let mut up = stack.spawn_up(&["--drain", "3s"]);
    up.wait_event("the new version is live", |event| event["event"] == "live");
    let began = std::time::Instant::now();
    assert!(load.wait_for(SOON, |progress| progress.total.cut > 0), "nothing is ever cut\n{}", load.stop().table());
    let left_for = began.elapsed();
    let finished = up.finish().expect_success();
    let sees_it = load.wait_for(SOON, |progress| progress.every_stream_has_seen("v2"));
    let report = load.stop();
    assert!(sees_it, "{}", report.table());
    report.assert_no_failures();
    assert!(left_for > Duration::from_millis(2500), "cut after {left_for:?} of 3 s\n{}", report.table());
    // The old container's connections at the first deadline, the stand-in's at the second: each once.
    for (name, expected) in [("websocket-long", 2 * connections as u64), ("sse", 4)] {
        let stream = report.stream(name).expect("it is in the load");
        assert_eq!(stream.total.cut, expected, "{name}\n{}\n{finished}", report.table());
        assert!(stream.longest_reconnect_ms < 1000.0, "{name}\n{}", report.table());
    }
    let told = finished.event("proof")["cut"].as_array().map_or(0, Vec::len) as u64;
    assert_eq!(told, report.total_cut(), "the proof tells as many as there were\n{finished}");
    stack.assert_done();
}

#[test]
fn three_seconds_of_drain_are_enough_for_short_requests() {
    let mut stack = Stack::web("short");
    let load = stack.load([stack.stream(Kind::Slow, 10.0), stack.stream(Kind::Post, 20.0)]);
    stack.set("VERSION", "v2");
    let finished = stack.up(&["--drain", "3s", "--output", "json"]).expect_success();
    assert_few_retries(&finish(load, "v2"));
    assert_eq!(finished.event("proof")["cut"], serde_json::json!([]), "{finished}");
    stack.assert_done();
}
