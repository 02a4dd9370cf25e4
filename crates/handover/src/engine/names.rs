//! Containers of ours that hold nothing but names: while the real container of a service is away, its names resolve to an
//! address that the switch leads on.

use std::collections::HashMap;

use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, NetworkConnectRequest, NetworkDisconnectRequest,
    NetworkingConfig,
};
use bollard::query_parameters::{CreateContainerOptions, InspectContainerOptions};
use handover_core::identity::{NAME_HOLDER, helper_name};
use handover_core::observation::{LABEL_PROJECT, LABEL_ROLE};

use super::connect::Engine;
use crate::failure::{Result, engine_status};

impl Engine {
    /// Creates a container that holds these names on these networks of the engine, and removes one that a run which is gone has
    /// left; its id. It stays until somebody removes it: should this process die, the names still resolve.
    pub(crate) async fn create_name_holder(
        &self,
        project: &str,
        service: &str,
        image: &str,
        networks: &[String],
        names: &[String],
    ) -> Result<String> {
        let _waiting = self.events.waiting();
        let container = format!("{}-{service}", helper_name(project, NAME_HOLDER));
        let id = match self.create_on_first(&container, project, image, networks, names).await {
            Err(error) if engine_status(&error) == Some(409) && self.holds_names(&container).await => {
                self.remove_all(std::slice::from_ref(&container)).await?;
                self.create_on_first(&container, project, image, networks, names).await
            }
            created => created,
        }?;
        // Before API 1.44 a container is created on one network only.
        for network in networks.iter().skip(1) {
            let request = NetworkConnectRequest { container: id.clone(), endpoint_config: Some(endpoint(names)) };
            if let Err(error) = self.docker.connect_network(network, request).await {
                self.remove_all(&[id]).await?;
                return Err(error.into());
            }
        }
        Ok(id)
    }

    /// Takes a container of ours off a network.
    pub(crate) async fn disconnect(&self, id: &str, network: &str) -> Result<()> {
        let _waiting = self.events.waiting();
        let request = NetworkDisconnectRequest { container: id.to_owned(), force: Some(true) };
        Ok(self.docker.disconnect_network(network, request).await?)
    }

    async fn holds_names(&self, container: &str) -> bool {
        let found = self.docker.inspect_container(container, None::<InspectContainerOptions>).await;
        let labels = found.ok().and_then(|found| found.config?.labels).unwrap_or_default();
        labels.get(LABEL_ROLE).is_some_and(|role| role == NAME_HOLDER)
    }

    async fn create_on_first(
        &self,
        container: &str,
        project: &str,
        image: &str,
        networks: &[String],
        names: &[String],
    ) -> std::result::Result<String, Error> {
        let options = CreateContainerOptions { name: Some(container.to_owned()), ..Default::default() };
        let first = networks.first().cloned().unwrap_or_default();
        let labels =
            [(LABEL_PROJECT.to_owned(), project.to_owned()), (LABEL_ROLE.to_owned(), NAME_HOLDER.to_owned())].into();
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            entrypoint: Some(vec!["/handover".to_owned()]),
            // It waits for the end of its input, which never comes, and is asked nothing.
            cmd: Some(vec![super::Role::Session.word().to_owned()]),
            labels: Some(labels),
            open_stdin: Some(true),
            host_config: Some(HostConfig {
                network_mode: Some(first.clone()),
                auto_remove: Some(true),
                cap_drop: Some(vec!["ALL".to_owned()]),
                readonly_rootfs: Some(true),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                ..Default::default()
            }),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(first, endpoint(names))])),
            }),
            ..Default::default()
        };
        Ok(self.docker.create_container(Some(options), body).await?.id)
    }
}

fn endpoint(names: &[String]) -> EndpointSettings {
    EndpointSettings { aliases: Some(names.to_vec()), ..Default::default() }
}
