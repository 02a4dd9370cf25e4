//! Why an exchange failed, in a few words that can be counted.

use std::fmt;
use std::io;

/// A failed exchange: `kind` is short and the same for all failures of one sort, `detail` is one example's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For instance `connect refused`, `closed before response`, `body cut`, `status 502`, `timeout`.
    pub kind: String,
    /// What exactly happened, for a human.
    pub detail: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self { kind: kind.into(), detail: detail.to_string() }
    }

    /// The failure of a system call at a stage (`connect`, `send`, `response`, `body`): `connect refused`.
    pub fn from_io(stage: &str, error: &io::Error) -> Self {
        Self::new(format!("{stage} {}", word_for(error)), error)
    }

    /// The failure of a system call before the first byte of an answer: `reset before response`.
    pub fn before_response(error: &io::Error) -> Self {
        Self::new(format!("{} before response", word_for(error)), error)
    }
}

fn word_for(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::ConnectionReset => "reset",
        io::ErrorKind::ConnectionAborted => "aborted",
        io::ErrorKind::BrokenPipe => "broken pipe",
        io::ErrorKind::UnexpectedEof => "closed",
        io::ErrorKind::HostUnreachable => "host unreachable",
        io::ErrorKind::NetworkUnreachable => "network unreachable",
        io::ErrorKind::AddrNotAvailable => "no local port",
        io::ErrorKind::TimedOut => "timed out",
        _ => "error",
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.kind, self.detail)
    }
}

impl std::error::Error for Failure {}
