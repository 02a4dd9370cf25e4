//! The drain of one container: each of its connections ends at an instant when it is idle.
//!
//! Those that speak HTTP in the clear are taken over (`hand_on`): their next request is the last, or they are told that no
//! more are looked at, and none is lost. So are those on which nothing was heard, if their client was heard to speak HTTP/1 on
//! others: a proxy reaches for the bottom of its pool just when those at the top come to their ends. The others are closed.
//!
//! One thread inside the container's network namespace. It waits for packets; what they tell decides, together with a
//! look at the socket itself. The last thing before a connection is closed is to ask for packets once more: a request that
//! crosses the close on the wire within the microseconds after that is what remains, and the clients' own rhythm tells when
//! that is unlikely.

mod talk;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use handover_core::drain::{Activity as Seen, Look, Patience, Phase, Verdict, judge};
use handover_core::net::Protocol;
use handover_core::net::contains;
use talk::{Ends, SURVEY_SOON, Talk};
use tokio::runtime::Handle;

use crate::error::HostError;
use crate::hand_on::{Attempt, HandOn};
use crate::inet_diag::{InetDiag, state};
use crate::namespace::run_in;
use crate::packets::Packets;
use crate::protocol::{self, Activity, DrainProgress, DrainReport, Remaining, Spread};

/// The longest wait for packets: so late a word from outside is heard.
const LONGEST_WAIT: Duration = Duration::from_millis(20);
/// All connections are looked at this often, to find new ones and those that are gone without a packet.
const SURVEY_EVERY: Duration = Duration::from_millis(100);
/// How soon a connection is judged again of which something was not acknowledged.
const ACKNOWLEDGED_SOON: Duration = Duration::from_millis(10);
/// How soon it is tried again to take a connection over.
const TAKE_AGAIN: Duration = Duration::from_millis(20);
/// So often it is tried to find who holds a connection.
const FIND: u8 = 3;
/// Progress is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// What others tell a running drain.
#[derive(Debug, Default)]
pub(crate) struct Control {
    proceed: AtomicBool,
    leave: AtomicBool,
    cancelled: AtomicBool,
}

impl Control {
    /// Begin to close.
    pub(crate) fn proceed(&self) {
        self.proceed.store(true, Ordering::Relaxed);
    }

    /// Whether it closes connections.
    fn proceeds(&self) -> bool {
        self.proceed.load(Ordering::Relaxed)
    }

    /// Only listen, until told to proceed again.
    pub(crate) fn hold(&self) {
        self.proceed.store(false, Ordering::Relaxed);
    }

    /// Take no further connection, and end.
    pub(crate) fn leave(&self) {
        self.leave.store(true, Ordering::Relaxed);
    }
}

/// Stops the drain's thread when nobody waits for it any more.
struct CancelOnDrop(Arc<Control>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

/// Drains until no connection is left or the deadline comes. Dropping the future stops it.
pub(crate) async fn run(
    request: protocol::Drain,
    control: Arc<Control>,
    progress: impl FnMut(DrainProgress) + Send + 'static,
) -> Result<DrainReport, HostError> {
    if request.ports.is_empty() {
        return Err(HostError::Request("drain: no ports given".into()));
    }
    if !request.hold {
        control.proceed();
    }
    let _stop = CancelOnDrop(control.clone());
    let sandbox: PathBuf = request.sandbox.clone();
    let runtime = Handle::current();
    let work = move || {
        come_first();
        Draining::begin(&request, runtime)?.run(&control, progress)
    };
    run_in("drain", Some(sandbox), work).await
}

struct Draining {
    near: Vec<(IpAddr, u8)>,
    patience: Patience,
    deadline: Duration,
    /// Whether it ends only when it is told to leave.
    lasts: bool,
    packets: Packets,
    diag: InetDiag,
    talk: Talk,
    closing_since: Option<Duration>,
    closed_idle: usize,
    ended: usize,
    doubts: usize,
    look_to_close: Vec<Duration>,
}

impl Draining {
    fn begin(request: &protocol::Drain, runtime: Handle) -> Result<Self, HostError> {
        // Listen first, then look: what comes between the two is heard.
        let packets = Packets::open(&request.ports).map_err(HostError::kernel("opening a packet socket"))?;
        let diag = InetDiag::open().map_err(reading())?;
        Ok(Draining {
            near: request.near.clone(),
            patience: Patience {
                quiet: Duration::from_millis(request.quiet_ms),
                opaque: Duration::from_millis(request.opaque_ms),
                unheard: Duration::from_millis(request.unheard_ms),
            },
            deadline: Duration::from_millis(request.deadline_ms),
            lasts: request.lasts,
            packets,
            diag,
            talk: Talk::begin(request, HandOn::begin(runtime)),
            closing_since: None,
            closed_idle: 0,
            ended: 0,
            doubts: 0,
            look_to_close: Vec::new(),
        })
    }

    fn now(&self) -> Duration {
        self.talk.now()
    }

    fn run(mut self, control: &Control, mut progress: impl FnMut(DrainProgress)) -> Result<DrainReport, HostError> {
        self.survey()?;
        let mut told = None;
        let mut tell_due = Duration::ZERO;
        loop {
            let leaves = control.leave.load(Ordering::Relaxed);
            match self.closing_since {
                None if leaves => self.closing_since = Some(self.now()),
                None if control.proceeds() => {
                    self.talk.hand_on.proceed();
                    self.closing_since = Some(self.now());
                }
                Some(_) if !control.proceeds() && !leaves => {
                    self.talk.hand_on.hold();
                    self.closing_since = None;
                }
                _ => {}
            }
            if let Some(since) = self.closing_since {
                if leaves {
                    self.talk.hand_on.hold();
                    self.talk.connections.clear();
                    self.talk.survey_due = self.now() + SURVEY_EVERY;
                }
                self.close_idle()?;
                if self.talk.connections.is_empty() && !leaves && !self.lasts {
                    // Somebody may have come since the last survey.
                    self.survey()?;
                }
                let nothing_left = self.talk.connections.is_empty() && self.talk.hand_on.is_empty();
                let over = nothing_left || self.now() >= since + self.deadline;
                if over && (leaves || !self.lasts) {
                    return Ok(self.report(since));
                }
            }
            if control.cancelled.load(Ordering::Relaxed) {
                // Nobody reads the report.
                return Ok(self.report(Duration::ZERO));
            }
            let standing = self.progress();
            if told.as_ref() != Some(&standing) && self.now() >= tell_due {
                tell_due = self.now() + PROGRESS_EVERY;
                progress(standing.clone());
                told = Some(standing);
            }
            self.listen()?;
            if self.now() >= self.talk.survey_due {
                self.survey()?;
            }
        }
    }

    /// Takes note of packets until there is something to do.
    fn listen(&mut self) -> Result<(), HostError> {
        let now = self.now();
        let mut next = self.talk.survey_due;
        if let Some(since) = self.closing_since {
            // The deadline of one that lasts means nothing before it is told to leave.
            next = if self.lasts { next } else { next.min(since + self.deadline) };
            next = self.talk.connections.values().map(|connection| connection.due).fold(next, Duration::min);
        }
        let wait = next.saturating_sub(now).min(LONGEST_WAIT);
        let listened = self.packets.receive(wait, |segment| self.talk.note(&segment));
        listened.map_err(HostError::kernel("reading packets"))
    }

    /// Finds out which connections there are.
    fn survey(&mut self) -> Result<(), HostError> {
        let started = self.now();
        let sockets = self.diag.dump(Protocol::Tcp, state::ALIVE).map_err(reading())?;
        let gone = self.talk.survey(sockets, started);
        if self.closing_since.is_some() {
            self.ended += gone;
        }
        let took = self.now().saturating_sub(started);
        self.talk.survey_due = self.now() + SURVEY_EVERY.max(took * 20);
        Ok(())
    }

    /// Judges every connection that is due, and closes those that are idle.
    fn close_idle(&mut self) -> Result<(), HostError> {
        let now = self.now();
        let due: Vec<Ends> = self
            .talk
            .connections
            .iter()
            .filter(|(_, connection)| connection.due <= now)
            .map(|(ends, _)| *ends)
            .collect();
        for ends in due {
            self.close_if_idle(ends)?;
        }
        Ok(())
    }

    fn close_if_idle(&mut self, ends: Ends) -> Result<(), HostError> {
        let now = self.now();
        let Some(connection) = self.talk.connections.get_mut(&ends) else { return Ok(()) };
        let Some(socket) = connection.socket.clone() else {
            self.talk.survey_due = self.talk.survey_due.min(now + SURVEY_SOON);
            connection.due = now + SURVEY_SOON;
            return Ok(());
        };
        // Cheap first: most are busy by what was heard. Only what may be idle is worth a look.
        match judge(
            &connection.heard,
            &idle_as_far_as_heard(connection, socket.look(is_near(&self.near, &ends))),
            now,
            &self.patience,
        ) {
            Verdict::Idle => {}
            verdict => {
                connection.due = now + until_next(verdict);
                return Ok(());
            }
        }
        let speaks_http = self.talk.speaks_http(&ends, now);
        let Some(connection) = self.talk.connections.get_mut(&ends) else { return Ok(()) };
        let http2 = connection.heard.goaway(now).is_some();
        let takes_over = self.talk.hand_on.works() && !connection.only_closed && speaks_http;
        if self.talk.hand_on.finds() && !connection.only_closed && !self.talk.hand_on.find(&socket) {
            connection.not_found += 1;
            connection.only_closed = connection.not_found >= FIND;
            connection.due = now + TAKE_AGAIN;
            return Ok(());
        }
        if http2 && !takes_over {
            // Many requests share it, and whoever is not told loses those that cross its close.
            let quiet = connection.heard.pause(now).unwrap_or_default();
            if let Some(again_in) = self.patience.opaque.checked_sub(quiet).filter(|left| !left.is_zero()) {
                connection.due = now + again_in;
                return Ok(());
            }
        }
        let closing_for = now.saturating_sub(self.closing_since.unwrap_or(now));
        // A request that comes while a connection is taken over is only late.
        if let Some(again_in) = self.talk.better_moment(&ends, now, closing_for).filter(|_| !takes_over) {
            if let Some(connection) = self.talk.connections.get_mut(&ends) {
                connection.due = now + again_in;
            }
            return Ok(());
        }
        let Some(fresh) = self.diag.look(&socket).map_err(reading())? else {
            self.talk.connections.remove(&ends);
            self.ended += 1;
            return Ok(());
        };
        // Everything that came before the look is noted now; and what came since makes it busy.
        let taken = self.packets.take_waiting(|segment| self.talk.note(&segment));
        let looked = Instant::now();
        taken.map_err(HostError::kernel("reading packets"))?;
        let now = self.now();
        let Some(connection) = self.talk.connections.get_mut(&ends) else { return Ok(()) };
        let look = fresh.look(is_near(&self.near, &ends));
        match judge(&connection.heard, &look, now, &self.patience) {
            Verdict::Idle if takes_over && connection.heard.agrees(&look, now) => {
                let left = (self.closing_since.unwrap_or(now) + self.deadline).saturating_sub(now);
                match self.talk.hand_on.take(
                    &fresh,
                    connection.heard.goaway(now),
                    self.talk.rhythm.unused_after(),
                    left,
                ) {
                    Attempt::Taken => {
                        self.talk.connections.remove(&ends);
                    }
                    Attempt::Gone => {
                        self.talk.connections.remove(&ends);
                        self.closed_idle += 1;
                    }
                    Attempt::NotNow => connection.due = now + TAKE_AGAIN,
                    Attempt::Never => connection.only_closed = true,
                }
            }
            Verdict::Idle if !connection.heard.anything() || connection.heard.agrees(&look, now) => {
                let ended = self.talk.hand_on.end(&fresh);
                let closed = ended || self.diag.close(&fresh).map_err(HostError::kernel("closing a connection"))?;
                self.talk.connections.remove(&ends);
                if closed {
                    self.look_to_close.push(looked.elapsed());
                    self.closed_idle += 1;
                } else {
                    self.ended += 1;
                }
            }
            Verdict::Idle if connection.doubted => {
                // Not a packet on its way to us: some were missed. What is known is worth nothing.
                connection.heard.forget();
                connection.doubted = false;
                connection.socket = Some(fresh);
                connection.due = now;
                self.doubts += 1;
            }
            Verdict::Idle => {
                connection.doubted = true;
                connection.due = now;
            }
            verdict => {
                connection.doubted = false;
                connection.socket = Some(fresh);
                connection.due = now + until_next(verdict);
            }
        }
        Ok(())
    }

    fn progress(&self) -> DrainProgress {
        DrainProgress {
            open: self.talk.connections.len() + self.talk.hand_on.held().len(),
            closed_idle: self.closed_idle + self.talk.hand_on.counts().closed,
            ended_by_themselves: self.ended + self.talk.hand_on.counts().ended,
            held: self.closing_since.is_none(),
        }
    }

    fn report(self, since: Duration) -> DrainReport {
        let now = self.now();
        let mut left: Vec<Remaining> = self
            .talk
            .connections
            .iter()
            .filter_map(|((local, peer), connection)| {
                let look = connection.socket.as_ref()?.look(is_near(&self.near, &(*local, *peer)));
                let activity = activity(judge(&connection.heard, &look, now, &self.patience));
                Some(Remaining { peer: *peer, port: local.port(), activity })
            })
            .collect();
        let counts = self.talk.hand_on.counts();
        let (under_way, waiting): (Vec<_>, Vec<_>) =
            self.talk.hand_on.held().into_iter().partition(|(_, under_way)| *under_way);
        left.extend(under_way.into_iter().map(|((local, peer), _)| Remaining {
            peer,
            port: local.port(),
            activity: Activity::RequestUnderWay,
        }));
        left.sort_by_key(|one| one.peer);
        DrainReport {
            // Those that wait for a request are closed with this drain.
            closed_idle: self.closed_idle + counts.closed + waiting.len(),
            handed_on: counts.handed_on,
            ended_by_themselves: self.ended + counts.ended,
            left,
            look_to_close_us: spread(&self.look_to_close),
            takeover_us: spread(self.talk.hand_on.took()),
            doubts: self.doubts,
            took_ms: u64::try_from(now.saturating_sub(since).as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// A look that objects to nothing but what was heard; of a connection of which nothing was heard the last one.
fn idle_as_far_as_heard(connection: &talk::Connection, mut look: Look) -> Look {
    if connection.heard.anything() {
        look.unread = 0;
        look.unsent = 0;
        look.unacknowledged = 0;
        look.phase = Phase::Open;
    }
    look
}

/// Whether the client of a connection is on this host: over loopback, or in one of these networks.
fn is_near(networks: &[(IpAddr, u8)], (_, client): &Ends) -> bool {
    let client = client.ip();
    client.is_loopback() || networks.iter().any(|network| contains(*network, client))
}

fn until_next(verdict: Verdict) -> Duration {
    match verdict {
        Verdict::NotYet { again_in } => again_in,
        // An acknowledgement is no payload: nothing is heard of it.
        Verdict::Busy(Seen::Unsent) => ACKNOWLEDGED_SOON,
        // Packets make it due sooner.
        Verdict::Busy(_) | Verdict::Idle => SURVEY_EVERY,
    }
}

fn activity(verdict: Verdict) -> Activity {
    match verdict {
        Verdict::Idle | Verdict::NotYet { .. } => Activity::NotQuietForLongEnough,
        Verdict::Busy(Seen::Opening) => Activity::Opening,
        Verdict::Busy(Seen::Closing) => Activity::Closing,
        Verdict::Busy(Seen::Unread) => Activity::Unread,
        Verdict::Busy(Seen::Unsent) => Activity::Unsent,
        Verdict::Busy(Seen::RequestUnderWay) => Activity::RequestUnderWay,
        Verdict::Busy(Seen::AnswerUnderWay) => Activity::AnswerUnderWay,
        Verdict::Busy(Seen::Stream) => Activity::Stream,
    }
}

fn spread(times: &[Duration]) -> Spread {
    let mut times = times.to_vec();
    times.sort();
    let microseconds =
        |time: Option<&Duration>| time.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    Spread { median: microseconds(times.get(times.len() / 2)), max: microseconds(times.last()) }
}

fn reading() -> impl FnOnce(std::io::Error) -> HostError {
    HostError::kernel("reading the sockets")
}

/// Gives this thread the processor before others: a request that arrives between looking at a connection and closing it is
/// lost, and the longest such time is the one in which the thread has to wait for its turn. A nice value counts within the
/// container's own group only, so real-time priority is asked for first. Best effort; needs SYS_NICE.
#[allow(unsafe_code)]
fn come_first() {
    // SAFETY: `sched_param` is plain data that lives through the call; process 0 is the calling thread (sched(7),
    // setpriority(2), "C library/kernel differences").
    unsafe {
        let lowest = libc::sched_param { sched_priority: 1 };
        if libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const lowest) != 0 {
            libc::setpriority(libc::PRIO_PROCESS, 0, -20);
        }
    }
}
