//! Finding the engine and connecting to it.
//!
//! A local socket is opened directly. Everything else (`ssh://`, `tcp://` with TLS, contexts) goes through
//! `docker system dial-stdio`, which the Docker CLI itself uses for SSH: so whatever the user's `docker` reaches, we reach,
//! with the same keys and certificates.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use bollard::{API_DEFAULT_VERSION, Docker};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use tokio::task::AbortHandle;

use crate::accept::Accepting;
use crate::cli::ProjectArgs;
use crate::docker_cli;
use crate::event::Events;
use crate::failure::{Exit, Failure, Result, engine_words};

/// Seconds after which a call that has not answered is given up; a stop may take as long as its grace period.
const CALL_TIMEOUT: u64 = 3600;

/// A connection to the engine. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(super) docker: Docker,
    /// Architecture of the engine's host, in the words of images.
    pub(crate) architecture: String,
    /// Whether it runs without root.
    pub(super) rootless: bool,
    pub(crate) events: Events,
    socket: PathBuf,
    /// Keeps the local end of a bridge to a remote engine alive.
    _bridge: Option<Arc<Bridge>>,
}

/// The local end of a bridge to a remote engine. Dropping it ends it; who listens for events must not wait for it.
#[derive(Debug)]
struct Bridge {
    accepting: AbortHandle,
    _directory: TempDir,
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Engine {
    /// Connects to the engine that `docker` would use. Fails if it does not answer.
    pub(crate) async fn connect(args: &ProjectArgs, events: Events) -> Result<Self> {
        let _waiting = events.waiting();
        let (socket, bridge) = match local_socket(args) {
            Some(path) => (path, None),
            None => {
                let (path, bridge) = bridge(args, events.clone())?;
                (path, Some(Arc::new(bridge)))
            }
        };
        let docker = Docker::connect_with_unix(&socket.to_string_lossy(), CALL_TIMEOUT, API_DEFAULT_VERSION)
            .map_err(|error| unreachable_engine(&socket, &engine_words(&error)))?;
        let docker = docker.negotiate_version().await.map_err(|error| unreachable_engine(&socket, &words(&error)))?;
        let docker = with_version_in_path(docker);
        let (version, info) = tokio::try_join!(docker.version(), docker.info())
            .map_err(|error| unreachable_engine(&socket, &words(&error)))?;
        let architecture = version.arch.unwrap_or_default();
        let rootless = info.security_options.iter().flatten().any(|option| option == "name=rootless");
        Ok(Self { docker, architecture, rootless, events: events.clone(), socket, _bridge: bridge })
    }

    /// The local socket that leads to the engine: its own, or our end of the bridge to a remote one. It is there while this or a
    /// clone of it is. Every connection over a bridge is a process, and some 100 ms over SSH.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

/// bollard 0.21 negotiates a version and then leaves it out of the path; the engine would take its own newest.
fn with_version_in_path(docker: Docker) -> Docker {
    let version = docker.client_version();
    let prefix = format!("/v{}.{}", version.major_version, version.minor_version);
    docker.with_request_modifier(move |mut request| {
        let uri = request.uri().to_string();
        let path = request.uri().path();
        if !path.starts_with("/v1.")
            && let Some(at) = uri.find("://").map(|at| at + 3)
            && let Some(slash) = uri[at..].find('/').map(|slash| at + slash)
            && let Ok(with_version) = format!("{}{prefix}{}", &uri[..slash], &uri[slash..]).parse()
        {
            *request.uri_mut() = with_version;
        }
        request
    })
}

/// The engine's socket, where it is a local one; by the same precedence as the Docker CLI.
fn local_socket(args: &ProjectArgs) -> Option<PathBuf> {
    let unix = |url: &str| url.strip_prefix("unix://").map(PathBuf::from);
    if let Some(host) = &args.host {
        return unix(host);
    }
    if args.context.as_deref().is_some_and(|context| context != "default") {
        return None;
    }
    if args.context.is_none() {
        if let Some(host) = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()) {
            return unix(&host);
        }
        let named = std::env::var("DOCKER_CONTEXT").ok().filter(|context| !context.is_empty());
        if named.or_else(docker_cli::current_context).is_some_and(|context| context != "default") {
            return None;
        }
    }
    Some(PathBuf::from("/var/run/docker.sock"))
}

/// A local socket whose every connection is a `docker system dial-stdio` to the engine that `docker` would use.
fn bridge(args: &ProjectArgs, events: Events) -> Result<(PathBuf, Bridge)> {
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Engine, "the bridge to the remote engine cannot be opened").because(error)
    };
    let directory = tempfile::Builder::new().prefix("handover-").tempdir().map_err(failed)?;
    let path = directory.path().join("engine.sock");
    let listener = UnixListener::bind(&path).map_err(failed)?;
    let mut flags = Vec::new();
    if let Some(context) = &args.context {
        flags.extend(["--context".to_owned(), context.clone()]);
    }
    if let Some(host) = &args.host {
        flags.extend(["--host".to_owned(), host.clone()]);
    }
    let accepting = tokio::spawn(async move {
        let mut accepting = Accepting::new(listener, events);
        loop {
            tokio::spawn(dial(flags.clone(), accepting.next().await));
        }
    });
    Ok((path, Bridge { accepting: accepting.abort_handle(), _directory: directory }))
}

async fn dial(flags: Vec<String>, stream: UnixStream) {
    let mut command = Command::new("docker");
    command.args(flags).args(["system", "dial-stdio"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).process_group(0).kill_on_drop(true);
    let Ok(mut child) = command.spawn() else {
        return;
    };
    let (Some(mut stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return;
    };
    let (mut read, mut write) = stream.into_split();
    let send = async {
        let _ = tokio::io::copy(&mut read, &mut stdin).await;
        drop(stdin);
    };
    let receive = async {
        let _ = tokio::io::copy(&mut stdout, &mut write).await;
        drop(write);
    };
    tokio::join!(send, receive);
}

fn words(error: &bollard::errors::Error) -> String {
    // The library's own text says only that a client error happened; the cause is further down.
    let mut text = engine_words(error);
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

fn unreachable_engine(socket: &Path, why: &str) -> Failure {
    let lower = why.to_lowercase();
    let denied = lower.contains("permission denied")
        || std::fs::metadata(socket).is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
    let hint = if denied {
        "run it as root, or as a member of the group `docker`"
    } else {
        "start the engine, or name another with DOCKER_HOST, --host or --context; `docker version` must show a server"
    };
    Failure::new(Exit::Engine, "the Docker engine does not answer").because(why).hint(hint)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_listens_for_events_does_not_wait_for_a_bridge_that_is_gone() {
        let (events, mut stream) = Events::new();
        drop(bridge(&ProjectArgs::default(), events).expect("there is a place for its socket"));
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.recv()).await;
        assert!(matches!(ended, Ok(None)), "the stream of events has not ended");
    }
}
