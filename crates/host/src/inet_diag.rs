//! The kernel's sockets of one network namespace, by `sock_diag`: dump, look at one, close one.
//!
//! Synchronous, and without a library between: a drain looks at a connection and closes it as one step, in
//! microseconds. Layout of the messages: `linux/inet_diag.h`, `linux/sock_diag.h`, `linux/tcp.h`.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use handover_core::drain::{Look, Phase};
use handover_core::net::Protocol;
use socket2::{Domain, Socket, Type};

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_SKV6ONLY: u16 = 11;

const HEADER: usize = 16;
const REQUEST: usize = 56;
const SOCKET_ID: usize = 48;
const MESSAGE: usize = 4 + SOCKET_ID + 20;

/// Which families a dump asks for. IPv6 sockets may hold IPv4 connections (mapped addresses).
pub(crate) const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];

/// TCP states as numbers of `net/tcp_states.h`, and sets of them.
pub(crate) mod state {
    pub(crate) const ESTABLISHED: u8 = 1;
    pub(crate) const SYN_RECV: u8 = 3;
    pub(crate) const FIN_WAIT1: u8 = 4;
    pub(crate) const CLOSE: u8 = 7;
    pub(crate) const CLOSE_WAIT: u8 = 8;
    pub(crate) const LAST_ACK: u8 = 9;
    pub(crate) const LISTEN: u8 = 10;
    pub(crate) const CLOSING: u8 = 11;
    pub(crate) const NEW_SYN_RECV: u8 = 12;

    pub(crate) const fn set<const N: usize>(states: [u8; N]) -> u32 {
        let mut bits = 0;
        let mut index = 0;
        while index < N {
            bits |= 1 << states[index];
            index += 1;
        }
        bits
    }

    /// Connections on which something may still be on its way.
    pub(crate) const ALIVE: u32 = set([ESTABLISHED, SYN_RECV, FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING, NEW_SYN_RECV]);
}

/// A socket as the kernel describes it.
#[derive(Clone, Debug)]
pub(crate) struct DiagSocket {
    family: u8,
    id: [u8; SOCKET_ID],
    /// TCP state; [`state::CLOSE`] for a bound UDP socket.
    pub(crate) state: u8,
    /// Local end, IPv4 where it is mapped.
    pub(crate) local: SocketAddr,
    /// Remote end, the same.
    pub(crate) remote: SocketAddr,
    pub(crate) uid: u32,
    pub(crate) inode: u32,
    pub(crate) only_ipv6: Option<bool>,
    unread: u32,
    /// Written and not acknowledged, whether it has left or not.
    unacknowledged: u32,
    info: Option<Info>,
}

/// What we read of `tcp_info`.
#[derive(Clone, Copy, Debug)]
struct Info {
    since_sent: Duration,
    since_received: Duration,
    acknowledged: u64,
    received: u64,
    unsent: Option<u32>,
}

impl DiagSocket {
    /// Payload received in all, in bytes.
    pub(crate) fn received(&self) -> u64 {
        self.info.map_or(0, |info| info.received)
    }

    /// For [`handover_core::drain::judge`]; `near` says whether the client is on this host.
    pub(crate) fn look(&self, near: bool) -> Look {
        let phase = match self.state {
            state::ESTABLISHED => Phase::Open,
            state::SYN_RECV | state::NEW_SYN_RECV => Phase::Opening,
            _ => Phase::Closing,
        };
        // Only sockets that are being opened come without tcp_info.
        let info = self.info.unwrap_or(Info {
            since_sent: Duration::ZERO,
            since_received: Duration::ZERO,
            acknowledged: 0,
            received: 0,
            unsent: None,
        });
        // A kernel that does not tell the two apart: none of it counts as sent.
        let unsent = info.unsent.unwrap_or(self.unacknowledged);
        Look {
            phase,
            unread: self.unread,
            unsent,
            unacknowledged: self.unacknowledged.saturating_sub(unsent),
            near,
            received: info.received,
            acknowledged: info.acknowledged,
            since_sent: info.since_sent,
            since_received: info.since_received,
        }
    }
}

/// A `sock_diag` socket, for the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct InetDiag {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl InetDiag {
    pub(crate) fn open() -> io::Result<Self> {
        let socket =
            Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(socket2::Protocol::from(NETLINK_SOCK_DIAG)))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(InetDiag { socket, sequence: 0, buffer: vec![0; 64 * 1024] })
    }

    /// All sockets in one of `states` (a set of bits), IPv4 and IPv6.
    pub(crate) fn dump(&mut self, protocol: Protocol, states: u32) -> io::Result<Vec<DiagSocket>> {
        let mut sockets = Vec::new();
        for family in FAMILIES {
            self.ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, protocol, states, &[0; SOCKET_ID])?;
            match self.answers(&mut sockets) {
                // A kernel without IPv6.
                Err(error) if family != FAMILIES[0] && error.raw_os_error() == Some(libc::ENOENT) => {}
                other => other?,
            }
        }
        Ok(sockets)
    }

    /// How a TCP socket is at this instant; none if it is gone.
    pub(crate) fn look(&mut self, socket: &DiagSocket) -> io::Result<Option<DiagSocket>> {
        let mut found = Vec::new();
        self.ask(SOCK_DIAG_BY_FAMILY, 0, socket.family, Protocol::Tcp, u32::MAX, &socket.id)?;
        match self.answers(&mut found) {
            Ok(()) => Ok(found.pop()),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Closes a TCP connection at once: both ends hear of it (RST). `false` if it was gone already.
    pub(crate) fn close(&mut self, socket: &DiagSocket) -> io::Result<bool> {
        self.ask(SOCK_DESTROY, NLM_F_ACK, socket.family, Protocol::Tcp, u32::MAX, &socket.id)?;
        match self.answers(&mut Vec::new()) {
            Ok(()) => Ok(true),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        protocol: Protocol,
        states: u32,
        id: &[u8; SOCKET_ID],
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let number = match protocol {
            Protocol::Tcp => libc::IPPROTO_TCP,
            Protocol::Udp => libc::IPPROTO_UDP,
        };
        let mut message = Vec::with_capacity(HEADER + REQUEST);
        message.extend_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0_u32.to_ne_bytes());
        message.extend_from_slice(&[family, number as u8, 1 << (INET_DIAG_INFO - 1), 0]);
        message.extend_from_slice(&states.to_ne_bytes());
        message.extend_from_slice(id);
        (&self.socket).write_all(&message)
    }

    /// Reads until the answer to the last question is complete.
    fn answers(&mut self, sockets: &mut Vec<DiagSocket>) -> io::Result<()> {
        loop {
            let length = (&self.socket).read(&mut self.buffer)?;
            let mut rest = self.buffer.get(..length).unwrap_or_default();
            while let Some(size) = u32_at(rest, 0).map(|size| size as usize).filter(|size| *size >= HEADER) {
                let Some(message) = rest.get(..size) else { break };
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
                // What is left of an answer that was given up.
                if u32_at(message, 8) != Some(self.sequence) {
                    continue;
                }
                let body = message.get(HEADER..).unwrap_or_default();
                let multipart = u16_at(message, 6).is_some_and(|flags| flags & 2 != 0);
                match u16_at(message, 4) {
                    Some(NLMSG_DONE) => return Ok(()),
                    Some(NLMSG_ERROR) => {
                        return match u32_at(body, 0).unwrap_or_default() as i32 {
                            0 => Ok(()),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    Some(SOCK_DIAG_BY_FAMILY) => {
                        sockets.extend(parse(body));
                        if !multipart {
                            return Ok(());
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    // ESTALE: the address is in use again, by another socket.
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE))
}

fn parse(body: &[u8]) -> Option<DiagSocket> {
    let (family, state) = (*body.first()?, *body.get(1)?);
    let id: [u8; SOCKET_ID] = body.get(4..4 + SOCKET_ID)?.try_into().ok()?;
    let port = |at: usize| Some(u16::from_be_bytes(id.get(at..at + 2)?.try_into().ok()?));
    let local = SocketAddr::new(address(family, id.get(4..20)?)?, port(0)?);
    let remote = SocketAddr::new(address(family, id.get(20..36)?)?, port(2)?);
    let numbers = body.get(4 + SOCKET_ID..MESSAGE)?;
    let mut socket = DiagSocket {
        family,
        id,
        state,
        local,
        remote,
        unread: u32_at(numbers, 4)?,
        unacknowledged: u32_at(numbers, 8)?,
        uid: u32_at(numbers, 12)?,
        inode: u32_at(numbers, 16)?,
        only_ipv6: None,
        info: None,
    };
    let mut attributes = body.get(MESSAGE..).unwrap_or_default();
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        let Some(value) = attributes.get(4..length) else { break };
        match kind {
            INET_DIAG_INFO => socket.info = info(value),
            INET_DIAG_SKV6ONLY => socket.only_ipv6 = value.first().map(|byte| *byte != 0),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(socket)
}

/// Offsets in `struct tcp_info`, which only ever grows at its end; the last two came with Linux 4.1 and 4.6.
fn info(value: &[u8]) -> Option<Info> {
    let milliseconds = |at| u32_at(value, at).map(|number| Duration::from_millis(number.into()));
    Some(Info {
        since_sent: milliseconds(44)?,
        since_received: milliseconds(52)?,
        acknowledged: u64_at(value, 120)?,
        received: u64_at(value, 128)?,
        unsent: u32_at(value, 144),
    })
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    if i32::from(family) == libc::AF_INET {
        let octets: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets: [u8; 16] = bytes.try_into().ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_of_our_own_is_found_looked_at_and_its_bytes_are_counted() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (_server, _) = listener.accept()?;
        client.write_all(b"hello")?;

        let mut diag = InetDiag::open()?;
        let sockets = diag.dump(Protocol::Tcp, state::ALIVE)?;
        let found = sockets.iter().find(|socket| Some(socket.remote) == client.local_addr().ok()).cloned();
        let found = found.ok_or(io::ErrorKind::NotFound)?;
        assert_eq!(found.local, listener.local_addr()?);
        let look = diag.look(&found)?.ok_or(io::ErrorKind::NotFound)?.look(true);
        assert_eq!((look.phase, look.unread, look.received), (Phase::Open, 5, 5));
        Ok(())
    }
}
