//! What runs on the engine's host, inside handover's own containers (`FROM scratch`, the same static binary).
//!
//! - [`guard`]: holds the port rules of a project while a stand-in serves, through restarts and reboots.
//! - [`session`]: looks into the host and into containers' network namespaces for the command line, and is the project's
//!   lock; it ends with its standard input.
//! - [`keeper`]: leads that outlive their deploy, for peers that resolve names once.
//!
//! All speak the JSON lines of [`protocol`]. Everything that touches the kernel is below; what is decided is decided
//! in `handover-core`.

mod accepts;
mod callers;
mod channel;
mod client_address;
mod drain;
mod error;
mod flows;
mod gateway;
pub mod guard;
mod hand_on;
mod holders;
mod inet_diag;
mod inside;
pub mod keeper;
mod listeners;
mod namespace;
mod neighbours;
mod open_files;
mod outlasting;
mod packets;
mod peers;
pub mod ports;
pub mod protocol;
mod relay;
mod reset_guard;
mod rules;
mod rules_file;
pub mod session;
mod sockopt;
mod support;
mod takeover;

pub use error::HostError;
