//! The test service's own behaviour, and the library's and the binary's edges.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use handover_lab::load::{self, Kind, Load, LoadError, LoadSpec, Report, StreamSpec};
use handover_lab::serve::{ServeOptions, Service};
use handover_lab::wire::{BodyPlan, RequestPlan, Target, exchange_once};
use support::{anywhere, server, service, until};

fn start(streams: impl IntoIterator<Item = StreamSpec>) -> Load {
    Load::start(LoadSpec::new(streams)).expect("the load starts")
}

/// Plays Redis (PING, INCR), memcached and a dictionary.
fn lines(stream: TcpStream) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
            let answer = match line.trim_end() {
                "PING" => "+PONG\r\n",
                "version" => "VERSION 1.6\r\n",
                "lab:requests" => ":7\r\n",
                "word" => "version=v1 a word\n",
                _ => "",
            };
            let _ = reader.get_mut().write_all(answer.as_bytes());
            line.clear();
        }
    });
}

#[test]
fn simple_protocols_are_spoken() {
    let address = server(lines);
    let load = start([
        StreamSpec::new(Kind::RedisPing, 50.0, address),
        StreamSpec::new(Kind::Memcached, 50.0, address),
        StreamSpec { line: Some("word".into()), ..StreamSpec::new(Kind::TcpLine, 50.0, address) },
    ]);
    until(&load, |progress| progress.every_stream_has(3));
    let report = load.stop();
    report.assert_nothing_noticed();
    assert!(report.first_seen("v1").is_some());
}

#[test]
fn what_the_service_needs_decides_its_answers() {
    let backend = service("b1");
    let front = Service::start(ServeOptions {
        backend: Some(backend.http[0].into()),
        redis: Some(server(lines).into()),
        ..ServeOptions::http(anywhere(), "f1")
    })
    .expect("the service starts");
    let load = start([StreamSpec {
        expect: Some("count=7 backend_version=b1".into()),
        ..StreamSpec::new(Kind::Keepalive, 50.0, front.http[0])
    }]);
    until(&load, |progress| progress.total.ok >= 5);
    assert_eq!(load.progress().total.failed, 0, "{}", load.report_so_far());
    backend.kill();
    until(&load, |progress| progress.total.failed >= 3);
    let report = load.stop();
    let stream = &report.streams[0];
    assert_eq!(stream.errors[0].kind, "status 502", "{report}");
    assert_eq!(stream.backend_versions[0].value, "b1");
    assert_eq!(stream.versions[0].value, "f1");
}

#[test]
fn a_service_that_forwards_passes_requests_and_answers_on_whole() {
    let upstream = service("v1");
    let front = forwarding(upstream.http[0]);
    let to = front.http[0];
    let load = start([
        StreamSpec::new(Kind::New, 20.0, to),
        StreamSpec::new(Kind::Keepalive, 50.0, to),
        StreamSpec { body_ms: Some(20), ..StreamSpec::new(Kind::Post, 20.0, to) },
        StreamSpec::new(Kind::H2c, 20.0, to).path("/slow?ms=20"),
        StreamSpec::new(Kind::Download, 10.0, to).path("/download?bytes=300001&ms=100"),
        StreamSpec::new(Kind::Sse, 10.0, to),
    ]);
    until(&load, |progress| progress.every_stream_has(3));
    let report = load.stop();
    report.assert_nothing_noticed();
    for stream in &report.streams {
        let seen: Vec<_> = stream.versions.iter().map(|seen| seen.value.as_str()).collect();
        assert_eq!(seen, ["v1"], "{}: a proxy says nothing of itself", stream.name);
    }
}

#[test]
fn a_service_that_forwards_sends_nothing_twice_and_finds_its_upstream_again() {
    let upstream = service("v1");
    let address = upstream.http[0];
    let front = forwarding(address);
    let body = BodyPlan { content: vec![b'x'; 1000].into(), over: Duration::from_millis(200), parts: 10 };
    let post = RequestPlan::new("/post", "lab", Some(body), false);
    let target = Target::from(front.http[0]);
    let asking = std::thread::spawn({
        let (target, post) = (target.clone(), post.clone());
        move || ask(&target, &post)
    });
    while upstream.requests() == 0 {
        std::thread::yield_now();
    }
    upstream.kill();
    assert_eq!(asking.join().expect("no panic"), 502);
    let again = Service::start(ServeOptions::http(address, "v2")).expect("the port is free again");
    assert_eq!(again.requests(), 0, "what was under way is not sent again");
    assert_eq!(ask(&target, &post), 200);
    assert_eq!(again.requests(), 1);
}

/// The status of the answer.
fn ask(target: &Target, plan: &RequestPlan) -> u16 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("builds");
    runtime.block_on(exchange_once(target, plan)).expect("an answer").0.head.status
}

fn forwarding(upstream: std::net::SocketAddr) -> Service {
    let options = ServeOptions {
        backend: Some(upstream.into()),
        backend_forward: true,
        ..ServeOptions::http(anywhere(), "front")
    };
    Service::start(options).expect("the service starts")
}

#[test]
fn stopping_gracefully_finishes_what_is_under_way() {
    let service = service("v1");
    let address = service.http[0];
    let plan = RequestPlan::new("/slow?ms=200", "lab", None, true);
    let asking = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("builds");
        runtime.block_on(exchange_once(&Target::from(address), &plan))
    });
    while service.requests() == 0 {
        std::thread::yield_now();
    }
    service.stop_gracefully();
    let (answer, _) = asking.join().expect("no panic").expect("an answer");
    assert_eq!(answer.head.status, 200);
    assert_eq!(answer.head.header("connection"), Some("close"));
    assert!(TcpStream::connect(address).is_err(), "it listens no more");
}

#[test]
fn clients_live_in_the_network_namespace_they_are_given() {
    let service = service("v1");
    let nowhere = StreamSpec::new(Kind::New, 50.0, service.http[0]).netns("/run/netns/there-is-none");
    let refused = Load::start(LoadSpec::new([nowhere])).expect_err("no such file");
    assert!(matches!(refused, LoadError::Namespace { .. }), "{refused}");
    // Our own is one, too; entering it takes the same privilege as any other.
    let own = StreamSpec::new(Kind::New, 50.0, service.http[0]).netns("/proc/self/ns/net");
    match Load::start(LoadSpec::new([own])) {
        Ok(load) => {
            until(&load, |progress| progress.total.ok >= 3);
            load.stop().assert_nothing_noticed();
        }
        Err(LoadError::Namespace { source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_load_with_a_time_ends_by_itself_and_knows_its_phases() {
    let service = service("v1");
    let (sender, commands) = mpsc::channel();
    sender.send(load::Command::Mark("deploy".into())).expect("is open");
    drop(sender);
    let spec = LoadSpec::new([StreamSpec::new(Kind::Keepalive, 100.0, service.http[0])]).for_seconds(0.2);
    let report = load::run(spec, &commands).expect("runs");
    report.assert_no_failures();
    // The first is due after half an interval, and then one every 10 ms.
    assert_eq!(report.total.requests, 20);
    let phases: Vec<_> = report.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(phases, ["rest", "deploy"]);
    let in_phases: u64 = report.total_by_phase.iter().map(|phase| phase.stats.requests).sum();
    assert_eq!(in_phases, 20);
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lab(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handover-lab"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Starts the service and returns it with what it says and its address.
fn serve(arguments: &[&str]) -> (Process, BufReader<std::process::ChildStdout>, String) {
    let all: Vec<_> = ["serve", "--http", "127.0.0.1:0"].iter().chain(arguments).copied().collect();
    let mut child = lab(&all).env("VERSION", "from-env").spawn().expect("starts");
    let mut output = BufReader::new(child.stdout.take().expect("is piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("says something");
    assert!(line.contains(" version=from-env "), "{line}");
    let address = line.split(' ').nth(2).expect("an address").to_owned();
    (Process(child), output, address)
}

#[test]
fn the_binary_serves_checks_its_health_makes_load_and_ends_as_told() {
    for (on_term, code) in [("die", 143), ("graceful", 0)] {
        let (mut service, mut output, address) = serve(&["--on-term", on_term]);
        let url = format!("http://{address}/healthz");
        assert!(lab(&["healthcheck", &url]).status().expect("runs").success());
        let stream = format!("new=100@{address}");
        let load = ["load", "--seconds", "0.2", "--json", "-", "--fail-on-error", "--stream", &stream];
        let done = lab(&load).output().expect("runs");
        assert!(done.status.success());
        let report: Report = serde_json::from_slice(&done.stdout).expect("is a report");
        assert_eq!((report.total.ok, report.total.failed), (20, 0));

        let pid = service.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("runs").success());
        assert_eq!(service.0.wait().expect("ends").code(), Some(code));
        let mut last = String::new();
        while output.read_line(&mut last).is_ok_and(|length| length > 0) {}
        assert!(last.ends_with(&format!("stopped with code {code}\n")), "{last}");
    }
}

#[test]
fn the_binary_can_be_unhealthy_and_crash() {
    let (mut service, _output, address) =
        serve(&["--ready-after-ms", "3600000", "--exit-after-ms", "1000", "--exit-code", "7"]);
    let url = format!("http://{address}/healthz");
    let checked = lab(&["healthcheck", &url]).stderr(Stdio::piped()).output().expect("runs");
    assert_eq!(checked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&checked.stderr).contains("status 503"));
    assert_eq!(service.0.wait().expect("ends").code(), Some(7));
}
