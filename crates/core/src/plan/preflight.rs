//! What can be refused before anything moves: images that cannot run here, names and ports that others hold, a kernel that
//! cannot lead ports.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::compose::project::{Port, Project};
use crate::identity::helper_name;
use crate::net::Protocol;
use crate::observation::{Binding, Container, Observation};
use crate::plan::{Action, Plan, Refusal, RefusalKind, StandInPlan, standin};

/// What the session helper found out about the engine's host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Sockets that listen or are bound on the host.
    pub listeners: Vec<Listener>,
    /// Why the kernel or the engine cannot lead ports to a stand-in; `None` when it can.
    pub cannot_lead_ports: Option<String>,
    /// Why connections cannot be led inside the network namespaces of peers; `None` when they can.
    pub cannot_lead_peers: Option<String>,
}

/// A socket on the host that others can connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Protocol.
    pub protocol: Protocol,
    /// Address; `None` is every address.
    pub address: Option<IpAddr>,
    /// Port.
    pub port: u16,
}

/// Something has a name that handover needs. It is not touched.
fn in_the_way(project: &Project, container: &Container) -> Refusal {
    let standin = standin::project_name(&project.name);
    let (why, hint) = if container.project == standin {
        (
            format!(
                "it belongs to a project called {standin}, which is what the stand-in of {} is called",
                project.name
            ),
            "choose another name for one of the two projects".to_owned(),
        )
    } else {
        (
            "it has the name of a container of handover's, and is none".to_owned(),
            format!("docker rename {} …", container.name),
        )
    };
    Refusal {
        kind: RefusalKind::Host,
        service: None,
        what: format!("container {} is in the way", container.name),
        why,
        hint,
    }
}

/// Refusals that need no look at the host.
pub fn project_refusals(project: &Project, plan: &Plan, observed: &Observation) -> Vec<Refusal> {
    let mut refusals: Vec<Refusal> = plan.standin.iter().filter(|_| observed.rootless).map(rootless).collect();
    if !plan.is_empty() {
        let needed = |one: &&Container| plan.standin.is_some() || one.name != helper_name(&project.name, "guard");
        refusals.extend(observed.in_the_way.iter().filter(needed).map(|one| in_the_way(project, one)));
    }
    for service in moving_services(project, plan) {
        let image = observed.images.get(&service.image);
        if let Some(image) =
            image.filter(|image| service.platform.is_none() && image.architecture != observed.architecture)
        {
            refusals.push(Refusal {
                kind: RefusalKind::Image,
                service: Some(service.name.clone()),
                what: format!("image {} is built for {}", service.image, image.architecture),
                why: format!("the engine's host is {}", observed.architecture),
                hint: format!(
                    "build or pull it for {}; or write `platform:` for the service if the host emulates the other",
                    observed.architecture
                ),
            });
        }
        let wanted = service.container_name.as_deref();
        if let Some(other) = observed.foreign.iter().find(|other| Some(other.name.as_str()) == wanted) {
            refusals.push(Refusal {
                kind: RefusalKind::Host,
                service: Some(service.name.clone()),
                what: format!("the container name {} is taken", other.name),
                why: format!("container {} has it{}", other.name, of_project(&other.project)),
                hint: "remove or rename that container, or choose another container_name".to_owned(),
            });
        }
        for port in service.fixed_ports() {
            let holder = observed.foreign.iter().find(|other| other.ports.iter().any(|held| overlaps(held, port)));
            if let Some(other) = holder {
                refusals.push(taken(
                    &service.name,
                    port,
                    &format!("container {}{}", other.name, of_project(&other.project)),
                ));
            }
        }
    }
    refusals
}

/// Refusals that come from the host.
pub fn host_refusals(project: &Project, plan: &Plan, observed: &Observation, host: &HostFacts) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if let (Some(why), Some(standin)) = (&host.cannot_lead_ports, &plan.standin) {
        refusals.push(Refusal {
            kind: RefusalKind::Host,
            service: None,
            what: "published ports cannot be led to a stand-in here".to_owned(),
            why: why.clone(),
            hint: format!(
                "{}\nor deploy with docker compose up -d; what handover needs is in its README under Limits",
                in_place_hint(entries(standin))
            ),
        });
    }
    if let Some(why) = host.cannot_lead_peers.as_ref().filter(|_| !plan.rolling.is_empty()) {
        let services: Vec<&str> = plan.rolling.iter().map(|rolling| rolling.service.as_str()).collect();
        refusals.push(Refusal {
            kind: RefusalKind::Host,
            service: None,
            what: format!("{} cannot be rolled here", services.join(", ")),
            why: why.clone(),
            hint: in_place_hint(services),
        });
    }
    for service in moving_services(project, plan) {
        for port in service.fixed_ports() {
            let held_by_container = |binding: &Binding| overlaps(binding, port);
            let ours = observed.containers.iter().flat_map(|container| &container.ports).any(held_by_container);
            let foreign = observed.foreign.iter().flat_map(|container| &container.ports).any(held_by_container);
            let listens = host.listeners.iter().any(|listener| {
                listener.protocol == port.protocol
                    && Some(listener.port) == port.published
                    && addresses_meet(listener.address, port.host_ip)
            });
            if listens && !ours && !foreign {
                refusals.push(taken(&service.name, port, "a process on the host, not a container,"));
            }
        }
    }
    refusals
}

/// The forwarder of a rootless engine closes a port as soon as Compose stops the container that publishes it, and does so outside of the
/// network namespace in which ports could be led (**measured** on 28.5: 44 of 546 requests refused while Compose recreated).
fn rootless(standin: &StandInPlan) -> Refusal {
    Refusal {
        kind: RefusalKind::Host,
        service: None,
        what: "published ports cannot be kept open on a rootless engine".to_owned(),
        why: "its port forwarder closes a port while Compose recreates the container that publishes it".to_owned(),
        hint: format!(
            "{}\nor publish the ports by a proxy that does not change: services behind it are rolled on this engine, too",
            in_place_hint(entries(standin))
        ),
    }
}

/// Services whose ports the stand-in is led.
fn entries(standin: &StandInPlan) -> BTreeSet<&str> {
    standin.ports.iter().map(|(service, _)| service.as_str()).collect()
}

/// What works wherever Compose does.
fn in_place_hint<'a>(services: impl IntoIterator<Item = &'a str>) -> String {
    let lines = services.into_iter().map(|service| format!("\n      {service}: {{ strategy: in-place }}"));
    format!("restart in place, with an interruption:\n  x-handover:\n    services:{}", lines.collect::<String>())
}

fn moving_services<'a>(
    project: &'a Project,
    plan: &'a Plan,
) -> impl Iterator<Item = &'a crate::compose::project::Service> {
    plan.services
        .iter()
        .filter(|planned| planned.action != Action::Keep)
        .filter_map(|planned| project.services.get(&planned.service))
}

fn taken(service: &str, port: &Port, holder: &str) -> Refusal {
    let number = port.published.unwrap_or_default();
    let protocol = if port.protocol == Protocol::Udp { "udp" } else { "tcp" };
    Refusal {
        kind: RefusalKind::Host,
        service: Some(service.to_owned()),
        what: format!("port {number}/{protocol} is taken"),
        why: format!("{holder} listens on it"),
        hint: "stop that, or publish another port".to_owned(),
    }
}

fn of_project(project: &str) -> String {
    if project.is_empty() { String::new() } else { format!(" of project {project}") }
}

fn overlaps(held: &Binding, port: &Port) -> bool {
    held.protocol == port.protocol
        && Some(held.published) == port.published
        && addresses_meet(held.host_ip, port.host_ip)
}

/// Whether a socket on one address keeps another from being bound; `None` is every address.
fn addresses_meet(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    let every = |address: Option<IpAddr>| address.is_none_or(|address| address.is_unspecified());
    every(a) || every(b) || a == b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Request, plan};

    /// A web service that publishes a port and one that is rolled, both to be made anew.
    fn refusals_on(engine: &Observation, services: &[&str]) -> Vec<Refusal> {
        let project = r#"{"name":"shop","services":{
          "web":{"image":"web:2","ports":[{"target":80,"published":"80","protocol":"tcp"}]},
          "app":{"image":"app:2","networks":{"default":null}}},
         "networks":{"default":{"name":"shop_default"}},
         "x-handover":{"services":{"app":{"strategy":"rolling"}}}}"#;
        let project = Project::parse(project, "", '-').expect("the project parses");
        let container = |service: &str| crate::observation::Container {
            id: service.to_owned(),
            name: format!("shop-{service}-1"),
            project: "shop".to_owned(),
            service: service.to_owned(),
            number: 1,
            running: true,
            ..Default::default()
        };
        let observed = Observation { containers: vec![container("app"), container("web")], ..engine.clone() };
        let request =
            Request { services: services.iter().map(|&service| service.to_owned()).collect(), ..Default::default() };
        let plan = plan(&project, &observed, &request);
        assert_eq!(plan.refusals, []);
        project_refusals(&project, &plan, &observed)
    }

    #[test]
    fn a_rootless_engine_rolls_but_keeps_no_published_port_open() {
        let rootless = Observation { rootless: true, ..Default::default() };
        let refused = refusals_on(&rootless, &[]);
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].what.contains("rootless"), "{refused:?}");
        assert!(refused[0].hint.contains("web: { strategy: in-place }"), "{refused:?}");
        assert_eq!(refusals_on(&rootless, &["app"]), []);
        assert_eq!(refusals_on(&Observation::default(), &[]), []);
    }
}
