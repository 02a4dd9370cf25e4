//! Kept-alive connections that are in use while their server drains: no request is lost. Needs root.

#[allow(dead_code)] // other tests use the rest
mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use support::{Helper, Namespace, Outcome, Server, ask, pauses, post_until_closed};

const CLIENTS: u64 = 24;

/// Drains a server while clients that never look send POSTs on kept-alive connections; the report.
fn drain_in_use(listen: &str, call: &str, bytes: usize) -> Outcome<Value> {
    let namespace = Namespace::new()?;
    let _server = Server::start(&namespace, listen, "old")?;
    let (mut session, drained) = listening(&namespace)?;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let stream = namespace.connect(call)?;
            let pauses = pauses(Duration::from_millis(40), true, number);
            Ok(std::thread::spawn(move || post_until_closed(stream, pauses, bytes)))
        })
        .collect::<Outcome<_>>()?;
    session.send(json!({"proceed": {"request": drained}}))?;
    let report = session.end_of(drained)?["ok"].take();
    assert_eq!(report["left"], json!([]), "{report}");
    let answered: Vec<Option<usize>> = clients.into_iter().filter_map(|client| client.join().ok()).collect();
    assert!(answered.iter().all(Option::is_some), "lost on {call}: {answered:?} {report}");
    assert_eq!(report["handed_on"], json!(CLIENTS), "{report}");
    Ok(report)
}

/// A client on a thread of its own that sends POSTs until its connection ends.
fn posting(stream: TcpStream, pauses: impl Iterator<Item = Duration> + Send + 'static) -> JoinHandle<Option<usize>> {
    std::thread::spawn(move || post_until_closed(stream, pauses, 10))
}

/// A session that listens and does not drain yet, and its request.
fn listening(namespace: &Namespace) -> Outcome<(Helper, u64)> {
    begin_to_listen(drain(namespace, true))
}

fn begin_to_listen(drain: Value) -> Outcome<(Helper, u64)> {
    let mut session = Helper::start(&["session"])?;
    let drained = session.send(drain)?;
    assert_eq!(session.line()?["progress"]["held"], json!(true));
    Ok((session, drained))
}

fn drain(namespace: &Namespace, hold: bool) -> Value {
    json!({"drain": {"sandbox": namespace.path(), "ports": [80], "deadline_ms": 20_000, "hold": hold}})
}

#[test]
fn no_post_is_lost_over_ipv4() -> Outcome {
    drain_in_use("0.0.0.0:80", "127.0.0.1:80", 10).map(drop)
}

#[test]
fn no_post_is_lost_over_ipv6() -> Outcome {
    drain_in_use("[::]:80", "[::1]:80", 10).map(drop)
}

#[test]
fn no_post_is_lost_over_ipv4_to_a_server_that_listens_on_ipv6() -> Outcome {
    drain_in_use("[::]:80", "127.0.0.1:80", 10).map(drop)
}

/// A client calls from an address until its connection is drained; its server sees that address each time.
fn asks_whom_the_server_sees(from: &str, prefix: u8, call: &str) -> Outcome {
    let namespace = Namespace::new()?;
    let _server = Server::start(&namespace, "[::]:80", "old")?;
    let (own, server): (IpAddr, SocketAddr) = (from.parse()?, call.parse()?);
    let mut stream = namespace.inside(|| {
        let mut add = Command::new("ip");
        add.args(["address", "add", &format!("{from}/{prefix}"), "dev", "lo"]);
        // Else nobody can use it before the kernel's worker has looked at it.
        add.args(own.is_ipv6().then_some("nodad")).status()?;
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(own, 0).into())?;
        socket.connect(&server.into())?;
        Ok(TcpStream::from(socket))
    })?;
    let (mut session, drained) = listening(&namespace)?;
    session.send(json!({"proceed": {"request": drained}}))?;
    for pause in pauses(Duration::from_millis(40), false, 1) {
        std::thread::sleep(pause);
        stream.write_all(b"GET /peer HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let mut answer = vec![0; 512];
        let length = stream.read(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer[..length]);
        let (address, port) = answer.rsplit('\n').next().and_then(|body| body.split_once(' ')).ok_or("no peer")?;
        assert_eq!(address, from, "{answer}");
        // No other client has that port.
        assert_eq!(port.parse::<u16>()? < 1024, answer.contains("Connection: close"), "{answer}");
        if answer.contains("Connection: close") {
            break;
        }
    }
    let report = session.end_of(drained)?["ok"].take();
    assert_eq!(report["handed_on"], json!(1), "{report}");
    Ok(())
}

#[test]
fn the_server_sees_the_address_of_the_client() -> Outcome {
    asks_whom_the_server_sees("203.0.113.9", 32, "127.0.0.1:80")?;
    asks_whom_the_server_sees("2001:db8::9", 128, "[::1]:80")
}

#[test]
fn large_requests_and_answers_arrive_whole() -> Outcome {
    drain_in_use("[::]:80", "127.0.0.1:80", 300_000).map(drop)
}

#[test]
fn a_connection_that_is_not_used_again_is_closed() -> Outcome {
    let namespace = Namespace::new()?;
    let _server = Server::start(&namespace, "[::]:80", "old")?;
    let (mut session, drained) = listening(&namespace)?;
    let mut stream = namespace.connect("127.0.0.1:80")?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = [0; 43];
    stream.read_exact(&mut answer)?;
    assert!(answer.ends_with(b"old 0"), "{}", String::from_utf8_lossy(&answer));
    let began = Instant::now();
    session.send(json!({"proceed": {"request": drained}}))?;
    // An end, and no reset.
    assert_eq!(stream.read(&mut [0; 1])?, 0);
    assert!((2..5).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let report = session.end_of(drained)?["ok"].take();
    assert_eq!((&report["closed_idle"], &report["handed_on"]), (&json!(1), &json!(0)), "{report}");
    Ok(())
}

#[test]
fn a_drain_that_is_to_leave_the_others_alone_ends_with_those_that_it_has_taken_over() -> Outcome {
    let namespace = Namespace::new()?;
    let _server = Server::start(&namespace, "[::]:80", "old")?;
    let (mut session, drained) = listening(&namespace)?;
    let stream = namespace.connect("127.0.0.1:80")?;
    let client = posting(stream, pauses(Duration::from_millis(40), true, 1));
    session.send(json!({"proceed": {"request": drained}}))?;
    assert!(client.join().is_ok_and(|answered| answered.is_some()));
    session.ask(json!({"leave": {"request": drained}}))?;
    let mut other = namespace.connect("127.0.0.1:80")?;
    let report = session.end_of(drained)?["ok"].take();
    assert_eq!((&report["handed_on"], &report["left"]), (&json!(1), &json!([])), "{report}");
    assert_eq!(ask(&mut other)?, "old 0");
    Ok(())
}

#[test]
fn a_drain_that_is_given_up_serves_what_it_has_taken_over_and_not_used_yet() -> Outcome {
    let namespace = Namespace::new()?;
    let _server = Server::start(&namespace, "[::]:80", "old")?;
    let (mut session, drained) = listening(&namespace)?;
    let (mut idle, busy) = (namespace.connect("127.0.0.1:80")?, namespace.connect("127.0.0.1:80")?);
    ask(&mut idle)?;
    let client = posting(busy, pauses(Duration::from_millis(40), true, 1));
    session.send(json!({"proceed": {"request": drained}}))?;
    assert!(client.join().is_ok_and(|answered| answered.is_some()));
    session.ask(json!({"leave": {"request": drained}}))?;
    assert_eq!(ask(&mut idle)?, "old 0");
    let report = session.end_of(drained)?["ok"].take();
    assert_eq!((&report["handed_on"], &report["closed_idle"]), (&json!(2), &json!(0)), "{report}");
    Ok(())
}

#[test]
fn a_request_that_crosses_the_close_of_an_unused_connection_is_answered_with_a_reset_at_once() -> Outcome {
    let namespace = Namespace::new()?;
    let _server = Server::start(&namespace, "[::]:80", "old")?;
    let (mut session, drained) = listening(&namespace)?;
    let (mut stream, mut busy) = (namespace.connect("127.0.0.1:80")?, namespace.connect("127.0.0.1:80")?);
    ask(&mut stream)?;
    // Half a request: the drain goes on.
    busy.write_all(b"GET / HTTP/1.1\r\n")?;
    session.send(json!({"proceed": {"request": drained}}))?;
    assert_eq!(stream.read(&mut [0; 1])?, 0);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let began = Instant::now();
    let reset = std::iter::repeat_with(|| stream.take_error()).find_map(|error| error.ok().flatten());
    assert!(began.elapsed() < Duration::from_millis(100), "{reset:?} after {:?}", began.elapsed());
    busy.write_all(b"\r\n")?;
    let report = session.end_of(drained)?["ok"].take();
    assert_eq!(report["left"], json!([]), "{report}");
    Ok(())
}

#[test]
fn what_was_taken_over_comes_to_its_end_when_nobody_is_at_the_other_end_of_the_session() -> Outcome {
    let namespace = Namespace::new()?;
    let _server = Server::start(&namespace, "[::]:80", "old")?;
    let (mut session, drained) = listening(&namespace)?;
    let (mut stream, mut taken) = (namespace.connect("127.0.0.1:80")?, namespace.connect("127.0.0.1:80")?);
    for one in [&mut stream, &mut taken] {
        ask(one)?;
    }
    session.send(json!({"proceed": {"request": drained}}))?;
    // The first is answered with its end: both are in our hands by then.
    for pause in pauses(Duration::from_millis(40), false, 1) {
        std::thread::sleep(pause);
        if !post(&mut stream)? {
            break;
        }
    }
    session.close_input();
    assert!(!post(&mut taken)?, "it was not the last");
    assert!(session.child.wait()?.success());
    Ok(())
}

/// A POST; whether its connection stays.
fn post(stream: &mut TcpStream) -> Outcome<bool> {
    stream.write_all(b"POST /10 HTTP/1.1\r\nContent-Length: 2\r\n\r\nab")?;
    let mut answer = vec![0; 512];
    let length = stream.read(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.contains("old 2"), "{answer}");
    Ok(!answer.contains("Connection: close"))
}

#[test]
fn connections_of_one_client_alone_are_drained_at_once() -> Outcome {
    let namespace = Namespace::new()?;
    let _server = Server::start(&namespace, "[::]:80", "old")?;
    let mut session = Helper::start(&["session"])?;
    let (stream, other) = (namespace.connect("127.0.0.1:80")?, namespace.connect("127.0.0.1:80")?);
    let mut request = drain(&namespace, false);
    request["drain"]["clients"] = json!([stream.local_addr()?.to_string()]);
    let client = posting(stream, pauses(Duration::from_millis(40), true, 1));
    let report = session.ask(request)?;
    assert!(client.join().is_ok_and(|answered| answered.is_some()), "{report}");
    assert_eq!((&report["handed_on"], &report["closed_idle"]), (&json!(1), &json!(0)), "{report}");
    other.set_read_timeout(Some(Duration::from_millis(1)))?;
    assert!((&other).read(&mut [0; 1]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    Ok(())
}

#[test]
fn a_connection_on_which_nothing_was_heard_is_handed_on_where_its_client_speaks_http_on_others() -> Outcome {
    let namespace = Namespace::new()?;
    let _server = Server::start(&namespace, "[::]:80", "old")?;
    let mut silent = namespace.connect("127.0.0.1:80")?;
    ask(&mut silent)?;
    let (mut session, drained) = listening(&namespace)?;
    let used = namespace.connect("127.0.0.1:80")?;
    let used = posting(used, pauses(Duration::from_millis(40), true, 1));
    // Long after the drain has come to see that it is idle, as far as the kernel tells.
    let silent = posting(silent, pauses(Duration::from_millis(3400), false, 1));
    session.send(json!({"proceed": {"request": drained}}))?;
    let report = session.end_of(drained)?["ok"].take();
    assert_eq!(used.join().ok().map(|answered| answered.is_some()), Some(true), "{report}");
    assert_eq!(silent.join().ok(), Some(Some(1)), "{report}");
    assert_eq!((&report["handed_on"], &report["closed_idle"]), (&json!(2), &json!(0)), "{report}");
    Ok(())
}

#[test]
fn a_drain_that_only_listens_again_takes_over_whatever_comes_once_it_is_told_to_proceed_again() -> Outcome {
    let namespace = Namespace::new()?;
    let _server = Server::start(&namespace, "[::]:80", "old")?;
    let mut lasting = drain(&namespace, true);
    lasting["drain"]["lasts"] = json!(true);
    let (mut session, drained) = begin_to_listen(lasting)?;
    for _ in 0..2 {
        let stream = namespace.connect("127.0.0.1:80")?;
        session.ask(json!({"proceed": {"request": drained}}))?;
        let client = posting(stream, pauses(Duration::from_millis(40), true, 1));
        assert!(client.join().is_ok_and(|answered| answered.is_some()));
        // Nothing is left, and it goes on.
        session.ask(json!({"hold": {"request": drained}}))?;
        // One of its own rhythm is left alone now.
        let mut other = namespace.connect("127.0.0.1:80")?;
        for pause in pauses(Duration::from_millis(40), false, 1).take(5) {
            std::thread::sleep(pause);
            assert_eq!(ask(&mut other)?, "old 0");
        }
    }
    session.ask(json!({"leave": {"request": drained}}))?;
    let report = session.end_of(drained)?["ok"].take();
    assert_eq!((&report["handed_on"], &report["left"]), (&json!(2), &json!([])), "{report}");
    Ok(())
}

#[test]
fn an_http2_client_is_told_to_go_on_elsewhere_once_its_streams_have_ended() -> Outcome {
    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let namespace = Namespace::new()?;
    let _server = Server::start(&namespace, "[::]:80", "old")?;
    let (mut session, drained) = listening(&namespace)?;
    let mut stream = namespace.connect("127.0.0.1:80")?;
    let frame = |kind: u8, flags: u8, id: u8| [0, 0, 1, kind, flags, 0, 0, 0, id, 0x88];
    stream.write_all(&[HELLO, &frame(1, 5, 1), &frame(1, 4, 3)].concat())?;
    let mut answer = [0; 19];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer[9..], frame(1, 5, 1));
    session.send(json!({"proceed": {"request": drained}}))?;
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    assert!(stream.read(&mut [0; 1]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));

    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&frame(0, 1, 3))?;
    let mut answer = [0; 10];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, frame(1, 5, 3));
    let mut goaway = [0; 17];
    stream.read_exact(&mut goaway)?;
    assert_eq!(goaway, [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0]);
    // What crosses that is not looked at, and the connection is there until the client has read it.
    stream.write_all(&frame(1, 5, 5))?;
    drop(stream);
    let report = session.end_of(drained)?["ok"].take();
    assert_eq!((&report["handed_on"], &report["left"]), (&json!(1), &json!([])), "{report}");
    Ok(())
}
