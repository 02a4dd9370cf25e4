//! The plan of a deploy: what happens to each service and why. A pure function of the project and what is there.
//!
//! The plan leaves no choice to execution: it names every service, container, port, volume and order.

pub mod callers;
pub mod change;
pub mod check;
pub mod doubling;
pub mod evidence;
mod group;
pub mod images;
mod inherited;
mod inside;
pub mod operations;
pub mod preflight;
pub mod references;
mod rolling;
pub mod standin;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::compose::project::{Port, Project, Service};
use crate::observation::{Container, Observation};
use crate::plan::change::{Change, change_of, replaced_networks};
use crate::plan::doubling::anonymous_paths;
use crate::plan::group::Group;
use crate::plan::references::References;
use crate::settings::VolumeUse;

pub use inside::{CalledMember, InsidePlan, inside};
use rolling::Rolled;
pub use rolling::{ComposeStarts, RollingPlan, RouterPlan};

/// What the user asked for, besides the project itself.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Services named on the command line; empty means all.
    pub services: Vec<String>,
    /// Recreate also what has not changed.
    pub force_recreate: bool,
    /// Remove containers of services that the project no longer has.
    pub remove_orphans: bool,
    /// Services that cannot be doubled may be restarted in place.
    pub allow_interruption: bool,
}

/// What happens to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Keep,
    /// A stand-in serves while Compose recreates it.
    StandIn,
    /// Compose recreates it; the new container starts first and the kernel leads the traffic.
    Rolling,
    /// Compose recreates it, and whoever uses it notices.
    InPlace,
    /// Compose recreates it; it has no traffic that handover knows of.
    Recreate,
    /// Compose makes it; there was none.
    Create,
    /// Compose starts it; it was stopped.
    Start,
    /// Compose changes the number of its containers.
    Scale,
}

impl Action {
    /// The word for it in plans.
    pub fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::StandIn => "stand-in",
            Self::Rolling => "rolling",
            Self::InPlace => "in-place",
            Self::Recreate => "recreate",
            Self::Create => "create",
            Self::Start => "start",
            Self::Scale => "scale",
        }
    }
}

/// One service in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// Name of the service.
    pub service: String,
    /// What happens to it.
    pub action: Action,
    /// Why, in words.
    pub reason: String,
}

/// What kind of refusal it is; each kind has an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request names something that is not in the project.
    Project,
    /// An image cannot run here.
    Image,
    /// The user must say something first.
    Consent,
    /// Something on the host is in the way or not possible.
    Host,
    /// A fault of handover's own.
    Fault,
}

/// A reason not to begin: what, why, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its kind.
    pub kind: RefusalKind,
    /// Service that it is about.
    pub service: Option<String>,
    /// What is refused.
    pub what: String,
    /// Why.
    pub why: String,
    /// What leads out.
    pub hint: String,
}

/// The stand-in of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct StandInPlan {
    /// Compose project that it runs as.
    pub project: String,
    /// Services of the group, front to back, as tiers that may be stopped side by side.
    pub tiers: Vec<Vec<String>>,
    /// Fixed ports that are led to it, with the service that publishes them.
    pub ports: Vec<(String, Port)>,
    /// The Compose document that makes it.
    pub document: Value,
    /// Containers outside the group that may call its members, if there are any.
    pub inside: Option<InsidePlan>,
}

/// A service whose anonymous volumes are made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Name of the service.
    pub service: String,
    /// Names of its volumes that nothing will mount after the deploy.
    pub volumes: Vec<String>,
}

/// What a deploy does.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Name of the project.
    pub project: String,
    /// Every selected service.
    pub services: Vec<ServicePlan>,
    /// The stand-in, if one is needed.
    pub standin: Option<StandInPlan>,
    /// Services that are rolled.
    pub rolling: Vec<RollingPlan>,
    /// Routers that are told once all is settled, by service: those whose service is not rolled.
    pub told_afterwards: Vec<(String, RouterPlan)>,
    /// Services without a container that the stand-in uses and that keep state: Compose makes them first.
    pub create_first: Vec<String>,
    /// Whether networks or volumes of the project are missing that the stand-in needs.
    pub create_resources: bool,
    /// Services whose anonymous volumes are made anew.
    pub renew: Vec<Renewal>,
    /// Code volumes that the recreated containers mount from others: removed if nobody mounts them any more.
    pub inherited_code: BTreeSet<String>,
    /// Containers of services that the project no longer has, which Compose removes.
    pub remove_orphans: Vec<String>,
    /// Reasons not to begin.
    pub refusals: Vec<Refusal>,
    /// What the user should know before it happens.
    pub notes: Vec<String>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.services.iter().all(|service| service.action == Action::Keep) && self.remove_orphans.is_empty()
    }

    /// Of the containers that Compose says it would recreate, those that the plan leaves alone.
    pub fn not_named<'a>(&self, recreated: &'a [String], observed: &Observation) -> Vec<&'a str> {
        let kept = |name: &String| {
            let container = observed.containers.iter().find(|container| container.name == *name);
            container.is_some_and(|container| !self.settled_services().any(|service| service == container.service))
        };
        recreated.iter().filter(|name| kept(name)).map(String::as_str).collect()
    }

    /// Services whose containers Compose makes, recreates or starts: what is gated in the end.
    pub fn settled_services(&self) -> impl Iterator<Item = &str> {
        self.services.iter().filter(|service| service.action != Action::Keep).map(|service| service.service.as_str())
    }
}

/// Makes the plan.
pub fn plan(project: &Project, observed: &Observation, request: &Request) -> Plan {
    let mut plan = Plan {
        project: project.name.clone(),
        services: Vec::new(),
        standin: None,
        rolling: Vec::new(),
        told_afterwards: Vec::new(),
        create_first: Vec::new(),
        create_resources: false,
        renew: Vec::new(),
        inherited_code: BTreeSet::new(),
        remove_orphans: Vec::new(),
        refusals: Vec::new(),
        notes: Vec::new(),
    };
    let selected = match selected_services(project, &request.services) {
        Ok(selected) => selected,
        Err(refusal) => {
            plan.refusals.push(refusal);
            return plan;
        }
    };
    let changes = changes(project, observed, request, &selected);
    let mut references = references::declared(project);
    let changed = changed_services(&changes);
    let fronted = references::add_fronted(&mut references, project, &changed);
    let group = Group::of(project, observed, &references, &changes);
    let rolled = Rolled::of(project, observed, &references, &changes, &group.members);

    for name in &selected {
        plan.services.push(service_plan(name, project, observed, &changes, &group, &rolled, &references));
    }
    for (service, fronts) in fronted {
        if group.members.contains(&service) {
            plan.notes.push(format!(
                "{service}: nothing refers to it and it publishes no port; it is taken to be fronted by {} (say `strategy: in-place` for it if it must not run twice)",
                fronts.join(", ")
            ));
        }
    }
    plan.rolling = rolled.plans(project, observed);
    plan.told_afterwards = rolling::told_afterwards(&plan, project, observed);
    plan.refusals.extend(group.refusals.iter().chain(&rolled.refusals).cloned());
    refuse_interruptions(&mut plan, project, request);
    refuse_replaced_networks(&mut plan, project, observed, request, &group);
    note_kept_volumes(&mut plan, project, observed, &changes);
    plan.renew = renewals(project, observed, &changes);
    refuse_partial_renewals(&mut plan, project, observed);
    plan.inherited_code = inherited::inherited_code(project, observed, &changes);
    if request.remove_orphans {
        plan.remove_orphans = observed.orphans(project).map(|container| container.name.clone()).collect();
    }
    if !group.members.is_empty() {
        complete_standin(&mut plan, project, observed, &references, &group);
    }
    plan
}

fn complete_standin(
    plan: &mut Plan,
    project: &Project,
    observed: &Observation,
    references: &References,
    group: &Group,
) {
    // Only what was asked for: Compose would not make others either.
    let missing = plan.services.iter().filter(|planned| planned.action == Action::Create);
    let missing: BTreeSet<String> = missing.map(|planned| planned.service.clone()).collect();
    let used = references::reachable(references, &group.members, &missing);
    plan.create_first = used.difference(&group.members).cloned().collect();
    plan.create_resources = group.members.iter().filter_map(|name| project.services.get(name)).any(|service| {
        let networks = service.networks.iter().filter_map(|key| project.networks.get(key));
        let volumes = service.mounts.iter().filter_map(|mount| project.volumes.get(mount.source.as_ref()?));
        networks.into_iter().any(|network| !observed.networks.contains_key(&network.name))
            || volumes.into_iter().any(|volume| !observed.volumes.contains(&volume.name))
    });
    let entries: BTreeSet<String> =
        group.members.iter().filter(|name| project.services[*name].is_entry()).cloned().collect();
    let ports = entries
        .iter()
        .flat_map(|name| project.services[name].fixed_ports().map(|port| (name.clone(), port.clone())))
        .collect();
    let twice: Vec<&str> = group.members.iter().map(String::as_str).collect();
    let run = if twice.len() == 1 { "runs" } else { "run" };
    plan.notes.push(format!("{} {run} twice while the stand-in serves", twice.join(", ")));
    plan.standin = Some(StandInPlan {
        project: standin::project_name(&project.name),
        tiers: references::front_to_back(references, &group.members, &entries),
        ports,
        document: standin::document(project, observed, &group.members),
        inside: inside::inside(project, observed, &group.members),
    });
}

/// The services that are asked for and all that they depend on, as Compose takes them.
///
/// Fails if one of them is not in the project.
pub fn selected_services(project: &Project, wanted: &[String]) -> Result<BTreeSet<String>, Refusal> {
    for name in wanted {
        if !project.services.contains_key(name) {
            let known = project.services.keys().map(String::as_str);
            let hint = match crate::settings::nearest::nearest(name, known.clone()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("its services are: {}", known.collect::<Vec<_>>().join(", ")),
            };
            return Err(Refusal {
                kind: RefusalKind::Project,
                service: None,
                what: format!("there is no service `{name}`"),
                why: format!("project {} does not have it (a profile may hide it)", project.name),
                hint,
            });
        }
    }
    if wanted.is_empty() {
        return Ok(project.services.keys().cloned().collect());
    }
    let dependencies: References = project
        .services
        .iter()
        .map(|(name, service)| (name.clone(), service.depends_on.keys().cloned().collect()))
        .collect();
    let all = project.services.keys().cloned().collect();
    Ok(references::reachable(&dependencies, &wanted.iter().cloned().collect(), &all))
}

fn changes(
    project: &Project,
    observed: &Observation,
    request: &Request,
    selected: &BTreeSet<String>,
) -> BTreeMap<String, Change> {
    let ids = observed.first_container_ids();
    let mut changes: BTreeMap<String, Change> = selected
        .iter()
        .map(|name| {
            let service = &project.services[name];
            (name.clone(), change_of(service, project, observed, &ids, request.force_recreate))
        })
        .collect();
    // Compose recreates what mounts the volumes or joins a namespace of a container that it recreates, and restarts what asks
    // for it. One round a service carries this through every chain.
    for _ in 0..selected.len() {
        for name in selected {
            let service = &project.services[name];
            let changed = |parent: &&String| matches!(changes.get(*parent), Some(Change::Changed(_)));
            let mut parents = service.recreated_with();
            if project.hashes.recreates_dependents() {
                parents.extend(service.depends_on.keys().cloned());
            }
            let recreated = parents.iter().find(changed).map(|parent| ("recreates", parent));
            let restarting = service.depends_on.iter().filter(|(_, dependency)| dependency.restart);
            let restarted = || restarting.map(|(parent, _)| parent).find(changed).map(|parent| ("restarts", parent));
            let (Some((does, parent)), Some(Change::None | Change::Scaled { .. })) =
                (recreated.or_else(restarted), changes.get(name))
            else {
                continue;
            };
            let reason = format!("Compose {does} it together with {parent}");
            changes.insert(name.clone(), Change::Changed(reason));
        }
    }
    changes
}

fn changed_services(changes: &BTreeMap<String, Change>) -> BTreeSet<String> {
    changes
        .iter()
        .filter(|(_, change)| matches!(change, Change::Changed(_) | Change::Missing))
        .map(|(name, _)| name.clone())
        .collect()
}

fn service_plan(
    name: &str,
    project: &Project,
    observed: &Observation,
    changes: &BTreeMap<String, Change>,
    group: &Group,
    rolled: &Rolled,
    references: &References,
) -> ServicePlan {
    let service = &project.services[name];
    let (action, reason) = match &changes[name] {
        change if group.members.contains(name) => {
            let mut reason = standin_reason(change, name, references, group);
            if let Some(router) =
                project.settings.service(name).router.filter(|router| group.members.contains(router.service()))
            {
                reason
                    .push_str(&format!("; {} is replaced in this deploy, too, so both move as one", router.service()));
            }
            (Action::StandIn, reason)
        }
        Change::None => (Action::Keep, "as wanted".to_owned()),
        Change::Missing => (Action::Create, "it has no container yet".to_owned()),
        Change::Stopped => (Action::Start, "it does not run".to_owned()),
        // Fewer, and nobody can hold Compose back: who is connected to those that end is cut off.
        Change::Scaled { from, to } => match interruption(service, observed, group, rolled).filter(|_| from > to) {
            Some(why) => (Action::InPlace, format!("{}; {why}", number_reason(*from, *to))),
            None => (Action::Scale, number_reason(*from, *to)),
        },
        Change::Changed(reason) => match (rolled.services.get(name), interruption(service, observed, group, rolled)) {
            (Some(evidence), _) => (Action::Rolling, format!("{reason}; {evidence}")),
            (None, Some(why)) => (Action::InPlace, format!("{reason}; {why}")),
            (None, None) => (Action::Recreate, format!("{reason}; no traffic reaches it that handover knows of")),
        },
    };
    ServicePlan { service: name.to_owned(), action, reason }
}

fn number_reason(from: usize, to: usize) -> String {
    let there = if from == 1 { "there is 1 container".to_owned() } else { format!("there are {from} containers") };
    format!("{there}, and {to} {} wanted", if to == 1 { "is" } else { "are" })
}

fn standin_reason(change: &Change, name: &str, references: &References, group: &Group) -> String {
    match change {
        Change::Changed(reason) => reason.clone(),
        Change::Missing => "it has no container yet, and what serves uses it".to_owned(),
        _ => {
            let uses = references.get(name).into_iter().flatten().filter(|used| group.members.contains(*used));
            format!("unchanged, but it passes requests to {}", uses.cloned().collect::<Vec<_>>().join(", "))
        }
    }
}

/// Why recreating a service outside the group interrupts somebody; `None` when nobody is known to notice.
fn interruption(service: &Service, observed: &Observation, group: &Group, rolled: &Rolled) -> Option<String> {
    if !observed.of_service(&service.name).any(|container| container.running) {
        return None;
    }
    if let Some(reason) = group.in_place.get(&service.name) {
        return Some(format!("restarted in place: {reason}"));
    }
    rolled.in_place.get(&service.name).cloned()
}

fn refuse_interruptions(plan: &mut Plan, project: &Project, request: &Request) {
    if request.allow_interruption {
        return;
    }
    for planned in plan.services.iter().filter(|planned| planned.action == Action::InPlace) {
        let asked = project.settings.service(&planned.service).strategy == Some(crate::settings::Strategy::InPlace);
        if asked {
            continue;
        }
        plan.refusals.push(Refusal {
            kind: RefusalKind::Consent,
            service: Some(planned.service.clone()),
            what: "its restart would interrupt whoever uses it".to_owned(),
            why: planned.reason.clone(),
            hint: format!(
                "allow it this once with --allow-interruption, or always with\n  x-handover:\n    services:\n      {}: {{ strategy: in-place }}",
                planned.service
            ),
        });
    }
}

fn refuse_replaced_networks(
    plan: &mut Plan,
    project: &Project,
    observed: &Observation,
    request: &Request,
    group: &Group,
) {
    let replaced = replaced_networks(project, observed);
    if replaced.is_empty() || (group.members.is_empty() && request.allow_interruption) {
        return;
    }
    plan.refusals.push(Refusal {
        kind: RefusalKind::Consent,
        service: None,
        what: format!("network {} has another definition now", replaced.join(", ")),
        why: "Compose removes a changed network and makes it anew, and everything on it loses its connections".to_owned(),
        hint: "give the network a new key in the compose file, so that the old one stays until it is unused; or deploy this one change with docker compose up -d".to_owned(),
    });
}

fn note_kept_volumes(plan: &mut Plan, project: &Project, observed: &Observation, changes: &BTreeMap<String, Change>) {
    for (name, change) in changes {
        if !matches!(change, Change::Changed(_)) || !plan.refusals.iter().all(|r| r.service.as_ref() != Some(name)) {
            continue;
        }
        let kept = anonymous_paths(&project.services[name], project, observed, None);
        if !kept.is_empty() {
            plan.notes.push(format!(
                "{name}: the anonymous volume at {} is carried over, so what a new image has there stays hidden (`volumes: renew` changes that)",
                kept.join(", ")
            ));
        }
    }
}

fn renewals(project: &Project, observed: &Observation, changes: &BTreeMap<String, Change>) -> Vec<Renewal> {
    let mut renewals = Vec::new();
    for (name, change) in changes {
        if !matches!(change, Change::Changed(_)) {
            continue;
        }
        let paths = anonymous_paths(&project.services[name], project, observed, Some(VolumeUse::Renew));
        if paths.is_empty() {
            continue;
        }
        let old = observed.of_service(name).flat_map(|container: &Container| &container.mounts);
        let volumes = old
            .filter(|mount| mount.is_anonymous_volume() && paths.contains(&mount.target))
            .map(|mount| mount.volume.clone())
            .collect();
        renewals.push(Renewal { service: name.clone(), volumes });
    }
    renewals
}

/// Compose renews all anonymous volumes of a container or none; where only some are code, the others would be lost.
fn refuse_partial_renewals(plan: &mut Plan, project: &Project, observed: &Observation) {
    for Renewal { service, .. } in &plan.renew {
        let paths = |word| anonymous_paths(&project.services[service], project, observed, word);
        let kept = [paths(None), paths(Some(VolumeUse::Share)), paths(Some(VolumeUse::Own))].concat().join(", ");
        if kept.is_empty() {
            continue;
        }
        plan.refusals.push(Refusal {
            kind: RefusalKind::Consent,
            service: Some(service.clone()),
            what: "only some of its anonymous volumes are to be made anew".to_owned(),
            why: format!("Compose makes all of them anew or none, and what is kept at {kept} would be lost"),
            hint: format!("give the volume at {kept} a name under `volumes:`; or say `renew` for all, or for none"),
        });
    }
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod generated;
#[cfg(test)]
mod tests;
