//! Routers, performed: a proxy of the user's own is told where a rolled service's containers are, and confirms it.
//!
//! A new router is a file here, one in `handover-core::router`, and a line in [`open`].

mod caddy;
mod haproxy;
mod nginx;
pub(crate) mod nginx_process;

use std::net::IpAddr;

use futures_util::future::LocalBoxFuture;
use handover_core::compose::calls::temporary_name;
use handover_core::gate::State;
use handover_core::plan::RouterPlan;
use handover_core::router::{Member, RouterError};
use handover_core::settings::RouterSettings;

use crate::engine::{Engine, Inspected};
use crate::event::Events;
use crate::failure::{Exit, Failure, Result};
use crate::helper::Helper;

/// What a router is reached with.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) engine: Engine,
    pub(crate) session: Helper,
    pub(crate) events: Events,
    /// Name of the project that the router's service belongs to.
    pub(crate) project: String,
}

/// A proxy that runs, knows the service and can be told. Everything may be repeated.
pub(crate) trait Router {
    /// Ids of its containers.
    fn containers(&self) -> Vec<String>;

    /// Whether it closes connections of its own clients, those that are idle, when it is told.
    fn closes_idle_clients(&self) -> bool;

    /// Whether its files name just these containers already.
    fn names<'a>(&'a self, containers: &'a [Inspected]) -> LocalBoxFuture<'a, Result<bool>>;

    /// From now on it sends to just these containers, also after a restart. Confirmed when this ends well; a failure leaves its
    /// files as they were before this call.
    fn tell<'a>(&'a self, containers: &'a [Inspected]) -> LocalBoxFuture<'a, Result<()>>;

    /// It sends to just these containers, and its files are, byte by byte, as they were when it was opened.
    fn restore<'a>(&'a self, containers: &'a [Inspected]) -> LocalBoxFuture<'a, Result<()>>;

    /// What of it still works by what it was told before, in words; nothing once it has drained.
    fn left(&self) -> LocalBoxFuture<'_, Result<Option<String>>>;
}

/// Opens a router. Fails, with the way out, if it does not run, is broken already, or does not know the service; nothing is
/// changed. `containers`: those of the service that run now.
pub(crate) async fn open(reach: &Reach, plan: &RouterPlan, containers: &[Inspected]) -> Result<Box<dyn Router>> {
    let RouterPlan { router, names, containers: wanted, .. } = plan;
    Ok(match router {
        RouterSettings::Nginx(settings) => Box::new(nginx::Nginx::open(reach, settings, names, containers).await?),
        RouterSettings::Caddy(settings) => Box::new(caddy::Caddy::open(reach, settings, names, containers).await?),
        RouterSettings::Haproxy(settings) => {
            Box::new(haproxy::Haproxy::open(reach, settings, names, wanted, containers).await?)
        }
    })
}

/// The running containers of the service that is the router.
async fn running(reach: &Reach, service: &str) -> Result<Vec<Inspected>> {
    let mut found = Vec::new();
    for (id, of) in reach.engine.containers_of_project(&reach.project).await? {
        if of == service {
            found.extend(reach.engine.inspect(&id).await?.filter(|one| one.state == State::Running));
        }
    }
    if found.is_empty() {
        return Err(Failure::new(Exit::Host, format!("router service {service} does not run"))
            .because("it cannot be told where the new containers are")
            .hint(format!("start it: docker compose up -d {service}; or leave `router` out")));
    }
    Ok(found)
}

/// A container of a router's as it is now, and the containers that it is to send to as it is told of them.
async fn look(reach: &Reach, id: &str, name: &str, containers: &[Inspected]) -> Result<(Inspected, Vec<Member>)> {
    let proxy = reach.engine.inspect(id).await?.ok_or_else(|| gone(name))?;
    let members = members(&proxy, containers)?;
    Ok((proxy, members))
}

/// The containers as this proxy is told of them: by their final names, and by addresses on a network that both are on.
fn members(proxy: &Inspected, containers: &[Inspected]) -> Result<Vec<Member>> {
    let own = |network: &str| proxy.networks.iter().any(|(name, _)| name == network);
    let member = |container: &Inspected| {
        let name = temporary_name(&container.name).map_or(container.name.as_str(), |(_, name)| name).to_owned();
        let mut shared = container.networks.iter().filter(|(network, _)| own(network)).map(|(_, endpoint)| endpoint);
        let address = shared.find_map(|one| one.address.map(IpAddr::from).or_else(|| one.address_v6.map(IpAddr::from)));
        match address {
            Some(address) => Ok(Member { name, address }),
            None => Err(Failure::new(Exit::Host, format!("{} and {name} are on no network together", proxy.name))
                .hint("put both services on one network, or leave `router` out")),
        }
    };
    containers.iter().map(member).collect()
}

fn refused(place: &str, error: RouterError) -> Failure {
    Failure::new(Exit::Host, format!("{place}: {}", error.what)).hint(error.hint)
}

fn writable(file: &str, container: &str, read_only: Option<String>) -> Result<()> {
    let Some(why) = read_only else { return Ok(()) };
    Err(Failure::new(Exit::Host, format!("{file} in {container} cannot be written"))
        .because(why)
        .hint("mount it without `:ro` (and the container without read_only), or leave `router` out"))
}

fn process_of(container: &Inspected) -> Result<u32> {
    container.process().ok_or_else(|| gone(&container.name))
}

fn gone(name: &str) -> Failure {
    Failure::new(Exit::Host, format!("{name} does not run any more")).because("somebody has stopped it")
}
