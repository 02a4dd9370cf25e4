//! What passes between one container and its clients: its connections, and what packets tell of each.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use handover_core::drain::{Heard, Rhythm, Speaker};

use crate::hand_on::HandOn;
use crate::inet_diag::DiagSocket;
use crate::packets::Segment;
use crate::protocol;

/// All connections are looked at so soon after something changed.
pub(super) const SURVEY_SOON: Duration = Duration::from_millis(5);
/// How soon a connection is judged again whose next request is likely just now.
const RHYTHM_AGAIN: Duration = Duration::from_millis(5);

/// A connection of the container, from the server's side.
pub(super) type Ends = (SocketAddr, SocketAddr);

pub(super) struct Connection {
    pub(super) heard: Heard,
    /// Unknown while only packets told of it.
    pub(super) socket: Option<DiagSocket>,
    /// When to judge it next.
    pub(super) due: Duration,
    /// Packets and the kernel disagreed when we last looked.
    pub(super) doubted: bool,
    /// How many times it was not found who holds it.
    pub(super) not_found: u8,
    /// It cannot be taken over.
    pub(super) only_closed: bool,
}

impl Connection {
    fn new(due: Duration) -> Self {
        Connection { heard: Heard::default(), socket: None, due, doubted: false, not_found: 0, only_closed: false }
    }
}

pub(super) struct Talk {
    ports: Vec<u16>,
    /// Whose connections this is about; nobody's means everybody's.
    clients: HashSet<SocketAddr>,
    quiet: Duration,
    began: Instant,
    pub(super) connections: HashMap<Ends, Connection>,
    pub(super) hand_on: HandOn,
    /// When something last came from or went to a client.
    clients_heard: HashMap<IpAddr, Duration>,
    /// Clients that got answers by HTTP/1 in the clear, and from which port.
    speak_http1: HashSet<(IpAddr, u16)>,
    pub(super) rhythm: Rhythm,
    /// When to look at all connections.
    pub(super) survey_due: Duration,
}

impl Talk {
    pub(super) fn begin(request: &protocol::Drain, hand_on: HandOn) -> Self {
        Talk {
            ports: request.ports.clone(),
            clients: request.clients.iter().copied().collect(),
            quiet: Duration::from_millis(request.quiet_ms),
            began: Instant::now(),
            connections: HashMap::new(),
            hand_on,
            clients_heard: HashMap::new(),
            speak_http1: HashSet::new(),
            rhythm: Rhythm::default(),
            survey_due: Duration::ZERO,
        }
    }

    /// Times count from the beginning.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether a connection is one of those that are drained.
    fn is_about(&self, ends: &Ends) -> bool {
        let of_client = self.clients.is_empty() || self.clients.contains(&ends.1);
        of_client && self.ports.contains(&ends.0.port()) && !self.hand_on.has(ends)
    }

    /// Compares with the connections that there are; how many are gone.
    pub(super) fn survey(&mut self, sockets: Vec<DiagSocket>, now: Duration) -> usize {
        let mut before = std::mem::take(&mut self.connections);
        for socket in sockets {
            let ends = (socket.local, socket.remote);
            if !self.is_about(&ends) {
                continue;
            }
            let mut connection = before.remove(&ends).unwrap_or_else(|| Connection::new(now));
            if connection.socket.is_none() {
                connection.due = now;
            }
            connection.socket = Some(socket);
            self.connections.insert(ends, connection);
        }
        self.rhythm.lasting(self.connections.values().filter_map(|connection| connection.heard.pause(now)));
        // Those that only packets told of were never more than a packet: a refused connection, say.
        before.values().filter(|connection| connection.socket.is_some()).count()
    }

    /// Whether a connection speaks HTTP in the clear and nothing is under way on it, as far as was heard. One on which nothing was
    /// heard is taken for another of those by which its client speaks HTTP/1.
    pub(super) fn speaks_http(&self, ends: &Ends, now: Duration) -> bool {
        let Some(connection) = self.connections.get(ends) else { return false };
        let as_others = || self.speak_http1.contains(&(ends.1.ip(), ends.0.port()));
        connection.heard.pause(now).is_some() || (!connection.heard.anything() && as_others())
    }

    /// When to look again for a moment at which the next request is unlikely, `closing_for` after closing began; none if this is
    /// one: clients rarely ask so long after an answer, and this one is not sending anything.
    pub(super) fn better_moment(&self, ends: &Ends, now: Duration, closing_for: Duration) -> Option<Duration> {
        let pause = self.connections.get(ends).and_then(|connection| connection.heard.pause(now));
        if pause.is_some_and(|pause| !self.rhythm.allows(pause, closing_for)) {
            return Some(RHYTHM_AGAIN);
        }
        let heard = self.clients_heard.get(&ends.1.ip())?;
        let calm_again = (*heard + self.rhythm.calm(closing_for)).checked_sub(now)?;
        (calm_again > Duration::ZERO).then_some(calm_again)
    }

    /// Takes note of a packet.
    pub(super) fn note(&mut self, segment: &Segment<'_>) {
        let now = self.now();
        let (as_server, as_client) = ((segment.from, segment.to), (segment.to, segment.from));
        let from_server = self.ports.contains(&segment.from.port())
            && (self.connections.contains_key(&as_server) || !self.ports.contains(&segment.to.port()));
        let (ends, speaker) = if from_server { (as_server, Speaker::Server) } else { (as_client, Speaker::Client) };
        if !self.clients.is_empty() && !self.clients.contains(&ends.1) {
            return;
        }
        self.clients_heard.insert(ends.1.ip(), now);
        if segment.syn && !segment.ack {
            self.hand_on.opened(&ends);
        }
        if self.hand_on.has(&ends) {
            return;
        }
        if segment.syn || segment.ends {
            self.survey_due = self.survey_due.min(now + SURVEY_SOON);
        }
        if segment.syn && !segment.ack {
            // A new connection between the same ends.
            if let Some(connection) = self.connections.get_mut(&ends) {
                *connection = Connection::new(now + self.quiet);
            }
            return;
        }
        if segment.length == 0 {
            return;
        }
        let connection = self.connections.entry(ends).or_insert_with(|| Connection::new(now));
        if let Some(pause) = connection.heard.segment(speaker, segment.sequence, segment.length, segment.seen, now) {
            self.rhythm.ended(pause);
        }
        if connection.heard.has_answered_http1() {
            self.speak_http1.insert((ends.1.ip(), ends.0.port()));
        }
        connection.due = now + self.quiet;
    }
}
