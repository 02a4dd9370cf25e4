//! Ports, another host, and roads to the engine.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

/// A port that nobody listens on, of a range that no test of this process gets twice. The ranges of processes that run side by
/// side begin at different places, below the engine's own ephemeral ports.
pub(crate) fn free_port() -> u16 {
    free_ports(1)
}

/// The first of so many free ports in a row.
pub(crate) fn free_ports(count: u16) -> u16 {
    const FIRST: u16 = 20_000;
    const SPAN: u16 = 11_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(977) % u32::from(SPAN)) as u16;
    for _ in 0..SPAN / count {
        let offset = (start + NEXT.fetch_add(count, Ordering::Relaxed)) % SPAN;
        let first = FIRST + offset;
        if (first..first + count).all(is_free) {
            return first;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + SPAN);
}

fn is_free(port: u16) -> bool {
    let any6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let any4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    TcpListener::bind(any6).is_ok()
        && TcpListener::bind(any4).is_ok()
        && UdpSocket::bind(any6).is_ok()
        && UdpSocket::bind(any4).is_ok()
}

/// The address that this host has towards others. Nothing is sent.
pub(crate) fn own_address() -> Ipv4Addr {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect("198.51.100.254:9").expect("a private engine's namespace has a default route");
    match socket.local_addr().expect("a bound socket").ip() {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => unreachable!("bound to IPv4"),
    }
}

/// Another host: a network namespace of its own with a cable to this one. Deleted when dropped.
pub(crate) struct OtherHost {
    name: String,
    /// This host's address, as the other sees it.
    pub(crate) gateway: Ipv4Addr,
    pub(crate) gateway6: Ipv6Addr,
}

impl OtherHost {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let (id, number) = (std::process::id() % 100_000, NEXT.fetch_add(1, Ordering::Relaxed));
        let name = format!("hot-{id}-{number}");
        // 198.51.100.0/24 is set aside for documentation; 64 cables fit.
        let block = (((id as u16).wrapping_mul(7).wrapping_add(number)) % 63 * 4) as u8;
        let (gateway, own) = (Ipv4Addr::new(198, 51, 100, block + 1), Ipv4Addr::new(198, 51, 100, block + 2));
        let six = |end: u16| Ipv6Addr::new(0xfd00, 0x5151, id as u16, number, 0, 0, 0, end);
        let host = Self { name: name.clone(), gateway, gateway6: six(1) };
        let cable = format!("{name}c");
        ip(&["netns", "add", &name]);
        ip(&["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &name]);
        ip(&["address", "add", &format!("{gateway}/30"), "dev", &cable]);
        ip(&["address", "add", &format!("{}/64", six(1)), "dev", &cable, "nodad"]);
        ip(&["link", "set", &cable, "up"]);
        ip(&["-n", &name, "address", "add", &format!("{own}/30"), "dev", "eth0"]);
        ip(&["-n", &name, "address", "add", &format!("{}/64", six(2)), "dev", "eth0", "nodad"]);
        ip(&["-n", &name, "link", "set", "eth0", "up"]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        ip(&["-n", &name, "route", "add", "default", "via", &gateway.to_string()]);
        host
    }

    /// The namespace's file, for [`handover_lab::load::StreamSpec::netns`].
    pub(crate) fn netns(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

impl Drop for OtherHost {
    fn drop(&mut self) {
        // The cable goes with the namespace.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("iproute2 is not installed");
    assert!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
}

/// The engine's socket.
pub(crate) fn engine_socket() -> String {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").to_owned()
}

/// Lets the engine's socket be reached over TCP on loopback, as a remote engine is. Ends with the process.
pub(crate) fn engine_over_tcp() -> SocketAddr {
    let socket = engine_socket();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("a bound socket");
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(engine) = UnixStream::connect(&socket) else { return };
            forward(client, engine);
        }
    });
    address
}

fn forward(client: TcpStream, engine: UnixStream) {
    let (Ok(client_read), Ok(engine_read)) = (client.try_clone(), engine.try_clone()) else { return };
    std::thread::spawn(move || {
        pump(client_read, &engine);
        let _ = engine.shutdown(Shutdown::Write);
    });
    std::thread::spawn(move || {
        pump(engine_read, &client);
        let _ = client.shutdown(Shutdown::Write);
    });
}

/// Copies until either side has ended.
pub(super) fn pump(mut from: impl Read, mut to: impl Write) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
