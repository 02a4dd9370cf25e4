//! The stand-in group: which services get a second copy.

use std::collections::{BTreeMap, BTreeSet};

use crate::compose::project::Project;
use crate::observation::Observation;
use crate::plan::change::Change;
use crate::plan::doubling::{Doubling, doubling};
use crate::plan::references::{self, References};
use crate::plan::rolling::rolled_by_word;
use crate::plan::{Refusal, changed_services};

/// The stand-in group and what was decided on the way to it.
pub(super) struct Group {
    /// Its services.
    pub(super) members: BTreeSet<String>,
    /// Services that are restarted in place, with the reason.
    pub(super) in_place: BTreeMap<String, String>,
    /// Services that nobody has said of whether they may run twice.
    pub(super) refusals: Vec<Refusal>,
}

impl Group {
    /// Finds the group: who of it may never run twice leaves it, and what only moved because of those stays.
    pub(super) fn of(
        project: &Project,
        observed: &Observation,
        references: &References,
        changes: &BTreeMap<String, Change>,
    ) -> Self {
        let mut in_place: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let (members, found) = Self::try_without(project, observed, references, changes, &in_place);
            if found.never.is_empty() {
                return Self { members, in_place, refusals: found.refusals };
            }
            in_place.extend(found.never);
        }
    }

    /// One round: the group if `in_place` stay out of it, and who of it may never run twice.
    fn try_without(
        project: &Project,
        observed: &Observation,
        references: &References,
        changes: &BTreeMap<String, Change>,
        in_place: &BTreeMap<String, String>,
    ) -> (BTreeSet<String>, Found) {
        let rolled = rolled_by_word(project, observed, changes);
        let moving: BTreeSet<String> = changed_services(changes)
            .into_iter()
            .filter(|name| !in_place.contains_key(name) && !rolled.contains(name))
            .collect();
        let noticed = references.iter().map(|(user, uses)| (user.clone(), uses - &rolled)).collect();
        let affected: BTreeSet<String> = references::affected(&noticed, &moving)
            .into_iter()
            .filter(|name| changes.contains_key(name) && !in_place.contains_key(name))
            .collect();
        // Only an entry service that serves now has traffic to keep; the first deploy of one needs no stand-in.
        let entries: BTreeSet<String> = affected
            .iter()
            .filter(|name| project.services[*name].is_entry() && observed.of_service(name).any(|c| c.running))
            .cloned()
            .collect();
        // But where an entry service is replaced itself, all that it uses moves with it, at one instant.
        let within = affected.union(&rolled).filter(|name| !in_place.contains_key(*name)).cloned().collect();
        let mut members = references::reachable(references, &entries, &within);
        let mut found = Found::default();
        for name in members.clone() {
            let service = &project.services[&name];
            let new = changes.get(&name) == Some(&Change::Missing);
            match doubling(service, project, observed) {
                Doubling::Allowed => {}
                // Nobody uses a new service yet: Compose makes it first, and both sides use that one.
                Doubling::Never(_) | Doubling::Undeclared(_) if new => {
                    members.remove(&name);
                }
                Doubling::Never(reason) => {
                    found.never.insert(name, reason);
                }
                Doubling::Undeclared(refusal) => found.refusals.push(refusal),
            }
        }
        // What Compose recreates together with a service in place goes down with it.
        for name in &members {
            let parents = project.services[name].recreated_with();
            if let Some(parent) = parents.iter().find(|parent| in_place.contains_key(*parent)) {
                found.never.insert(name.clone(), format!("Compose recreates it together with {parent}"));
            }
        }
        (members, found)
    }
}

#[derive(Default)]
struct Found {
    never: BTreeMap<String, String>,
    refusals: Vec<Refusal>,
}
