//! Arguments, signals and output. Nothing outside this folder prints.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod healthcheck;
mod load;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The test service and the open-loop load generator that handover is demonstrated, tested and measured with.
#[derive(Debug, Parser)]
#[command(name = "handover-lab")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the test service: HTTP (/, /slow?ms=, POST /post, /download?bytes=&ms=, /events, /ws, /healthz, /status/CODE) and
    /// UDP echo
    Serve(Box<handover_lab::serve::ServeOptions>),
    /// Make load and report what clients noticed
    Load(load::LoadArguments),
    /// Measure deploys of the examples under load
    Bench(bench::BenchArguments),
    /// Exit with 0 if a GET of this URL is answered with 200, with 1 otherwise
    Healthcheck(healthcheck::HealthcheckArguments),
}

/// Runs the command that was asked for.
pub(crate) fn run() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve(options) => serve::run(&options),
        Command::Load(arguments) => load::run(&arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Healthcheck(arguments) => healthcheck::run(&arguments),
    }
}

/// Says what went wrong, with its causes.
fn complain(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprintln!("  Caused by: {cause}");
        source = cause.source();
    }
    ExitCode::FAILURE
}
