//! The proxy between Compose and the engine: a way in to us that Compose gets as `DOCKER_HOST`, a Unix socket.
//!
//! Everything passes through whole and as it comes: bodies in both directions, streams without an end, upgraded connections with
//! their half-close, header names as they are written. One connection to the engine for each of the client's, used again for its
//! next request. A client that goes takes its connection to the engine with it.
//!
//! Only the calls of [`handover_core::wire`] are looked at. A call that would end a *held* container, or start or rename one that
//! Compose has made under way, waits for the deploy's word; without one it is refused, so that nothing that goes wrong on our side
//! stops a container. Of what the deploy says is done in its own way Compose hears success, and of a container that is kept so,
//! nothing more.
//!
//! Not passed on: a hijacked connection that does not ask for an upgrade (no client since Docker 1.10 does so), and a request
//! line longer than 64 KiB. `Expect: 100-continue` is answered here, when the engine's connection takes the body.

mod connection;
mod held;
#[cfg(test)]
mod tests;
mod upstream;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use handover_core::compose::calls::Containers;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::accept::Accepting;
use crate::engine::Engine;
use crate::event::Events;
use crate::failure::{Exit, Failure, Result};
use crate::outside::{Outside, WayIn};

pub(crate) use held::HeldCall;

/// A way in that leads to the engine. Dropping it ends it: connections are cut, what is held is never passed.
#[derive(Debug)]
pub(crate) struct EngineProxy {
    accepting: AbortHandle,
    host: String,
}

/// What a deploy hears of Compose's calls, in the order in which they happen.
#[derive(Debug)]
pub(crate) enum Call {
    /// The engine has made a container. Told before Compose hears of it.
    Created {
        /// The name that Compose asked for.
        name: String,
        /// The new container's full id.
        id: String,
        /// Full id of the held container that it is to replace, by its temporary name.
        replaces: Option<String>,
    },
    /// Compose wants to end a held container, or to start or rename one that it has made, and waits for the word.
    Held(HeldCall),
    /// The engine has renamed a container. Told before Compose hears of it.
    Renamed {
        /// Full id of one that is held or was made under way; of another whatever Compose calls it.
        id: String,
    },
}

/// What the connections have in common.
#[derive(Debug)]
struct Shared {
    outside: Arc<dyn Outside>,
    containers: Mutex<Containers>,
    calls: mpsc::UnboundedSender<Call>,
}

impl Shared {
    fn containers(&self) -> MutexGuard<'_, Containers> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, call: Call) {
        // A deploy that no longer listens has nothing to hear of what the engine has done.
        let _ = self.calls.send(call);
    }
}

impl EngineProxy {
    /// Opens a socket to the engine. From now on nobody who uses it ends one of the held containers without the word of the
    /// receiver's owner.
    pub(crate) fn open(engine: &Engine, held: Containers) -> Result<(Self, mpsc::UnboundedReceiver<Call>)> {
        Self::between(engine.outside.clone(), held, engine.events.clone())
    }

    fn between(
        outside: Arc<dyn Outside>,
        held: Containers,
        events: Events,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Call>)> {
        let failed = |error: std::io::Error| {
            Failure::new(Exit::Engine, "the proxy between Compose and the engine cannot be opened").because(error)
        };
        let WayIn { host, callers } = outside.open_way_in().map_err(failed)?;
        let (sender, calls) = mpsc::unbounded_channel();
        let shared = Shared { outside, containers: Mutex::new(held), calls: sender };
        let accepting = tokio::spawn(accept(Accepting::new(callers, events), Arc::new(shared))).abort_handle();
        Ok((Self { accepting, host }, calls))
    }

    /// The way in, as `DOCKER_HOST` names it.
    pub(crate) fn host(&self) -> String {
        self.host.clone()
    }
}

impl Drop for EngineProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves until it is aborted, which cuts the connections with it.
async fn accept(mut accepting: Accepting, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            stream = accepting.next() => {
                connections.spawn(connection::serve(stream, shared.clone()));
            }
            // What has ended is let go of.
            Some(_) = connections.join_next() => {}
        }
    }
}
