//! What a run needs of the world outside of it, and nothing else does: a way to the engine, Compose as a program, and who and where
//! we are. Everything above this line is the same in both worlds, the machine ([`crate::machine`]) and the simulated host on which
//! tests break every step. Time is tokio's, which tests can pause.

use std::fmt::Debug;
use std::future::Future;
use std::io::Result;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// What comes later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Both directions of a connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to the engine, or of Compose's to us.
pub type Connection = Box<dyn Stream>;

/// The world outside.
pub trait Outside: Debug + Send + Sync {
    /// Opens a connection to the engine's API.
    fn dial(&self) -> Later<'_, Result<Connection>>;

    /// Opens a way in by which Compose can reach us in place of the engine. Only we and what we run may enter it.
    fn open_way_in(&self) -> Result<WayIn>;

    /// Runs Compose to its end; each line of its standard error is told as it comes. Dropped under way, Compose is ended.
    /// An error says that it could not be run at all.
    fn compose<'a>(
        &'a self,
        call: ComposeCall,
        tell: &'a mut (dyn FnMut(&str) + Send),
    ) -> Later<'a, Result<ComposeEnd>>;

    /// A variable of the environment that is there and not empty.
    fn variable(&self, name: &str) -> Option<String>;

    /// Who this process is, for whoever waits for it: its machine and its number there.
    fn host_and_process(&self) -> (String, u32);

    /// This very program, to be run beside the engine.
    fn own_program(&self) -> Result<Vec<u8>>;

    /// A number that no other run has.
    fn random(&self) -> u64;
}

/// A way in to us. It ends when it is dropped.
pub struct WayIn {
    /// As `DOCKER_HOST` names it.
    pub host: String,
    /// Who comes by it.
    pub callers: Box<dyn Callers>,
}

/// Who comes by a way in.
pub trait Callers: Send + Sync {
    /// The next connection. An error tells of what the process lacks at this moment; whoever knocked waits. May be given up at any
    /// time.
    fn accept(&self) -> Later<'_, Result<Connection>>;
}

/// How Compose is called.
#[derive(Clone, Debug, Default)]
pub struct ComposeCall {
    /// What stands behind `docker compose`.
    pub arguments: Vec<String>,
    /// Its standard input.
    pub input: String,
    /// What it is to take for the engine, as `DOCKER_HOST` names it, in place of what the user has named.
    pub engine: Option<String>,
    /// Variables of the environment that it is not to see.
    pub hidden_variables: &'static [&'static str],
}

/// How Compose has ended.
#[derive(Clone, Debug)]
pub struct ComposeEnd {
    /// Whether it is content.
    pub success: bool,
    /// The same in words, as `exit status: 1`.
    pub status: String,
    /// Its standard output.
    pub output: Vec<u8>,
}
