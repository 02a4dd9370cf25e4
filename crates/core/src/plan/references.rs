//! Which service passes requests to which, and what is affected when some change.

use std::collections::{BTreeMap, BTreeSet};

use crate::compose::project::{Project, Service};

/// Who refers to whom: for each service the services that it uses.
pub type References = BTreeMap<String, BTreeSet<String>>;

/// References as written: `depends_on` (where Compose adds links, volumes_from and shared namespaces itself), `fronts` and
/// `router`.
pub fn declared(project: &Project) -> References {
    project
        .services
        .values()
        .map(|service| {
            let mut uses: BTreeSet<String> = service.depends_on.keys().cloned().collect();
            uses.extend(project.settings.service(&service.name).fronts);
            uses.extend(project.settings.routed_by(&service.name).map(str::to_owned));
            uses.retain(|name| project.services.contains_key(name) && *name != service.name);
            (service.name.clone(), uses)
        })
        .collect()
}

/// Adds, for each changed service that publishes nothing, that no service refers to and that no proxy finds by itself, the
/// entry services on a common network: they are taken to front it, unless they are proxies that find others by what those
/// announce. Returns what was added as (service, entry services).
pub fn add_fronted(
    references: &mut References,
    project: &Project,
    changed: &BTreeSet<String>,
) -> Vec<(String, Vec<String>)> {
    let mut added = Vec::new();
    for name in changed {
        let Some(service) = project.services.get(name) else {
            continue;
        };
        let referred = references.values().any(|uses| uses.contains(name));
        if service.is_entry() || referred || service.announcement().is_some() {
            continue;
        }
        let fronts: Vec<String> = project
            .services
            .values()
            .filter(|entry| entry.is_entry() && known_database(&entry.image).is_none() && !finds_announced(entry))
            .filter(|entry| share_network(entry, service))
            .map(|entry| entry.name.clone())
            .collect();
        for entry in &fronts {
            references.entry(entry.clone()).or_default().insert(name.clone());
        }
        if !fronts.is_empty() {
            added.push((name.clone(), fronts));
        }
    }
    added
}

/// `from` and everything that refers to one of them, transitively.
pub fn affected(references: &References, from: &BTreeSet<String>) -> BTreeSet<String> {
    closure(from, |name| {
        references.iter().filter(|(_, uses)| uses.contains(name)).map(|(user, _)| user.clone()).collect()
    })
}

/// `from` and everything that they use, transitively, through services that `within` holds.
pub fn reachable(references: &References, from: &BTreeSet<String>, within: &BTreeSet<String>) -> BTreeSet<String> {
    closure(from, |name| {
        references.get(name).into_iter().flatten().filter(|used| within.contains(*used)).cloned().collect()
    })
}

/// The members of a group front to back: entry services, then what they use, each tier after all that use it.
///
/// **measured**: containers stopped in any other order cost 502s.
pub fn front_to_back(
    references: &References,
    group: &BTreeSet<String>,
    entries: &BTreeSet<String>,
) -> Vec<Vec<String>> {
    let mut depth: BTreeMap<&String, usize> =
        group.iter().map(|name| (name, usize::from(!entries.contains(name)))).collect();
    // As many rounds as members settle every chain; a cycle through `fronts` ends there too.
    for _ in 0..group.len() {
        for user in group {
            let below = depth[user] + 1;
            for used in references.get(user).into_iter().flatten() {
                if let Some(have) = depth.get_mut(used).filter(|_| !entries.contains(used)) {
                    *have = (*have).max(below.min(group.len()));
                }
            }
        }
    }
    let mut tiers: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (name, tier) in depth {
        tiers.entry(tier).or_default().push(name.clone());
    }
    tiers.into_values().collect()
}

/// The database or cache that an image name speaks of, if it does.
pub fn known_database(image: &str) -> Option<&'static str> {
    const KNOWN: [&str; 18] = [
        "postgres",
        "postgis",
        "timescale",
        "mysql",
        "mariadb",
        "percona",
        "mongo",
        "redis",
        "valkey",
        "memcached",
        "elasticsearch",
        "opensearch",
        "rabbitmq",
        "influxdb",
        "clickhouse",
        "cassandra",
        "couchdb",
        "minio",
    ];
    let without_tag = image.rsplit('/').next().unwrap_or(image).split([':', '@']).next().unwrap_or(image);
    KNOWN.into_iter().find(|name| without_tag.contains(name))
}

/// Whether a service is a proxy that finds others by what they announce: it reads the engine's socket.
fn finds_announced(service: &Service) -> bool {
    service.mounts.iter().any(|mount| mount.target.ends_with("docker.sock"))
}

fn share_network(a: &Service, b: &Service) -> bool {
    a.networks.iter().any(|network| b.networks.contains(network))
}

fn closure(from: &BTreeSet<String>, next: impl Fn(&String) -> Vec<String>) -> BTreeSet<String> {
    let mut seen = from.clone();
    let mut open: Vec<String> = from.iter().cloned().collect();
    while let Some(name) = open.pop() {
        for other in next(&name) {
            if seen.insert(other.clone()) {
                open.push(other);
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(pairs: &[(&str, &[&str])]) -> References {
        pairs.iter().map(|(user, uses)| ((*user).to_owned(), set(uses))).collect()
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn users_of_users_are_affected_and_what_they_use_besides_is_not() {
        let references = references(&[("nginx", &["php", "ws"]), ("php", &["code"]), ("ws", &["redis"])]);
        assert_eq!(affected(&references, &set(&["code"])), set(&["code", "php", "nginx"]));
    }

    #[test]
    fn the_group_is_reached_through_affected_services_only() {
        let references = references(&[("nginx", &["php", "redis"]), ("php", &["code"])]);
        let within = set(&["nginx", "php", "code"]);
        assert_eq!(reachable(&references, &set(&["nginx"]), &within), within);
    }

    #[test]
    fn tiers_run_from_the_entries_to_what_everything_uses() {
        let references = references(&[("nginx", &["php", "ws"]), ("ws", &["php"]), ("php", &["code"])]);
        let tiers = front_to_back(&references, &set(&["nginx", "ws", "php", "code"]), &set(&["nginx", "ws"]));
        assert_eq!(tiers, [vec!["nginx".to_owned(), "ws".to_owned()], vec!["php".to_owned()], vec!["code".to_owned()]]);
    }

    #[test]
    fn a_cycle_of_references_still_gives_tiers() {
        let references = references(&[("web", &["a"]), ("a", &["b"]), ("b", &["a"])]);
        let tiers = front_to_back(&references, &set(&["web", "a", "b"]), &set(&["web"]));
        assert_eq!(tiers.iter().flatten().count(), 3);
        assert_eq!(tiers[0], ["web"]);
    }

    #[test]
    fn databases_are_known_by_the_name_of_their_image() {
        assert_eq!(known_database("library/postgres:16"), Some("postgres"));
        assert_eq!(known_database("127.0.0.1:5000/redis"), Some("redis"));
        assert_eq!(known_database("shop/web:redis-fix"), None);
    }
}
