//! The drain and the session's other looks, in a real kernel. Needs root.

#[allow(dead_code)] // other tests use the rest
mod support;

use std::io::{Read, Write};

use serde_json::{Value, json};
use support::{Helper, Namespace, Outcome, ask, read_answer};

fn drain(namespace: &Namespace, deadline_ms: u64, hold: bool) -> Value {
    json!({"drain": {"sandbox": namespace.path(), "ports": [80], "deadline_ms": deadline_ms, "hold": hold}})
}

#[test]
fn idle_connections_are_closed_and_a_request_under_way_is_spared() -> Outcome {
    let namespace = Namespace::new()?;
    namespace.serve("[::]:80", "old")?;
    let mut session = Helper::start(&["session"])?;
    // Sent before anybody listens, at once after connecting.
    let mut early = namespace.connect("127.0.0.1:80")?;
    early.write_all(b"GET /hold HTTP/1.1\r\n\r\n")?;
    let drained = session.send(drain(&namespace, 20_000, true))?;
    assert_eq!(session.line()?["progress"]["held"], json!(true));

    let mut idle: Vec<_> =
        ["127.0.0.1:80", "[::1]:80", "127.0.0.1:80"].iter().map(|to| namespace.connect(to)).collect::<Outcome<_>>()?;
    for stream in &mut idle {
        assert_eq!(ask(stream)?, "old");
    }
    let mut busy = namespace.connect("[::1]:80")?;
    busy.write_all(b"GET /hold HTTP/1.1\r\n\r\n")?;
    session.send(json!({"proceed": {"request": drained}}))?;

    for mut stream in idle {
        // Closed, as a client sees it that looks before it uses a connection again.
        let closed = stream.read(&mut [0; 1]);
        assert!(closed.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset), "{closed:?}");
    }
    for stream in [&mut early, &mut busy] {
        stream.write_all(b"!")?;
        assert_eq!(read_answer(stream)?, "old");
    }
    let report = session.end_of(drained)?["ok"].take();
    assert_eq!(report["closed_idle"], json!(5), "{report}");
    assert_eq!(report["left"], json!([]), "{report}");
    Ok(())
}

#[test]
fn what_is_under_way_at_the_deadline_is_left_and_named() -> Outcome {
    let namespace = Namespace::new()?;
    namespace.serve("[::]:80", "old")?;
    let mut session = Helper::start(&["session"])?;
    let mut busy = namespace.connect("127.0.0.1:80")?;
    busy.write_all(b"GET /hold HTTP/1.1\r\n\r\n")?;
    let report = session.ask(drain(&namespace, 300, false))?;
    assert_eq!(report["left"][0]["activity"], json!("request_under_way"), "{report}");
    assert_eq!(report["left"][0]["peer"], json!(busy.local_addr()?.to_string()), "{report}");
    busy.write_all(b"!")?;
    assert_eq!(read_answer(&mut busy)?, "old");
    Ok(())
}

#[test]
fn a_container_without_connections_is_drained_at_once() -> Outcome {
    let namespace = Namespace::new()?;
    let mut session = Helper::start(&["session"])?;
    let report = session.ask(drain(&namespace, 20_000, false))?;
    assert_eq!((&report["closed_idle"], &report["left"]), (&json!(0), &json!([])));
    Ok(())
}

#[test]
fn a_session_ends_with_its_input_whatever_is_under_way() -> Outcome {
    let namespace = Namespace::new()?;
    namespace.serve("[::]:80", "old")?;
    let _open = namespace.connect("127.0.0.1:80")?;
    let mut session = Helper::start(&["session"])?;
    session.send(drain(&namespace, 60_000, true))?;
    session.send(json!({"listens": {"sandbox": namespace.path(), "protocol": "udp", "ports": [53]}}))?;
    session.close_input();
    assert!(session.child.wait()?.success());
    Ok(())
}

#[test]
fn waiting_can_be_cancelled() -> Outcome {
    let namespace = Namespace::new()?;
    let mut session = Helper::start(&["session"])?;
    let waiting = session.send(json!({"listens": {"sandbox": namespace.path(), "protocol": "tcp", "ports": [80]}}))?;
    session.send(json!({"cancel": {"request": waiting}}))?;
    let cancelled = session.end_of(waiting)?;
    assert_eq!(cancelled["error"]["cancelled"], json!(true), "{cancelled}");
    Ok(())
}

#[test]
fn a_sandbox_that_is_gone_is_named() -> Outcome {
    let mut session = Helper::start(&["session"])?;
    let error = session.ask(json!({"gateway": {"sandbox": "/var/run/docker/netns/gone"}})).err();
    let text = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(text.contains("/var/run/docker/netns/gone") && text.contains("hint"), "{text}");
    Ok(())
}

#[test]
fn support_is_found_out_and_leaves_nothing() -> Outcome {
    let namespace = Namespace::new()?;
    let mut session = namespace.inside(|| Helper::start(&["session"]))?;
    for _ in 0..2 {
        let support = session.ask(json!({"support": {"sandbox": namespace.path(), "ports": true, "peers": true}}))?;
        for check in
            ["lead_ports", "read_sockets", "close_sockets", "read_packets", "read_flows", "lead_peers", "enter_sandbox"]
        {
            assert_eq!(support[check], json!({"works": true}), "{check}");
        }
    }
    Ok(())
}
