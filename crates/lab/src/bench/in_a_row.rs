//! Many deploys in a row behind a proxy, under one load that never rests.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use super::engine::Engine;
use super::example::{Example, NEW, OLD};
use super::{BenchOptions, InARow, Result, process};
use crate::load::Load;

pub(super) fn measure(engine: &Engine, options: &BenchOptions, logs: &Path, say: &dyn Fn(&str)) -> Result<InARow> {
    let mut example = Example::named("traefik", engine, options)?;
    example.fresh(engine, logs)?;
    let outcome = deploys(&example, options, logs, say);
    say("in a row: clean up");
    example.down(engine, logs)?;
    outcome
}

fn deploys(example: &Example, options: &BenchOptions, logs: &Path, say: &dyn Fn(&str)) -> Result<InARow> {
    let deploys = options.in_a_row;
    let load = Load::start(example.load())?;
    let began = Instant::now();
    for number in 1..=deploys {
        let mut up = example.handover(if number % 2 == 1 { NEW } else { OLD });
        process::run(up.stdin(Stdio::null()), logs, &format!("in-a-row-{number}"))?;
        if number % 10 == 0 {
            let so_far = load.progress().total;
            say(&format!("in a row: {number} deploys, {} good answers, {} failed", so_far.ok, so_far.failed));
        }
    }
    let wall_s = began.elapsed().as_secs_f64();
    let report = load.stop();
    let total = &report.total;
    Ok(InARow {
        deploys,
        wall_s,
        requests: total.requests,
        failed: total.failed,
        retried: total.retried,
        cut: total.cut,
        gap_ms: total.excess_gap_ms,
        errors: super::deploy::errors(&report),
    })
}
