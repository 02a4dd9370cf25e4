//! What the load generator notices of a service that dies, restarts, closes connections or stalls.

mod support;

use std::io::BufReader;
use std::net::{Ipv6Addr, TcpStream};
use std::time::Instant;

use handover_lab::load::{Kind, Load, LoadSpec, Outcome, Report, StreamSpec};
use handover_lab::serve::{ServeOptions, Service};
use support::{answer, anywhere, read_head, read_request, server, service, until};

fn start(streams: impl IntoIterator<Item = StreamSpec>) -> Load {
    Load::start(LoadSpec::new(streams)).expect("the load starts")
}

/// The kinds of errors of a stream with their outcome.
fn errors<'report>(report: &'report Report, stream: &str) -> Vec<(&'report str, Outcome)> {
    let stream = report.stream(stream).expect("the stream is in the report");
    stream.errors.iter().map(|error| (error.kind.as_str(), error.outcome)).collect()
}

fn websocket(rate: f64, target: std::net::SocketAddr) -> StreamSpec {
    StreamSpec { session_ms: Some(100), message_ms: Some(20), ..StreamSpec::new(Kind::Websocket, rate, target) }
}

#[test]
fn a_good_service_gives_a_clean_report_for_every_kind_of_client() {
    let service = Service::start(ServeOptions {
        http: vec![anywhere(), (Ipv6Addr::LOCALHOST, 0).into()],
        udp: vec![anywhere()],
        version: Some("v1".into()),
        instance: Some("the-only-one".into()),
        ..ServeOptions::default()
    })
    .expect("the service starts");
    let (http, udp) = (service.http[0], service.udp[0]);
    let post = |kind| StreamSpec { body_ms: Some(20), ..StreamSpec::new(kind, 20.0, http) };
    let load = start([
        StreamSpec::new(Kind::New, 50.0, http),
        StreamSpec::new(Kind::New, 20.0, service.http[1]).named("over-ipv6"),
        StreamSpec::new(Kind::Keepalive, 50.0, http),
        post(Kind::Post),
        post(Kind::PostNew),
        StreamSpec::new(Kind::Slow, 20.0, http).path("/slow?ms=50"),
        StreamSpec::new(Kind::H2c, 20.0, http).path("/slow?ms=50"),
        StreamSpec::new(Kind::Download, 10.0, http).path("/download?bytes=300001&ms=100"),
        websocket(10.0, http),
        StreamSpec::new(Kind::WebsocketLong, 30.0, http).connections(2),
        StreamSpec::new(Kind::Sse, 10.0, http),
        StreamSpec::new(Kind::Udp, 50.0, udp),
        StreamSpec { new_socket: true, ..StreamSpec::new(Kind::Udp, 20.0, udp).named("udp-sockets") },
    ]);
    until(&load, |progress| progress.every_stream_has(3));
    let report = load.stop();
    report.assert_nothing_noticed();
    for stream in &report.streams {
        let seen: Vec<_> = stream.versions.iter().map(|seen| seen.value.as_str()).collect();
        assert_eq!(seen, ["v1"], "{}", stream.name);
        assert_eq!(stream.instances[0].value, "the-only-one", "{}", stream.name);
    }
    let text = serde_json::to_string(&report).expect("writes");
    assert_eq!(serde_json::from_str::<Report>(&text).expect("reads"), report);
}

#[test]
fn a_service_that_dies_and_comes_back_is_seen_by_everybody_with_the_right_gap() {
    let old = service("v1");
    let address = old.http[0];
    let began = Instant::now();
    let load = start([
        StreamSpec::new(Kind::New, 100.0, address),
        StreamSpec::new(Kind::WebsocketLong, 50.0, address),
        StreamSpec::new(Kind::Sse, 10.0, address),
        StreamSpec { session_ms: Some(60_000), ..websocket(10.0, address) },
    ]);
    until(&load, |progress| {
        let has = |name| progress.stream(name).is_some_and(|stream| stream.ok >= 5);
        has("new") && has("websocket-long") && has("sse")
    });
    load.mark("deploy");
    old.kill();
    let killed = Instant::now();
    until(&load, |progress| {
        let has = |name| progress.stream(name).is_some_and(|stream| stream.failed >= 5);
        has("new") && has("websocket")
    });
    let outage = killed.elapsed();
    let new = Service::start(ServeOptions::http(address, "v2")).expect("the port is free again");
    until(&load, |progress| {
        let back = |name| progress.stream(name).is_some_and(|stream| stream.versions.contains("v2"));
        back("new") && back("websocket-long") && back("sse")
    });
    let whole = began.elapsed();
    load.mark("after");
    let before = load.progress().stream("new").map_or(0, |stream| stream.ok);
    until(&load, |progress| progress.stream("new").is_some_and(|stream| stream.ok >= before + 10));
    // The new service ends first, so that no WebSocket session is waited for.
    new.kill();
    let report = load.stop();

    let stream = report.stream("new").expect("is there");
    let gap = stream.phase("deploy").expect("is there").longest_gap_ms / 1000.0;
    assert!(
        gap >= outage.as_secs_f64() && gap <= whole.as_secs_f64(),
        "{gap} s for an outage of {outage:?} within {whole:?}\n{report}"
    );
    // A request that was due just before the mark may have been under way when the service died.
    let failed = |phase| stream.phase(phase).map_or(0, |stats| stats.failed);
    assert!(failed("deploy") > failed("rest"), "{report}");
    assert!(errors(&report, "new").contains(&("connect refused", Outcome::Failed)), "{report}");
    assert!(report.first_seen("v2") > report.last_seen("v1"), "{report}");
    assert!(report.phase_start("after") > report.first_seen("v2"), "{report}");
    for name in ["websocket-long", "sse"] {
        let stream = report.stream(name).expect("is there");
        let cut = stream.phase("deploy").expect("is there").cut;
        assert_eq!(cut, 1, "{name}\n{report}");
        assert!(stream.longest_reconnect_ms / 1000.0 >= outage.as_secs_f64(), "{name}\n{report}");
    }
    let failures = report.failures().expect("is not clean");
    assert!(failures.contains("connect refused") && failures.contains("not clean: new"), "{failures}");
}

#[test]
fn idle_connections_that_the_server_closes_are_no_failures() {
    let service = Service::start(ServeOptions { keepalive_ms: Some(30), ..ServeOptions::http(anywhere(), "v1") })
        .expect("the service starts");
    // Each of the four connections is idle for about 80 ms between two requests.
    let load = start([StreamSpec::new(Kind::Keepalive, 50.0, service.http[0]).connections(4)]);
    until(&load, |progress| progress.total.ok >= 25);
    let report = load.stop();
    report.assert_no_failures();
    assert!(report.streams[0].closed_while_idle > 0, "{report}");
}

/// Answers the first request of each connection, reads the second (of a POST only the head) and closes.
fn closes_on_reuse(stream: TcpStream) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        if read_request(&mut reader).is_some() {
            answer(reader.get_ref());
            read_head(&mut reader);
        }
    });
}

#[test]
fn a_get_that_meets_a_closing_connection_is_retried_and_a_post_fails() {
    let address = server(closes_on_reuse);
    let load = start([
        StreamSpec::new(Kind::Keepalive, 40.0, address).connections(1),
        StreamSpec { body_ms: Some(10), ..StreamSpec::new(Kind::Post, 20.0, address).connections(1) },
    ]);
    until(&load, |progress| {
        progress.stream("keepalive").is_some_and(|stream| stream.retried >= 3)
            && progress.stream("post").is_some_and(|stream| stream.failed >= 3)
    });
    let report = load.stop();
    let (get, post) = (&report.streams[0].total, &report.streams[1].total);
    assert_eq!(get.failed, 0, "{report}");
    assert_eq!(post.retried, 0, "{report}");
    assert!(errors(&report, "keepalive").iter().all(|(_, outcome)| *outcome == Outcome::Retried));
    assert!(errors(&report, "post").iter().all(|(_, outcome)| *outcome == Outcome::Failed));
}

#[test]
fn streams_of_a_service_that_drains_end_well_and_those_of_one_that_dies_are_cut() {
    let drained = service("v1");
    let address = drained.http[0];
    let load = start([StreamSpec::new(Kind::H2c, 100.0, address).path("/slow?ms=50")]);
    until(&load, |progress| progress.total.ok >= 5);
    load.mark("drain");
    // On its own port again at once, or requests would be refused: that is another failure.
    drained.stop_gracefully();
    let dies = Service::start(ServeOptions::http(address, "v2")).expect("the port is free again");
    until(&load, |progress| progress.every_stream_has_seen("v2"));
    assert!(!errors(&load.report_so_far(), "h2c").iter().any(|(kind, _)| kind.starts_with("response")));
    load.mark("die");
    dies.kill();
    until(&load, |progress| progress.total.failed >= 3);
    let report = load.stop();
    let cut: Vec<_> = errors(&report, "h2c").into_iter().filter(|(kind, _)| kind.starts_with("response")).collect();
    assert!(!cut.is_empty() && cut.iter().all(|(_, outcome)| *outcome == Outcome::Failed), "{report}");
    assert!(report.streams[0].closed_while_idle > 0, "{report}");
}

#[test]
fn half_a_body_is_a_failure() {
    let address = server(|stream| {
        let mut reader = BufReader::new(stream);
        read_request(&mut reader);
        let half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes.";
        let _ = std::io::Write::write_all(reader.get_mut(), half);
    });
    let load = start([StreamSpec::new(Kind::New, 50.0, address)]);
    until(&load, |progress| progress.total.failed >= 3);
    let report = load.stop();
    assert_eq!(errors(&report, "new"), [("body cut", Outcome::Failed)], "{report}");
    assert!(report.streams[0].errors[0].example.contains("90 of 100 bytes"), "{report}");
    assert_eq!(report.total.ok, 0);
}

#[test]
fn statuses_and_contents_that_are_not_expected_are_failures() {
    let service = service("v1");
    let get = |name: &str, path: &str| StreamSpec::new(Kind::New, 50.0, service.http[0]).path(path).named(name);
    let load = start([
        get("error", "/status/503"),
        get("redirect", "/status/302"),
        StreamSpec { redirects_ok: true, ..get("good-redirect", "/status/302") },
        StreamSpec { expect: Some("version=v2".into()), ..get("other-text", "/") },
    ]);
    until(&load, |progress| progress.streams.iter().all(|stream| stream.ok + stream.failed >= 3));
    let report = load.stop();
    assert_eq!(errors(&report, "error"), [("status 503", Outcome::Failed)]);
    assert_eq!(errors(&report, "redirect"), [("status 302", Outcome::Failed)]);
    assert_eq!(errors(&report, "good-redirect"), []);
    assert_eq!(errors(&report, "other-text"), [("unexpected answer", Outcome::Failed)]);
}

#[test]
fn a_stall_is_in_the_latency_of_every_request_that_was_due_meanwhile() {
    const STALLED: usize = 30;
    // Answers nobody until thirty have asked, then everybody at once.
    let mut waiting = Vec::new();
    let mut open = false;
    let address = server(move |stream| {
        waiting.push(BufReader::new(stream));
        open |= waiting.len() >= STALLED;
        if open {
            for mut reader in waiting.drain(..) {
                read_request(&mut reader);
                answer(reader.get_ref());
            }
        }
    });
    let load = start([StreamSpec::new(Kind::New, 100.0, address)]);
    until(&load, |progress| progress.total.ok >= STALLED as u64);
    let report = load.stop();
    report.assert_no_failures();
    // The first was due 290 ms before the thirtieth, the fifteenth 150 ms.
    let latency = &report.total.latency_ms;
    assert!(latency.max >= 289.0, "{report}");
    assert!(latency.p50 >= 100.0, "{report}");
}

#[test]
fn a_port_without_udp_service_is_noticed() {
    // Bound, so that nobody else has it, and never answered.
    let silent = std::net::UdpSocket::bind(anywhere()).expect("binds");
    let target = silent.local_addr().expect("has an address");
    let load = start([StreamSpec::new(Kind::Udp, 50.0, target).timeout_ms(50)]);
    until(&load, |progress| progress.total.failed >= 3);
    assert_eq!(errors(&load.stop(), "udp"), [("timeout", Outcome::Failed)]);
}
