//! What differs between a service as it is wanted and its containers as they are.

use std::collections::BTreeMap;

use crate::compose::config_hash::network_hash;
use crate::compose::project::{Project, Service};
use crate::observation::{Container, Observation};

/// How the containers of a service compare to what is wanted, with the evidence in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// All as wanted.
    None,
    /// No container yet.
    Missing,
    /// As wanted, but not all of them run.
    Stopped,
    /// As wanted, but another number of containers is.
    Scaled {
        /// How many there are.
        from: usize,
        /// How many are wanted.
        to: usize,
    },
    /// Compose will recreate it.
    Changed(String),
}

/// Compares one service. `ids` are the first container ids of the services.
///
/// The reasons to recreate are those of Compose (`mustRecreate` in docker/compose `pkg/compose/convergence.go`): hash, image,
/// networks, volumes.
pub fn change_of(
    service: &Service,
    project: &Project,
    observed: &Observation,
    ids: &BTreeMap<String, String>,
    force: bool,
) -> Change {
    let containers: Vec<&Container> = observed.of_service(&service.name).collect();
    if containers.is_empty() {
        return Change::Missing;
    }
    if force {
        return Change::Changed("recreation is forced".to_owned());
    }
    if let Some(reason) = containers.iter().find_map(|container| differs(service, container, project, observed, ids)) {
        return Change::Changed(reason);
    }
    let wanted = service.replicas as usize;
    if containers.len() != wanted {
        return Change::Scaled { from: containers.len(), to: wanted };
    }
    // A service that is meant to exit has done its work; Compose starts it again only when something depends on it.
    if containers.iter().any(|container| !container.running && !container.status.starts_with("Exited (0)")) {
        return Change::Stopped;
    }
    Change::None
}

fn differs(
    service: &Service,
    container: &Container,
    project: &Project,
    observed: &Observation,
    ids: &BTreeMap<String, String>,
) -> Option<String> {
    match observed.images.get(&service.image) {
        Some(image) if image.id != container.image_id => {
            return Some(format!(
                "image {} is {} and runs as {}",
                service.image,
                short_id(&image.id),
                short_id(&container.image_id)
            ));
        }
        None => return Some(format!("image {} is not here yet", service.image)),
        Some(_) => {}
    }
    if !project.hashes.fits(&service.name, &service.raw, ids, &container.config_hash) {
        return Some("its configuration differs from the running container's".to_owned());
    }
    for key in &service.networks {
        let name = project.networks.get(key).map_or(key.as_str(), |network| network.name.as_str());
        let id = observed.networks.get(name).map(|network| network.id.as_str());
        let attached = container.networks.get(name);
        if container.running && (id.is_none() || attached.map(|endpoint| endpoint.network_id.as_str()) != id) {
            return Some(format!("it is not attached to network {name}"));
        }
    }
    for mount in &service.mounts {
        let Some(volume) = mount.source.as_ref().and_then(|source| project.volumes.get(source)) else {
            continue;
        };
        let mounted = container.mounts.iter().any(|have| have.volume == volume.name && have.target == mount.target);
        if mount.kind == "volume" && !mounted {
            return Some(format!("volume {} is not mounted", volume.name));
        }
    }
    None
}

/// Networks of the project that exist and that Compose would remove and make again, because their definition changed:
/// nothing can stay connected while it does.
pub fn replaced_networks<'a>(project: &'a Project, observed: &'a Observation) -> Vec<&'a str> {
    project
        .networks
        .values()
        .filter(|network| !network.external)
        .filter(|network| {
            let known = observed.networks.get(&network.name).and_then(|existing| existing.config_hash.as_deref());
            known.is_some_and(|hash| hash != network_hash(&network.raw))
        })
        .map(|network| network.name.as_str())
        .collect()
}

/// The first 12 digits of an id, as Docker shows them.
pub fn short_id(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    &digits[..digits.len().min(12)]
}
