//! Observing: the engine's lists, as the plain data that plans are made from.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bollard::models::{ContainerSummary, MountPoint, PortSummary, PortSummaryTypeEnum};
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, ListContainersOptions, ListNetworksOptions, ListVolumesOptions,
};
use futures_util::future::{join_all, try_join_all};
use handover_core::compose::calls::is_half_replaced;
use handover_core::compose::project::Project;
use handover_core::identity::{Identity, NAME_HOLDER, Seen, identity};
use handover_core::net::Protocol;
use handover_core::observation::{Binding, Container, ContainerMount, Endpoint, Image, Network, Observation};

use super::connect::Engine;
use super::containers::Role;
use crate::failure::{Result, engine_status};

/// What the engine lists whatever the project is called.
#[derive(Debug)]
pub(crate) struct Listing {
    containers: Vec<Listed>,
    networks: BTreeMap<String, Network>,
    volumes: BTreeSet<String>,
}

/// A container, and what tells whose it is.
#[derive(Debug)]
struct Listed {
    container: Container,
    labels: HashMap<String, String>,
    image: String,
    command: String,
}

impl Engine {
    /// Lists what is there; all calls side by side.
    pub(crate) async fn list(&self) -> Result<Listing> {
        let _waiting = self.events.waiting();
        let (containers, networks, volumes) = tokio::try_join!(self.all_containers(), self.networks(), self.volumes())?;
        Ok(Listing { containers, networks, volumes })
    }

    /// Looks at everything that a plan needs, with what was listed a moment ago.
    pub(crate) async fn observe(&self, project: &Project, listing: Listing) -> Result<Observation> {
        let _waiting = self.events.waiting();
        let references: BTreeSet<&str> = project.services.values().map(|service| service.image.as_str()).collect();
        let images = try_join_all(references.into_iter().map(|reference| self.image(reference))).await?;
        let Listing { containers, networks, volumes } = listing;
        let mut observed = Observation {
            architecture: self.architecture.clone(),
            rootless: self.rootless,
            images: images.into_iter().flatten().collect(),
            networks,
            volumes,
            ..Observation::default()
        };
        for Listed { container, labels, image, command } in containers {
            let service_container = labels.contains_key("com.docker.compose.config-hash")
                && labels.get("com.docker.compose.oneoff").map(String::as_str) != Some("True");
            let seen = Seen { name: &container.name, image: &image, command: &command, labels: &labels };
            match identity(&project.name, &seen) {
                Identity::Helper(role) if role == Role::Guard.word() => observed.guard = Some(container),
                Identity::Helper(role) if role == Role::Keeper.word() => observed.keeper = Some(container),
                Identity::Helper(role) if role == NAME_HOLDER => observed.name_holders.push(container),
                Identity::Helper(_) => observed.deploying = true,
                Identity::StandIn => observed.standin.push(container),
                Identity::InTheWay => {
                    observed.in_the_way.push(container.clone());
                    observed.foreign.push(container);
                }
                Identity::Other if container.project == project.name && service_container => {
                    let half = is_half_replaced(project, &container);
                    if half { observed.half_replaced.push(container) } else { observed.containers.push(container) }
                }
                Identity::Other => observed.foreign.push(container),
            }
        }
        observed.containers.sort_by(|a, b| (&a.service, a.number).cmp(&(&b.service, b.number)));
        observed.bound_files = self.bound_files(project, &observed).await;
        Ok(observed)
    }

    async fn all_containers(&self) -> Result<Vec<Listed>> {
        let options = ListContainersOptions { all: true, ..Default::default() };
        let list = self.docker.list_containers(Some(options)).await?;
        let listed = |summary: ContainerSummary| Listed {
            container: container(&summary),
            labels: summary.labels.unwrap_or_default(),
            image: summary.image.unwrap_or_default(),
            command: summary.command.unwrap_or_default(),
        };
        Ok(list.into_iter().map(listed).collect())
    }

    async fn image(&self, reference: &str) -> Result<Option<(String, Image)>> {
        match self.docker.inspect_image(reference).await {
            Ok(found) => Ok(Some((
                reference.to_owned(),
                Image {
                    id: found.id.unwrap_or_default(),
                    architecture: found.architecture.unwrap_or_default(),
                    volumes: found.config.and_then(|config| config.volumes).into_iter().flatten().collect(),
                },
            ))),
            Err(error) if engine_status(&error) == Some(404) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn networks(&self) -> Result<BTreeMap<String, Network>> {
        let list = self.docker.list_networks(None::<ListNetworksOptions>).await?;
        Ok(list
            .into_iter()
            .map(|network| {
                let id = network.id.unwrap_or_default();
                let driver = network.driver.unwrap_or_default();
                let options = network.options.unwrap_or_default();
                let bridge = (driver == "bridge").then(|| {
                    options
                        .get("com.docker.network.bridge.name")
                        .cloned()
                        .unwrap_or_else(|| format!("br-{}", handover_core::plan::change::short_id(&id)))
                });
                let ranges = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
                let subnet = |text: String| {
                    let (address, prefix) = text.split_once('/')?;
                    Some((address.parse().ok()?, prefix.parse().ok()?))
                };
                let subnets = ranges.into_iter().filter_map(|range| subnet(range.subnet?)).collect();
                let config_hash = network.labels.unwrap_or_default().remove("com.docker.compose.config-hash");
                (network.name.unwrap_or_default(), Network { id, driver, subnets, bridge, config_hash })
            })
            .collect())
    }

    async fn volumes(&self) -> Result<BTreeSet<String>> {
        let list = self.docker.list_volumes(None::<ListVolumesOptions>).await?;
        Ok(list.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect())
    }

    /// Which bind mounts are files: asked of a running container, because the paths are on the engine's host.
    async fn bound_files(&self, project: &Project, observed: &Observation) -> BTreeSet<(String, String)> {
        let mounts = project.services.values().flat_map(|service| {
            let container = observed.of_service(&service.name).next().map(|container| container.id.clone());
            service
                .mounts
                .iter()
                .filter(|mount| mount.kind == "bind" && !mount.read_only)
                .filter_map(move |mount| Some((service.name.clone(), mount.target.clone(), container.clone()?)))
        });
        let answers = join_all(mounts.map(|(service, target, id)| async move {
            let options = ContainerArchiveInfoOptions { path: target.clone() };
            let stat = self.docker.get_container_archive_info(&id, Some(options)).await.ok()?;
            /// Go's bit for a directory in a file mode (`io/fs.ModeDir`).
            const DIRECTORY: u32 = 1 << 31;
            (stat.file_mode & DIRECTORY == 0).then_some((service, target))
        }))
        .await;
        answers.into_iter().flatten().collect()
    }
}

fn container(summary: &ContainerSummary) -> Container {
    let label = |key: &str| summary.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default();
    let state = summary.state.map(|state| state.to_string()).unwrap_or_default();
    let networks = summary.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let image_label = label("com.docker.compose.image");
    Container {
        id: summary.id.clone().unwrap_or_default(),
        name: summary
            .names
            .iter()
            .flatten()
            // A linked container has a second name below its user's (`/user/alias`).
            .find(|name| name.matches('/').count() == 1)
            .map(|name| name.trim_start_matches('/').to_owned())
            .unwrap_or_default(),
        project: label("com.docker.compose.project"),
        service: label("com.docker.compose.service"),
        number: label("com.docker.compose.container-number").parse().unwrap_or(0),
        running: state == "running",
        status: summary.status.clone().unwrap_or_default(),
        config_hash: label("com.docker.compose.config-hash"),
        image_id: if image_label.is_empty() { summary.image_id.clone().unwrap_or_default() } else { image_label },
        networks: networks
            .into_iter()
            .flatten()
            .map(|(name, endpoint)| {
                let address = |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok());
                let endpoint = Endpoint {
                    network_id: endpoint.network_id.clone().unwrap_or_default(),
                    address: address(&endpoint.ip_address),
                    address_v6: endpoint.global_ipv6_address.as_ref().and_then(|text| text.parse().ok()),
                    gateway: address(&endpoint.gateway),
                };
                (name.clone(), endpoint)
            })
            .collect(),
        mounts: summary.mounts.iter().flatten().map(mount).collect(),
        ports: summary.ports.iter().flatten().filter_map(binding).collect(),
        state,
    }
}

fn mount(point: &MountPoint) -> ContainerMount {
    ContainerMount {
        kind: point.typ.clone().unwrap_or_default(),
        volume: point.name.clone().unwrap_or_default(),
        target: point.destination.clone().unwrap_or_default(),
    }
}

fn binding(port: &PortSummary) -> Option<Binding> {
    let protocol = match port.typ? {
        PortSummaryTypeEnum::TCP => Protocol::Tcp,
        PortSummaryTypeEnum::UDP => Protocol::Udp,
        _ => return None,
    };
    Some(Binding {
        protocol,
        host_ip: port.ip.as_ref().and_then(|ip| ip.parse().ok()),
        published: port.public_port?,
        target: port.private_port,
    })
}
