//! Cutover: the table that the guard is given.

use std::net::IpAddr;

use handover_core::net::Protocol;
use handover_core::observation::Observation;
use handover_core::plan::StandInPlan;
use handover_core::plan::standin;
use handover_core::redirect::ports::PortTable;
use handover_core::redirect::published::{Published, lead};
use handover_host::protocol::{Gateway, SessionOp};

use crate::deploy::preflight::Host;
use crate::engine::Inspected;
use crate::failure::{Exit, Failure, Result};
use crate::helper::Helper;

/// The table that leads the fixed ports of the plan to the stand-in's containers.
pub(crate) async fn port_table(
    project: &str,
    plan: &StandInPlan,
    containers: &[Inspected],
    observed: &Observation,
    host: &Host,
    session: &Helper,
) -> Result<PortTable> {
    let mut leads = Vec::new();
    for (service, port) in &plan.ports {
        let name = standin::service_name(service);
        let container = containers
            .iter()
            .find(|container| container.service == name)
            .ok_or_else(|| Failure::new(Exit::DeployFailed, format!("the stand-in of {service} is not there")))?;
        let gateway: Gateway = session.ask(SessionOp::Gateway { sandbox: container.sandbox.clone().into() }).await?;
        let lead = lead(port, &published(container, gateway.ipv4)).map_err(|why| {
            Failure::new(Exit::DeployFailed, format!("port {} cannot be led to the stand-in", port.target)).because(why)
        })?;
        leads.push(lead);
    }
    let bridges = observed.networks.values().filter_map(|network| network.bridge.clone()).collect();
    Ok(PortTable { project: project.to_owned(), leads, bridges, userland_proxy: host.userland_proxy })
}

fn published(container: &Inspected, default_gateway: Option<IpAddr>) -> Published {
    let bindings = container.ports.iter().filter_map(|(target, address, ephemeral)| {
        let (port, protocol) = target.split_once('/')?;
        let protocol = if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
        let address = if address.is_empty() { "0.0.0.0" } else { address };
        Some((port.parse().ok()?, protocol, address.parse().ok()?, *ephemeral))
    });
    Published {
        container: container.name.clone(),
        addresses: container
            .networks
            .iter()
            .filter_map(|(_, endpoint)| Some((endpoint.address?, endpoint.gateway)))
            .collect(),
        default_gateway,
        bindings: bindings.collect(),
    }
}
