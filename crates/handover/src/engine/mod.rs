//! The engine: one connection, and the few calls that a deploy needs.

mod connect;
mod containers;
mod image;
mod names;
mod observe;

pub(crate) use connect::Engine;
pub(crate) use containers::{Inspected, Role};
pub(crate) use observe::Listing;
