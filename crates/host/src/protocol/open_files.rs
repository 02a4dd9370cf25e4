//! The answer about files in use below a container's mounts.

use serde::{Deserialize, Serialize};

/// What is in use below mounts of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountsInUse {
    /// In the order of the request; those that the container does not have are left out.
    pub mounts: Vec<MountInUse>,
}

/// What is in use below one mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountInUse {
    /// As in the request.
    pub target: String,
    /// The first hundred, locked ones first, then by path and process.
    pub files: Vec<FileInUse>,
    /// How many there are.
    pub in_use: usize,
    /// Nothing there has changed since the mount's root was made; `false` where that cannot be told (no birth times, too many
    /// files to look at).
    pub never_written: bool,
}

/// A file that is held for writing, once for each name of the processes that hold it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileInUse {
    /// The most that is done with it.
    pub hold: Hold,
    /// Its path, from the mount's.
    pub file: String,
    /// Name of the processes.
    pub process: String,
    /// How many.
    pub processes: usize,
}

/// How a file is held, the most telling first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// A lock of whatever kind: `flock`, POSIX, open file description.
    Locked,
    /// Open for writing.
    Open,
    /// Mapped into memory, shared and writable.
    Mapped,
}
