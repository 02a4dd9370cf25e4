//! The helpers as a program of their own, for tests: `host guard [rules-file]`, `host keeper` and `host session`.

use std::path::Path;
use std::process::ExitCode;

use handover_host::{guard, keeper, session};

fn main() -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["guard"] => runtime.block_on(guard::run(Path::new(guard::RULES_FILE))),
        ["guard", file] => runtime.block_on(guard::run(Path::new(file))),
        ["keeper"] => runtime.block_on(keeper::run()),
        ["session"] => runtime.block_on(session::run()),
        _ => ExitCode::from(2),
    }
}
