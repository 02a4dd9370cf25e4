//! Renderers: they listen to the events of a deploy and print. They decide nothing.

mod failure;
mod json;
mod plain;

use std::io::Write;
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
            Output::Plain => print_lines(&plain::lines(at, &event)),
            Output::Json => print_lines(&[json::line(at, &event).to_string()]),
        }
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
