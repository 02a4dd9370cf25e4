//! One deploy under load, measured.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::example::{Example, NEW};
use super::measure::{load_average, processor_ticks};
use super::{BenchOptions, Method, Result, Round, Step, process};
use crate::load::{Kind, Load, Report, Stats};

/// How long the load goes on after the deploy: until all is well again, at most for the first of these, then for the second.
const UNTIL_WELL: Duration = Duration::from_secs(30);
const AFTERWARDS: Duration = Duration::from_secs(2);
const DURING: [&str; 2] = ["deploy", "after"];
/// Short requests: what they take tells how busy the stack is, not how long they are.
const SHORT: [&str; 2] = ["new", "keepalive"];

pub(super) fn measure(
    example: &Example,
    method: Method,
    round: usize,
    options: &BenchOptions,
    logs: &Path,
) -> Result<Round> {
    let load_average = load_average();
    let mut command = example.deploy(method);
    let load = Load::start(example.load())?;
    let before = processor_ticks();
    std::thread::sleep(Duration::from_secs_f64(options.rest_s));
    let after = processor_ticks();
    let name = format!("{}-{}-{round}-{method:?}", options.engine, example.name);
    load.mark("deploy");
    let ran = process::run(&mut command, logs, &name)?;
    load.mark("after");
    let had = load.progress();
    load.wait_for(UNTIL_WELL, |now| now.streams.iter().zip(&had.streams).all(|(now, had)| now.ok >= had.ok + 3));
    std::thread::sleep(AFTERWARDS);
    let report = load.stop();

    let began = report.phase_start("deploy").unwrap_or(0.0);
    let since_began = |instant: f64| (instant - began) / 1000.0;
    let events = events(&ran.stdout);
    let proof = events.iter().find(|event| event["event"] == "proof");
    let said = |key: &str| proof.and_then(|proof| proof[key].as_f64());
    let p99 = SHORT
        .iter()
        .filter_map(|name| report.stream(name))
        .filter_map(|stream| Some((stream.p99_ratio("deploy", "rest")?, stream.phase("rest")?.latency_ms.p99)))
        .max_by(|one, other| one.0.total_cmp(&other.0));
    let during = |pick: &dyn Fn(&Stats) -> f64| {
        let phases = report.total_by_phase.iter().filter(|phase| DURING.contains(&phase.phase.as_str()));
        phases.map(|phase| pick(&phase.stats)).collect::<Vec<_>>()
    };
    let count = |pick: &dyn Fn(&Stats) -> u64| during(&|stats| pick(stats) as f64).iter().sum::<f64>() as u64;
    Ok(Round {
        example: example.name.to_owned(),
        method,
        round,
        requests: count(&|stats| stats.requests),
        failed: count(&|stats| stats.failed),
        retried: count(&|stats| stats.retried),
        sessions_failed: sessions_failed(&report),
        gap_ms: during(&|stats| stats.excess_gap_ms).into_iter().fold(0.0, f64::max),
        p99_ratio: p99.map(|(ratio, _)| ratio),
        p99_rest_ms: p99.map(|(_, rest)| rest),
        live_s: report.first_seen(NEW).map(since_began),
        live_everywhere_s: first_seen_everywhere(&report).map(since_began),
        done_s: ran.wall.as_secs_f64(),
        peak_kib: ran.peak_kib,
        own_live_s: said("live_s"),
        own_s: said("own_s"),
        steps: steps(&events),
        errors: errors(&report),
        failed_at_rest: report.total_by_phase.first().map_or(0, |phase| phase.stats.failed),
        latest_launch_ms: report.streams.iter().map(|stream| stream.latest_launch_ms).fold(0.0, f64::max),
        busy_at_rest: (after.0 - before.0) / (after.1 - before.1).max(1.0),
        load_average,
    })
}

/// The JSON lines that handover printed; nothing for the others.
pub(super) fn events(stdout: &str) -> Vec<Value> {
    stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(Value::is_object).collect()
}

fn steps(events: &[Value]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for event in events {
        let (Some(step), Some(at)) = (event["step"].as_str(), event["at_s"].as_f64()) else { continue };
        match event["event"].as_str() {
            Some("step-began") => steps.push(Step { step: step.to_owned(), from_s: at, to_s: at }),
            Some("step-ended") => {
                if let Some(open) = steps.iter_mut().rev().find(|open| open.step == step) {
                    open.to_s = at;
                }
            }
            _ => {}
        }
    }
    steps
}

/// When the last of the streams that say a version saw the new one; `None` if one of them never did.
fn first_seen_everywhere(report: &Report) -> Option<f64> {
    let streams = report.streams.iter().filter(|stream| !stream.versions.is_empty());
    let seen: Option<Vec<f64>> =
        streams.map(|stream| stream.versions.iter().find(|seen| seen.value == NEW).map(|seen| seen.first_ms)).collect();
    seen?.into_iter().max_by(f64::total_cmp)
}

fn sessions_failed(report: &Report) -> u64 {
    let sessions = report.streams.iter().filter(|stream| matches!(stream.kind, Kind::Websocket | Kind::Download));
    let phases = sessions.flat_map(|stream| DURING.iter().filter_map(|phase| stream.phase(phase)));
    phases.map(|stats| stats.failed + stats.cut).sum()
}

pub(super) fn errors(report: &Report) -> Vec<String> {
    let of_all = report.streams.iter().flat_map(|stream| stream.errors.iter().map(move |error| (stream, error)));
    of_all
        .map(|(stream, error)| {
            let outcome = format!("{:?}", error.outcome).to_lowercase();
            let (from, to) = (error.first_ms, error.last_ms);
            format!(
                "{}: {outcome} {} x {} ({from:.0} to {to:.0} ms; {})",
                stream.name, error.count, error.kind, error.example
            )
        })
        .collect()
}
