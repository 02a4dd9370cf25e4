//! Preflight: everything that can be refused is refused before anything moves.

use std::path::PathBuf;

use handover_core::compose::project::Project;
use handover_core::observation::Observation;
use handover_core::plan::Plan;
use handover_core::plan::preflight::{HostFacts, Listener, host_refusals};
use handover_host::protocol::{Check, Listeners, SessionOp, Support};

use crate::engine::Engine;
use crate::failure::{Failure, Result};
use crate::helper::Helper;

/// What later stages need to know of the host.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Whether the engine's userland proxy listens at published ports.
    pub(crate) userland_proxy: bool,
    /// Firewalls that drop by default what comes in to the host.
    pub(crate) input_dropped_by: Vec<String>,
}

/// Checks the plan against the host; all refusals at once.
pub(crate) async fn check(
    engine: &Engine,
    project: &Project,
    plan: &Plan,
    observed: &Observation,
    session: &Helper,
) -> std::result::Result<Host, Vec<Failure>> {
    let (support, listeners) = ask_host(engine, plan, observed, session).await.map_err(|failure| vec![failure])?;
    let listeners: Vec<Listener> = listeners
        .listeners
        .into_iter()
        .map(|found| Listener {
            protocol: found.protocol,
            address: Some(found.address).filter(|address| !address.is_unspecified()),
            port: found.port,
        })
        .collect();
    let drain = [&support.read_sockets, &support.close_sockets, &support.read_packets];
    let why_not = |leading: &[&Option<Check>]| {
        let mut needed = leading.iter().copied().flatten().chain(drain);
        let missing = needed.find(|check| !check.works)?;
        Some(missing.why_not.clone().unwrap_or_else(|| "the kernel refuses it".to_owned()))
    };
    let facts = HostFacts {
        cannot_lead_ports: why_not(&[&support.lead_ports]),
        cannot_lead_peers: why_not(&[&support.lead_peers, &support.enter_sandbox]),
        listeners,
    };
    let refusals = host_refusals(project, plan, observed, &facts);
    if !refusals.is_empty() {
        return Err(Failure::refused(&refusals));
    }
    Ok(host(observed, support))
}

/// What later stages need of what the kernel says.
pub(crate) fn host(observed: &Observation, support: Support) -> Host {
    let mut bridges = observed.networks.values().filter_map(|network| network.bridge.as_ref());
    let userland_proxy = !bridges.any(|bridge| support.routing_loopback.contains(bridge));
    Host { userland_proxy, input_dropped_by: support.input_dropped_by }
}

async fn ask_host(
    engine: &Engine,
    plan: &Plan,
    observed: &Observation,
    session: &Helper,
) -> Result<(Support, Listeners)> {
    let (ports, peers) = (plan.standin.is_some(), !plan.rolling.is_empty());
    // The namespace of one that is rolled stands for those of its callers.
    let mut rolled = plan.rolling.iter().flat_map(|rolling| observed.of_service(&rolling.service));
    let sandbox = match rolled.find(|container| container.running) {
        Some(container) => engine.inspect(&container.id).await?.map(|found| found.sandbox),
        None => None,
    };
    let sandbox = sandbox.filter(|path| !path.is_empty()).map(PathBuf::from);
    tokio::try_join!(
        session.ask::<_, Support>(SessionOp::Support { sandbox, ports, peers }),
        session.ask::<_, Listeners>(SessionOp::Listeners { sandbox: None }),
    )
}
