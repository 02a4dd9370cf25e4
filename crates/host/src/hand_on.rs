//! The connections of one drain that are taken over: finding who holds them, taking them, and what becomes of them.

use std::collections::HashSet;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::runtime::Handle;

use crate::client_address::ClientAddresses;
use crate::holders::Holders;
use crate::inet_diag::DiagSocket;
use crate::relay::{Counts, Relays, Taken};
use crate::reset_guard::ResetGuard;
use crate::takeover::{TakeOver, take_over, trial};

/// Server's end and client's end.
type Ends = (SocketAddr, SocketAddr);

/// Lives on the drain's thread, inside the container's network namespace.
pub(crate) struct HandOn {
    runtime: Handle,
    relays: Relays,
    /// None where taking over does not work.
    holders: Option<Holders>,
    guard: Option<ResetGuard>,
    addresses: Option<ClientAddresses>,
    taken: HashSet<Ends>,
    /// Ours to the server.
    relayed: HashSet<Ends>,
    took: Vec<Duration>,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The connection is ours.
    Taken,
    /// It may be tried again.
    NotNow,
    /// It cannot be done with this one.
    Never,
    /// The connection is gone.
    Gone,
}

impl HandOn {
    /// Finds out whether taking over works in this thread's namespace.
    pub(crate) fn begin(runtime: Handle) -> Self {
        let holders = trial().and_then(|()| Holders::of_this_namespace()).ok();
        let relays = Relays::new(runtime.clone());
        HandOn {
            runtime,
            relays,
            holders,
            guard: None,
            addresses: None,
            taken: HashSet::new(),
            relayed: HashSet::new(),
            took: Vec::new(),
        }
    }

    /// From now on connections are taken over. May be repeated.
    pub(crate) fn proceed(&mut self) {
        if self.holders.is_some() {
            // Without it, a packet that comes within some 20 µs is answered with a reset: still far better than a close.
            self.guard = self.runtime.block_on(ResetGuard::load()).ok();
            if self.addresses.is_none() {
                self.addresses = ClientAddresses::load(&self.runtime).ok();
            }
        }
    }

    /// No connection is taken over any more, until the next [`HandOn::proceed`]; those in our hands go on.
    pub(crate) fn hold(&mut self) {
        // As long as it is there, whoever calls on a connection that its server has closed hears nothing.
        self.guard = None;
    }

    /// Whether connections can be taken over at all. Not where their server would take us for the client.
    pub(crate) fn works(&self) -> bool {
        self.holders.is_some() && self.addresses.is_some()
    }

    /// Whether it can be found out who holds a socket.
    pub(crate) fn finds(&self) -> bool {
        self.holders.is_some()
    }

    /// Whether it is known who holds this socket, so that [`HandOn::take`] and [`HandOn::end`] are quick.
    pub(crate) fn find(&mut self, socket: &DiagSocket) -> bool {
        self.holders.as_mut().is_some_and(|holders| holders.find(socket.inode))
    }

    /// Takes over a connection that is idle as `socket` says; it is closed if it has not been used for `unused` and neither
    /// have others of its client, and at the latest after `left`. `goaway`: what its client is told at once, if it speaks HTTP/2.
    pub(crate) fn take(
        &mut self,
        socket: &DiagSocket,
        goaway: Option<[u8; 17]>,
        unused: Duration,
        left: Duration,
    ) -> Attempt {
        let ends = (socket.local, socket.remote);
        let started = Instant::now();
        let duplicate = self.holders.as_mut().map(|holders| holders.duplicate(socket.inode));
        let theirs = match duplicate {
            Some(Ok(Some(theirs))) => theirs,
            Some(Ok(None)) => return Attempt::NotNow,
            Some(Err(_)) | None => return Attempt::Never,
        };
        // Made in here, where the server's addresses mean the server.
        let Ok((to_server, own_end)) = beside(socket.local) else { return Attempt::Never };
        let Some(addresses) = self.addresses.clone() else { return Attempt::Never };
        match take_over(theirs.as_fd(), ends, socket.received()) {
            TakeOver::Done(client) => {
                self.took.push(started.elapsed());
                self.taken.insert(ends);
                self.relayed.insert((socket.local, own_end));
                let server = socket.local;
                let taken = Taken { ends, client, socket: to_server, own_end, server, addresses, goaway, unused, left };
                self.relays.add(taken);
                Attempt::Taken
            }
            TakeOver::LetGo => Attempt::NotNow,
            TakeOver::Refused(_) => Attempt::Never,
            TakeOver::Lost(_) => Attempt::Gone,
        }
    }

    /// Ends a connection as its server would: with an end and no reset, after which a peer's connection tracking would lead the
    /// next connection from the same port where this one was. False where nothing was done.
    pub(crate) fn end(&mut self, socket: &DiagSocket) -> bool {
        let duplicate = self.holders.as_mut().map(|holders| holders.duplicate(socket.inode));
        let Some(Ok(Some(theirs))) = duplicate else { return false };
        let ended = SockRef::from(&theirs).shutdown(Shutdown::Both).is_ok();
        if ended {
            self.taken.insert((socket.local, socket.remote));
        }
        ended
    }

    /// Whether a connection is in our hands or was ended, or is our own to the server.
    pub(crate) fn has(&self, ends: &Ends) -> bool {
        self.taken.contains(ends) || self.relayed.contains(ends)
    }

    /// A client opens a connection between ends that may have been another's before.
    pub(crate) fn opened(&mut self, ends: &Ends) {
        self.taken.remove(ends);
    }

    /// Those in our hands, and whether a request is under way on each.
    pub(crate) fn held(&self) -> Vec<(Ends, bool)> {
        self.relays.held()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.relays.is_empty()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.relays.counts()
    }

    /// How long each took from the duplicate to the end.
    pub(crate) fn took(&self) -> &[Duration] {
        &self.took
    }
}

/// A socket with an end of its own at the server's address.
fn beside(server: SocketAddr) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.bind(&SocketAddr::new(server.ip(), 0).into())?;
    let own_end = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    Ok((socket.into(), own_end))
}
