//! Renderers: they listen to the events of a deploy and print. They decide nothing.

mod failure;
mod gitlab;
mod json;
mod plain;

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use handover_core::plan::Plan;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::cli::Output;
use crate::event::Event;

pub(crate) use failure::print as print_failures;

/// Prints events until the stream ends.
pub(crate) async fn render(output: Output, mut events: UnboundedReceiver<(Duration, Event)>) {
    let began = Instant::now();
    let in_a_gitlab_job = std::env::var("GITLAB_CI").is_ok_and(|value| value == "true");
    let mut folded = (output == Output::Plain && in_a_gitlab_job)
        .then(|| gitlab::Folded::new(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()));
    while let Some((at, event)) = events.recv().await {
        match (output, &mut folded) {
            (Output::Plain, Some(folded)) => print_lines(&folded.lines(at, &event)),
            (Output::Plain, None) => print_lines(&plain::lines(at, &event)),
            (Output::Json, _) => print_lines(&[json::line(at, &event).to_string()]),
        }
    }
    if let Some(folded) = &mut folded {
        print_lines(&folded.end(began.elapsed()));
    }
}

/// Prints a plan that nobody carries out.
pub(crate) fn print_plan(output: Output, plan: &Plan) {
    match output {
        Output::Plain => print_lines(&plain::plan_in_order(plan)),
        Output::Json => print_lines(&[json::plan(plan).to_string()]),
    }
}

/// Prints lines to standard output. That nobody reads them any more (`| head`) must not end a deploy.
pub(crate) fn print_lines(lines: &[String]) {
    let mut output = std::io::stdout().lock();
    for line in lines {
        let _ = writeln!(output, "{line}");
    }
    let _ = output.flush();
}

#[cfg(test)]
mod plan_tests;
