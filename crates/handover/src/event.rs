//! What happens during a deploy, as a stream of events. Execution emits them and prints nothing; renderers listen.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use handover_core::plan::Plan;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::progress::{Ahead, Progress};

/// One event.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The plan is made.
    Planned(Box<Plan>),
    /// There is nothing to do.
    NothingToDo,
    /// Somebody else deploys this project; we wait.
    WaitingForLock { holder: String },
    /// A step begins.
    StepBegan(Step),
    /// A step has ended.
    StepEnded(Step),
    /// An operation of the plan begins, by its number there.
    Operation { number: usize, operation: &'static str },
    /// Compose printed a line.
    Compose { step: &'static str, line: String },
    /// A container passed its gate.
    Ready { container: String },
    /// New connections for a container go to the one that replaces it.
    Switched { container: String },
    /// A proxy among the peers has read its configuration anew, and resolved the names in it.
    Reloaded { peer: String },
    /// A router sends to just these containers now, and has confirmed it.
    RouterTold { router: String, servers: Vec<String> },
    /// Nothing of a router works any more by what it was told before.
    RouterDrained { router: String },
    /// New connections go to the new version.
    Live,
    /// A container's connections have been drained.
    Drained { container: String, report: DrainSummary },
    /// Something the user should know.
    Note(String),
    /// An earlier run ended half-way, and this one goes on from there.
    Resumed(String),
    /// It is done.
    Proof(Box<Proof>),
}

/// The stages of a deploy, in the words of the runbook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Load,
    Observe,
    Lock,
    Helpers,
    Images,
    Preflight,
    CreateFirst,
    StandIn,
    Gate,
    Cutover,
    Drain,
    Stop,
    Settle,
    Roll,
    Unused,
    GateReal,
    Routers,
    ClientsBack,
    Cutback,
    CleanUp,
    OldCode,
    Back,
}

impl Step {
    /// What the step does, in words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Load => "load the project",
            Self::Observe => "observe the engine",
            Self::Lock => "lock the project",
            Self::Helpers => "start the helpers beside the engine",
            Self::Images => "pull and build images",
            Self::Preflight => "preflight",
            Self::CreateFirst => "create what the stand-in needs",
            Self::StandIn => "bring up the stand-in",
            Self::Gate => "gate the stand-in",
            Self::Cutover => "cutover: lead traffic to the stand-in",
            Self::Drain => "drain the old containers",
            Self::Stop => "stop the old containers",
            Self::Settle => "settle: Compose recreates the real containers",
            Self::Roll => "roll: Compose recreates, each new container starts first",
            Self::Unused => "wait until nobody uses the old addresses",
            Self::GateReal => "gate the real containers",
            Self::Routers => "tell the routers where the real containers are",
            Self::ClientsBack => "redirect clients inside to the real containers",
            Self::Cutback => "cutback: lead traffic to the real containers",
            Self::CleanUp => "clean up the stand-in",
            Self::OldCode => "remove old code that nothing mounts",
            Self::Back => "back to the old version",
        }
    }

    /// One word, for programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Observe => "observe",
            Self::Lock => "lock",
            Self::Helpers => "helpers",
            Self::Images => "images",
            Self::Preflight => "preflight",
            Self::CreateFirst => "create-first",
            Self::StandIn => "stand-in",
            Self::Gate => "gate",
            Self::Cutover => "cutover",
            Self::Drain => "drain",
            Self::Stop => "stop",
            Self::Settle => "settle",
            Self::Roll => "roll",
            Self::Unused => "unused",
            Self::GateReal => "gate-real",
            Self::Routers => "routers",
            Self::ClientsBack => "clients-back",
            Self::Cutback => "cutback",
            Self::CleanUp => "clean-up",
            Self::OldCode => "old-code",
            Self::Back => "back",
        }
    }
}

/// What a drain did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DrainSummary {
    /// Connections that were closed while they were idle.
    pub(crate) closed_idle: u64,
    /// Connections whose next request was passed on as their last.
    pub(crate) handed_on: u64,
    /// Connections that ended by themselves.
    pub(crate) ended: u64,
    /// Connections that were still under way at the deadline, and were cut: peer and what it looked like.
    pub(crate) cut: Vec<String>,
    /// Between the last look at a connection and having closed it, in microseconds: median and longest. Of a sum of drains those
    /// of the one with the longest.
    pub(crate) last_look_us: (u64, u64),
    /// The same for taking a connection over.
    pub(crate) takeover_us: (u64, u64),
    /// How often packets were missed, so that what was known of a connection was thrown away.
    pub(crate) doubts: usize,
}

impl DrainSummary {
    /// Adds another drain to the sum.
    pub(crate) fn add(&mut self, other: &Self) {
        self.closed_idle += other.closed_idle;
        self.handed_on += other.handed_on;
        self.ended += other.ended;
        self.cut.extend(other.cut.iter().cloned());
        if other.last_look_us.1 > self.last_look_us.1 {
            self.last_look_us = other.last_look_us;
        }
        if other.takeover_us.1 > self.takeover_us.1 {
            self.takeover_us = other.takeover_us;
        }
        self.doubts += other.doubts;
    }
}

/// What a deploy did, measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof {
    /// From the start until new connections went to the new version; `None` where no stand-in was needed.
    pub(crate) live: Option<Duration>,
    /// From the start until all was done.
    pub(crate) done: Duration,
    /// Connections that the switch led, by what they were for: a published port, or rolled containers.
    pub(crate) led: Vec<(String, u64)>,
    /// Connections closed idle, handed on, ended and cut, over all drains.
    pub(crate) drained: DrainSummary,
    /// Wall time that was handover's own: in which neither Compose nor the engine worked nor anybody was waited for.
    pub(crate) own: Duration,
    /// What differs from what Compose would make; empty when `docker compose up -d` has nothing to do.
    pub(crate) differs: Vec<String>,
}

/// The sending end of the stream, with the deploy's clock.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    sender: mpsc::UnboundedSender<(Duration, Event)>,
    began: Instant,
    away: Arc<Mutex<Away>>,
    /// Whether new connections go to the new version.
    is_live: Arc<AtomicBool>,
    progress: Arc<Mutex<Progress>>,
}

/// Time spent waiting for Compose, the engine, a gate or a drain; waits side by side count once.
#[derive(Debug, Default)]
struct Away {
    waiting: usize,
    since: Option<Instant>,
    sum: Duration,
}

/// While it lives, somebody else is waited for.
pub(crate) struct Waiting(Arc<Mutex<Away>>);

impl Events {
    /// A stream whose clock starts now.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<(Duration, Event)>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (
            Self {
                sender,
                began: Instant::now(),
                away: Arc::default(),
                is_live: Arc::default(),
                progress: Arc::default(),
            },
            receiver,
        )
    }

    /// Sends an event; a renderer that is gone must not stop a deploy.
    pub(crate) fn emit(&self, event: Event) {
        if matches!(event, Event::Live) {
            self.is_live.store(true, Ordering::Relaxed);
        }
        let _ = self.sender.send((self.began.elapsed(), event));
    }

    /// Says what a request to stop means at this moment.
    pub(crate) fn interrupted(&self) {
        let now = if self.is_live.load(Ordering::Relaxed) {
            "traffic has moved already: the deploy goes on to its end"
        } else {
            "the deploy goes back: the old version serves on"
        };
        self.emit(Event::Note(format!(
            "interrupted; {now}. The third time ends the program at once, and the next handover up goes on from there"
        )));
    }

    /// Time since the deploy began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Notes that Compose, the engine, a gate or a drain is waited for, until the value is dropped.
    pub(crate) fn waiting(&self) -> Waiting {
        let mut away = lock(&self.away);
        if away.waiting == 0 {
            away.since = Some(Instant::now());
        }
        away.waiting += 1;
        Waiting(self.away.clone())
    }

    /// Time since the deploy began in which nobody else was waited for.
    pub(crate) fn own_time(&self) -> Duration {
        self.elapsed().saturating_sub(lock(&self.away).sum)
    }

    /// Tells the plan. From now on the steps are those of its operations.
    pub(crate) fn planned(&self, plan: &Plan) {
        *lock(&self.progress) = Progress::of(&plan.operations());
        self.emit(Event::Planned(Box::new(plan.clone())));
    }

    /// All is done. What the plan says and no step has carried out is a fault of ours, and is told.
    pub(crate) fn all_is_done(&self) {
        let left = lock(&self.progress).ahead();
        debug_assert!(left.is_empty(), "not carried out: {left:?}");
        if let Some(left) = left.first() {
            let Ahead { number, operation, .. } = left;
            let fault = format!(
                "operation {number} of the plan ({operation}) has not been carried out: please report this fault"
            );
            self.emit(Event::Note(fault));
        }
    }

    /// Runs a step between its two events.
    pub(crate) async fn step<T>(&self, step: Step, work: impl Future<Output = T>) -> T {
        self.emit(Event::StepBegan(step));
        let begun = lock(&self.progress).begin(step);
        for Ahead { number, operation, .. } in begun {
            self.emit(Event::Operation { number, operation });
        }
        let result = work.await;
        self.emit(Event::StepEnded(step));
        result
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut away = lock(&self.0);
        away.waiting -= 1;
        if away.waiting == 0
            && let Some(since) = away.since.take()
        {
            away.sum += since.elapsed();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
