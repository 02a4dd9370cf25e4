//! Renderers: they listen to the events of a deploy and print. They decide nothing.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where printing belongs")]

mod failure;
mod json;
mod plain;

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::cli::Output;
use crate::event::Event;

pub(crate) use failure::print as print_failures;
pub(crate) use plain::plan as plan_lines;

/// Prints events until the stream ends.
pub(crate) async fn render(output: Output, mut events: UnboundedReceiver<(Duration, Event)>) {
    while let Some((at, event)) = events.recv().await {
        match output {
            Output::Plain => plain::lines(at, &event).iter().for_each(|line| println!("{line}")),
            Output::Json => println!("{}", json::line(at, &event)),
        }
    }
}

/// Prints lines to standard output.
pub(crate) fn print_lines(lines: &[String]) {
    lines.iter().for_each(|line| println!("{line}"));
}
