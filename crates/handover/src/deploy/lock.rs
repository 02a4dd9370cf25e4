//! The lock: one deploy of a project at a time, on whatever machine it was started.
//!
//! The session helper holds it by the name of its container, which the engine keeps unique. It ends when the connection to
//! this process ends, however this process ends, and the engine removes it then: a lock cannot be left behind.

use std::time::{Duration, Instant};

use handover_core::gate::State;

use crate::engine::{Engine, Role};
use crate::event::{Event, Events};
use crate::failure::{Exit, Failure, Result};
use crate::helper::Helper;
use crate::interrupt::Interrupt;

/// How long a helper may stay created without running before it is taken for the wreck of a run that died in between.
const WRECK: Duration = Duration::from_secs(10);

/// The lock, taken: its container is there, and the session helper in it does not run yet.
#[derive(Debug)]
pub(crate) struct Taken {
    id: String,
    /// Whether another deploy had to be waited for.
    pub(crate) waited: bool,
}

/// The lock, held.
#[derive(Debug)]
pub(crate) struct Lock {
    /// The session helper, which is the lock.
    pub(crate) session: Helper,
    id: String,
}

impl Taken {
    /// Starts the session helper. If that fails, the lock is given back.
    pub(crate) async fn start(self, engine: &Engine) -> Result<Lock> {
        let attached = engine.start_ours(&self.id).await?;
        Ok(Lock { session: Helper::new("session helper", attached), id: self.id })
    }

    /// Gives it back before anything was started.
    pub(crate) async fn give_back(self, engine: &Engine) {
        let _ = engine.remove_all(&[self.id]).await;
    }
}

impl Lock {
    /// Gives the lock back and waits until nothing of it is left in the engine.
    pub(crate) async fn release(self, engine: &Engine) {
        let removed = engine.wait_removed(&self.id);
        drop(self.session);
        removed.await;
    }
}

/// Takes the lock, waiting for another deploy at most `patience`. An interrupt ends the waiting, and is heard before anything is
/// created, not in between.
pub(crate) async fn take(
    engine: &Engine,
    project: &str,
    image: &str,
    patience: Duration,
    events: &Events,
    interrupt: &Interrupt,
) -> Result<Taken> {
    let began = Instant::now();
    let me = holder();
    let mut waited = false;
    loop {
        if interrupt.is_asked() {
            return Err(interrupted());
        }
        if let Some(id) = engine.create_ours(Role::Session, project, image, &me).await? {
            return Ok(Taken { id, waited });
        }
        let Some((id, holder)) = engine.lock_holder(project).await? else {
            continue;
        };
        if !waited {
            events.emit(Event::WaitingForLock { holder: holder.clone() });
            waited = true;
        }
        let left = patience.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(Failure::new(Exit::Locked, format!("{holder} is deploying project {project}"))
                .because(format!("it did not end within {patience:?}"))
                .hint("wait for it, or allow more with --lock-wait"));
        }
        let waiting = tokio::time::timeout(left.min(WRECK), engine.wait_removed(&id));
        let waited_out = tokio::select! {
            removed = waiting => removed.is_err(),
            () = interrupt.asked() => return Err(interrupted()),
        };
        if waited_out && engine.inspect(&id).await?.is_some_and(|found| found.state != State::Running) {
            engine.remove_all(&[id]).await?;
        }
    }
}

pub(crate) fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted before anything was done")
}

/// Who we are, for whoever waits for us.
fn holder() -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = variable("GITLAB_USER_LOGIN").or_else(|| variable("USER")).unwrap_or_else(|| "somebody".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let job = variable("CI_JOB_URL").map(|url| format!(", {url}")).unwrap_or_default();
    format!("{user}@{} (process {}{job})", host.trim(), std::process::id())
}
