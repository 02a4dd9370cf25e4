//! A TCP connection of another process becomes ours, and its client does not notice: what CRIU does to one socket.
//!
//! Whoever closes an idle connection races its client: a request that is written before the client has noticed the close is
//! lost, and on a busy machine that takes milliseconds. So the connection is kept, and its next request can be answered.
//!
//! While it changes hands its packets are dropped, first by a filter on the old socket, then by one on the new. In the
//! microseconds between, when there is none, a packet would be answered with a reset; `reset_guard` drops that. TCP sends
//! again what was dropped.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, SockFilter, SockRef, Socket, Type};

use crate::sockopt;

/// Values of TCP_REPAIR and TCP_REPAIR_QUEUE (`linux/tcp.h`).
const ON: u32 = 1;
const OFF_WITHOUT_PROBE: i32 = -1;
const RECEIVE_QUEUE: u32 = 1;
const SEND_QUEUE: u32 = 2;

/// Options of a connection in `tcp_info`, and their numbers in TCP_REPAIR_OPTIONS.
const TIMESTAMPS: u8 = 1;
const SACK: u8 = 2;
const SCALED: u8 = 4;
const OPTION_MSS: u32 = 2;
const OPTION_SCALE: u32 = 3;
const OPTION_SACK: u32 = 4;
const OPTION_TIMESTAMPS: u32 = 8;

/// Offsets in `tcp_info`.
const INFO_STATE: usize = 0;
const INFO_OPTIONS: usize = 5;
const INFO_SCALES: usize = 6;
const INFO_RECEIVED: usize = 128;
const ESTABLISHED: u8 = 1;

/// An answer of which more than this is not acknowledged is waited for.
const LONGEST_TAIL: usize = 8 * 1024;

/// How it went.
#[derive(Debug)]
pub(crate) enum TakeOver {
    /// The connection is ours.
    Done(TcpStream),
    /// Something came meanwhile: all is as it was.
    LetGo,
    /// It cannot be done; all is as it was.
    Refused(io::Error),
    /// It failed half-way, and the connection is gone.
    Lost(io::Error),
}

/// Takes over a connection by a duplicate of its socket. `received`: payload received when it was seen to be idle.
///
/// Must be called inside the network namespace; needs NET_ADMIN there. Whoever had it finds it aborted.
pub(crate) fn take_over(theirs: BorrowedFd<'_>, (local, remote): (SocketAddr, SocketAddr), received: u64) -> TakeOver {
    match prepare(theirs, local) {
        Ok(ours) => exchange(theirs, ours, remote, received),
        Err(error) => TakeOver::Refused(error),
    }
}

/// Whether it works here, tried on a connection of our own over loopback.
pub(crate) fn trial() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let _client = TcpStream::connect(listener.local_addr()?)?;
    let (server, remote) = listener.accept()?;
    match take_over(server.as_fd(), (server.local_addr()?, remote), 0) {
        TakeOver::Done(_) => Ok(()),
        TakeOver::LetGo => Err(io::Error::other("bytes were counted that nobody has sent")),
        TakeOver::Refused(error) | TakeOver::Lost(error) => Err(error),
    }
}

/// A socket with the same local end beside theirs, deaf.
fn prepare(theirs: BorrowedFd<'_>, local: SocketAddr) -> io::Result<Socket> {
    // A filter of their own cannot be given back.
    if sockopt::get(theirs, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &mut [])? > 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    if matches!(local, SocketAddr::V6(address) if address.ip().is_unicast_link_local()) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let ours = Socket::new(Domain::for_address(local), Type::STREAM, Some(socket2::Protocol::TCP))?;
    deafen(&ours)?;
    repair(ours.as_fd())?;
    ours.bind(&local.into())?;
    Ok(ours)
}

fn exchange(theirs: BorrowedFd<'_>, ours: Socket, remote: SocketAddr, received: u64) -> TakeOver {
    let handle = SockRef::from(&theirs);
    if let Err(error) = deafen(&handle) {
        return TakeOver::Refused(error);
    }
    let let_go = |answer| {
        let _ = end_repair(theirs);
        match handle.detach_filter() {
            Ok(()) => answer,
            Err(error) => TakeOver::Lost(error),
        }
    };
    let connection = match Connection::of(theirs, received) {
        Ok(Some(connection)) => connection,
        Ok(None) => return let_go(TakeOver::LetGo),
        Err(error) => return let_go(TakeOver::Refused(error)),
    };
    if let Err(error) = connection.number(ours.as_fd()) {
        return let_go(TakeOver::Refused(error));
    }
    // Before this nothing has happened. A thread that waits in a read keeps some kernels from this (EBUSY, 6.4 and 6.5).
    if let Err(error) = sockopt::disconnect(theirs) {
        return let_go(TakeOver::Refused(error));
    }
    let connected = ours.connect(&remote.into());
    let _ = end_repair(theirs);
    let restored = connected.and_then(|()| connection.restore(&ours)).and_then(|()| ours.detach_filter());
    match restored {
        Ok(()) => TakeOver::Done(ours.into()),
        Err(error) => TakeOver::Lost(error),
    }
}

/// A connection as it was.
struct Connection {
    /// After the last byte written.
    sent: u32,
    received: u32,
    /// Written and not acknowledged.
    tail: Vec<u8>,
    options: u8,
    scales: u8,
    mss: u32,
    timestamp: u32,
    window: [u8; 20],
}

impl Connection {
    /// None if it is not as it was when it was looked at. It is in repair mode from then on, unless it is none.
    fn of(socket: BorrowedFd<'_>, received: u64) -> io::Result<Option<Self>> {
        let mut info = [0; 256];
        let known = tcp(socket, libc::TCP_INFO, &mut info)?;
        let received_now = info.get(INFO_RECEIVED..INFO_RECEIVED + 8).filter(|_| known >= INFO_RECEIVED + 8);
        let received_now: [u8; 8] =
            received_now.and_then(|bytes| bytes.try_into().ok()).ok_or(io::ErrorKind::Unsupported)?;
        let unacknowledged = sockopt::unacknowledged(socket)?;
        if info[INFO_STATE] != ESTABLISHED
            || u64::from_ne_bytes(received_now) != received
            || unacknowledged > LONGEST_TAIL
        {
            return Ok(None);
        }
        repair(socket)?;
        let mut tail = vec![0; unacknowledged];
        set_tcp(socket, libc::TCP_REPAIR_QUEUE, SEND_QUEUE)?;
        let sent = tcp_number(socket, libc::TCP_QUEUE_SEQ)?;
        if unacknowledged > 0 && sockopt::peek(socket, &mut tail)? != unacknowledged {
            return Err(io::ErrorKind::Unsupported.into());
        }
        set_tcp(socket, libc::TCP_REPAIR_QUEUE, RECEIVE_QUEUE)?;
        let mut window = [0; 20];
        tcp(socket, libc::TCP_REPAIR_WINDOW, &mut window)?;
        Ok(Some(Connection {
            sent,
            received: tcp_number(socket, libc::TCP_QUEUE_SEQ)?,
            tail,
            options: info[INFO_OPTIONS],
            scales: info[INFO_SCALES],
            mss: tcp_number(socket, libc::TCP_MAXSEG)?,
            timestamp: tcp_number(socket, libc::TCP_TIMESTAMP)?,
            window,
        }))
    }

    /// Gives a socket that is not connected yet the sequence numbers.
    fn number(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let acknowledged = self.sent.wrapping_sub(u32::try_from(self.tail.len()).unwrap_or_default());
        set_tcp(socket, libc::TCP_REPAIR_QUEUE, SEND_QUEUE)?;
        set_tcp(socket, libc::TCP_QUEUE_SEQ, acknowledged)?;
        set_tcp(socket, libc::TCP_REPAIR_QUEUE, RECEIVE_QUEUE)?;
        set_tcp(socket, libc::TCP_QUEUE_SEQ, self.received)
    }

    /// Gives a connected socket all that both sides agreed upon, and lets it live.
    fn restore(&self, ours: &Socket) -> io::Result<()> {
        let socket = ours.as_fd();
        let (theirs, own) = (u32::from(self.scales & 0xf), u32::from(self.scales >> 4));
        let mut options = vec![OPTION_MSS, self.mss];
        let agreed = [
            (SCALED, [OPTION_SCALE, theirs | own << 16]),
            (SACK, [OPTION_SACK, 0]),
            (TIMESTAMPS, [OPTION_TIMESTAMPS, 0]),
        ];
        options.extend(agreed.iter().filter(|(bit, _)| self.options & bit != 0).flat_map(|(_, option)| option));
        let options: Vec<u8> = options.into_iter().flat_map(u32::to_ne_bytes).collect();
        sockopt::set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_OPTIONS, &options)?;
        set_tcp(socket, libc::TCP_TIMESTAMP, self.timestamp)?;
        if !self.tail.is_empty() {
            set_tcp(socket, libc::TCP_REPAIR_QUEUE, SEND_QUEUE)?;
            let mut sender = ours;
            sender.write_all(&self.tail)?;
        }
        sockopt::set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_WINDOW, &self.window)?;
        end_repair(socket)?;
        // The end of repair takes it away, and a server could not listen at this port anew as long as we have the connection.
        ours.set_reuse_address(true)
    }
}

/// Drops every packet for a socket.
fn deafen(socket: &Socket) -> io::Result<()> {
    socket.attach_filter(&[SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0)])
}

fn repair(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_tcp(socket, libc::TCP_REPAIR, ON)
}

fn end_repair(socket: BorrowedFd<'_>) -> io::Result<()> {
    sockopt::set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, &OFF_WITHOUT_PROBE.to_ne_bytes())
}

fn set_tcp(socket: BorrowedFd<'_>, option: i32, value: u32) -> io::Result<()> {
    sockopt::set(socket, libc::IPPROTO_TCP, option, &value.to_ne_bytes())
}

fn tcp(socket: BorrowedFd<'_>, option: i32, value: &mut [u8]) -> io::Result<usize> {
    sockopt::get(socket, libc::IPPROTO_TCP, option, value)
}

fn tcp_number(socket: BorrowedFd<'_>, option: i32) -> io::Result<u32> {
    let mut value = [0; 4];
    tcp(socket, option, &mut value)?;
    Ok(u32::from_ne_bytes(value))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Client, the socket by which the server had it, and ours.
    fn taken(address: &str, talk: &[u8]) -> io::Result<(TcpStream, TcpStream, TcpStream)> {
        let listener = TcpListener::bind(address)?;
        let port = listener.local_addr()?.port();
        let to = if address == "[::1]:0" {
            SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port))
        } else {
            SocketAddr::from(([127, 0, 0, 1], port))
        };
        let mut client = TcpStream::connect(to)?;
        let (mut server, remote) = listener.accept()?;
        client.write_all(talk)?;
        let mut heard = vec![0; talk.len()];
        server.read_exact(&mut heard)?;
        server.write_all(&heard)?;
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        match take_over(server.as_fd(), (to, remote), talk.len() as u64) {
            TakeOver::Done(ours) => Ok((client, server, ours)),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    #[test]
    fn it_works_here() -> io::Result<()> {
        trial()
    }

    #[test]
    fn a_connection_on_which_something_came_is_let_go() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, remote) = listener.accept()?;
        client.write_all(b"a")?;
        let done = take_over(server.as_fd(), (server.local_addr()?, remote), 0);
        assert!(matches!(done, TakeOver::LetGo), "{done:?}");
        client.write_all(b"b")?;
        let mut both = [0; 2];
        server.read_exact(&mut both)?;
        server.write_all(&both)?;
        client.read_exact(&mut both)?;
        assert_eq!(&both, b"ab");
        Ok(())
    }

    #[test]
    fn a_connection_goes_on_in_our_hands_and_its_server_finds_it_aborted() -> io::Result<()> {
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let (mut client, mut server, mut ours) = taken(address, b"hello")?;
            // The answer of before is not acknowledged: it is restored, and not repeated.
            let mut answer = [0; 5];
            client.read_exact(&mut answer)?;
            assert_eq!(&answer, b"hello");
            let aborted = server.read(&mut answer).map_err(|error| error.kind());
            assert_eq!(aborted, Err(io::ErrorKind::ConnectionAborted), "{address}");
            drop(server);
            let big = vec![7; 5_000_000];
            let sent = big.clone();
            let sender = std::thread::spawn(move || client.write_all(&sent).map(|()| client));
            let mut received = vec![0; big.len()];
            ours.read_exact(&mut received)?;
            assert_eq!(received, big);
            let mut client = sender.join().map_err(|_| io::ErrorKind::Other)??;
            let receiver = std::thread::spawn(move || {
                let mut all = Vec::new();
                client.read_to_end(&mut all).map(|_| all)
            });
            ours.write_all(&big)?;
            drop(ours);
            assert_eq!(receiver.join().map_err(|_| io::ErrorKind::Other)??, big);
        }
        Ok(())
    }

    #[test]
    fn its_server_can_listen_at_the_same_port_anew() -> io::Result<()> {
        // A standard listener may reuse an address, as servers do.
        let (_client, _server, ours) = taken("127.0.0.1:0", b"hello")?;
        TcpListener::bind(ours.local_addr()?).map(drop)
    }
}
