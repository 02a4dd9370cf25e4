//! The guard: holds the port rules of one project.
//!
//! Its container has the host's network, NET_ADMIN and nothing more, an open standard input (`OpenStdin`, not
//! `StdinOnce`, so that it does not end when somebody detaches) and the restart policy `unless-stopped`. What becomes of
//! the rules:
//!
//! | event | rules in the kernel | rules file |
//! |---|---|---|
//! | command line dies, detaches | stay | stays |
//! | guard killed (OOM, `kill -9`) | stay; loaded anew, without a gap, when the engine starts it again | stays |
//! | engine restarts, host reboots | go with SIGTERM or the host; loaded when the guard starts | stays |
//! | `docker stop` (SIGTERM, SIGINT) | deleted | stays |
//! | `unload` | deleted | removed |
//! | container removed by force | **stay**: a session's `unload_ports` deletes them | goes |

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use handover_core::redirect::ports::{PortTable, table_name};
use tokio::signal::unix::{SignalKind, signal};

use crate::channel::{self, Output, hello};
use crate::error::HostError;
use crate::ports;
use crate::protocol::{Counters, Failure, GuardOp, Loaded, Request, Role, Unloaded};
use crate::rules_file::RulesFile;

/// Where the guard keeps its table, in its own root.
pub const RULES_FILE: &str = "/rules.json";

/// Runs until `unload`, a signal, or the end of standard input while nothing is loaded; all of these are success.
/// Needs a tokio runtime with I/O and time.
pub async fn run(rules_file: &Path) -> ExitCode {
    let (output, writer) = match Output::open() {
        Ok(both) => both,
        Err(_) => return ExitCode::FAILURE,
    };
    output.hello(Role::Guard);
    let result = serve(rules_file, &output).await;
    let code = match &result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(None, error.failure());
            ExitCode::FAILURE
        }
    };
    drop(output);
    writer.finish();
    code
}

struct Guard {
    file: RulesFile,
    loaded: Option<PortTable>,
}

async fn serve(rules_file: &Path, output: &Output) -> Result<(), HostError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(HostError::kernel("watching for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(HostError::kernel("watching for SIGINT"))?;
    let mut guard = Guard { file: RulesFile::at(rules_file), loaded: None };
    if let Some(table) = guard.file.read()? {
        ports::load(&table).await?;
        guard.loaded = Some(table);
    }
    let mut lines = channel::input_lines()?;
    let mut input_ended = false;
    loop {
        let line = tokio::select! {
            _ = terminate.recv() => return guard.step_down().await,
            _ = interrupt.recv() => return guard.step_down().await,
            line = lines.recv(), if !input_ended => line,
        };
        let Some(line) = line else {
            if guard.loaded.is_none() {
                return Ok(());
            }
            // Whoever loaded the rules is gone; they stay until the next one, or a signal.
            input_ended = true;
            continue;
        };
        match serde_json::from_str::<Request<GuardOp>>(&line) {
            Err(error) => {
                let what = format!("not a request to a guard: {error}");
                output.error(None, Failure { what, hint: None, cancelled: false });
            }
            Ok(Request { id, op }) => {
                let last = op == GuardOp::Unload;
                let answered = guard.answer(id, op, output).await;
                match answered {
                    Err(error) => output.error(Some(id), error.failure()),
                    Ok(()) if last => return Ok(()),
                    Ok(()) => {}
                }
            }
        }
    }
}

impl Guard {
    async fn answer(&mut self, id: u64, op: GuardOp, output: &Output) -> Result<(), HostError> {
        match op {
            GuardOp::Hello => output.ok(id, &hello(Role::Guard)),
            GuardOp::Load { table } => output.ok(id, &self.load(table).await?),
            GuardOp::Release => {
                let table = self.loaded.as_ref().map(PortTable::released);
                let table = table.ok_or_else(|| HostError::Request("release: no table is loaded".into()))?;
                output.ok(id, &self.load(table).await?);
            }
            GuardOp::Counters => output.ok(id, &self.counters().await?),
            GuardOp::Unload => output.ok(id, &self.unload().await?),
        }
        Ok(())
    }

    /// File first: killed in between, the next start finishes it. Refused by the kernel, everything is as before.
    async fn load(&mut self, table: PortTable) -> Result<Loaded, HostError> {
        if let Some(other) = self.loaded.as_ref().map(|loaded| &loaded.project).filter(|name| **name != table.project) {
            return Err(HostError::Request(format!("this guard holds the ports of {other}, not of {}", table.project)));
        }
        self.file.write(&table)?;
        match ports::load(&table).await {
            Ok(took) => {
                let loaded =
                    Loaded { table: table_name(&table.project), leads: table.leads.len(), took_us: microseconds(took) };
                self.loaded = Some(table);
                Ok(loaded)
            }
            Err(error) => {
                match &self.loaded {
                    Some(before) => self.file.write(before)?,
                    None => self.file.remove()?,
                }
                Err(error)
            }
        }
    }

    async fn counters(&self) -> Result<Counters, HostError> {
        let counted = match &self.loaded {
            Some(table) => ports::counters(&table.project).await?,
            None => None,
        };
        Ok(Counters { loaded: counted.is_some(), connections: counted.unwrap_or_default() })
    }

    /// File first: killed in between, the rules stay but nothing brings them back.
    async fn unload(&mut self) -> Result<Unloaded, HostError> {
        self.file.remove()?;
        let was_loaded = match &self.loaded {
            Some(table) => ports::unload(&table.project).await?,
            None => false,
        };
        self.loaded = None;
        Ok(Unloaded { was_loaded })
    }

    /// The guard stops, so its rules go; the file stays for the next start.
    async fn step_down(&self) -> Result<(), HostError> {
        match &self.loaded {
            Some(table) => ports::unload(&table.project).await.map(drop),
            None => Ok(()),
        }
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
