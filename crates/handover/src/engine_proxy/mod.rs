//! The proxy between Compose and the engine: a Unix socket of ours that Compose gets as `DOCKER_HOST`.
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

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use handover_core::compose::calls::Containers;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::accept::Accepting;
use crate::engine::Engine;
use crate::event::Events;
use crate::failure::{Exit, Failure, Result};

pub(crate) use held::HeldCall;

/// A socket that leads to the engine. Dropping it ends it: connections are cut, what is held is never passed.
#[derive(Debug)]
pub(crate) struct EngineProxy {
    accepting: AbortHandle,
    /// Only its owner may enter it, so nobody else reaches the engine this way.
    directory: TempDir,
    /// Keeps the way to a remote engine open.
    _engine: Option<Engine>,
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
    upstream: PathBuf,
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
        let (mut proxy, calls) = Self::to_socket(engine.socket(), held, engine.events.clone())?;
        proxy._engine = Some(engine.clone());
        Ok((proxy, calls))
    }

    fn to_socket(upstream: &Path, held: Containers, events: Events) -> Result<(Self, mpsc::UnboundedReceiver<Call>)> {
        let failed = |error: std::io::Error| {
            Failure::new(Exit::Engine, "the proxy between Compose and the engine cannot be opened").because(error)
        };
        let directory = private_directory().map_err(failed)?;
        let listener = UnixListener::bind(directory.path().join("engine.sock")).map_err(failed)?;
        let (sender, calls) = mpsc::unbounded_channel();
        let shared = Shared { upstream: upstream.to_owned(), containers: Mutex::new(held), calls: sender };
        let accepting = tokio::spawn(accept(Accepting::new(listener, events), Arc::new(shared))).abort_handle();
        Ok((Self { accepting, directory, _engine: None }, calls))
    }

    /// The socket as `DOCKER_HOST` names it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("engine.sock").display())
    }
}

impl Drop for EngineProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// `tempfile` makes directories that everybody may enter.
fn private_directory() -> std::io::Result<TempDir> {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new().prefix("handover-").permissions(std::fs::Permissions::from_mode(0o700)).tempdir()
}

/// Serves until it is aborted, which cuts the connections with it.
async fn accept(mut accepting: Accepting, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            stream = accepting.next() => {
                connections.spawn(connection::serve(stream, shared.clone()));
            }
            // What has ended is let go of.
            Some(_) = connections.join_next() => {}
        }
    }
}
