//! `handover up` does what `docker compose up -d` does, and no client notices.

use std::process::ExitCode;

fn main() -> ExitCode {
    handover::run(std::env::args_os())
}
