//! The lock: one deploy of a project at a time, on whatever machine it was started.
//!
//! The session helper holds it by the name of its container, which the engine keeps unique. It ends when the connection to
//! this process ends, however this process ends, and the engine removes it then: a lock cannot be left behind.

use std::time::Duration;

use handover_core::gate::State;
use tokio::time::Instant;

use crate::engine::{Engine, Role};
use crate::event::{Event, Events};
use crate::failure::{Exit, Failure, Result};
use crate::helper::Helper;
use crate::interrupt::Interrupt;
use crate::outside::Outside;

/// How long a helper may stay created without running before it is taken for the wreck of a run that died in between.
const WRECK: Duration = Duration::from_secs(10);

/// How long the engine may take to remove a session helper that has ended.
const REMOVED: Duration = Duration::from_secs(30);

/// How long to wait for a name that nobody has.
const NAME_IS_FREED: Duration = Duration::from_millis(100);

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
        Ok(Lock { session: Helper::session(attached), id: self.id })
    }

    /// Gives it back before anything was started.
    pub(crate) async fn give_back(self, engine: &Engine) {
        let _ = engine.remove_all(&[self.id]).await;
    }
}

impl Lock {
    /// Gives the lock back and waits until nothing of it is left in the engine, though not for an engine that does not answer.
    pub(crate) async fn release(self, engine: &Engine) {
        let removed = engine.wait_removed(&self.id);
        drop(self.session);
        let _ = tokio::time::timeout(REMOVED, removed).await;
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
    let me = holder(&*engine.outside);
    let mut waited = false;
    loop {
        if interrupt.is_asked() {
            return Err(interrupted());
        }
        if let Some(id) = engine.create_ours(Role::Session, project, image, &me).await? {
            return Ok(Taken { id, waited });
        }
        let Some((id, holder)) = engine.lock_holder(project).await? else {
            // The name is taken and nobody has it: the engine is about to give it back. It tells nobody when it has.
            if began.elapsed() >= patience {
                return Err(Failure::new(Exit::Locked, format!("the lock of project {project} cannot be taken"))
                    .because("the engine keeps the name of its container and has no such container")
                    .hint("restart the engine if this stays so"));
            }
            tokio::time::sleep(NAME_IS_FREED).await;
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
            biased;
            removed = waiting => removed.is_err(),
            () = interrupt.asked() => return Err(interrupted()),
        };
        if waited_out && engine.inspect(&id).await?.is_some_and(|found| found.state != State::Running) {
            // Not by force: should it have begun to run in this very moment, it is somebody's lock.
            engine.remove_unless_running(&id).await?;
        }
    }
}

pub(crate) fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted before anything was done")
}

/// The lock has ended in the middle of a deploy.
pub(crate) fn lost(why: String) -> Failure {
    Failure::new(
        Exit::Unfinished,
        "the deploy stopped half-way: the helper beside the engine that is its lock has ended",
    )
    .because(why)
    .hint("run handover up again: it goes on from here")
}

/// Who we are, for whoever waits for us.
fn holder(outside: &dyn Outside) -> String {
    let user = outside.variable("GITLAB_USER_LOGIN").or_else(|| outside.variable("USER"));
    let user = user.unwrap_or_else(|| "somebody".to_owned());
    let (host, process) = outside.host_and_process();
    let job = outside.variable("CI_JOB_URL").map(|url| format!(", {url}")).unwrap_or_default();
    format!("{user}@{host} (process {process}{job})")
}
