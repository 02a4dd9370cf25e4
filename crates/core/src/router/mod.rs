//! Routers: proxies of the user's own that are told where a rolled service's containers are.
//!
//! A file a proxy: what its configuration says now, and what it is to say. All of it is text in and text out.

pub mod caddy;
pub mod haproxy;
mod lines;
pub mod nginx;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// A container of the service, as a router is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its final name.
    pub name: String,
    /// Its address on a network that the router is on, too.
    pub address: IpAddr,
}

/// What containers of a service are called in a router's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Names that all of its containers answer to: the service's, and its aliases.
    pub of_all: Vec<String>,
    /// Names that one of its containers has or can have.
    pub of_one: BTreeSet<String>,
    /// Addresses that its containers had when all began, with their names.
    pub at: BTreeMap<IpAddr, String>,
}

/// How a router is to call the containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallBy {
    /// By address: just these containers, at once, whatever a name resolves to.
    Address,
    /// By name: still right when the router starts anew.
    Name,
}

/// Why a router's configuration does not say where the service is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct RouterError {
    /// What is wrong.
    pub what: String,
    /// What leads out.
    pub hint: String,
}

impl RouterError {
    fn new(what: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self { what: what.to_string(), hint: hint.to_string() }
    }

    /// A name that is not there, of those that are.
    fn missing<'a>(what: impl fmt::Display, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let hint = match crate::settings::nearest::nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "there is none at all in it".to_owned(),
            None => format!("it has: {}", known.join(", ")),
        };
        Self::new(what, hint)
    }
}

/// Mark behind what names a container by its address, with its name: so that a later run knows whose it is.
const MARK: &str = "handover:";
