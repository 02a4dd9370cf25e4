//! Renderers: they listen to the events of a deploy and print. They decide nothing.

mod failure;
mod foreign;
mod gitlab;
mod json;
mod plain;
mod printer;

use std::time::{Duration, Instant, SystemTime};

use handover_core::plan::Plan;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::cli::Output;
use crate::event::Event;
use crate::failure::Failure;
use printer::Printer;

pub(crate) use json::{failed as json_failures, line as json_line};
pub(crate) use printer::print_lines;

/// Prints events until the stream ends.
pub(crate) async fn render(output: Output, mut events: UnboundedReceiver<(Duration, Event)>) {
    let began = Instant::now();
    let in_a_gitlab_job = std::env::var("GITLAB_CI").is_ok_and(|value| value == "true");
    let mut folded = (output == Output::Plain && in_a_gitlab_job)
        .then(|| gitlab::Folded::new(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()));
    let printer = Printer::start(print_lines);
    while let Some((at, event)) = events.recv().await {
        printer.print(match (output, &mut folded) {
            (Output::Plain, Some(folded)) => folded.lines(at, &event),
            (Output::Plain, None) => plain::lines(at, &event),
            (Output::Json, _) => vec![json::line(at, &event).to_string()],
        });
    }
    if let Some(folded) = &mut folded {
        printer.print(folded.end(began.elapsed()));
    }
    printer.finish().await;
}

/// Prints a plan that nobody carries out.
pub(crate) fn print_plan(output: Output, plan: &Plan) {
    match output {
        Output::Plain => print_lines(&plain::plan_in_order(plan)),
        Output::Json => print_lines(&[json::plan(plan).to_string()]),
    }
}

/// Prints failures: for people on standard error, and for programs as the last line of standard output as well.
pub(crate) fn print_failures(output: Output, failures: &[Failure]) {
    if output == Output::Json {
        printer::print_last(json::failed(failures).to_string());
    }
    failure::print(failures);
}

#[cfg(test)]
mod plan_tests;
