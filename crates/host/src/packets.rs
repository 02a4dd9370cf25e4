//! TCP segments of one network namespace, in the order in which they pass, by a packet socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, SockFilter, Socket, Type};

/// How much of a packet is copied: headers and the beginning of the payload, enough for the headers of an HTTP answer.
const CAPTURE: u32 = 4096 + 120;

/// With more ports than this the filter lets all of TCP through; jumps in a filter reach 255 instructions.
const FILTERED_PORTS: usize = 40;

/// Room for packets that are not read yet, in bytes.
const BUFFER: libc::c_int = 8 * 1024 * 1024;

/// One TCP segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Segment<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) sequence: u32,
    pub(crate) syn: bool,
    pub(crate) ack: bool,
    /// FIN or RST.
    pub(crate) ends: bool,
    /// Payload in bytes.
    pub(crate) length: u32,
    /// The captured part of the payload.
    pub(crate) seen: &'a [u8],
}

/// A packet socket for the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Packets {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Packets {
    /// Opens one that gets segments from or to one of `ports`. Needs NET_RAW.
    pub(crate) fn open(ports: &[u16]) -> io::Result<Self> {
        // ETH_P_IP would not deliver what goes out.
        let everything = i32::from((libc::ETH_P_ALL as u16).to_be());
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(socket2::Protocol::from(everything)))?;
        socket.attach_filter(&filter(ports))?;
        enlarge_buffer(&socket);
        Ok(Packets { socket, buffer: vec![0; CAPTURE as usize] })
    }

    /// Hands out the segments that are there; if there are none, waits for the first, at most so long.
    pub(crate) fn receive(&mut self, wait: Duration, mut take: impl FnMut(Segment<'_>)) -> io::Result<()> {
        wait_for_packet(&self.socket, wait)?;
        self.take_waiting(&mut take)
    }

    /// Hands out the segments that are there.
    pub(crate) fn take_waiting(&mut self, mut take: impl FnMut(Segment<'_>)) -> io::Result<()> {
        loop {
            match read_at_once(&self.socket, &mut self.buffer) {
                Ok(length) => {
                    if let Some(segment) = self.buffer.get(..length).and_then(parse) {
                        take(segment);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_nothing(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waits to the microsecond: the timeout of a socket is rounded to jiffies, so that it would nearly always be a packet that wakes
/// us, just when more are coming.
#[allow(unsafe_code)]
fn wait_for_packet(socket: &Socket, longest: Duration) -> io::Result<()> {
    let mut one = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = libc::timespec {
        tv_sec: longest.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: longest.subsec_nanos().into(),
    };
    // SAFETY: one pollfd and the timeout live through the call, no signal mask is given, and the descriptor is open for as long as
    // `socket` is borrowed.
    let ready = unsafe { libc::ppoll(&raw mut one, 1, &raw const timeout, std::ptr::null()) };
    match ready {
        -1 => Err(io::Error::last_os_error()).or_else(|error| if is_nothing(&error) { Ok(()) } else { Err(error) }),
        _ => Ok(()),
    }
}

/// Reads without waiting, and without the two calls more that another mode of the socket would cost: a connection is closed
/// right after this says that there is nothing.
#[allow(unsafe_code)]
fn read_at_once(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the kernel writes at most the buffer's length.
    let length =
        unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

fn is_nothing(error: &io::Error) -> bool {
    // ENETDOWN: an interface of the namespace went down, others may go on.
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
        || error.raw_os_error() == Some(libc::ENETDOWN)
}

/// Room beyond the system's limit; NET_ADMIN allows it. Without it there is less room, and missed segments are noticed.
#[allow(unsafe_code)]
fn enlarge_buffer(socket: &Socket) {
    let size = std::mem::size_of_val(&BUFFER) as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the option's value is a c_int that lives
    // through the call.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            std::ptr::from_ref(&BUFFER).cast(),
            size,
        );
    }
}

/// A classic BPF program: TCP over IPv4 and IPv6, unfragmented, from or to one of the ports. It runs on the packet from
/// its IP header on.
fn filter(ports: &[u16]) -> Vec<SockFilter> {
    let ports = if ports.len() > FILTERED_PORTS { &[] } else { ports };
    let mut steps = vec![
        Step::Do(LOAD_BYTE, 0),
        Step::Do(SHIFT_RIGHT, 4),
        Step::If(JUMP_EQUAL, 6, Go::Label("ipv6"), Go::On),
        Step::Do(LOAD_BYTE, 9),
        Step::If(JUMP_EQUAL, libc::IPPROTO_TCP as u32, Go::On, Go::Label("reject")),
        Step::Do(LOAD_HALF, 6),
        Step::If(JUMP_SET, 0x1fff, Go::Label("reject"), Go::On),
        Step::Do(LOAD_IPV4_HEADER_LENGTH, 0),
        Step::If(JUMP_EQUAL, 0, Go::Label("ports"), Go::Label("ports")),
        Step::Here("ipv6"),
        Step::Do(LOAD_BYTE, 6),
        Step::If(JUMP_EQUAL, libc::IPPROTO_TCP as u32, Go::On, Go::Label("reject")),
        Step::Do(SET_INDEX, 40),
        Step::Here("ports"),
    ];
    for end in [0, 2] {
        steps.push(Step::Do(LOAD_HALF_INDEXED, end));
        steps.extend(ports.iter().map(|port| Step::If(JUMP_EQUAL, u32::from(*port), Go::Label("accept"), Go::On)));
    }
    if !ports.is_empty() {
        steps.extend([Step::Here("reject"), Step::Do(RETURN, 0), Step::Here("accept"), Step::Do(RETURN, CAPTURE)]);
    } else {
        steps.extend([Step::Do(RETURN, CAPTURE), Step::Here("reject"), Step::Do(RETURN, 0)]);
    }
    assemble(&steps)
}

// `linux/bpf_common.h`
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const LOAD_HALF_INDEXED: u16 = 0x48;
const LOAD_IPV4_HEADER_LENGTH: u16 = 0xb1;
const SET_INDEX: u16 = 0x01;
const SHIFT_RIGHT: u16 = 0x74;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

/// A line of a filter program.
enum Step {
    Do(u16, u32),
    If(u16, u32, Go, Go),
    Here(&'static str),
}

enum Go {
    On,
    Label(&'static str),
}

fn assemble(steps: &[Step]) -> Vec<SockFilter> {
    let is_code = |step: &&Step| !matches!(step, Step::Here(_));
    let address = |label: &str| {
        let before = steps.iter().take_while(|step| !matches!(step, Step::Here(name) if *name == label));
        before.filter(is_code).count()
    };
    let code = steps.iter().filter(is_code).enumerate();
    code.map(|(here, step)| {
        let distance = |go: &Go| match go {
            Go::On => 0,
            // Programs here are shorter than 255 steps, see FILTERED_PORTS.
            Go::Label(label) => u8::try_from(address(label).saturating_sub(here + 1)).unwrap_or(u8::MAX),
        };
        match step {
            Step::Do(code, k) => SockFilter::new(*code, 0, 0, *k),
            Step::If(code, k, yes, no) => SockFilter::new(*code, distance(yes), distance(no), *k),
            Step::Here(_) => SockFilter::new(RETURN, 0, 0, 0),
        }
    })
    .collect()
}

fn parse(packet: &[u8]) -> Option<Segment<'_>> {
    let (from, to, header, total) = match packet.first()? >> 4 {
        4 => {
            let ip = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(octets).into())
            };
            let header = usize::from(packet.first()? & 0xf) * 4;
            // Beyond 64 KiB (BIG TCP) the length is 0.
            let total = match u16_be(packet, 2)? {
                0 => packet.len(),
                length => usize::from(length),
            };
            (ip(12)?, ip(16)?, header, total)
        }
        6 => {
            let ip = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
            };
            let total = match u16_be(packet, 4)? {
                0 => packet.len(),
                length => 40 + usize::from(length),
            };
            (ip(8)?, ip(24)?, 40, total)
        }
        _ => return None,
    };
    let tcp = packet.get(header..)?;
    let flags = *tcp.get(13)?;
    let tcp_header = usize::from(tcp.get(12)? >> 4) * 4;
    let length = total.checked_sub(header + tcp_header)?;
    let seen = tcp.get(tcp_header..).unwrap_or_default();
    // Ethernet pads short packets.
    let seen = seen.get(..length).unwrap_or(seen);
    Some(Segment {
        from: SocketAddr::new(from, u16_be(tcp, 0)?),
        to: SocketAddr::new(to, u16_be(tcp, 2)?),
        sequence: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
        syn: flags & 2 != 0,
        ack: flags & 16 != 0,
        ends: flags & 5 != 0,
        length: u32::try_from(length).ok()?,
        seen,
    })
}

fn u16_be(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_read_from_an_ipv4_packet() {
        let mut packet = vec![0x45, 0, 0, 43, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([0x1f, 0x90, 0, 80, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0]);
        packet.extend(b"GET padding");
        let segment =
            parse(&packet).map(|segment| (segment.from, segment.to, segment.sequence, segment.length, segment.seen));
        let expected: (SocketAddr, SocketAddr) = (([10, 0, 0, 1], 8080).into(), ([10, 0, 0, 2], 80).into());
        assert_eq!(segment, Some((expected.0, expected.1, 7, 3, b"GET".as_slice())));
    }

    #[test]
    fn nonsense_is_no_segment() {
        for length in 0..40 {
            let _ = parse(&vec![0x45; length]);
            let _ = parse(&vec![0x65; length]);
            let _ = parse(&vec![0xff; length]);
        }
        assert_eq!(parse(&[]), None);
    }
}
