//! An nginx that runs in a container: its configuration tested, and read anew by workers of a new generation.

use std::time::Duration;

use handover_core::router::nginx::process::{Nginx, Process, nginx};
use handover_host::protocol::{Processes, SessionOp};
use tokio::time::Instant;

use super::{Reach, process_of};
use crate::engine::Inspected;
use crate::failure::{Exit, Failure, Result};

/// How long nginx may take to start workers after it was asked to reload.
const CONFIRMED: Duration = Duration::from_secs(15);
/// The kernel tells no one that a process has started.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How many log lines of an nginx that does not reload are shown.
const LOG_LINES: usize = 20;

/// Runs nginx just as the master was started, with more arguments; its exit code and what it printed.
pub(crate) async fn run(reach: &Reach, container: &Inspected, more: &[&str]) -> Result<(i64, String)> {
    let command = look(reach, container).await?.command;
    let words: Vec<&str> = command.iter().map(String::as_str).chain(more.iter().copied()).collect();
    reach.engine.exec(&container.id, &words).await
}

/// Fails, in nginx's words, if its configuration is broken.
pub(crate) async fn test(reach: &Reach, container: &Inspected) -> Result<()> {
    let (code, printed) = run(reach, container, &["-t"]).await?;
    if code == 0 {
        return Ok(());
    }
    Err(Failure::new(Exit::Host, format!("nginx -t fails in {}", container.name)).because(printed.trim()))
}

/// Master and workers as they are now.
pub(crate) async fn look(reach: &Reach, container: &Inspected) -> Result<Nginx> {
    let op = SessionOp::Processes { process: process_of(container)? };
    let Processes { processes } = reach.session.ask(op).await?;
    let all: Vec<Process> =
        processes.into_iter().map(|one| Process { pid: one.pid, parent: one.parent, title: one.title }).collect();
    nginx(&all).ok_or_else(|| {
        Failure::new(Exit::Host, format!("no nginx runs in {}", container.name))
            .because("none of its processes is an nginx master")
            .hint("name the service that runs nginx")
    })
}

/// Lets nginx read its configuration anew, until none but workers of a new generation take connections. May be repeated.
pub(crate) async fn reload(reach: &Reach, container: &Inspected) -> Result<()> {
    let before = look(reach, container).await?;
    let (code, printed) = run(reach, container, &["-s", "reload"]).await?;
    if code != 0 {
        return Err(Failure::new(Exit::Host, format!("{} refuses to reload", container.name)).because(printed.trim()));
    }
    let _waiting = reach.events.waiting();
    let began = Instant::now();
    loop {
        let now = look(reach, container).await?;
        if !now.workers.is_empty() && now.workers.iter().all(|worker| !before.workers.contains(worker)) {
            return Ok(());
        }
        if began.elapsed() > CONFIRMED {
            let name = &container.name;
            let mut failure = Failure::new(Exit::Host, format!("{name} was asked to reload and did not"))
                .because(format!("no worker of a new generation runs after {CONFIRMED:?}"));
            failure.logs = Some((name.clone(), reach.engine.last_log_lines(&container.id, LOG_LINES).await));
            return Err(failure);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
