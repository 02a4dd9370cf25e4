//! Where all streams write down what happens, and how it becomes a report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;

use super::report::{ErrorReport, Latency, Outcome, PhaseSpan, PhaseStats, Report, Seen, Stats, StreamReport};
use super::spec::CheckedStream;
use crate::wire::Failure;

const FIRST_PHASE: &str = "rest";

/// Everything that has happened so far.
#[derive(Debug)]
pub(super) struct Recorder {
    started: Instant,
    started_unix_ms: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    marks: Vec<(String, Instant)>,
    streams: Vec<StreamState>,
}

#[derive(Debug)]
struct StreamState {
    stream: CheckedStream,
    phases: Vec<PhaseState>,
    last_ok: Option<Instant>,
    errors: BTreeMap<(Outcome, String), ErrorState>,
    seen: [BTreeMap<String, SeenState>; 3],
    closed_while_idle: u64,
    longest_reconnect: Duration,
    latest_launch: Duration,
}

#[derive(Clone, Debug)]
struct PhaseState {
    counts: Counts,
    longest_gap: (Duration, Duration),
    histogram: Histogram<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    ok: u64,
    failed: u64,
    retried: u64,
    cut: u64,
}

#[derive(Debug)]
struct ErrorState {
    count: u64,
    first: Instant,
    last: Instant,
    example: String,
}

#[derive(Debug)]
struct SeenState {
    count: u64,
    first: Instant,
    last: Instant,
}

/// Who answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) version: Option<String>,
    pub(super) backend_version: Option<String>,
    pub(super) instance: Option<String>,
}

/// What has been seen so far, in brief, of all streams together and of each.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// All streams together; its name is empty.
    pub total: StreamProgress,
    /// Each stream.
    pub streams: Vec<StreamProgress>,
}

/// What one stream has seen so far.
#[derive(Clone, Debug, Default)]
pub struct StreamProgress {
    /// The stream's name.
    pub name: String,
    /// Good answers.
    pub ok: u64,
    /// Failures.
    pub failed: u64,
    /// Requests sent twice.
    pub retried: u64,
    /// Long connections cut.
    pub cut: u64,
    /// Versions seen.
    pub versions: BTreeSet<String>,
}

impl Progress {
    /// The stream of this name.
    pub fn stream(&self, name: &str) -> Option<&StreamProgress> {
        self.streams.iter().find(|stream| stream.name == name)
    }

    /// Whether every stream has had at least this many good answers.
    pub fn every_stream_has(&self, ok: u64) -> bool {
        self.streams.iter().all(|stream| stream.ok >= ok)
    }

    /// Whether every stream has seen this version (those that never say a version are left out).
    pub fn every_stream_has_seen(&self, version: &str) -> bool {
        self.streams.iter().all(|stream| stream.versions.is_empty() || stream.versions.contains(version))
    }
}

impl Recorder {
    pub(super) fn new(streams: &[CheckedStream]) -> Self {
        let started = Instant::now();
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let streams = streams.iter().cloned().map(StreamState::new).collect();
        Self {
            started,
            started_unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            state: Mutex::new(State { marks: vec![(FIRST_PHASE.to_owned(), started)], streams }),
            changed: Condvar::new(),
        }
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn mark(&self, name: &str) {
        self.lock().marks.push((name.to_owned(), Instant::now()));
        self.changed.notify_all();
    }

    /// A good answer, now, to what was due then.
    pub(super) fn succeeded(&self, stream: usize, due: Instant) {
        self.succeeded_with_latency(stream, due, due.elapsed());
    }

    /// A good answer, now, to what was due then and took this long (not counting pauses on purpose).
    pub(super) fn succeeded_with_latency(&self, stream: usize, due: Instant, latency: Duration) {
        let now = Instant::now();
        self.change(stream, |state, marks| {
            let gap = match state.last_ok {
                Some(last) => (now.saturating_duration_since(last), last),
                // How long the first answer took is latency, not a gap.
                None => (due.saturating_duration_since(self.started), self.started),
            };
            let gap = (gap.0, gap.1.saturating_duration_since(self.started));
            let in_now = state.phase(marks, now);
            in_now.longest_gap = in_now.longest_gap.max(gap);
            state.last_ok = Some(now);
            let phase = state.phase(marks, due);
            phase.counts.ok += 1;
            let latency = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            phase.histogram.saturating_record(latency.max(1));
        });
    }

    /// What was due then has failed, now.
    pub(super) fn failed(&self, stream: usize, due: Instant, failure: &Failure) {
        self.change(stream, |state, marks| {
            state.error(Outcome::Failed, failure);
            state.phase(marks, due).counts.failed += 1;
        });
    }

    /// What was due then had to be sent twice.
    pub(super) fn retried(&self, stream: usize, due: Instant, failure: &Failure) {
        self.change(stream, |state, marks| {
            state.error(Outcome::Retried, failure);
            state.phase(marks, due).counts.retried += 1;
        });
    }

    /// A long connection was cut, now.
    pub(super) fn cut(&self, stream: usize, failure: &Failure) {
        self.change(stream, |state, marks| {
            state.error(Outcome::Cut, failure);
            state.phase(marks, Instant::now()).counts.cut += 1;
        });
    }

    /// A long connection that was cut is open again, after this time.
    pub(super) fn reconnected(&self, stream: usize, after: Duration) {
        self.change(stream, |state, _| state.longest_reconnect = state.longest_reconnect.max(after));
    }

    /// These answered, then.
    pub(super) fn saw(&self, stream: usize, at: Instant, sighting: Sighting) {
        self.change(stream, |state, _| {
            let values = [sighting.version, sighting.backend_version, sighting.instance];
            for (seen, value) in state.seen.iter_mut().zip(values) {
                let Some(value) = value else { continue };
                let entry = seen.entry(value).or_insert(SeenState { count: 0, first: at, last: at });
                entry.count += 1;
                entry.first = entry.first.min(at);
                entry.last = entry.last.max(at);
            }
        });
    }

    /// The generator started a request this late.
    pub(super) fn launched_late(&self, stream: usize, by: Duration) {
        if let Some(state) = self.lock().streams.get_mut(stream) {
            state.latest_launch = state.latest_launch.max(by);
        }
    }

    /// So many idle connections have been found closed until now.
    pub(super) fn closed_while_idle(&self, stream: usize, count: u64) {
        if let Some(state) = self.lock().streams.get_mut(stream) {
            state.closed_while_idle = count;
        }
    }

    pub(super) fn progress(&self) -> Progress {
        self.lock().progress()
    }

    pub(super) fn wait_for(&self, most: Duration, mut condition: impl FnMut(&Progress) -> bool) -> bool {
        let deadline = Instant::now() + most;
        let mut state = self.lock();
        loop {
            if condition(&state.progress()) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The report; `ended` is when the last request was started, if it is over.
    pub(super) fn report(&self, ended: Option<Instant>) -> Report {
        let state = self.lock();
        let ended = ended.unwrap_or_else(Instant::now);
        let phase_count = state.marks.len();
        let names = || state.marks.iter().map(|(name, _)| name.clone());
        let streams: Vec<(Vec<PhaseState>, StreamReport)> =
            state.streams.iter().map(|stream| self.report_stream(stream, &state, ended)).collect();
        let mut of_all = vec![PhaseState::new(); phase_count];
        for (phases, _) in &streams {
            for (all, phase) in of_all.iter_mut().zip(phases) {
                all.add(phase);
            }
        }
        // Streams have intervals of their own, so the excess is taken from the streams.
        let worst_excess =
            |pick: &dyn Fn(&StreamReport) -> f64| streams.iter().map(|(_, report)| pick(report)).fold(0.0, f64::max);
        let total = Stats {
            excess_gap_ms: worst_excess(&|report| report.total.excess_gap_ms),
            ..sum(&of_all).stats(Duration::ZERO)
        };
        let total_by_phase = names()
            .zip(&of_all)
            .enumerate()
            .map(|(index, (phase, all))| PhaseStats {
                phase,
                stats: Stats {
                    excess_gap_ms: worst_excess(&|report| report.by_phase[index].stats.excess_gap_ms),
                    ..all.stats(Duration::ZERO)
                },
            })
            .collect();
        let ends = state.marks.iter().skip(1).map(|(_, at)| *at).chain([ended]);
        let phases = state
            .marks
            .iter()
            .zip(ends)
            .map(|((name, from), to)| PhaseSpan {
                name: name.clone(),
                from_ms: self.since_start(*from),
                to_ms: self.since_start(to.max(*from)),
            })
            .collect();
        Report {
            started_unix_ms: self.started_unix_ms,
            seconds: ended.saturating_duration_since(self.started).as_micros() as f64 / 1_000_000.0,
            phases,
            total,
            total_by_phase,
            streams: streams.into_iter().map(|(_, report)| report).collect(),
        }
    }

    fn report_stream(&self, stream: &StreamState, state: &State, ended: Instant) -> (Vec<PhaseState>, StreamReport) {
        let mut phases = stream.phases.clone();
        phases.resize_with(state.marks.len(), PhaseState::new);
        // The time from the last good answer to the end is a gap, too.
        let last = stream.last_ok.unwrap_or(self.started);
        let final_gap = (ended.saturating_duration_since(last), last.saturating_duration_since(self.started));
        if let Some(phase) = phases.last_mut() {
            phase.longest_gap = phase.longest_gap.max(final_gap);
        }
        let interval = stream.stream.spec.interval();
        let seen = |index: usize| {
            let mut seen: Vec<Seen> = stream.seen[index]
                .iter()
                .map(|(value, seen)| Seen {
                    value: value.clone(),
                    first_ms: self.since_start(seen.first),
                    last_ms: self.since_start(seen.last),
                    count: seen.count,
                })
                .collect();
            seen.sort_by(|one, other| one.first_ms.total_cmp(&other.first_ms));
            seen
        };
        let mut errors: Vec<ErrorReport> = stream
            .errors
            .iter()
            .map(|((outcome, kind), error)| ErrorReport {
                kind: kind.clone(),
                outcome: *outcome,
                count: error.count,
                first_ms: self.since_start(error.first),
                last_ms: self.since_start(error.last),
                example: error.example.clone(),
            })
            .collect();
        errors.sort_by(|one, other| one.first_ms.total_cmp(&other.first_ms));
        let report = StreamReport {
            name: stream.stream.name.clone(),
            kind: stream.stream.spec.kind,
            rate: stream.stream.spec.rate,
            target: stream.stream.spec.target.clone(),
            total: sum(&phases).stats(interval),
            by_phase: state
                .marks
                .iter()
                .zip(&phases)
                .map(|((name, _), phase)| PhaseStats { phase: name.clone(), stats: phase.stats(interval) })
                .collect(),
            errors,
            versions: seen(0),
            backend_versions: seen(1),
            instances: seen(2),
            closed_while_idle: stream.closed_while_idle,
            longest_reconnect_ms: milliseconds(stream.longest_reconnect),
            latest_launch_ms: milliseconds(stream.latest_launch),
        };
        (phases, report)
    }

    fn change(&self, stream: usize, change: impl FnOnce(&mut StreamState, &[(String, Instant)])) {
        let mut state = self.lock();
        let State { marks, streams } = &mut *state;
        if let Some(stream) = streams.get_mut(stream) {
            change(stream, marks);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn since_start(&self, at: Instant) -> f64 {
        milliseconds(at.saturating_duration_since(self.started))
    }
}

impl State {
    fn progress(&self) -> Progress {
        let mut progress = Progress::default();
        for state in &self.streams {
            let mut stream = StreamProgress {
                name: state.stream.name.clone(),
                versions: state.seen[0].keys().cloned().collect(),
                ..StreamProgress::default()
            };
            for phase in &state.phases {
                stream.ok += phase.counts.ok;
                stream.failed += phase.counts.failed;
                stream.retried += phase.counts.retried;
                stream.cut += phase.counts.cut;
            }
            let total = &mut progress.total;
            total.ok += stream.ok;
            total.failed += stream.failed;
            total.retried += stream.retried;
            total.cut += stream.cut;
            total.versions.extend(stream.versions.iter().cloned());
            progress.streams.push(stream);
        }
        progress
    }
}

impl StreamState {
    fn new(stream: CheckedStream) -> Self {
        Self {
            stream,
            phases: Vec::new(),
            last_ok: None,
            errors: BTreeMap::new(),
            seen: Default::default(),
            closed_while_idle: 0,
            longest_reconnect: Duration::ZERO,
            latest_launch: Duration::ZERO,
        }
    }

    /// The phase that an instant belongs to.
    fn phase(&mut self, marks: &[(String, Instant)], at: Instant) -> &mut PhaseState {
        let index = marks.iter().rposition(|(_, from)| *from <= at).unwrap_or(0);
        if self.phases.len() <= index {
            self.phases.resize_with(index + 1, PhaseState::new);
        }
        &mut self.phases[index]
    }

    fn error(&mut self, outcome: Outcome, failure: &Failure) {
        let now = Instant::now();
        let error = self.errors.entry((outcome, failure.kind.clone())).or_insert_with(|| ErrorState {
            count: 0,
            first: now,
            last: now,
            example: failure.detail.clone(),
        });
        error.count += 1;
        error.last = now;
    }
}

impl PhaseState {
    #[allow(clippy::expect_used)]
    fn new() -> Self {
        Self {
            counts: Counts::default(),
            longest_gap: (Duration::ZERO, Duration::ZERO),
            // 1 µs to 10 min with three digits; the only error is about bounds that make no sense.
            histogram: Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are good"),
        }
    }

    fn add(&mut self, other: &Self) {
        self.counts.ok += other.counts.ok;
        self.counts.failed += other.counts.failed;
        self.counts.retried += other.counts.retried;
        self.counts.cut += other.counts.cut;
        self.longest_gap = self.longest_gap.max(other.longest_gap);
        // All have the same bounds, so adding cannot fail.
        let _ = self.histogram.add(&other.histogram);
    }

    fn stats(&self, interval: Duration) -> Stats {
        let (gap, from) = self.longest_gap;
        let percentile = |quantile: f64| self.histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Stats {
            requests: self.counts.ok + self.counts.failed,
            ok: self.counts.ok,
            failed: self.counts.failed,
            retried: self.counts.retried,
            cut: self.counts.cut,
            longest_gap_ms: milliseconds(gap),
            longest_gap_from_ms: milliseconds(from),
            excess_gap_ms: milliseconds(gap.saturating_sub(interval)),
            latency_ms: Latency {
                p50: percentile(0.5),
                p90: percentile(0.9),
                p99: percentile(0.99),
                max: self.histogram.max() as f64 / 1000.0,
            },
        }
    }
}

fn sum(phases: &[PhaseState]) -> PhaseState {
    phases.iter().fold(PhaseState::new(), |mut sum, phase| {
        sum.add(phase);
        sum
    })
}

fn milliseconds(time: Duration) -> f64 {
    // Whole microseconds: enough, and shorter to read.
    time.as_micros() as f64 / 1000.0
}
