//! What the clients noticed, as data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The whole report. All instants are milliseconds since the load began, all latencies are milliseconds from the instant
/// a request was *due*.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When the load began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// How long requests were started.
    pub seconds: f64,
    /// The phases, in order; the first is `rest`.
    pub phases: Vec<PhaseSpan>,
    /// All streams together (the gaps are the worst of any stream).
    pub total: Stats,
    /// All streams together, phase by phase.
    pub total_by_phase: Vec<PhaseStats>,
    /// Each stream.
    pub streams: Vec<StreamReport>,
}

/// From when to when a phase was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseSpan {
    /// Its name.
    pub name: String,
    /// Its begin.
    pub from_ms: f64,
    /// Its end.
    pub to_ms: f64,
}

/// One stream's report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamReport {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: super::Kind,
    /// Requests per second.
    pub rate: f64,
    /// Where it went.
    pub target: String,
    /// Everything.
    pub total: Stats,
    /// Phase by phase; a request belongs to the phase in which it was due.
    pub by_phase: Vec<PhaseStats>,
    /// What went wrong, by kind.
    pub errors: Vec<ErrorReport>,
    /// The versions seen (header `X-Version`, or `version=…` in the answer).
    pub versions: Vec<Seen>,
    /// The backend's versions seen (header `X-Backend-Version`).
    pub backend_versions: Vec<Seen>,
    /// The instances seen (header `X-Instance`, or `instance=…` in the answer).
    pub instances: Vec<Seen>,
    /// Idle kept-alive connections that were closed before they were needed again: no client notices those.
    pub closed_while_idle: u64,
    /// Longest time from a cut of a long connection until it was open again.
    pub longest_reconnect_ms: f64,
    /// The worst delay of the generator itself: how long after it was due a request was started. Latencies include it.
    pub latest_launch_ms: f64,
}

/// Counts and times. `requests` = `ok` + `failed`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Requests that came to an end, good or bad.
    pub requests: u64,
    /// Answered as they should be.
    pub ok: u64,
    /// Not answered as they should be.
    pub failed: u64,
    /// Sent once more, on a new connection, because a kept-alive one was closed as it was used again.
    pub retried: u64,
    /// Long connections that were cut.
    pub cut: u64,
    /// Longest time without a good answer.
    pub longest_gap_ms: f64,
    /// When that time began.
    pub longest_gap_from_ms: f64,
    /// By how much it is longer than the ideal time between two requests.
    pub excess_gap_ms: f64,
    /// Latency of the good answers.
    pub latency_ms: Latency,
}

/// A distribution of latencies, in milliseconds (0 when there are none).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 90 % are not above.
    pub p90: f64,
    /// 99 % are not above.
    pub p99: f64,
    /// The worst.
    pub max: f64,
}

/// The stats of one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseStats {
    /// The phase.
    pub phase: String,
    /// Its stats.
    pub stats: Stats,
}

/// What became of a request or connection that met an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It failed.
    Failed,
    /// It was sent once more.
    Retried,
    /// A long connection ended.
    Cut,
}

/// One kind of error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// The kind, for instance `connect refused`.
    pub kind: String,
    /// What became of it.
    pub outcome: Outcome,
    /// How many.
    pub count: u64,
    /// The first.
    pub first_ms: f64,
    /// The last.
    pub last_ms: f64,
    /// The first one's text.
    pub example: String,
}

/// A version or instance, and when it answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Its name.
    pub value: String,
    /// Its first answer.
    pub first_ms: f64,
    /// Its last answer.
    pub last_ms: f64,
    /// How many answers.
    pub count: u64,
}

impl Report {
    /// Requests that came to an end.
    pub fn total_requests(&self) -> u64 {
        self.total.requests
    }

    /// Requests that failed.
    pub fn total_failed(&self) -> u64 {
        self.total.failed
    }

    /// Requests that were sent twice.
    pub fn total_retried(&self) -> u64 {
        self.total.retried
    }

    /// Long connections that were cut.
    pub fn total_cut(&self) -> u64 {
        self.total.cut
    }

    /// The stream of this name.
    pub fn stream(&self, name: &str) -> Option<&StreamReport> {
        self.streams.iter().find(|stream| stream.name == name)
    }

    /// The first answer of this version on any stream, in milliseconds since the load began.
    pub fn first_seen(&self, version: &str) -> Option<f64> {
        self.seen(version).map(|seen| seen.first_ms).min_by(f64::total_cmp)
    }

    /// The last answer of this version on any stream, in milliseconds since the load began.
    pub fn last_seen(&self, version: &str) -> Option<f64> {
        self.seen(version).map(|seen| seen.last_ms).max_by(f64::total_cmp)
    }

    /// When the phase of this name began, in milliseconds since the load began.
    pub fn phase_start(&self, phase: &str) -> Option<f64> {
        self.phases.iter().find(|span| span.name == phase).map(|span| span.from_ms)
    }

    /// p99 in `phase` over p99 in `base`, of the stream where it is worst; streams without answers in either are left out.
    pub fn worst_p99_ratio(&self, phase: &str, base: &str) -> Option<f64> {
        self.streams.iter().filter_map(|stream| stream.p99_ratio(phase, base)).max_by(f64::total_cmp)
    }

    /// Why this is not a clean run: failed requests, and streams that had no good answer at all. `None` when it is clean.
    /// Retries and cuts of long connections are no failures; look at [`total_retried`](Self::total_retried) and
    /// [`total_cut`](Self::total_cut) for those.
    pub fn failures(&self) -> Option<String> {
        let bad = |stream: &&StreamReport| stream.total.failed > 0 || stream.total.ok == 0;
        let names: Vec<_> = self.streams.iter().filter(bad).map(|stream| stream.name.as_str()).collect();
        if names.is_empty() {
            return None;
        }
        Some(format!(
            "{} of {} requests failed; not clean: {}\n{}",
            self.total.failed,
            self.total.requests,
            names.join(", "),
            self.table()
        ))
    }

    /// Panics, with the whole table, when the run is not clean (see [`failures`](Self::failures)).
    #[track_caller]
    pub fn assert_no_failures(&self) {
        if let Some(failures) = self.failures() {
            panic!("{failures}");
        }
    }

    /// Panics, with the whole table, when the run is not clean, or a request was retried or a long connection cut.
    #[track_caller]
    pub fn assert_nothing_noticed(&self) {
        self.assert_no_failures();
        let (retried, cut) = (self.total.retried, self.total.cut);
        assert!(retried + cut == 0, "{retried} retried, {cut} cut\n{}", self.table());
    }

    fn seen(&self, version: &str) -> impl Iterator<Item = &Seen> {
        self.streams.iter().flat_map(|stream| &stream.versions).filter(move |seen| seen.value == version)
    }
}

impl StreamReport {
    /// The stats of the phase of this name (the first, if there are several).
    pub fn phase(&self, phase: &str) -> Option<&Stats> {
        self.by_phase.iter().find(|stats| stats.phase == phase).map(|stats| &stats.stats)
    }

    /// p99 in `phase` over p99 in `base`; `None` without good answers in both.
    pub fn p99_ratio(&self, phase: &str, base: &str) -> Option<f64> {
        let (phase, base) = (self.phase(phase)?, self.phase(base)?);
        (phase.ok > 0 && base.latency_ms.p99 > 0.0).then(|| phase.latency_ms.p99 / base.latency_ms.p99)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.table())
    }
}
