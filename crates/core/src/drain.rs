//! The drain: is this connection idle at this instant, so that closing it costs nobody anything?
//!
//! Two sources are put together. [`Heard`] is what packets told since we began to listen: who sent payload last and, for
//! HTTP in the clear, whether the answer is complete or streams are open. [`Look`] is what the kernel says about the socket right now.
//! Neither is enough alone: packets may be missed, and the kernel's times tick with jiffies, so that an answer and the
//! next request look simultaneous.
//!
//! All times are durations; `now` and the times inside [`Heard`] count from the moment the listening began.

mod answer;
mod http2;
mod request;
mod rhythm;

use std::time::Duration;

pub use answer::Answer;
use http2::Streams;
pub use request::{Request, with_close};
pub use rhythm::{Rhythm, kept_on};

/// The kernel's times are in jiffies, 10 ms where `CONFIG_HZ` is 100: what lies closer together cannot be told apart.
pub const TICK: Duration = Duration::from_millis(10);

/// How many times as long a connection must be quiet of which nothing was heard and whose last request and last answer
/// lie within one [`TICK`]: most likely a fast answer, but it could be the next request.
const SIMULTANEOUS: u32 = 3;

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// Who opened the connection.
    Client,
    /// Who listens.
    Server,
}

/// How long a connection must have been quiet before it counts as idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The last answer was seen to be complete (HTTP/1 in the clear), or no stream to be open (HTTP/2 in the clear).
    pub quiet: Duration,
    /// The last payload was the server's, but what it meant cannot be read: TLS, other protocols. Several
    /// requests may share such a connection, so this should be much longer.
    pub opaque: Duration,
    /// No payload was seen at all since we began: only the kernel's coarse times are known.
    pub unheard: Duration,
}

/// A TCP state, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Being opened (SYN_RECV).
    Opening,
    /// ESTABLISHED.
    Open,
    /// One side has closed, and something may still be on its way (CLOSE_WAIT, FIN_WAIT1, CLOSING, LAST_ACK).
    Closing,
}

/// What the kernel says about a server's socket at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its state.
    pub phase: Phase,
    /// Bytes that the server has not read yet.
    pub unread: u32,
    /// Bytes written by the server that have not left it yet.
    pub unsent: u32,
    /// Bytes that have left it and that the client has not acknowledged.
    pub unacknowledged: u32,
    /// Whether the client is on this host, so that what has left the server has reached it. Clients that answer each other
    /// quickly delay acknowledgements by 40 ms, and would hardly ever be seen with everything acknowledged.
    pub near: bool,
    /// Payload received in all, in bytes.
    pub received: u64,
    /// Payload acknowledged by the client in all, in bytes (the kernel may count one more).
    pub acknowledged: u64,
    /// Time since payload was last sent; its resolution is [`TICK`].
    pub since_sent: Duration,
    /// Time since payload was last received; its resolution is [`TICK`].
    pub since_received: Duration,
}

/// What [`judge`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Closing it at this instant costs nobody anything.
    Idle,
    /// It may be idle, but has not been quiet for long enough.
    NotYet {
        /// When to judge again, if nothing is heard before.
        again_in: Duration,
    },
    /// Something is under way.
    Busy(Activity),
}

/// What is under way on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It is being opened.
    Opening,
    /// One side has closed it; the rest is on its way.
    Closing,
    /// The server has not read everything yet.
    Unread,
    /// The client has not got everything yet.
    Unsent,
    /// The client spoke last.
    RequestUnderWay,
    /// The server spoke last and has not finished.
    AnswerUnderWay,
    /// Only the server has spoken since we began, or the connection was upgraded (WebSocket).
    Stream,
}

/// What packets told about one connection since we began to listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    last: Option<(Speaker, Duration)>,
    client: Direction,
    server: Direction,
    answer: Answer,
    streams: Streams,
    baseline: Option<(u64, u64)>,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Direction {
    /// Sequence number after the last payload seen.
    next: Option<u32>,
    /// New payload seen, in bytes.
    bytes: u64,
}

impl Direction {
    /// How many bytes at the end of a segment were not seen before (a repeated segment brings none).
    fn advance(&mut self, sequence: u32, length: u32) -> u32 {
        let end = sequence.wrapping_add(length);
        let new = match self.next {
            None => length,
            Some(next) => {
                let ahead = end.wrapping_sub(next);
                // Sequence numbers wrap: more than half the circle ahead means behind.
                if ahead == 0 || ahead > u32::MAX / 2 { 0 } else { ahead }
            }
        };
        if new > 0 {
            self.next = Some(end);
            self.bytes += u64::from(new);
        }
        new
    }
}

impl Heard {
    /// Takes note of one segment. `length` is its payload in bytes, `seen` as much of the payload's beginning as was
    /// captured. Segments without payload and repeated ones change nothing.
    ///
    /// Returns how long the connection had paused after a complete answer, if this segment begins the next request.
    pub fn segment(
        &mut self,
        speaker: Speaker,
        sequence: u32,
        length: u32,
        seen: &[u8],
        at: Duration,
    ) -> Option<Duration> {
        if length == 0 {
            return None;
        }
        let direction = match speaker {
            Speaker::Client => &mut self.client,
            Speaker::Server => &mut self.server,
        };
        let new = direction.advance(sequence, length);
        if new == 0 {
            return None;
        }
        if new > length {
            // Segments were missed in between: what is known is worth nothing, and this one is the first of a new beginning.
            self.forget();
            return self.segment(speaker, sequence, length, seen, at);
        }
        // Of a segment that repeats something at its beginning, only the rest is new.
        let repeated = (length - new) as usize;
        let seen = seen.get(repeated..).unwrap_or_default();
        let pause = if speaker == Speaker::Client { self.pause_after_answer(at) } else { None };
        self.streams.payload(speaker, new, seen, at);
        match speaker {
            Speaker::Client => self.answer.request(seen),
            Speaker::Server => self.answer.payload(new, seen),
        }
        self.last = Some((speaker, at));
        pause
    }

    /// How long it has been quiet since an answer was complete or the last stream ended; `None` while anything else is the case.
    pub fn pause(&self, now: Duration) -> Option<Duration> {
        if !self.streams.idle(now) {
            return self.pause_after_answer(now);
        }
        self.last.map(|(_, at)| now.saturating_sub(at))
    }

    /// Whether what passed last has completed an HTTP/1 answer.
    pub fn has_answered_http1(&self) -> bool {
        matches!(self.last, Some((Speaker::Server, _))) && self.answer == Answer::Complete
    }

    /// What ends an HTTP/2 connection on which no stream is open; `None` while anything else is the case.
    pub fn goaway(&self, now: Duration) -> Option<[u8; 17]> {
        self.streams.idle(now).then(|| self.streams.goaway())
    }

    fn pause_after_answer(&self, now: Duration) -> Option<Duration> {
        let (_, at) = self.last?;
        self.has_answered_http1().then(|| now.saturating_sub(at))
    }

    /// Whether any payload was seen.
    pub fn anything(&self) -> bool {
        self.last.is_some()
    }

    /// Whether packets and the kernel agree about how much has been sent; `look` must be younger than the last segment
    /// noted. The first look at a moment when nothing is on its way sets the measure.
    ///
    /// `false` means that segments were missed or are not noted yet.
    pub fn agrees(&mut self, look: &Look, now: Duration) -> bool {
        if let Some((_, at)) = self.last {
            let quiet = now.saturating_sub(at);
            if look.since_received.saturating_add(TICK * 2) < quiet {
                return false;
            }
        }
        let sent = look.acknowledged + u64::from(look.unacknowledged);
        let before = (look.received.wrapping_sub(self.client.bytes), sent.wrapping_sub(self.server.bytes));
        *self.baseline.get_or_insert(before) == before
    }

    /// Forgets everything: segments were missed, so that what is known is worth nothing.
    pub fn forget(&mut self) {
        *self = Heard::default();
    }
}

/// Is the connection idle now?
///
/// It is when the last payload went out from the server, nothing is unread, unsent or on its way, and it has been
/// quiet for as long as [`Patience`] asks. Connections on which only the server has spoken since we began are streams
/// and never idle, unless an HTTP/1 answer was seen to end. Of connections on which nothing was heard the kernel's
/// times decide: what was received clearly after the last answer is a request under way.
///
/// Not told apart: pipelined HTTP/1 requests, and WebSockets older than our listening on which nothing is said; the
/// latter count as idle. Their clients reconnect, as they would have to at the deadline.
pub fn judge(heard: &Heard, look: &Look, now: Duration, patience: &Patience) -> Verdict {
    match look.phase {
        Phase::Opening => return Verdict::Busy(Activity::Opening),
        Phase::Closing => return Verdict::Busy(Activity::Closing),
        Phase::Open => {}
    }
    if look.unread > 0 {
        return Verdict::Busy(Activity::Unread);
    }
    if look.unsent > 0 || (look.unacknowledged > 0 && !look.near) {
        return Verdict::Busy(Activity::Unsent);
    }
    let (quiet_for, asked) = match heard.last {
        None => {
            // The kernel may count the SYN as a byte acknowledged.
            let never_answered = look.acknowledged <= 1;
            let received_after_answer = look.since_received.saturating_add(TICK) < look.since_sent;
            if look.received > 0 && (never_answered || received_after_answer) {
                return Verdict::Busy(Activity::RequestUnderWay);
            }
            let simultaneous = look.received > 0 && look.since_sent.saturating_add(TICK) >= look.since_received;
            let asked = if simultaneous { patience.unheard * SIMULTANEOUS } else { patience.unheard };
            (look.since_sent.min(look.since_received), asked)
        }
        Some((_, at)) if heard.streams.idle(now) => (now.saturating_sub(at), patience.quiet),
        Some(_) if heard.streams.busy() => return Verdict::Busy(Activity::RequestUnderWay),
        Some((Speaker::Client, _)) if !heard.answer.is_upgraded() => {
            return Verdict::Busy(Activity::RequestUnderWay);
        }
        Some((_, at)) => {
            let asked = match heard.answer {
                Answer::Upgraded => return Verdict::Busy(Activity::Stream),
                Answer::Complete => patience.quiet,
                Answer::Awaited { .. } | Answer::Incomplete(_) => {
                    return Verdict::Busy(Activity::AnswerUnderWay);
                }
                Answer::Opaque if heard.client.bytes == 0 => {
                    return Verdict::Busy(Activity::Stream);
                }
                Answer::Opaque => patience.opaque,
            };
            (now.saturating_sub(at), asked)
        }
    };
    match asked.checked_sub(quiet_for) {
        None | Some(Duration::ZERO) => Verdict::Idle,
        Some(again_in) => Verdict::NotYet { again_in },
    }
}

#[cfg(test)]
mod tests;
