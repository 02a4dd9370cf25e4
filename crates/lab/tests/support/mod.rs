//! What the lab's tests share: services and servers on ephemeral ports of loopback, and waiting for events.

#![allow(dead_code, unreachable_pub)] // each test binary uses its part

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use handover_lab::load::{Load, Progress};
use handover_lab::serve::{ServeOptions, Service};

/// An ephemeral port of loopback.
pub fn anywhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A service in this version.
pub fn service(version: &str) -> Service {
    Service::start(ServeOptions::http(anywhere(), version)).expect("the service starts")
}

/// Waits until the load has seen it, and fails with what it has seen when that takes too long.
#[track_caller]
pub fn until(load: &Load, condition: impl FnMut(&Progress) -> bool) {
    let seen = load.wait_for(Duration::from_secs(8), condition);
    assert!(seen, "waited in vain:\n{}", load.report_so_far());
}

/// A server that hands every connection to a function, on a thread of its own.
pub fn server(mut serve: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(anywhere()).expect("binds");
    let address = listener.local_addr().expect("has an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(stream);
        }
    });
    address
}

/// Reads a request's head and returns the length of its body; `None` at the end of the connection.
pub fn read_head(reader: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut length = 0;
    let mut first = true;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim_end().is_empty() && !first {
            return Some(length);
        }
        first = false;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
}

/// Reads a whole request; `None` at the end of the connection.
pub fn read_request(reader: &mut BufReader<TcpStream>) -> Option<()> {
    let length = read_head(reader)?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()
}

/// A small good answer.
pub fn answer(mut stream: &TcpStream) {
    // The client may have gone; then there is nobody to complain.
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Version: v1\r\n\r\nok");
}
