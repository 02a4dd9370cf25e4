//! The lab's command line: the test service, its health check, and the load generator.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
