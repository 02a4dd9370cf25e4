//! Processes, timed.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{BenchError, Result, failed, io};

const LIMIT: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A process that has ended well.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) wall: Duration,
    /// The highest `VmHWM` seen of the process itself, without its children.
    pub(super) peak_kib: u64,
    pub(super) stdout: String,
}

/// Runs a command to its end; what it prints goes to `LOGS/NAME.out` and `.err`.
pub(super) fn run(command: &mut Command, logs: &Path, name: &str) -> Result<Ran> {
    let (out, err) = (logs.join(format!("{name}.out")), logs.join(format!("{name}.err")));
    let create = |path: &Path| File::create(path).map_err(io(format!("cannot write {}", path.display())));
    command.stdout(create(&out)?).stderr(create(&err)?);
    let began = Instant::now();
    let mut child = command.spawn().map_err(io(format!("cannot start {}", program(command))))?;
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(io(program(command)))? {
            break status;
        }
        peak_kib = high_water_mark(&status_file).max(peak_kib);
        if began.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(program(command), format!("did not end within {LIMIT:?}; see {}", err.display())));
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let wall = began.elapsed();
    let stdout = read(&out)?;
    if status.success() {
        return Ok(Ran { wall, peak_kib, stdout });
    }
    let all = format!("{stdout}{}", read(&err)?);
    let lines: Vec<&str> = all.lines().collect();
    let last = lines[lines.len().saturating_sub(15)..].join("\n");
    Err(failed(format!("{} ended with {status}", program(command)), last))
}

/// A file as the process's stdin; none is the default.
pub(super) fn stdin_from(command: &mut Command, file: &Path) -> std::result::Result<(), BenchError> {
    let file = File::open(file).map_err(io(format!("cannot read {}", file.display())))?;
    command.stdin(Stdio::from(file));
    Ok(())
}

pub(super) fn program(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

pub(super) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(io(format!("cannot read {}", path.display())))
}

fn high_water_mark(status_file: &str) -> u64 {
    let status = fs::read_to_string(status_file).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
