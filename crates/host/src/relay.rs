//! What becomes of connections that were taken over: the next request goes to the server on a connection of its own and asks
//! for this to be the last; the client sees its answer, and a close that nothing can cross.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use handover_core::drain::{Request, kept_on, with_close};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::client_address::ClientAddresses;
use crate::sockopt;

/// A longer head is passed on as it is.
const LONGEST_HEAD: usize = 256 * 1024;
/// How long a client is waited for that has its whole answer and does not close.
const LINGER: Duration = Duration::from_secs(1);
/// How long a client is waited for that was told of the end of a connection that it did not use.
const PARTING: Duration = Duration::from_secs(10);
/// The kernel tells nobody that everything was acknowledged.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The connections in our hands. Dropped, it closes those that wait for a request; the others go on to their ends.
pub(crate) struct Relays {
    runtime: Handle,
    standing: Arc<Mutex<Standing>>,
    stop: watch::Sender<bool>,
}

/// How many there were, and those that there are.
#[derive(Debug, Default)]
struct Standing {
    /// By the ends of the client's connection; whether a request is under way.
    held: HashMap<(SocketAddr, SocketAddr), bool>,
    /// When a client last used a connection that was taken over.
    used: HashMap<IpAddr, Instant>,
    counts: Counts,
}

/// What became of the connections that are in our hands no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Their next request was passed on.
    pub(crate) handed_on: usize,
    /// Closed by us, unused.
    pub(crate) closed: usize,
    /// Closed by their clients.
    pub(crate) ended: usize,
}

/// A connection that was taken over.
pub(crate) struct Taken {
    pub(crate) ends: (SocketAddr, SocketAddr),
    pub(crate) client: std::net::TcpStream,
    /// Not connected yet, of the server's network namespace.
    pub(crate) socket: std::net::TcpStream,
    /// That one's own end.
    pub(crate) own_end: SocketAddr,
    /// Where the server listens.
    pub(crate) server: SocketAddr,
    /// What shows the server the client's address in place of ours.
    pub(crate) addresses: ClientAddresses,
    /// The last thing that is said on it, if it is HTTP/2.
    pub(crate) goaway: Option<[u8; 17]>,
    /// How long to wait for a request of a client that uses no other of its connections.
    pub(crate) unused: Duration,
    /// How long to wait at most.
    pub(crate) left: Duration,
}

enum End {
    HandedOn,
    Closed,
    /// To be closed: nothing was asked.
    Unused(TcpStream),
    Ended,
}

impl Relays {
    /// None yet; they will run on this runtime.
    pub(crate) fn new(runtime: Handle) -> Self {
        Relays { runtime, standing: Arc::default(), stop: watch::Sender::new(false) }
    }

    /// From now on this connection is served.
    pub(crate) fn add(&self, taken: Taken) {
        let (standing, stop, ends) = (self.standing.clone(), self.stop.subscribe(), taken.ends);
        lock(&standing).held.insert(ends, false);
        self.runtime.spawn(async move {
            let end = serve(taken, stop, &standing).await;
            {
                let mut standing = lock(&standing);
                standing.held.remove(&ends);
                match &end {
                    // A connection that fails is one that has ended.
                    Ok(End::HandedOn) => standing.counts.handed_on += 1,
                    Ok(End::Closed | End::Unused(_)) => standing.counts.closed += 1,
                    Ok(End::Ended) | Err(_) => standing.counts.ended += 1,
                }
            }
            if let Ok(End::Unused(client)) = end {
                part(client).await;
            }
        });
    }

    /// Client and server port of every connection in our hands, and whether a request is under way.
    pub(crate) fn held(&self) -> Vec<((SocketAddr, SocketAddr), bool)> {
        lock(&self.standing).held.iter().map(|(ends, under_way)| (*ends, *under_way)).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.standing).held.is_empty()
    }

    pub(crate) fn counts(&self) -> Counts {
        lock(&self.standing).counts
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

fn lock(standing: &Mutex<Standing>) -> MutexGuard<'_, Standing> {
    // The numbers are whole at every instant, whoever panicked.
    standing.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(taken: Taken, mut stop: watch::Receiver<bool>, standing: &Mutex<Standing>) -> io::Result<End> {
    let Taken { ends, client, socket, own_end, server, addresses, goaway, unused, left } = taken;
    let mut client = into_tokio(client)?;
    if let Some(goaway) = goaway {
        return go_away(client, &goaway, left.min(LINGER)).await;
    }
    let shown = tokio::spawn({
        let addresses = addresses.clone();
        async move { addresses.show(own_end, server, ends.1.ip()).await }
    });
    let mut request = Vec::with_capacity(4096);
    tokio::select! {
        biased;
        read = client.read_buf(&mut request) => if read? == 0 { return Ok(End::Ended) },
        () = stays_unused(ends.1.ip(), unused, left, standing) => return Ok(End::Unused(client)),
        _ = stop.wait_for(|stop| *stop) => return Ok(End::Unused(client)),
    }
    {
        let mut standing = lock(standing);
        standing.held.insert(ends, true);
        standing.used.insert(ends.1.ip(), Instant::now());
    }
    let request = loop {
        match with_close(&request) {
            Request::Whole(request) => break request,
            Request::Partial if request.len() <= LONGEST_HEAD => {}
            Request::Partial => break request,
            // It was not what it seemed.
            Request::Other => return as_if_closed_before(client).await,
        }
        if client.read_buf(&mut request).await? == 0 {
            return Ok(End::Ended);
        }
    };
    // Whoever lets only some in must not let this one in for us.
    if !shown.await.unwrap_or_default() {
        return as_if_closed_before(client).await;
    }
    socket.set_nonblocking(true)?;
    let mut server = TcpSocket::from_std_stream(socket).connect(server).await?;
    server.set_nodelay(true)?;
    server.write_all(&request).await?;
    pipe(client, server).await?;
    Ok(End::HandedOn)
}

/// Closes a connection. A request that crosses that is answered with a reset, so that its client tries elsewhere at once: one that met
/// no socket any more would be answered by one that [`ResetGuard`](crate::reset_guard::ResetGuard) drops, and waited for.
async fn part(mut client: TcpStream) {
    let parted = async {
        client.shutdown().await?;
        client.read(&mut [0]).await
    };
    if let Ok(Ok(1..)) = timeout(PARTING, parted).await {
        // Closed with a reset either way; who waits no longer does not matter.
        let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
    }
}

/// Lets a request that has come be sent elsewhere: the end of the connection, and a reset right behind it. After a reset alone the next
/// connection from the same port would be led where this one was.
async fn as_if_closed_before(mut client: TcpStream) -> io::Result<End> {
    client.shutdown().await?;
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    Ok(End::Closed)
}

/// Tells an HTTP/2 client to go on elsewhere. What it has sent meanwhile is read and dropped: it was told that nobody has
/// looked at it, and sends it again. Closed before it has read that, the connection would tell it nothing.
async fn go_away(mut client: TcpStream, goaway: &[u8], at_most: Duration) -> io::Result<End> {
    client.write_all(goaway).await?;
    let mut dropped = [0; 4096];
    let ends = async {
        while client.read(&mut dropped).await? > 0 {}
        Ok::<_, io::Error>(End::HandedOn)
    };
    timeout(at_most, ends).await.unwrap_or(Ok(End::Closed))
}

/// Ends when a connection is closed for not having been used.
async fn stays_unused(client: IpAddr, after: Duration, at_most: Duration, standing: &Mutex<Standing>) {
    let since = Instant::now();
    loop {
        let other_used = lock(standing).used.get(&client).map(Instant::elapsed);
        let left = at_most.saturating_sub(since.elapsed());
        match kept_on(since.elapsed(), after, other_used) {
            Some(wait) if !left.is_zero() => sleep(wait.min(left)).await,
            _ => return,
        }
    }
}

/// Copies both ways until the server closes and the client has everything.
async fn pipe(mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
    let answered = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let request = async {
            // Who ends its side of the connection may still be waiting for the answer; a server that reads no more may give one.
            let _ = copy(&mut from_client, &mut to_server).await;
            let _ = to_server.shutdown().await;
            std::future::pending::<io::Result<u64>>().await
        };
        tokio::select! {
            copied = copy(&mut from_server, &mut to_client) => copied,
            never = request => never,
        }
    };
    drop(server);
    if answered.is_err() {
        // Cut short: the client is to see that, not an end.
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        return answered.map(drop);
    }
    client.shutdown().await?;
    // Closing a socket with unread bytes resets it, and what was sent may be lost with that.
    let mut ignored = [0; 4096];
    let mut has_all = Instant::now();
    loop {
        match timeout(LOOK_EVERY, client.read(&mut ignored)).await {
            Ok(Ok(0) | Err(_)) => return Ok(()),
            Ok(Ok(_)) => {}
            Err(_) if sockopt::unacknowledged(client.as_fd())? > 0 => has_all = Instant::now(),
            Err(_) => {}
        }
        if has_all.elapsed() >= LINGER {
            return Ok(());
        }
    }
}

fn into_tokio(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream)
}
