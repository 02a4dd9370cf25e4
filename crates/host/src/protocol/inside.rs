//! What a session says of the files, processes and servers inside a container.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A file, if it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRead {
    /// Its text; none where nothing is at that path.
    pub text: Option<String>,
    /// Why it could not be written to, in the kernel's words; none if it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<String>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number, as the host counts.
    pub pid: u32,
    /// The process that started it.
    pub parent: u32,
    /// Its command line, or what it has put in its place, with spaces between.
    pub title: String,
}

/// Processes of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processes {
    /// The one that was named and all below it.
    pub processes: Vec<Process>,
}

/// Where a server inside a container is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// A socket in its file system.
    Socket(PathBuf),
    /// An address in its network namespace.
    Address(SocketAddr),
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// All of it, until it closed the connection.
    pub text: String,
}
