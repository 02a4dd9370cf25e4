//! Draining: nothing new reaches a container any more, and what is under way may end.

use std::net::IpAddr;

use futures_util::future::join_all;
use handover_core::compose::project::Port;
use handover_core::net::Protocol;
use handover_host::protocol::{Drain, DrainReport, SessionOp, UdpFlows};
use serde_json::Value;

use crate::deploy::context::Deploy;
use crate::engine::Inspected;
use crate::event::{DrainSummary, Event, Events};
use crate::failure::Result;
use crate::helper::{Helper, UnderWay};

/// Drains of several containers. They listen from the beginning, so that they know what each connection is doing, and close
/// nothing before [`Drains::finish`].
#[derive(Default)]
pub(crate) struct Drains {
    under_way: Vec<(String, UnderWay)>,
}

impl Drains {
    /// Begins to listen to the TCP connections of entry containers.
    pub(crate) fn listen(deploy: &Deploy, containers: &[(String, Inspected)]) -> Result<Self> {
        let mut all = Self::default();
        for (service, container) in containers {
            if let Some(service) = deploy.project.services.get(service) {
                all.add(deploy, container, &service.served_ports())?;
            }
        }
        Ok(all)
    }

    /// Begins to listen to the TCP connections to these ports of one container.
    pub(crate) fn of_ports(deploy: &Deploy, container: &Inspected, ports: &[(u16, Protocol)]) -> Result<Self> {
        let mut one = Self::default();
        one.add(deploy, container, ports)?;
        Ok(one)
    }

    /// Listens to one more container.
    pub(crate) fn add(&mut self, deploy: &Deploy, container: &Inspected, ports: &[(u16, Protocol)]) -> Result<()> {
        if let Some(drain) = held_drain(deploy, container, ports) {
            self.under_way.push((container.name.clone(), deploy.session.begin(SessionOp::Drain(drain))?));
        }
        Ok(())
    }

    /// The drains of others, too.
    pub(crate) fn append(&mut self, others: Self) {
        self.under_way.extend(others.under_way);
    }

    /// Closes connections as they are idle and waits for the others, until none is left or the deadline comes.
    pub(crate) async fn finish(self, session: &Helper, events: &Events) -> Result<DrainSummary> {
        for (_, drain) in &self.under_way {
            let _: Value = session.ask(SessionOp::Proceed { request: drain.id }).await?;
        }
        let _waiting = events.waiting();
        let reports = join_all(
            self.under_way
                .into_iter()
                .map(|(container, drain)| async { (container, drain.answer::<DrainReport>().await) }),
        )
        .await;
        let mut sum = DrainSummary::default();
        for (container, report) in reports {
            let report = summary(&report?);
            sum.add(&report);
            events.emit(Event::Drained { container, report });
        }
        Ok(sum)
    }

    /// By which [`Drains::give_up`] knows them.
    pub(crate) fn requests(&self) -> Vec<u64> {
        self.under_way.iter().map(|(_, drain)| drain.id).collect()
    }

    /// Lets drains end that [`Drains::finish`] has not ended: no further connection is closed or taken over, and those that were are
    /// served until their clients have let go of them. Closed all at once, one might cross a request.
    pub(crate) fn give_up(session: &Helper, requests: &[u64]) {
        for request in requests {
            // A session that is gone has ended them.
            let _ = session.begin(SessionOp::Leave { request: *request });
        }
    }
}

/// A drain that only listens until it is told to proceed; none where there is no TCP port.
pub(crate) fn held_drain(deploy: &Deploy, container: &Inspected, ports: &[(u16, Protocol)]) -> Option<Drain> {
    let tcp = ports.iter().filter(|(_, protocol)| *protocol == Protocol::Tcp);
    let ports: Vec<u16> = tcp.map(|(port, _)| *port).collect();
    if ports.is_empty() || container.sandbox.is_empty() {
        return None;
    }
    let deadline_ms = u64::try_from(deploy.drain_deadline().as_millis()).unwrap_or(u64::MAX);
    let drain = Drain::new(container.sandbox.clone().into(), ports, deadline_ms);
    Some(Drain { hold: true, near: deploy.near.clone(), ..drain })
}

/// The UDP flows of fixed ports that lead to these containers, straight or through the engine's userland proxy.
pub(crate) fn udp_flows(ports: &[(String, Port)], containers: &[(String, Inspected)]) -> Vec<UdpFlows> {
    let mut flows = Vec::new();
    for (service, port) in ports.iter().filter(|(_, port)| port.protocol == Protocol::Udp) {
        let target = format!("{}/udp", port.target);
        for (_, container) in containers.iter().filter(|(name, _)| name == service) {
            let published = port.published;
            let addresses = container.networks.iter().filter_map(|(_, endpoint)| endpoint.address);
            flows.extend(addresses.map(|address| UdpFlows {
                published,
                answers_from: Some(IpAddr::V4(address)),
                answers_from_port: None,
            }));
            let bindings = container.ports.iter().filter(|(inside, ..)| *inside == target);
            flows.extend(bindings.map(|(.., host_port)| UdpFlows {
                published,
                answers_from: None,
                answers_from_port: Some(*host_port),
            }));
        }
    }
    flows
}

/// Lets the next packet of UDP flows be led anew; connection tracking would go on sending them where they went.
pub(crate) async fn forget_udp(session: &Helper, flows: &[UdpFlows]) -> Result<()> {
    if !flows.is_empty() {
        let _: Value = session.ask(SessionOp::ForgetUdp { flows: flows.to_vec() }).await?;
    }
    Ok(())
}

pub(crate) fn summary(report: &DrainReport) -> DrainSummary {
    DrainSummary {
        closed_idle: report.closed_idle as u64,
        handed_on: report.handed_on as u64,
        ended: report.ended_by_themselves as u64,
        // Over loopback a container talks to itself: its health check is no client.
        cut: report
            .left
            .iter()
            .filter(|left| !left.peer.ip().is_loopback())
            .map(|left| format!("{} ({:?})", left.peer, left.activity))
            .collect(),
        last_look_us: (report.look_to_close_us.median, report.look_to_close_us.max),
        takeover_us: (report.takeover_us.median, report.takeover_us.max),
        doubts: report.doubts,
    }
}
