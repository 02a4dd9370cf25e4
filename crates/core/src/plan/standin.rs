//! The stand-in as a Compose document: a second copy of the group, in the new version, on the project's own networks.
//!
//! Made from the JSON that Compose printed, so that everything not named here stays as the user wrote it. Link aliases belong
//! to the container that has them: stand-ins see each other under the members' names, and everybody else goes on seeing the
//! real ones (**measured** on 20.10 and 28.5).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::compose::json::service_of_volumes_from;
use crate::compose::project::{Project, Service, announces};
use crate::observation::{LABEL_STANDIN_FOR, Observation};
use crate::plan::doubling::anonymous_paths;
use crate::settings::VolumeUse;

/// Compose project that the stand-in of a project runs as.
pub fn project_name(project: &str) -> String {
    format!("{project}-standin")
}

/// Name of a member's stand-in service. It differs from the member's, because Compose makes the service's name a network
/// alias and the networks are the project's own.
pub fn service_name(service: &str) -> String {
    format!("standin-{service}")
}

/// The Compose document for a group.
pub fn document(project: &Project, observed: &Observation, group: &BTreeSet<String>) -> Value {
    let mut used_networks = BTreeSet::new();
    let mut used_volumes = BTreeSet::new();
    let mut shared = BTreeMap::new();
    let mut services = Map::new();
    for name in group {
        let service = &project.services[name];
        used_networks.extend(service.networks.iter().cloned());
        used_volumes.extend(service.mounts.iter().filter_map(|mount| mount.source.clone()));
        let entry = member(service, project, observed, group, &mut shared);
        services.insert(service_name(name), Value::Object(entry));
    }
    let mut document = Map::new();
    document.insert("name".to_owned(), json!(project_name(&project.name)));
    document.insert("services".to_owned(), Value::Object(services));
    let networks = external(project.networks.iter().filter(|(key, _)| used_networks.contains(*key)));
    document.insert("networks".to_owned(), Value::Object(networks));
    let mut volumes = external(project.volumes.iter().filter(|(key, _)| used_volumes.contains(*key)));
    volumes.extend(shared.into_iter().map(|(name, volume)| (name, json!({"name": volume, "external": true}))));
    document.insert("volumes".to_owned(), Value::Object(volumes));
    for section in ["configs", "secrets"] {
        if let Some(entries) = project.document.get(section) {
            document.insert(section.to_owned(), entries.clone());
        }
    }
    Value::Object(document)
}

fn external<'a>(
    entries: impl Iterator<Item = (&'a String, &'a crate::compose::project::Resource)>,
) -> Map<String, Value> {
    entries.map(|(key, entry)| (key.clone(), json!({"name": doubled(&entry.name), "external": true}))).collect()
}

fn member(
    service: &Service,
    project: &Project,
    observed: &Observation,
    group: &BTreeSet<String>,
    shared: &mut BTreeMap<String, String>,
) -> Map<String, Value> {
    let mut raw = service.raw.clone();
    for key in
        ["build", "container_name", "profiles", "pull_policy", "depends_on", "links", "mac_address", "external_links"]
    {
        raw.shift_remove(key);
    }
    raw.insert("image".to_owned(), json!(doubled(&service.image)));
    drop_published(&mut raw);
    plain_networks(&mut raw);
    drop_announcements(&mut raw);
    raw.insert("labels".to_owned(), with_label(raw.get("labels"), &project.name));
    let depends_on: Map<String, Value> = service
        .depends_on
        .iter()
        .filter(|(name, _)| group.contains(*name))
        .map(|(name, dependency)| (service_name(name), json!({"condition": dependency.condition})))
        .collect();
    if !depends_on.is_empty() {
        raw.insert("depends_on".to_owned(), Value::Object(depends_on));
    }
    redirect_references(&mut raw, observed, group);
    if !service.networks.is_empty() {
        raw.insert("external_links".to_owned(), json!(links(service, project, observed, group)));
    }
    share_anonymous_volumes(&mut raw, service, project, observed, shared);
    raw
}

/// Leaves the choice of the host's port to the engine; the address on the host stays.
fn drop_published(raw: &mut Map<String, Value>) {
    if let Some(Value::Array(ports)) = raw.get_mut("ports") {
        for port in ports.iter_mut().filter_map(Value::as_object_mut) {
            port.shift_remove("published");
        }
    }
}

/// Aliases and fixed addresses belong to the real containers.
fn plain_networks(raw: &mut Map<String, Value>) {
    if let Some(Value::Object(networks)) = raw.get_mut("networks") {
        for network in networks.values_mut().filter_map(Value::as_object_mut) {
            for key in ["aliases", "ipv4_address", "ipv6_address", "link_local_ips", "mac_address"] {
                network.shift_remove(key);
            }
        }
    }
}

/// A copy with the same labels makes Traefik drop the route of the real one (**measured**: "defined multiple times", 404).
fn drop_announcements(raw: &mut Map<String, Value>) {
    if let Some(Value::Object(labels)) = raw.get_mut("labels") {
        labels.retain(|label, _| !announces(label));
    }
    if let Some(Value::Object(environment)) = raw.get_mut("environment") {
        environment.shift_remove("VIRTUAL_HOST");
    }
}

fn with_label(labels: Option<&Value>, project: &str) -> Value {
    let mut labels = labels.and_then(Value::as_object).cloned().unwrap_or_default();
    labels.insert(LABEL_STANDIN_FOR.to_owned(), json!(project));
    Value::Object(labels)
}

/// `service:x` and `volumes_from` lead to the stand-in of a member and to the running container of everything else.
fn redirect_references(raw: &mut Map<String, Value>, observed: &Observation, group: &BTreeSet<String>) {
    let ids = observed.first_container_ids();
    for key in ["network_mode", "ipc", "pid"] {
        let Some(name) = raw.get(key).and_then(Value::as_str).and_then(|mode| mode.strip_prefix("service:")) else {
            continue;
        };
        if group.contains(name) {
            raw.insert(key.to_owned(), json!(format!("service:{}", service_name(name))));
        } else if let Some(id) = ids.get(name) {
            raw.insert(key.to_owned(), json!(format!("container:{id}")));
        }
    }
    if let Some(Value::Array(entries)) = raw.get_mut("volumes_from") {
        for entry in entries {
            let Some(text) = entry.as_str() else { continue };
            let Some(name) = service_of_volumes_from(text) else {
                continue;
            };
            let suffix = text[name.len()..].to_owned();
            if group.contains(&name) {
                *entry = json!(format!("{}{suffix}", service_name(&name)));
            } else if let Some(id) = ids.get(&name) {
                *entry = json!(format!("container:{id}{suffix}"));
            }
        }
    }
}

/// What a member's stand-in calls others: every name of every member leads to that member's stand-in; links of the user's to
/// services outside the group lead to their containers. No name twice: Compose refuses that.
fn links(service: &Service, project: &Project, observed: &Observation, group: &BTreeSet<String>) -> Vec<String> {
    let mut by_alias: BTreeMap<String, String> = BTreeMap::new();
    let strings = |key: &str| {
        let list = service.raw.get(key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    for link in strings("external_links") {
        let (target, alias) = link.split_once(':').unwrap_or((&link, &link));
        by_alias.insert(alias.to_owned(), target.to_owned());
    }
    for link in strings("links") {
        let (target, alias) = link.split_once(':').unwrap_or((&link, &link));
        let container = observed.of_service(target).next();
        match container {
            _ if group.contains(target) => {
                by_alias.insert(alias.to_owned(), service_name(target));
            }
            Some(container) => {
                by_alias.insert(alias.to_owned(), container.name.clone());
            }
            None => {}
        }
    }
    for name in group {
        for alias in names_of(&project.services[name], project) {
            by_alias.insert(alias, service_name(name));
        }
    }
    by_alias.into_iter().map(|(alias, target)| format!("{target}:{alias}")).collect()
}

/// Every name under which containers on the project's networks can call a service.
pub fn names_of(service: &Service, project: &Project) -> BTreeSet<String> {
    let mut names = BTreeSet::from([service.name.clone()]);
    names.extend(service.container_name.clone());
    for number in 1..=service.replicas {
        for separator in ['-', '_'] {
            names.insert(format!("{}{separator}{}{separator}{number}", project.name, service.name));
        }
    }
    let networks = service.raw.get("networks").and_then(Value::as_object);
    for network in networks.into_iter().flat_map(Map::values) {
        let aliases = network.get("aliases").and_then(Value::as_array);
        names.extend(aliases.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
    }
    names
}

fn share_anonymous_volumes(
    raw: &mut Map<String, Value>,
    service: &Service,
    project: &Project,
    observed: &Observation,
    shared: &mut BTreeMap<String, String>,
) {
    let paths = anonymous_paths(service, project, observed, Some(VolumeUse::Share));
    let Some(container) = observed.of_service(&service.name).next() else {
        return;
    };
    for path in paths {
        let Some(mount) = container.mounts.iter().find(|mount| mount.kind == "volume" && mount.target == path) else {
            continue;
        };
        let key = format!("standin-shared-{}", shared.len());
        shared.insert(key.clone(), mount.volume.clone());
        let entry = json!({"type": "volume", "source": key, "target": doubled(&path)});
        match raw.get_mut("volumes") {
            Some(Value::Array(volumes)) => {
                volumes.retain(|volume| volume.get("target") != entry.get("target"));
                volumes.push(entry);
            }
            _ => {
                raw.insert("volumes".to_owned(), json!([entry]));
            }
        }
    }
}

/// Compose reads `$$` as `$`.
fn doubled(text: &str) -> String {
    text.replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Container, ContainerMount};

    fn project(json: &str) -> Project {
        Project::parse(json, "", '-').expect("the project parses")
    }

    fn group(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn members_are_renamed_stripped_and_see_each_other_by_every_name() {
        let project = project(
            r#"{"name":"shop","services":{
              "web":{"image":"w:2","container_name":"front","command":null,
                "depends_on":{"app":{"condition":"service_started"},"db":{"condition":"service_started"}},
                "labels":{"traefik.enable":"true","mine":"1"},
                "networks":{"default":{"aliases":["www"],"ipv4_address":"10.0.0.9"}},
                "ports":[{"mode":"ingress","target":80,"published":"8080","protocol":"tcp","host_ip":"127.0.0.1"}]},
              "app":{"build":{"context":"."},"networks":{"default":null},"profiles":["x"]},
              "db":{"image":"db","networks":{"default":null}}},
             "networks":{"default":{"name":"shop_default"}}}"#,
        );
        let document = document(&project, &Observation::default(), &group(&["web", "app"]));
        let web = &document["services"]["standin-web"];
        assert_eq!(web["ports"], json!([{"mode":"ingress","target":80,"protocol":"tcp","host_ip":"127.0.0.1"}]));
        assert_eq!(web["depends_on"], json!({"standin-app":{"condition":"service_started"}}));
        assert_eq!(web["networks"], json!({"default":{}}));
        assert_eq!(web["labels"], json!({"mine":"1","handover.standin-for":"shop"}));
        assert!(web.get("container_name").is_none());
        assert_eq!(
            web["external_links"],
            json!([
                "standin-app:app",
                "standin-web:front",
                "standin-app:shop-app-1",
                "standin-web:shop-web-1",
                "standin-app:shop_app_1",
                "standin-web:shop_web_1",
                "standin-web:web",
                "standin-web:www"
            ])
        );
        let app = &document["services"]["standin-app"];
        assert_eq!(app["image"], "shop-app");
        assert!(app.get("build").is_none() && app.get("profiles").is_none());
        assert_eq!(document["networks"], json!({"default":{"name":"shop_default","external":true}}));
    }

    #[test]
    fn what_is_outside_the_group_is_reached_by_its_container() {
        let project = project(
            r#"{"name":"p","services":{
              "web":{"image":"w","volumes_from":["code:ro","app"],"links":["db:database"],"networks":{"default":null}},
              "app":{"image":"a","networks":{"default":null}},
              "code":{"image":"c"},"db":{"image":"d"}}}"#,
        );
        let observed = Observation {
            containers: vec![
                Container { id: "c0de".into(), name: "p-code-1".into(), service: "code".into(), ..Default::default() },
                Container { id: "db00".into(), name: "p-db-1".into(), service: "db".into(), ..Default::default() },
            ],
            ..Default::default()
        };
        let document = document(&project, &observed, &group(&["web", "app"]));
        let web = &document["services"]["standin-web"];
        assert_eq!(web["volumes_from"], json!(["container:c0de:ro", "standin-app"]));
        assert!(web["external_links"].as_array().unwrap().contains(&json!("p-db-1:database")));
    }

    #[test]
    fn a_shared_anonymous_volume_is_mounted_in_both_copies() {
        let project = project(
            r#"{"name":"p","services":{"web":{"image":"w","volumes":[{"type":"volume","target":"/up"}]}},
                "x-handover":{"services":{"web":{"volumes":"share"}}}}"#,
        );
        let mount = ContainerMount { kind: "volume".into(), volume: "0123".into(), target: "/up".into() };
        let container = Container { service: "web".into(), mounts: vec![mount], ..Default::default() };
        let observed = Observation { containers: vec![container], ..Default::default() };
        let document = document(&project, &observed, &group(&["web"]));
        assert_eq!(
            document["services"]["standin-web"]["volumes"],
            json!([{"type":"volume","source":"standin-shared-0","target":"/up"}])
        );
        assert_eq!(document["volumes"]["standin-shared-0"], json!({"name":"0123","external":true}));
    }
}
