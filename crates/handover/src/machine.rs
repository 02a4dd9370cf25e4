//! The machine as the world outside: the engine that `docker` would use, Compose as a process, sockets of ours.
//!
//! A local engine's socket is opened directly. Everything else (`ssh://`, `tcp://` with TLS, contexts) goes through
//! `docker system dial-stdio`, which the Docker CLI itself uses for SSH: so whatever the user's `docker` reaches, we reach,
//! with the same keys and certificates.

use std::fs::Permissions;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Error, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::cli::ProjectArgs;
use crate::docker_cli;
use crate::outside::{Callers, ComposeCall, ComposeEnd, Connection, Later, Outside, WayIn};

/// How long the way to a remote engine may take to end once nobody needs it.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// This machine, and the engine that the user means.
#[derive(Debug)]
pub(crate) struct Machine {
    way: Way,
    /// The flags that name the engine, where the user has given them.
    engine_flags: Vec<String>,
    /// The program of the Compose plugin, where it is found.
    compose: Option<PathBuf>,
}

/// How the engine is reached.
#[derive(Debug)]
enum Way {
    Socket(PathBuf),
    DialStdio,
}

impl Machine {
    /// With the engine that `docker` would use for these arguments.
    pub(crate) fn new(args: &ProjectArgs) -> Self {
        let mut engine_flags = Vec::new();
        for (flag, value) in [("--context", &args.context), ("--host", &args.host)] {
            if let Some(value) = value {
                engine_flags.extend([flag.to_owned(), value.clone()]);
            }
        }
        let way = local_socket(args).map_or(Way::DialStdio, Way::Socket);
        Self { way, engine_flags, compose: docker_cli::compose_plugin() }
    }

    /// With an engine at this socket.
    #[cfg(test)]
    pub(crate) fn with_engine_at(socket: &Path) -> Self {
        Self { way: Way::Socket(socket.to_owned()), engine_flags: Vec::new(), compose: None }
    }

    /// Compose, by its plugin's own program where that is found: `docker compose` starts two more processes on the way to it
    /// (**measured**: 51 ms against 95 ms for `config`).
    fn compose_command(&self, call: &ComposeCall) -> Command {
        let mut command = Command::new(self.compose.as_deref().unwrap_or(Path::new("docker")));
        if let Some(engine) = &call.engine {
            command.env("DOCKER_HOST", engine);
            ["DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY"].iter().for_each(|name| {
                command.env_remove(name);
            });
        } else {
            command.args(&self.engine_flags);
        }
        if self.compose.is_none() {
            command.arg("compose");
        }
        // Where we run as a plugin ourselves, the Docker CLI's marks of that would make Compose take itself for one.
        command.env_remove("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND").env_remove("DOCKER_CLI_PLUGIN_SOCKET");
        for name in call.hidden_variables {
            command.env_remove(name);
        }
        // A deploy that is interrupted ends its steps itself, in order; the terminal's signal must not cut Compose off. What is
        // given up before anything moves (a pull, say) is ended with us.
        command.process_group(0).kill_on_drop(true);
        command.stdin(if call.input.is_empty() { Stdio::null() } else { Stdio::piped() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.args(&call.arguments);
        command
    }
}

impl Outside for Machine {
    fn dial(&self) -> Later<'_, Result<Connection>> {
        Box::pin(async {
            match &self.way {
                Way::Socket(path) => match UnixStream::connect(path).await {
                    Ok(stream) => Ok(Box::new(stream) as Connection),
                    Err(error) => Err(Error::new(error.kind(), format!("{}: {error}", path.display()))),
                },
                Way::DialStdio => Ok(Box::new(DialStdio::start(&self.engine_flags)?) as Connection),
            }
        })
    }

    fn open_way_in(&self) -> Result<WayIn> {
        // `tempfile` makes directories that everybody may enter.
        let directory =
            tempfile::Builder::new().prefix("handover-").permissions(Permissions::from_mode(0o700)).tempdir()?;
        let socket = directory.path().join("engine.sock");
        let callers = OnSocket { listener: UnixListener::bind(&socket)?, _directory: directory };
        Ok(WayIn { host: format!("unix://{}", socket.display()), callers: Box::new(callers) })
    }

    fn compose<'a>(
        &'a self,
        call: ComposeCall,
        tell: &'a mut (dyn FnMut(&str) + Send),
    ) -> Later<'a, Result<ComposeEnd>> {
        Box::pin(async move {
            let mut child = self.compose_command(&call).spawn()?;
            let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
            let write = async {
                if let Some(mut stdin) = stdin {
                    // Compose that ends early says why itself.
                    let _ = stdin.write_all(call.input.as_bytes()).await;
                }
            };
            let read = async {
                let mut output = Vec::new();
                if let Some(mut stdout) = stdout {
                    stdout.read_to_end(&mut output).await?;
                }
                Ok::<_, Error>(output)
            };
            let listen = async {
                let Some(stderr) = stderr else { return };
                let mut lines = BufReader::new(stderr).split(b'\n');
                while let Ok(Some(line)) = lines.next_segment().await {
                    tell(&String::from_utf8_lossy(&line));
                }
            };
            let ((), output, ()) = tokio::join!(write, read, listen);
            let status = child.wait().await?;
            Ok(ComposeEnd { success: status.success(), status: status.to_string(), output: output? })
        })
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }

    fn host_and_process(&self) -> (String, u32) {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        (host.trim().to_owned(), std::process::id())
    }

    fn own_program(&self) -> Result<Vec<u8>> {
        std::env::current_exe().and_then(std::fs::read)
    }

    fn random(&self) -> u64 {
        RandomState::new().build_hasher().finish()
    }
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

/// A socket of ours, which goes with its directory.
struct OnSocket {
    listener: UnixListener,
    _directory: TempDir,
}

impl Callers for OnSocket {
    fn accept(&self) -> Later<'_, Result<Connection>> {
        Box::pin(async { self.listener.accept().await.map(|(stream, _)| Box::new(stream) as Connection) })
    }
}

/// A `docker system dial-stdio` to the engine. Each is a process, and some 100 ms over SSH.
struct DialStdio {
    /// Gone once nothing more is to be said.
    stdin: Option<ChildStdin>,
    /// Both are there until this is dropped.
    stdout: Option<ChildStdout>,
    child: Option<Child>,
}

impl DialStdio {
    fn start(engine_flags: &[String]) -> Result<Self> {
        let mut command = Command::new("docker");
        command.args(engine_flags).args(["system", "dial-stdio"]).process_group(0).kill_on_drop(true);
        Self::by(command)
    }

    fn by(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        Ok(Self { stdin: child.stdin.take(), stdout: child.stdout.take(), child: Some(child) })
    }
}

impl Drop for DialStdio {
    /// What was said is still passed on: the process ends by itself once it has heard the end of it.
    fn drop(&mut self) {
        let (Some(mut child), Some(mut stdout)) = (self.child.take(), self.stdout.take()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(LAST_WORDS, async move {
                let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
                let _ = child.wait().await;
            }));
        }
    }
}

impl AsyncRead for DialStdio {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        match &mut self.stdout {
            Some(stdout) => Pin::new(stdout).poll_read(context, buffer),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for DialStdio {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_write(context, bytes),
            None => Poll::Ready(Err(Error::from(std::io::ErrorKind::BrokenPipe))),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    /// The half-close by which the session helper hears that it has to end.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_said_to_a_remote_engine_is_passed_on_although_nobody_waits_for_an_answer() {
        let directory = tempfile::tempdir().unwrap();
        let heard = directory.path().join("heard");
        let mut command = Command::new("sh");
        command.arg("-c").arg("cat > \"$0.partly\"; mv \"$0.partly\" \"$0\"").arg(&heard).kill_on_drop(true);
        let mut way = DialStdio::by(command).unwrap();
        way.write_all(b"the last word").await.unwrap();
        drop(way);
        let written = async {
            while !heard.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
        assert_eq!(std::fs::read_to_string(&heard).unwrap(), "the last word");
    }

    #[tokio::test]
    async fn a_remote_engine_hears_the_end_of_what_is_said_and_can_still_answer() {
        let mut command = Command::new("sh");
        command.args(["-c", "read line; cat; echo \"$line is all\""]).kill_on_drop(true);
        let mut way = DialStdio::by(command).unwrap();
        way.write_all(b"that\n").await.unwrap();
        way.shutdown().await.unwrap();
        let mut answer = String::new();
        way.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "that is all\n");
    }
}
