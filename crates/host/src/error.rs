//! What can go wrong on the host.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;

use crate::protocol::Failure;

/// An operation on the host failed. Nothing was changed unless the operation says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel refused something asked for by netlink.
    #[error("{doing}")]
    Netlink {
        /// What was being done, to what.
        doing: String,
        /// The kernel's answer.
        #[source]
        source: nlink::Error,
    },
    /// The kernel refused a system call.
    #[error("{doing}")]
    Kernel {
        /// What was being done, to what.
        doing: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A container's network namespace could not be entered.
    #[error("entering the network namespace {}", path.display())]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: nlink::Error,
    },
    /// A table has our name and somebody else's chains.
    #[error("nftables table {table} is not handover's: it has a chain {chain}")]
    ForeignTable {
        /// Name of the table.
        table: String,
        /// The chain that handover never makes.
        chain: String,
    },
    /// The rules file could not be read or written.
    #[error("{doing} {}", path.display())]
    RulesFile {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel has no tables that go with the process that made them.
    #[error("Linux {kernel} has no nftables tables that go with the process that made them (needs 5.12)")]
    NoOwnedTables {
        /// Its release.
        kernel: String,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Request(String),
    /// The thread that did the work is gone.
    #[error("the worker for {0} ended without an answer")]
    Worker(&'static str),
}

impl HostError {
    pub(crate) fn netlink(doing: impl Into<String>) -> impl FnOnce(nlink::Error) -> HostError {
        let doing = doing.into();
        move |source| HostError::Netlink { doing, source }
    }

    pub(crate) fn kernel(doing: impl Into<String>) -> impl FnOnce(io::Error) -> HostError {
        let doing = doing.into();
        move |source| HostError::Kernel { doing, source }
    }

    /// What to do about it, if that is known.
    pub fn hint(&self) -> Option<&'static str> {
        let errno = match self {
            HostError::Netlink { source, .. } | HostError::Namespace { source, .. } => source.errno(),
            HostError::Kernel { source, .. } => source.raw_os_error(),
            HostError::ForeignTable { .. } => {
                return Some(
                    "look at it with `nft list table inet <name>`, and rename the project or remove the table",
                );
            }
            HostError::RulesFile { .. } => {
                return Some("the guard's container must have a writable root with free space");
            }
            HostError::NoOwnedTables { .. } | HostError::Request(_) | HostError::Worker(_) => None,
        };
        if matches!(self, HostError::Namespace { source, .. } if source.is_not_found()) {
            return Some(
                "the container has ended, or /var/run/docker/netns is not mounted into the helper with rslave",
            );
        }
        match errno {
            Some(libc::EPERM) => Some(
                "the helper needs NET_ADMIN (and SYS_ADMIN, NET_RAW for a session); rootless engines cannot give them",
            ),
            Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
                Some("this kernel was built without what is needed here")
            }
            _ => None,
        }
    }

    /// What happened with all its causes, for the wire.
    pub(crate) fn failure(&self) -> Failure {
        let mut what = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            what.push_str(": ");
            what.push_str(&error.to_string());
            cause = error.source();
        }
        Failure { what, hint: self.hint().map(str::to_owned), cancelled: false }
    }
}
