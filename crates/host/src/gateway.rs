//! Which way out a container has: the network of its default gateway is the one the engine publishes its ports through.

use std::net::IpAddr;
use std::path::PathBuf;

use nlink::netlink::namespace::NetnsRef;
use nlink::netlink::{Connection, Route};

use crate::error::HostError;
use crate::protocol::Gateway;

/// The default gateways inside a container; the route with the lowest metric wins.
pub(crate) async fn of(sandbox: PathBuf) -> Result<Gateway, HostError> {
    let namespace = NetnsRef::Path(sandbox.clone());
    let connection = Connection::<Route>::new_in(&namespace)
        .map_err(|source| HostError::Namespace { path: sandbox.clone(), source })?;
    let mut routes = connection
        .get_routes()
        .await
        .map_err(HostError::netlink(format!("reading the routes of {}", sandbox.display())))?;
    routes.retain(|route| route.is_default());
    routes.sort_by_key(|route| route.priority().unwrap_or(0));
    let first = |ipv4: bool| -> Option<IpAddr> {
        routes.iter().filter(|route| route.is_ipv4() == ipv4).find_map(|route| route.gateway().copied())
    };
    Ok(Gateway { ipv4: first(true), ipv6: first(false) })
}
