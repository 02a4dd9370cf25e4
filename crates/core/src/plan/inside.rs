//! Who calls members of the stand-in group from inside: containers outside the group, on the members' own networks, that call
//! them by name or by address, declared or not. While a stand-in serves they are led to it, and names stay.

use std::collections::BTreeSet;

use crate::compose::project::{Project, Service};
use crate::observation::{Container, Observation};
use crate::plan::references::known_database;
use crate::plan::standin;

/// Clients inside, of a stand-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsidePlan {
    /// Names of the containers that may call members.
    pub peers: Vec<String>,
    /// The members that they can call.
    pub members: Vec<CalledMember>,
}

/// A member that can be called from inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalledMember {
    /// Name of the service.
    pub service: String,
    /// Networks that it is on, by their names in the engine.
    pub networks: Vec<String>,
    /// All names that it has there.
    pub names: Vec<String>,
}

/// The clients inside; `None` if nobody is there who could call. Databases and caches that are known call nobody, but what
/// only sounds like one (`rabbitmq-consumer`) and depends on a member does.
pub fn inside(project: &Project, observed: &Observation, group: &BTreeSet<String>) -> Option<InsidePlan> {
    let members: Vec<CalledMember> = group
        .iter()
        .map(|name| &project.services[name])
        .filter(|service| !service.networks.is_empty())
        .filter(|service| serves(&service.name, observed))
        .map(|service| CalledMember {
            service: service.name.clone(),
            networks: networks(service, project),
            names: standin::names_of(service, project).into_iter().collect(),
        })
        .collect();
    let is_outside = |container: &&Container| {
        let database = project.services.get(&container.service).filter(|_| container.project == project.name);
        let database = database.is_some_and(|service| {
            known_database(&service.image).is_some() && !service.depends_on.keys().any(|name| group.contains(name))
        });
        let ours = container.project == project.name && group.contains(&container.service);
        container.running && !ours && !database
    };
    let shares = |container: &&Container| {
        members.iter().flat_map(|member| &member.networks).any(|network| container.networks.contains_key(network))
    };
    let all = observed.containers.iter().chain(&observed.foreign);
    let peers: Vec<String> = all.filter(is_outside).filter(shares).map(|container| container.name.clone()).collect();
    (!peers.is_empty()).then_some(InsidePlan { peers, members })
}

/// Whether a real container runs, or one of a stand-in that an earlier run has left.
fn serves(service: &str, observed: &Observation) -> bool {
    let standin = standin::service_name(service);
    let standins = observed.standin.iter().filter(|container| container.service == standin);
    observed.of_service(service).chain(standins).any(|container| container.running)
}

fn networks(service: &Service, project: &Project) -> Vec<String> {
    service.networks.iter().filter_map(|key| project.networks.get(key)).map(|network| network.name.clone()).collect()
}
