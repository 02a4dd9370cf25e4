//! What is there: the engine's containers, images, networks and volumes as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::compose::project::Project;
use crate::net::Protocol;

/// Label on every stand-in container: the project that it stands in for.
pub const LABEL_STANDIN_FOR: &str = "handover.standin-for";
/// Label on our own containers: the project that they serve.
pub const LABEL_PROJECT: &str = "handover.project";
/// Label on our own containers: which of them it is.
pub const LABEL_ROLE: &str = "handover.role";

/// Everything that a plan is made from besides the project itself.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Architecture of the engine's host, in the words of images (`amd64`, `arm64`).
    pub architecture: String,
    /// Service containers of the project, replicas and orphans included; containers of `docker compose run` are not.
    pub containers: Vec<Container>,
    /// Containers of the project under the temporary names that they have while they replace another: an earlier run ended
    /// half-way.
    pub half_replaced: Vec<Container>,
    /// Containers of the project's stand-in.
    pub standin: Vec<Container>,
    /// Id and state of the project's guard, if there is one.
    pub guard: Option<Container>,
    /// The project's keeper, if an earlier deploy left one.
    pub keeper: Option<Container>,
    /// Containers of ours that hold names of the project's services. Nobody needs them but the run that has made them.
    pub name_holders: Vec<Container>,
    /// Whether the engine runs without root: what it publishes is forwarded by a process outside of its network namespace.
    pub rootless: bool,
    /// Whether another deploy of the project is under way: what was seen may be another when it has ended.
    pub deploying: bool,
    /// Containers that have a name, or a project of a name, that we need for ourselves; among the others, too.
    pub in_the_way: Vec<Container>,
    /// All other containers of the engine.
    pub foreign: Vec<Container>,
    /// Local images by the reference that a service names.
    pub images: BTreeMap<String, Image>,
    /// Networks by name.
    pub networks: BTreeMap<String, Network>,
    /// Names of volumes.
    pub volumes: BTreeSet<String>,
    /// Targets of bind mounts, as (service, path in the container), that are not directories: configuration, not state.
    pub bound_files: BTreeSet<(String, String)>,
}

/// A container.
#[derive(Clone, Debug, Default)]
pub struct Container {
    /// Id, 64 hexadecimal digits.
    pub id: String,
    /// Name without the leading slash.
    pub name: String,
    /// Compose project on its label; empty without.
    pub project: String,
    /// Compose service on its label; empty without.
    pub service: String,
    /// `com.docker.compose.container-number`.
    pub number: u32,
    /// Whether its main process runs.
    pub running: bool,
    /// State in the engine's words (`running`, `exited`, `created`, …).
    pub state: String,
    /// Exit status in the engine's words, where it has exited (`Exited (0) 3 seconds ago`).
    pub status: String,
    /// `com.docker.compose.config-hash`; empty without.
    pub config_hash: String,
    /// Id of the image that Compose saw when it made the container.
    pub image_id: String,
    /// Networks by name.
    pub networks: BTreeMap<String, Endpoint>,
    /// Mounts.
    pub mounts: Vec<ContainerMount>,
    /// Ports that it publishes on the host.
    pub ports: Vec<Binding>,
}

/// A container's place on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Id of the network.
    pub network_id: String,
    /// IPv4 address, while it runs.
    pub address: Option<Ipv4Addr>,
    /// IPv6 address, while it runs and the network has them.
    pub address_v6: Option<Ipv6Addr>,
    /// IPv4 address of the network's gateway.
    pub gateway: Option<Ipv4Addr>,
}

/// A mount of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerMount {
    /// `volume`, `bind` or `tmpfs`.
    pub kind: String,
    /// Name of the volume; empty for others.
    pub volume: String,
    /// Path inside the container.
    pub target: String,
}

impl ContainerMount {
    /// Whether it is a volume that nobody has named: the engine gives such a volume 64 hexadecimal digits as its name. Only
    /// those may ever be removed; what has a name is kept for somebody.
    pub fn is_anonymous_volume(&self) -> bool {
        self.kind == "volume" && self.volume.len() == 64 && self.volume.bytes().all(|digit| digit.is_ascii_hexdigit())
    }
}

/// A published port as the engine holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Protocol.
    pub protocol: Protocol,
    /// Address on the host.
    pub host_ip: Option<IpAddr>,
    /// Port on the host.
    pub published: u16,
    /// Port inside the container.
    pub target: u16,
}

/// A local image.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Id (`sha256:…`).
    pub id: String,
    /// Architecture.
    pub architecture: String,
    /// Paths that it declares as VOLUME.
    pub volumes: BTreeSet<String>,
}

/// A network of the engine.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Id.
    pub id: String,
    /// Driver (`bridge`, `macvlan`, …).
    pub driver: String,
    /// Its address ranges, as first address and length of the prefix.
    pub subnets: Vec<(IpAddr, u8)>,
    /// Name of the bridge interface on the host, for bridge networks.
    pub bridge: Option<String>,
    /// `com.docker.compose.config-hash`, where Compose wrote one.
    pub config_hash: Option<String>,
}

impl Observation {
    /// Containers of a service, lowest number first.
    pub fn of_service<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers.iter().filter(move |container| container.service == service)
    }

    /// Id of the first container of each service by name: what Compose puts where a service refers to another.
    pub fn first_container_ids(&self) -> BTreeMap<String, String> {
        let mut first: BTreeMap<String, &Container> = BTreeMap::new();
        for container in &self.containers {
            let kept = first.entry(container.service.clone()).or_insert(container);
            if container.name < kept.name {
                *kept = container;
            }
        }
        first.into_iter().map(|(service, container)| (service, container.id.clone())).collect()
    }

    /// Containers of the project whose service the project does not have.
    pub fn orphans<'a>(&'a self, project: &'a Project) -> impl Iterator<Item = &'a Container> {
        self.containers.iter().filter(|container| !project.services.contains_key(&container.service))
    }
}
