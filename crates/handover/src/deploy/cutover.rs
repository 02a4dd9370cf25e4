//! Cutover and cutback: the guard, and the tables that it is given.

use std::net::IpAddr;

use handover_core::cutover::{Published, lead};
use handover_core::gate::State;
use handover_core::observation::Observation;
use handover_core::plan::StandInPlan;
use handover_core::standin;
use handover_core::switch::{PortTable, Protocol};
use handover_host::protocol::{Counters, Gateway, GuardOp, Loaded, SessionOp, Unloaded};

use super::preflight::Host;
use crate::engine::{Engine, Inspected, Role};
use crate::failure::{Exit, Failure, Result};
use crate::helper::Helper;

/// The guard of a project: the container that holds its port rules, and our connection to it.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    id: String,
    helper: Helper,
}

impl Guard {
    /// Starts the guard. Its table leads nothing yet, but from now on the kernel tracks connections of IPv6 too: it then knows
    /// at cutover which are under way, and leaves them where they are.
    pub(crate) async fn start(engine: &Engine, project: &str, image: &str) -> Result<Self> {
        let id = engine.create_ours(Role::Guard, project, image, "").await?.ok_or_else(|| {
            Failure::new(Exit::Host, format!("the container name {} is taken", Role::Guard.container_name(project)))
        })?;
        let attached = engine.start_ours(&id).await?;
        let guard = Self { id, helper: Helper::new("guard", attached) };
        let table =
            PortTable { project: project.to_owned(), leads: Vec::new(), bridges: Vec::new(), userland_proxy: true };
        match guard.load(table).await {
            Ok(_) => Ok(guard),
            Err(failure) => {
                let _ = guard.remove(engine).await;
                Err(failure)
            }
        }
    }

    /// Connects to a guard that an earlier run left; `None` if it does not run.
    pub(crate) async fn find(engine: &Engine, observed: &Observation) -> Result<Option<Self>> {
        let Some(container) = &observed.guard else {
            return Ok(None);
        };
        if engine.inspect(&container.id).await?.is_none_or(|found| found.state != State::Running) {
            return Ok(None);
        }
        let attached = engine.attach(&container.id).await?;
        Ok(Some(Self { id: container.id.clone(), helper: Helper::new("guard", attached) }))
    }

    /// Cutover: leads all ports at one instant.
    pub(crate) async fn load(&self, table: PortTable) -> Result<Loaded> {
        self.helper.ask(GuardOp::Load { table }).await
    }

    /// Cutback: leads nothing new from one instant on; what was led goes on.
    pub(crate) async fn release(&self) -> Result<Loaded> {
        self.helper.ask(GuardOp::Release).await
    }

    /// How many connections each lead has led; empty when it leads nothing.
    pub(crate) async fn counters(&self) -> Result<Vec<u64>> {
        let counters: Counters = self.helper.ask(GuardOp::Counters).await?;
        Ok(counters.connections)
    }

    /// Deletes the table, ends the guard and removes its container. May be repeated.
    pub(crate) async fn remove(self, engine: &Engine) -> Result<()> {
        let _: Result<Unloaded> = self.helper.ask(GuardOp::Unload).await;
        // Stopping runs the guard's own removal of the table, should the request not have reached it.
        engine.stop(std::slice::from_ref(&self.id)).await?;
        engine.remove_all(&[self.id]).await
    }
}

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
