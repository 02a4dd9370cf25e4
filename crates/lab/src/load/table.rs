//! The report for people.

use std::fmt::Write as _;

use super::report::{Outcome, Report, Seen, Stats, StreamReport};

impl Report {
    /// The report for people.
    pub fn table(&self) -> String {
        render(self)
    }
}

/// Renders the report as text: a table of all streams (by phase, when there are several), then errors and versions.
fn render(report: &Report) -> String {
    let mut text = String::new();
    let width = report.streams.iter().map(|stream| stream.name.len()).max().unwrap_or(0).max(6);
    let phase_width = report.phases.iter().map(|phase| phase.name.len()).max().unwrap_or(0).max(5);
    let _ = writeln!(
        text,
        "{:width$}  {:phase_width$}  {:>8} {:>8} {:>7} {:>7} {:>5}  {:>8} {:>8} {:>8}  {:>9}",
        "stream", "phase", "requests", "ok", "failed", "retried", "cut", "p50 ms", "p99 ms", "max ms", "gap ms"
    );
    let mut row = |name: &str, phase: &str, stats: &Stats| {
        let _ = writeln!(
            text,
            "{name:width$}  {phase:phase_width$}  {:>8} {:>8} {:>7} {:>7} {:>5}  {:>8.1} {:>8.1} {:>8.1}  {:>9.0}",
            stats.requests,
            stats.ok,
            stats.failed,
            stats.retried,
            stats.cut,
            stats.latency_ms.p50,
            stats.latency_ms.p99,
            stats.latency_ms.max,
            stats.longest_gap_ms,
        );
    };
    for stream in &report.streams {
        if report.phases.len() > 1 {
            for phase in &stream.by_phase {
                row(&stream.name, &phase.phase, &phase.stats);
            }
        } else {
            row(&stream.name, "all", &stream.total);
        }
    }
    if report.phases.len() > 1 {
        for phase in &report.total_by_phase {
            row("total", &phase.phase, &phase.stats);
        }
    }
    row("total", "all", &report.total);
    let _ = writeln!(text, "\n{:.1} s; the gap is the longest time without a good answer", report.seconds);
    for stream in &report.streams {
        details(&mut text, stream);
    }
    text
}

fn details(text: &mut String, stream: &StreamReport) {
    let _ = write!(text, "{} -> {}", stream.name, stream.target);
    for (what, seen) in [("version", &stream.versions), ("backend version", &stream.backend_versions)] {
        for Seen { value, first_ms, last_ms, count } in seen {
            let _ = write!(text, "; {what} {value}: {count} from {first_ms:.0} to {last_ms:.0} ms");
        }
    }
    if stream.closed_while_idle > 0 {
        let _ = write!(text, "; {} closed while idle", stream.closed_while_idle);
    }
    if stream.longest_reconnect_ms > 0.0 {
        let _ = write!(text, "; reconnected within {:.0} ms", stream.longest_reconnect_ms);
    }
    if stream.latest_launch_ms > 50.0 {
        let _ = write!(text, "; the generator itself was late by up to {:.0} ms", stream.latest_launch_ms);
    }
    text.push('\n');
    for error in &stream.errors {
        let outcome = match error.outcome {
            Outcome::Failed => "failed",
            Outcome::Retried => "retried",
            Outcome::Cut => "cut",
        };
        let _ = writeln!(
            text,
            "    {outcome}: {} x {} (from {:.0} to {:.0} ms; {})",
            error.count, error.kind, error.first_ms, error.last_ms, error.example
        );
    }
}
