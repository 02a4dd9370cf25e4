//! Which services are rolled: Compose recreates them, the new container starts first, and the kernel leads the traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use crate::compose::project::{Project, Service};
use crate::compose::update_config::{Order, UpdateConfig};
use crate::observation::Observation;
use crate::plan::change::Change;
use crate::plan::doubling::{Doubling, doubling};
use crate::plan::references::{References, reachable};
use crate::plan::standin::names_of;
use crate::plan::{Plan, Refusal, RefusalKind};
use crate::router::Names;
use crate::settings::RouterSettings;
use crate::settings::Strategy;

/// A service that is rolled.
#[derive(Clone, Debug, PartialEq)]
pub struct RollingPlan {
    /// Name of the service.
    pub service: String,
    /// How many containers it has afterwards.
    pub replicas: usize,
    /// How its containers are replaced.
    pub update: UpdateConfig,
    /// How containers go back that were replaced, should it come to that.
    pub rollback: UpdateConfig,
    /// What Compose does with its containers only when it starts them itself, if there is any of it: then it does.
    pub compose_starts: Option<ComposeStarts>,
    /// The proxy that is told where they are.
    pub router: Option<RouterPlan>,
}

/// What Compose does with a container only when it starts it itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComposeStarts {
    /// It writes files into it right before.
    Files,
    /// It runs commands in it afterwards, and writes files where there are any.
    Hooks,
}

/// A proxy that is told where a rolled service's containers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterPlan {
    /// Which one, and where in it.
    pub router: RouterSettings,
    /// What the service's containers are called.
    pub names: Names,
    /// Names of its containers in the end.
    pub containers: Vec<String>,
    /// What it is told then, in words.
    pub sends: Vec<String>,
}

/// What was decided about services outside the stand-in group that somebody uses.
#[derive(Debug, Default)]
pub(super) struct Rolled {
    /// Services that are rolled, with the evidence that somebody would notice otherwise.
    pub(super) services: BTreeMap<String, String>,
    /// Services with such evidence that cannot be rolled, with the reason: they are restarted in place.
    pub(super) in_place: BTreeMap<String, String>,
    /// Services that nobody has said of whether they may run twice, and wishes that cannot be met.
    pub(super) refusals: Vec<Refusal>,
}

impl Rolled {
    /// Decides for all services that run, that change (in what they are or in number), and that have no stand-in.
    pub(super) fn of(
        project: &Project,
        observed: &Observation,
        references: &References,
        changes: &BTreeMap<String, Change>,
        standins: &BTreeSet<String>,
    ) -> Self {
        let mut rolled = Self::default();
        let used = used_by_others(project, observed, references, standins);
        for (name, change) in changes {
            let service = &project.services[name];
            let moves = matches!(change, Change::Changed(_) | Change::Scaled { .. });
            if !moves || !runs(observed, name) {
                continue;
            }
            if service.is_entry() {
                if project.settings.service(name).says_rolling() {
                    rolled.refusals.push(cannot_hold_port_twice(service));
                }
                continue;
            }
            let Some(evidence) = used.get(name).filter(|_| !standins.contains(name)).cloned() else {
                continue;
            };
            let cannot = cannot_be_rolled(service, project, changes);
            match (doubling(service, project, observed), cannot) {
                (Doubling::Never(reason), _) | (_, Some(reason)) => {
                    rolled.in_place.insert(name.clone(), format!("{evidence}; it cannot be rolled: {reason}"));
                }
                (Doubling::Allowed, None) => {
                    rolled.services.insert(name.clone(), evidence);
                }
                (Doubling::Undeclared(refusal), None) => {
                    rolled.refusals.push(refusal);
                    rolled.services.insert(name.clone(), evidence);
                }
            }
        }
        rolled
    }

    /// What execution needs of the services that are rolled.
    pub(super) fn plans(&self, project: &Project, observed: &Observation) -> Vec<RollingPlan> {
        let services = self.services.keys().map(|name| &project.services[name]);
        services
            .map(|service| RollingPlan {
                service: service.name.clone(),
                replicas: service.replicas as usize,
                update: service.update.clone(),
                rollback: service.rollback.clone(),
                compose_starts: compose_starts(service, project),
                router: project
                    .settings
                    .service(&service.name)
                    .router
                    .map(|router| RouterPlan::of(service, project, observed, router)),
            })
            .collect()
    }
}

/// Services whose traffic does not come through this project's own ports, with the evidence: those that a proxy finds or that
/// share a network with others' containers, and what they pass requests to.
fn used_by_others(
    project: &Project,
    observed: &Observation,
    references: &References,
    standins: &BTreeSet<String>,
) -> BTreeMap<String, String> {
    let mut used: BTreeMap<String, String> = BTreeMap::new();
    for service in project.services.values().filter(|service| !standins.contains(&service.name)) {
        if let Some(evidence) = evidence(service, project, observed) {
            used.insert(service.name.clone(), evidence);
        }
    }
    let all: BTreeSet<String> = project.services.keys().cloned().collect();
    for (name, evidence) in used.clone() {
        for behind in reachable(references, &BTreeSet::from([name.clone()]), &all) {
            used.entry(behind).or_insert_with(|| format!("{name} passes requests to it, and for {name}: {evidence}"));
        }
    }
    used
}

/// Services that change and are rolled because the user says so: who calls them is not affected by it.
pub(super) fn rolled_by_word(
    project: &Project,
    observed: &Observation,
    changes: &BTreeMap<String, Change>,
) -> BTreeSet<String> {
    let rolled = |(name, change): &(&String, &Change)| {
        let service = &project.services[*name];
        matches!(change, Change::Changed(_))
            && project.settings.service(name).says_rolling()
            && runs(observed, name)
            && !service.is_entry()
            && !matches!(doubling(service, project, observed), Doubling::Never(_))
            && cannot_be_rolled(service, project, changes).is_none()
    };
    changes.iter().filter(rolled).map(|(name, _)| name.clone()).collect()
}

/// Routers of services that are not rolled, where the service or the router is made anew: what the router says by itself may
/// not name all containers.
pub(super) fn told_afterwards(plan: &Plan, project: &Project, observed: &Observation) -> Vec<(String, RouterPlan)> {
    let settled = |name: &str| plan.settled_services().any(|service| service == name);
    let rolled = |name: &str| plan.rolling.iter().any(|rolling| rolling.service == name);
    let services = project.services.values().filter(|service| !rolled(&service.name));
    services
        .filter_map(|service| Some((service, project.settings.service(&service.name).router?)))
        .filter(|(service, router)| settled(&service.name) || settled(router.service()))
        .map(|(service, router)| (service.name.clone(), RouterPlan::of(service, project, observed, router)))
        .collect()
}

impl RouterPlan {
    fn of(service: &Service, project: &Project, observed: &Observation, router: RouterSettings) -> Self {
        let there = observed.of_service(&service.name);
        let mut containers: Vec<String> = there.map(|container| container.name.clone()).collect();
        let mut names = Names { of_one: containers.iter().cloned().collect(), ..Names::default() };
        for name in names_of(service, project) {
            let own = service.container_name.as_ref() == Some(&name) || is_numbered(&name, service, project);
            if own {
                names.of_one.insert(name)
            } else {
                names.of_all.push(name);
                false
            };
        }
        for container in observed.of_service(&service.name) {
            let addresses = container.networks.values();
            let both = addresses.flat_map(|one| [one.address.map(IpAddr::from), one.address_v6.map(IpAddr::from)]);
            names.at.extend(both.flatten().map(|address| (address, container.name.clone())));
        }
        containers.truncate(service.replicas as usize);
        let number = containers.len() + 1..=service.replicas as usize;
        let separator = project.separator;
        containers
            .extend(number.map(|number| format!("{}{separator}{}{separator}{number}", project.name, service.name)));
        let sends = router.sends(&containers);
        Self { router, names, containers, sends }
    }
}

fn is_numbered(name: &str, service: &Service, project: &Project) -> bool {
    let number = |separator: char| {
        let prefix = format!("{}{separator}{}{separator}", project.name, service.name);
        name.strip_prefix(&prefix).is_some_and(|number| number.parse::<u32>().is_ok())
    };
    number('-') || number('_')
}

fn evidence(service: &Service, project: &Project, observed: &Observation) -> Option<String> {
    if let Some(router) = project.settings.service(&service.name).router {
        return Some(format!("router {router}"));
    }
    if project.settings.service(&service.name).strategy == Some(Strategy::Rolling) {
        return Some("x-handover says strategy: rolling".to_owned());
    }
    if let Some(evidence) = service.announcement() {
        return Some(format!("a proxy finds it by {evidence}"));
    }
    if service.update.order == Some(Order::StartFirst) {
        return Some("deploy.update_config.order is start-first".to_owned());
    }
    let containers: Vec<_> = observed.of_service(&service.name).filter(|container| container.running).collect();
    let shares = |network: &String| containers.iter().any(|container| container.networks.contains_key(network));
    let outside = observed.foreign.iter().filter(|other| other.running);
    outside
        .flat_map(|other| other.networks.keys().map(move |network| (other, network)))
        .find(|(_, network)| !ENGINE_NETWORKS.contains(&network.as_str()) && shares(network))
        .map(|(other, network)| format!("container {} shares network {network} with it", other.name))
}

/// Networks that the engine makes itself; what happens to be on them has nothing to do with each other.
const ENGINE_NETWORKS: [&str; 3] = ["bridge", "host", "none"];

fn runs(observed: &Observation, name: &str) -> bool {
    observed.of_service(name).any(|container| container.running)
}

/// Why the new container cannot run beside the old one, apart from what it keeps.
fn cannot_be_rolled(service: &Service, project: &Project, changes: &BTreeMap<String, Change>) -> Option<String> {
    if service.networks.is_empty() {
        return Some("it has no network of its own".to_owned());
    }
    let endpoints = service.raw.get("networks").and_then(Value::as_object);
    let fixed =
        |endpoint: &Value| ["ipv4_address", "ipv6_address", "mac_address"].into_iter().find(|key| has(endpoint, key));
    if let Some(key) = endpoints.into_iter().flatten().find_map(|(_, endpoint)| fixed(endpoint)) {
        return Some(format!("its {key} is fixed, and two containers cannot have it"));
    }
    let joins = |other: &&Service| {
        let modes = ["network_mode", "ipc", "pid"].into_iter().filter_map(|key| other.raw.get(key)?.as_str());
        modes.into_iter().any(|mode| mode.strip_prefix("service:") == Some(&service.name))
    };
    if let Some(other) = project.services.values().find(joins) {
        return Some(format!("{} lives in its namespaces", other.name));
    }
    let restarting = |parent: &&String| matches!(changes.get(*parent), Some(Change::Changed(_)));
    let parents = service.depends_on.iter().filter(|(_, dependency)| dependency.restart).map(|(parent, _)| parent);
    parents
        .into_iter()
        .find(restarting)
        .map(|parent| format!("Compose stops it before it recreates {parent} (depends_on with restart, links)"))
}

fn has(mapping: &Value, key: &str) -> bool {
    mapping.get(key).is_some_and(|value| !value.is_null())
}

/// `post_start`, configs and secrets that are in no file, and the credentials that come with the engine's socket.
fn compose_starts(service: &Service, project: &Project) -> Option<ComposeStarts> {
    if service.raw.get("post_start").and_then(Value::as_array).is_some_and(|hooks| !hooks.is_empty()) {
        return Some(ComposeStarts::Hooks);
    }
    let in_no_file = |section: &str| {
        let references = service.raw.get(section).and_then(Value::as_array);
        let sources = references.into_iter().flatten().filter_map(|entry| entry.get("source")?.as_str());
        let mut definitions =
            sources.filter_map(|source| project.document.get(section).and_then(|entries| entries.get(source)));
        definitions.any(|definition| has(definition, "content") || has(definition, "environment"))
    };
    let socket = service.raw.get("use_api_socket").and_then(Value::as_bool) == Some(true);
    (socket || in_no_file("configs") || in_no_file("secrets")).then_some(ComposeStarts::Files)
}

fn cannot_hold_port_twice(service: &Service) -> Refusal {
    Refusal {
        kind: RefusalKind::Project,
        service: Some(service.name.clone()),
        what: "cannot be rolled".to_owned(),
        why: "it publishes fixed ports, and two containers cannot hold one port of the host".to_owned(),
        hint: format!("leave `strategy` out for {}: a stand-in keeps its ports open", service.name),
    }
}
