//! What goes over the wire: small HTTP/1.1 and HTTP/2 clients whose every failure can be told apart, and WebSocket frames.
//!
//! They are written by hand (HTTP/2 down to its frames, which are left to h2) because the load generator must know things
//! that client libraries hide: whether an idle connection was already closed before it was used again, and whether a
//! request failed before or after the first byte of its answer.

mod exchange;
mod failure;
mod h2c;
mod http;
mod pool;
mod target;
mod websocket;

pub use exchange::{Answer, BodyPlan, RequestPlan, exchange_once, exchange_pooled};
pub use failure::Failure;
pub use h2c::H2cPool;
pub use http::{HttpConnection, ResponseHead};
pub use pool::{Pool, Pooled};
pub use target::{Target, TargetError};
pub use websocket::{Message, WebSocket, accept_key, open as open_websocket};

/// FNV-1a, 64 bits: tells whether a body arrived as it was sent.
pub fn fnv1a(seed: u64, data: &[u8]) -> u64 {
    data.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The seed to start [`fnv1a`] with.
pub const FNV_SEED: u64 = 0xcbf2_9ce4_8422_2325;
