//! Volumes of code carriers that others mount by `volumes_from`, and that nobody may mount after the deploy.

use std::collections::{BTreeMap, BTreeSet};

use crate::compose::json::service_of_volumes_from;
use crate::compose::project::{Project, Service};
use crate::observation::Observation;
use crate::plan::change::Change;
use crate::plan::doubling::anonymous_paths;
use crate::settings::VolumeUse;

/// The volumes that containers which Compose recreates have from services with `volumes: renew`. Where such a service was renewed
/// in an earlier deploy that left its users alone, they are the last to mount its old volumes.
pub(super) fn inherited_code(
    project: &Project,
    observed: &Observation,
    changes: &BTreeMap<String, Change>,
) -> BTreeSet<String> {
    let changed = changes.iter().filter(|(_, change)| matches!(change, Change::Changed(_))).map(|(name, _)| name);
    let mut volumes = BTreeSet::new();
    for name in changed {
        let owners = owners(&project.services[name], project);
        let renewed: Vec<String> = owners
            .iter()
            .flat_map(|owner| anonymous_paths(&project.services[owner], project, observed, Some(VolumeUse::Renew)))
            .collect();
        let mounts = observed.of_service(name).flat_map(|container| &container.mounts);
        let code = mounts.filter(|mount| mount.is_anonymous_volume() && renewed.contains(&mount.target));
        volumes.extend(code.map(|mount| mount.volume.clone()));
    }
    volumes
}

/// The services whose volumes a service mounts, through every chain.
fn owners(service: &Service, project: &Project) -> BTreeSet<String> {
    let mut owners = BTreeSet::new();
    let mut open = vec![service];
    while let Some(service) = open.pop() {
        for name in service.volumes_from.iter().filter_map(|entry| service_of_volumes_from(entry)) {
            if let Some(owner) = project.services.get(&name)
                && owners.insert(name)
            {
                open.push(owner);
            }
        }
    }
    owners
}
