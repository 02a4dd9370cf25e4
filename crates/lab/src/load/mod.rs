//! The load generator: open loop (requests start when they are due, not when the last answer came), many kinds of
//! clients, and a report of all they noticed.
//!
//! ```no_run
//! use handover_lab::load::{Kind, Load, LoadSpec, StreamSpec};
//!
//! let load = Load::start(LoadSpec::new([
//!     StreamSpec::new(Kind::New, 50.0, "127.0.0.1:8080"),
//!     StreamSpec::new(Kind::Keepalive, 100.0, "127.0.0.1:8080").named("pool"),
//! ]))?;
//! // ... at rest ...
//! load.mark("deploy");
//! // ... deploy ...
//! load.mark("after");
//! load.stop().assert_no_failures();
//! # Ok::<(), handover_lab::load::LoadError>(())
//! ```
//!
//! # Limits
//! - One thread with one event loop (and one more for each network namespace) makes all requests: 640 a second of mixed
//!   kinds took 8 % of one core, service included. `latest_launch_ms` in the report says whether it kept up.
//! - A kind that opens a connection for each request leaves one port for a minute in TIME_WAIT. HTTP clients ask the server
//!   to close first, so the server bears it; `redis-ping`, `memcached` and `tcp-line` close first: keep those below 400 a
//!   second to one target.
//! - Event streams and long WebSockets say nothing of a silent peer before their timeout.
//! - HTTP without TLS.

mod netns;
mod record;
mod report;
mod spec;
mod streams;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use record::{Progress, StreamProgress};
pub use report::{ErrorReport, Latency, Outcome, PhaseSpan, PhaseStats, Report, Seen, Stats, StreamReport};
pub use spec::{Kind, LoadSpec, SpecError, StreamSpec};

use record::Recorder;
use streams::StreamContext;

/// Why a load could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The spec makes no sense.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A network namespace could not be entered.
    #[error("cannot enter the network namespace {path}")]
    Namespace {
        /// The namespace's file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A thread or its event loop could not be started.
    #[error("cannot start a thread of the load generator")]
    Thread(#[source] std::io::Error),
}

/// What [`run`] may be told while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A new phase begins now, under this name.
    Mark(String),
    /// Start nothing more, finish what is under way, report.
    Stop,
}

/// A load that is running on threads of its own: one, and one more for each network namespace.
#[derive(Debug)]
pub struct Load {
    recorder: Arc<Recorder>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
    deadline: Option<Instant>,
}

impl Load {
    /// Starts all streams. The first phase is called `rest`.
    ///
    /// # Errors
    /// When the spec makes no sense or a network namespace cannot be entered; nothing runs then.
    pub fn start(spec: LoadSpec) -> Result<Self, LoadError> {
        let streams = spec.checked()?;
        let mut by_namespace: BTreeMap<Option<PathBuf>, Vec<usize>> = BTreeMap::new();
        for (index, stream) in streams.iter().enumerate() {
            by_namespace.entry(stream.spec.netns.clone()).or_default().push(index);
        }
        let (stop, stopped) = watch::channel(false);
        let mut threads = Vec::new();
        let mut waiting = Vec::new();
        for (netns, indices) in by_namespace {
            let (say_ready, ready) = mpsc::channel();
            let (say_go, go) = mpsc::channel::<Vec<StreamContext>>();
            let thread = std::thread::Builder::new()
                .name("lab-load".into())
                .spawn(move || {
                    let runtime = match runtime_in(netns) {
                        Ok(runtime) => runtime,
                        Err(error) => return drop(say_ready.send(Err(error))),
                    };
                    let _ = say_ready.send(Ok(()));
                    // Without a word to go, the start has failed elsewhere.
                    if let Ok(contexts) = go.recv() {
                        runtime.block_on(streams::run_all(contexts));
                        // A name look-up that hangs must not keep the report waiting.
                        runtime.shutdown_background();
                    }
                })
                .map_err(LoadError::Thread)?;
            threads.push(thread);
            ready.recv().unwrap_or_else(|_| Err(LoadError::Thread(std::io::Error::other("it ended"))))?;
            waiting.push((say_go, indices));
        }
        let recorder = Arc::new(Recorder::new(&streams));
        let deadline = spec.seconds.map(|seconds| recorder.started() + Duration::from_secs_f64(seconds));
        for (say_go, indices) in waiting {
            let contexts = indices
                .into_iter()
                .map(|index| StreamContext {
                    index,
                    count: streams.len(),
                    spec: streams[index].spec.clone(),
                    target: streams[index].target.clone(),
                    recorder: Arc::clone(&recorder),
                    stop: stopped.clone(),
                    deadline,
                })
                .collect();
            let _ = say_go.send(contexts);
        }
        Ok(Self { recorder, stop, threads, deadline })
    }

    /// A new phase begins now: requests that are due from now on are counted in it.
    pub fn mark(&self, name: &str) {
        self.recorder.mark(name);
    }

    /// What has been seen so far, in brief.
    pub fn progress(&self) -> Progress {
        self.recorder.progress()
    }

    /// Waits until the progress satisfies the condition, looking after each completed request, and returns whether it did
    /// within this time.
    pub fn wait_for(&self, most: Duration, condition: impl FnMut(&Progress) -> bool) -> bool {
        self.recorder.wait_for(most, condition)
    }

    /// The report so far; requests under way are not in it.
    pub fn report_so_far(&self) -> Report {
        self.recorder.report(None)
    }

    /// Starts nothing more, finishes what is under way (at most for its timeout), and reports.
    pub fn stop(mut self) -> Report {
        let ended = self.deadline.map_or_else(Instant::now, |deadline| deadline.min(Instant::now()));
        self.end_it();
        self.recorder.report(Some(ended))
    }

    fn end_it(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Runs a load until its time is over, it is told to stop, or, when it has no time, nobody is left who could tell it.
///
/// # Errors
/// As [`Load::start`].
pub fn run(spec: LoadSpec, commands: &mpsc::Receiver<Command>) -> Result<Report, LoadError> {
    let load = Load::start(spec)?;
    loop {
        let command = match load.deadline {
            None => commands.recv().unwrap_or(Command::Stop),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                match commands.recv_timeout(left) {
                    Ok(command) => command,
                    Err(mpsc::RecvTimeoutError::Timeout) => Command::Stop,
                    Err(mpsc::RecvTimeoutError::Disconnected) => {
                        std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
                        Command::Stop
                    }
                }
            }
        };
        match command {
            Command::Mark(name) => load.mark(&name),
            Command::Stop => return Ok(load.stop()),
        }
    }
}

fn runtime_in(netns: Option<PathBuf>) -> Result<tokio::runtime::Runtime, LoadError> {
    if let Some(path) = netns {
        netns::enter(&path).map_err(|source| LoadError::Namespace { path, source })?;
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(LoadError::Thread)
}
