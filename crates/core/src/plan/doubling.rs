//! May a service run twice for some seconds? Two copies on one data directory may corrupt it, so without a word from the
//! user nothing that keeps state is doubled.

use std::collections::BTreeSet;

use crate::compose::json::service_of_volumes_from;
use crate::compose::project::{Project, Service};
use crate::compose::update_config::Order;
use crate::observation::Observation;
use crate::plan::evidence::{MountSeen, answers, words};
use crate::plan::references::known_database;
use crate::plan::{Refusal, RefusalKind};
use crate::settings::{Strategy, VolumeUse};

/// The answer for one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubling {
    /// It may.
    Allowed,
    /// It may not, and the user or the compose file says so, or nothing can be done about it: it is restarted in place.
    Never(String),
    /// It keeps state and nobody has said what two copies may do with it.
    Undeclared(Refusal),
}

/// A place that outlives the container and that it can write to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    /// Key of a volume or path on the host; none for an anonymous volume.
    source: Option<String>,
    /// Path in the container.
    target: String,
    /// What it is, in words.
    what: String,
    anonymous: bool,
}

/// Decides for one service.
pub fn doubling(service: &Service, project: &Project, observed: &Observation) -> Doubling {
    let settings = project.settings.service(&service.name);
    if settings.strategy == Some(Strategy::InPlace) {
        return Doubling::Never("x-handover says strategy: in-place".to_owned());
    }
    if let Some(reason) = cannot_run_twice(service) {
        return Doubling::Never(reason);
    }
    for state in states(service, project, observed) {
        if settings.volumes.word_on(state.source.as_deref(), &state.target) == Some(VolumeUse::Own) {
            return Doubling::Never(format!("x-handover says volumes: own ({})", state.what));
        }
    }
    let undeclared = undeclared(service, project, observed);
    if undeclared.is_empty() { Doubling::Allowed } else { Doubling::Undeclared(refusal(service, &undeclared, &[])) }
}

/// Paths in the service's containers that a refusal of [`doubling`] asks for a word on; none for other refusals.
pub fn paths_asked_about(refusal: &Refusal, project: &Project, observed: &Observation) -> Vec<String> {
    let service = refusal.service.as_ref().and_then(|name| project.services.get(name));
    let Some(service) = service.filter(|one| doubling(one, project, observed) == Doubling::Undeclared(refusal.clone()))
    else {
        return Vec::new();
    };
    undeclared(service, project, observed).into_iter().map(|state| state.target).collect()
}

/// The same refusal of [`doubling`] with what was seen below these paths, and the likelier answer first.
pub fn with_evidence(refusal: &Refusal, project: &Project, observed: &Observation, seen: &[MountSeen]) -> Refusal {
    let service = refusal.service.as_ref().and_then(|name| project.services.get(name));
    service.map_or_else(
        || refusal.clone(),
        |service| self::refusal(service, &undeclared(service, project, observed), seen),
    )
}

fn undeclared(service: &Service, project: &Project, observed: &Observation) -> Vec<State> {
    let volumes = &project.settings.service(&service.name).volumes;
    let mut states = states(service, project, observed);
    states.retain(|state| volumes.word_on(state.source.as_deref(), &state.target).is_none());
    states
}

/// Paths of the service in anonymous volumes on which the user's word is `word` (`None`: no word, and Compose carries the
/// volume over on recreation, so that new image content under it stays hidden).
pub fn anonymous_paths(
    service: &Service,
    project: &Project,
    observed: &Observation,
    word: Option<VolumeUse>,
) -> Vec<String> {
    let volumes = project.settings.service(&service.name).volumes;
    states(service, project, observed)
        .into_iter()
        .filter(|state| state.anonymous && volumes.word_on(None, &state.target) == word)
        .map(|state| state.target)
        .collect()
}

fn cannot_run_twice(service: &Service) -> Option<String> {
    if service.update.order == Some(Order::StopFirst) {
        return Some("deploy.update_config.order is stop-first".to_owned());
    }
    if let Some(mode) = service.network_mode.as_deref().filter(|mode| !mode.starts_with("service:") && *mode != "none")
    {
        return Some(format!("network_mode: {mode} cannot be doubled"));
    }
    service.host_namespaces.first().map(|key| format!("{key}: host cannot be doubled"))
}

fn states(service: &Service, project: &Project, observed: &Observation) -> Vec<State> {
    let mut states = Vec::new();
    let mut covered: BTreeSet<String> = tmpfs_paths(service);
    for mount in &service.mounts {
        covered.insert(mount.target.clone());
        if mount.read_only {
            continue;
        }
        match (mount.kind.as_str(), &mount.source) {
            ("volume", Some(key)) => states.push(State {
                source: Some(key.clone()),
                target: mount.target.clone(),
                what: format!("volume {key} at {}", mount.target),
                anonymous: false,
            }),
            ("volume", None) => states.push(anonymous(&mount.target, "an anonymous volume")),
            ("bind", Some(path)) => {
                let file = observed.bound_files.contains(&(service.name.clone(), mount.target.clone()));
                if !file && !looks_like_file(path) {
                    states.push(State {
                        source: Some(path.clone()),
                        target: mount.target.clone(),
                        what: format!("directory {path} at {}", mount.target),
                        anonymous: false,
                    });
                }
            }
            _ => {}
        }
    }
    covered.extend(inherited_paths(service, project, observed, 0));
    for path in observed.images.get(&service.image).map(|image| &image.volumes).into_iter().flatten() {
        if !covered.contains(path) {
            states.push(anonymous(path, "VOLUME of its image"));
        }
    }
    states
}

fn anonymous(path: &str, what: &str) -> State {
    State { source: None, target: path.to_owned(), what: format!("{what} at {path}"), anonymous: true }
}

/// Paths that come from other services by `volumes_from`: the word on them is asked of their owner.
fn inherited_paths(service: &Service, project: &Project, observed: &Observation, depth: usize) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    // Compose refuses cycles; the bound only keeps a wrong document from recursing for ever.
    if depth > project.services.len() {
        return paths;
    }
    let owners = service.volumes_from.iter().filter_map(|entry| service_of_volumes_from(entry));
    for owner in owners.filter_map(|name| project.services.get(&name)) {
        paths.extend(owner.mounts.iter().map(|mount| mount.target.clone()));
        paths.extend(observed.images.get(&owner.image).map(|image| &image.volumes).into_iter().flatten().cloned());
        paths.extend(inherited_paths(owner, project, observed, depth + 1));
    }
    paths
}

fn tmpfs_paths(service: &Service) -> BTreeSet<String> {
    let list = service.raw.get("tmpfs").and_then(serde_json::Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|entry| entry.as_str())
        .filter_map(|entry| entry.split(':').next())
        .map(str::to_owned)
        .collect()
}

/// Where nothing is known of a path on the host: sockets and names with an ending are files.
fn looks_like_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.trim_start_matches('.').contains('.') && !name.ends_with(".d")
}

fn refusal(service: &Service, undeclared: &[State], seen: &[MountSeen]) -> Refusal {
    let name = &service.name;
    let what = undeclared.iter().map(|state| state.what.as_str()).collect::<Vec<_>>().join(", ");
    let mut why = format!("it writes to {what}, and two copies at once may corrupt that");
    let database = known_database(&service.image);
    if let Some(database) = database {
        why.push_str(&format!(" (its image looks like {database}: two of them must not share one data directory)"));
    }
    // A named volume was given a name because it is to be kept.
    let anonymous = |target: &str| undeclared.iter().any(|state| state.anonymous && state.target == target);
    let mut seen = seen.to_vec();
    seen.iter_mut().for_each(|mount| mount.never_written &= anonymous(&mount.target));
    if !seen.is_empty() {
        why.push_str(&format!("\nseen now: {}", words(&seen)));
    }
    let mut hint = "say what may be done with it, in the compose file:\n  x-handover:\n    services:".to_owned();
    for answer in answers(&seen, database.is_some(), undeclared.iter().any(|state| state.anonymous)) {
        let (word, meaning) = match answer {
            VolumeUse::Share => ("share", "two copies may use it for some seconds (uploads, caches, certificates)"),
            VolumeUse::Own => ("own", "never two: restarted in place, which interrupts it"),
            VolumeUse::Renew => ("renew", "only code from the image: made anew at each deploy"),
        };
        let line = format!("{name}: {{ volumes: {word} }}");
        hint.push_str(&format!("\n      {line:width$}   # {meaning}", width = name.len() + 20));
    }
    Refusal {
        kind: RefusalKind::Consent,
        service: Some(name.clone()),
        what: "cannot be doubled without your word".to_owned(),
        why,
        hint,
    }
}
