//! The project as Compose resolved it: the JSON of `docker compose config`, read into what decisions need.
//!
//! The raw JSON is kept beside the typed view: hashes and the stand-in are made from it, key by key as it came.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::compose::config_hash::Hashes;
use crate::compose::json::{service_of_volumes_from, single_dollars};
use crate::compose::update_config::{UpdateConfig, WireUpdateConfig};
use crate::net::Protocol;
use crate::settings::{Settings, SettingsError};

/// A resolved Compose project.
#[derive(Clone, Debug)]
pub struct Project {
    /// Project name, as Compose derived it.
    pub name: String,
    /// The enabled services by name.
    pub services: BTreeMap<String, Service>,
    /// Networks by key.
    pub networks: BTreeMap<String, Resource>,
    /// Named volumes by key.
    pub volumes: BTreeMap<String, Resource>,
    /// The settings under `x-handover`.
    pub settings: Settings,
    /// The hashes that Compose would write on its containers.
    pub hashes: Hashes,
    /// What Compose puts between the parts of a container's name.
    pub separator: char,
    /// The whole document as Compose printed it, with every `$` still doubled.
    pub document: Map<String, Value>,
}

/// One service of the project.
#[derive(Clone, Debug)]
pub struct Service {
    /// Key of the service.
    pub name: String,
    /// Image reference that its containers run; for a service with only `build`, the name Compose gives the image.
    pub image: String,
    /// Whether Compose can build the image.
    pub has_build: bool,
    /// `pull_policy`, if written.
    pub pull_policy: Option<String>,
    /// `platform`, if written.
    pub platform: Option<String>,
    /// `container_name`, if written.
    pub container_name: Option<String>,
    /// How many containers Compose keeps.
    pub replicas: u32,
    /// Published ports.
    pub ports: Vec<Port>,
    /// Ports under `expose`, TCP and UDP.
    pub expose: Vec<(u16, Protocol)>,
    /// Services named under `depends_on` (Compose adds links, volumes_from and namespaces of services there).
    pub depends_on: BTreeMap<String, Dependency>,
    /// Keys of the networks it joins.
    pub networks: Vec<String>,
    /// `network_mode`, if written.
    pub network_mode: Option<String>,
    /// Whether it uses the host's PID, IPC or UTS namespace.
    pub host_namespaces: Vec<&'static str>,
    /// Mounts under `volumes`.
    pub mounts: Vec<Mount>,
    /// Entries of `volumes_from`.
    pub volumes_from: Vec<String>,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// Names of its environment variables.
    pub environment: Vec<String>,
    /// `deploy.update_config`.
    pub update: UpdateConfig,
    /// `deploy.rollback_config`: how containers go back that were replaced.
    pub rollback: UpdateConfig,
    /// The service as Compose printed it, with every `$` still doubled.
    pub raw: Map<String, Value>,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Protocol.
    pub protocol: Protocol,
    /// Address that it is published on; `None` is every address, `0.0.0.0` every IPv4 address.
    pub host_ip: Option<IpAddr>,
    /// The fixed port on the host; `None` when the engine is to choose one.
    pub published: Option<u16>,
    /// Port inside the container.
    pub target: u16,
}

/// As people write it: `80`, `127.0.0.1:53/udp`.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            None => {}
        }
        match self.published {
            Some(number) => write!(f, "{number}")?,
            None => write!(f, "any->{}", self.target)?,
        }
        f.write_str(if self.protocol == Protocol::Udp { "/udp" } else { "" })
    }
}

/// How a service depends on another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// `service_started`, `service_healthy` or `service_completed_successfully`.
    pub condition: String,
    /// Whether Compose restarts the dependent service when it recreates the other.
    pub restart: bool,
}

/// A mount as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `volume`, `bind`, `tmpfs`, …
    pub kind: String,
    /// Key of the volume or path on the host; `None` for an anonymous volume.
    pub source: Option<String>,
    /// Path inside the container.
    pub target: String,
    /// Whether it is mounted read-only.
    pub read_only: bool,
}

/// A network or volume of the project.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Name in the engine.
    pub name: String,
    /// Whether it is made outside the project.
    pub external: bool,
    /// The entry as Compose printed it.
    pub raw: Map<String, Value>,
}

/// Why the JSON of `docker compose config` could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// Not what Compose prints.
    #[error("the project that Compose printed is not understood: {what}")]
    Unreadable {
        /// Where and why.
        what: String,
    },
    /// The settings under `x-handover` are wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

impl Project {
    /// Reads the JSON of `docker compose config --format json`.
    ///
    /// `hashes` is the output of `docker compose config --hash '*'`.
    /// `separator` stands between project, service and number in default names: `-`, or `_` with `COMPOSE_COMPATIBILITY`.
    pub fn parse(json: &str, hashes: &str, separator: char) -> Result<Self, ProjectError> {
        let document: Map<String, Value> = serde_json::from_str(json).map_err(unreadable("document"))?;
        let wire: WireProject =
            serde_json::from_value(single_dollars(&Value::Object(document.clone()))).map_err(unreadable("project"))?;
        let mut services = BTreeMap::new();
        for (name, value) in wire.services {
            let service: WireService = serde_json::from_value(value).map_err(unreadable(&format!("service {name}")))?;
            let raw = raw_entry(&document, "services", &name);
            let service = service.into_service(&name, &wire.name, separator, raw)?;
            services.insert(name, service);
        }
        let settings = Settings::parse(wire.settings.as_ref(), &services.keys().cloned().collect::<Vec<_>>())?;
        let raw_services = document.get("services").and_then(Value::as_object).cloned().unwrap_or_default();
        Ok(Self {
            hashes: Hashes::new(hashes, &raw_services),
            networks: resources(&document, "networks", wire.networks),
            volumes: resources(&document, "volumes", wire.volumes),
            name: wire.name,
            services,
            settings,
            separator,
            document,
        })
    }
}

impl Service {
    /// Published ports with a fixed number on the host: what makes a service an entry service.
    pub fn fixed_ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter().filter(|port| port.published.is_some())
    }

    /// Whether it publishes fixed ports.
    pub fn is_entry(&self) -> bool {
        self.fixed_ports().next().is_some()
    }

    /// Every port that it exposes, publishes or announces, once each.
    pub fn served_ports(&self) -> Vec<(u16, Protocol)> {
        let mut ports: Vec<_> =
            self.ports.iter().map(|port| (port.target, port.protocol)).chain(self.expose.iter().copied()).collect();
        ports.extend(self.announced_ports().into_iter().map(|port| (port, Protocol::Tcp)));
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// The label, variable or setting by which a proxy finds this service, if there is one: it is *announced*.
    pub fn announcement(&self) -> Option<String> {
        let label = self.labels.iter().find(|label| announces(label));
        if let Some(label) = label {
            return Some(format!("label {label}"));
        }
        self.environment.iter().find(|name| *name == "VIRTUAL_HOST").map(|name| format!("variable {name}"))
    }

    /// The ports that a proxy is told to call, by label or variable.
    fn announced_ports(&self) -> Vec<u16> {
        let section = |key: &str| self.raw.get(key).and_then(Value::as_object).into_iter().flatten();
        let labels = section("labels").filter_map(|(label, value)| match (label.as_str(), value.as_str()?) {
            (label, port) if label.starts_with("traefik.") && label.ends_with(".loadbalancer.server.port") => {
                Some(port)
            }
            // caddy-docker-proxy: `reverse_proxy: "{{upstreams 80}}"`.
            (label, text) if label.starts_with("caddy") => {
                text.split_once("{{upstreams")?.1.split_once("}}").map(|it| it.0)
            }
            _ => None,
        });
        let variables = section("environment").filter(|(name, _)| *name == "VIRTUAL_PORT");
        let values = labels.chain(variables.filter_map(|(_, value)| value.as_str()));
        values.filter_map(|text| text.split_whitespace().next_back()?.parse().ok()).collect()
    }

    /// Service named by `network_mode`, `ipc` or `pid`: `service:x`, or whose volumes it mounts: Compose recreates this
    /// one whenever that one is recreated.
    pub fn recreated_with(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.volumes_from.iter().filter_map(|entry| service_of_volumes_from(entry)).collect();
        for key in ["network_mode", "ipc", "pid"] {
            if let Some(name) = self.raw.get(key).and_then(Value::as_str).and_then(|mode| mode.strip_prefix("service:"))
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        names.dedup();
        names
    }
}

/// Whether a label is one by which Traefik or Caddy finds containers.
pub(crate) fn announces(label: &str) -> bool {
    label.starts_with("traefik.") || label == "caddy" || label.starts_with("caddy.") || label.starts_with("caddy_")
}

fn unreadable<E: std::fmt::Display>(place: &str) -> impl Fn(E) -> ProjectError {
    let place = place.to_owned();
    move |error| ProjectError::Unreadable { what: format!("{place}: {error}") }
}

fn raw_entry(document: &Map<String, Value>, section: &str, key: &str) -> Map<String, Value> {
    document.get(section).and_then(|entries| entries.get(key)).and_then(Value::as_object).cloned().unwrap_or_default()
}

fn resources(
    document: &Map<String, Value>,
    section: &str,
    entries: BTreeMap<String, Option<WireResource>>,
) -> BTreeMap<String, Resource> {
    entries
        .into_iter()
        .map(|(key, wire)| {
            let wire = wire.unwrap_or_default();
            let raw = raw_entry(document, section, &key);
            (key.clone(), Resource { name: wire.name.unwrap_or(key), external: wire.external, raw })
        })
        .collect()
}

#[derive(Deserialize)]
struct WireProject {
    name: String,
    #[serde(default)]
    services: BTreeMap<String, Value>,
    #[serde(default)]
    networks: BTreeMap<String, Option<WireResource>>,
    #[serde(default)]
    volumes: BTreeMap<String, Option<WireResource>>,
    #[serde(default, rename = "x-handover")]
    settings: Option<Value>,
}

#[derive(Deserialize, Default)]
struct WireResource {
    name: Option<String>,
    #[serde(default)]
    external: bool,
}

#[derive(Deserialize)]
struct WireService {
    image: Option<String>,
    build: Option<Value>,
    pull_policy: Option<String>,
    platform: Option<String>,
    container_name: Option<String>,
    scale: Option<u32>,
    #[serde(default)]
    ports: Vec<WirePort>,
    #[serde(default)]
    expose: Vec<Value>,
    #[serde(default)]
    depends_on: BTreeMap<String, WireDependency>,
    networks: Option<BTreeMap<String, Value>>,
    network_mode: Option<String>,
    pid: Option<String>,
    ipc: Option<String>,
    uts: Option<String>,
    #[serde(default)]
    volumes: Vec<WireMount>,
    #[serde(default)]
    volumes_from: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, Value>,
    #[serde(default)]
    environment: BTreeMap<String, Value>,
    deploy: Option<WireDeploy>,
}

#[derive(Deserialize)]
struct WireDependency {
    #[serde(default)]
    condition: String,
    #[serde(default)]
    restart: bool,
}

#[derive(Deserialize)]
struct WirePort {
    host_ip: Option<String>,
    target: u16,
    published: Option<Value>,
    #[serde(default)]
    protocol: Option<String>,
}

#[derive(Deserialize)]
struct WireMount {
    #[serde(rename = "type")]
    kind: String,
    source: Option<String>,
    target: String,
    #[serde(default)]
    read_only: bool,
}

#[derive(Deserialize, Default)]
struct WireDeploy {
    replicas: Option<u32>,
    update_config: Option<WireUpdateConfig>,
    rollback_config: Option<WireUpdateConfig>,
}

impl WireService {
    fn into_service(
        self,
        name: &str,
        project: &str,
        separator: char,
        raw: Map<String, Value>,
    ) -> Result<Service, ProjectError> {
        let host_namespaces = [("pid", &self.pid), ("ipc", &self.ipc), ("uts", &self.uts)]
            .into_iter()
            .filter(|(_, mode)| mode.as_deref() == Some("host"))
            .map(|(key, _)| key)
            .collect();
        let mut ports = Vec::new();
        for port in self.ports {
            ports.push(port.into_port(name)?);
        }
        let deploy = self.deploy.unwrap_or_default();
        Ok(Service {
            name: name.to_owned(),
            image: self.image.unwrap_or_else(|| format!("{project}{separator}{name}")),
            has_build: self.build.is_some(),
            pull_policy: self.pull_policy,
            platform: self.platform,
            container_name: self.container_name,
            replicas: deploy.replicas.or(self.scale).unwrap_or(1),
            ports,
            expose: self.expose.iter().filter_map(exposed_port).collect(),
            depends_on: self
                .depends_on
                .into_iter()
                .map(|(service, wire)| (service, Dependency { condition: wire.condition, restart: wire.restart }))
                .collect(),
            networks: self.networks.map(|networks| networks.into_keys().collect()).unwrap_or_default(),
            network_mode: self.network_mode,
            host_namespaces,
            mounts: self
                .volumes
                .into_iter()
                .map(|wire| Mount {
                    kind: wire.kind,
                    source: wire.source.filter(|source| !source.is_empty()),
                    target: wire.target,
                    read_only: wire.read_only,
                })
                .collect(),
            volumes_from: self.volumes_from,
            labels: self.labels.into_keys().collect(),
            environment: self.environment.into_keys().collect(),
            update: deploy.update_config.map(UpdateConfig::from).unwrap_or_default(),
            rollback: deploy.rollback_config.map(UpdateConfig::from).unwrap_or_default(),
            raw,
        })
    }
}

impl WirePort {
    fn into_port(self, service: &str) -> Result<Port, ProjectError> {
        let protocol = match self.protocol.as_deref() {
            Some("udp") => Protocol::Udp,
            None | Some("tcp" | "") => Protocol::Tcp,
            Some(other) => {
                return Err(ProjectError::Unreadable {
                    what: format!(
                        "service {service}: port {} has protocol {other}; tcp and udp can be led",
                        self.target
                    ),
                });
            }
        };
        // A range stays open: the engine chooses in it, so nothing outside can count on one number.
        let published = self.published.as_ref().and_then(|value| match value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.to_string().parse().ok(),
            _ => None,
        });
        let host_ip = self.host_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
        Ok(Port { protocol, host_ip, published: published.filter(|port| *port != 0), target: self.target })
    }
}

fn exposed_port(value: &Value) -> Option<(u16, Protocol)> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let (port, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some((port.parse().ok()?, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Project {
        Project::parse(json, "", '-').expect("the project parses")
    }

    #[test]
    fn fixed_ports_make_an_entry_service_and_ranges_do_not() {
        let project = parse(
            r#"{"name":"p","services":{
                "web":{"image":"w","ports":[{"target":80,"published":"8080","protocol":"tcp"}]},
                "any":{"image":"w","ports":[{"target":80,"protocol":"tcp"}]},
                "range":{"image":"w","ports":[{"target":80,"published":"8000-8010","protocol":"tcp"}]}}}"#,
        );
        assert!(project.services["web"].is_entry());
        assert!(!project.services["any"].is_entry());
        assert!(!project.services["range"].is_entry());
    }

    #[test]
    fn a_service_without_image_gets_the_name_that_compose_gives_it() {
        let json = r#"{"name":"p","services":{"web":{"build":{"context":"/x"}}}}"#;
        assert_eq!(parse(json).services["web"].image, "p-web");
        assert_eq!(Project::parse(json, "", '_').unwrap().services["web"].image, "p_web");
    }

    #[test]
    fn dollars_are_single_in_the_view_and_double_in_the_document() {
        let project = parse(r#"{"name":"p","services":{"web":{"image":"w","container_name":"a$$b"}}}"#);
        assert_eq!(project.services["web"].container_name.as_deref(), Some("a$b"));
        assert_eq!(project.services["web"].raw["container_name"], "a$$b");
    }

    #[test]
    fn the_address_of_a_port_is_kept() {
        let project = parse(
            r#"{"name":"p","services":{"web":{"image":"w","ports":[
                {"target":80,"published":"1","host_ip":"0.0.0.0"},
                {"target":80,"published":"2","host_ip":"::1","protocol":"udp"}]}}}"#,
        );
        let ports = &project.services["web"].ports;
        assert_eq!(ports[0].host_ip, Some("0.0.0.0".parse().unwrap()));
        assert_eq!(ports[1].host_ip, Some("::1".parse().unwrap()));
        assert_eq!(ports[1].protocol, Protocol::Udp);
    }

    #[test]
    fn the_port_that_a_proxy_is_told_to_call_is_served() {
        let project = parse(
            r#"{"name":"p","services":{
                "a":{"image":"w","labels":{"traefik.http.services.x.loadbalancer.server.port":"8080"}},
                "b":{"image":"w","environment":{"VIRTUAL_HOST":"x","VIRTUAL_PORT":"3000"}},
                "c":{"image":"w","labels":{"caddy":"x","caddy.reverse_proxy":"{{upstreams 9000}}"}}}}"#,
        );
        for (service, port) in [("a", 8080), ("b", 3000), ("c", 9000)] {
            assert_eq!(project.services[service].served_ports(), [(port, Protocol::Tcp)], "{service}");
        }
    }

    #[test]
    fn traefik_labels_and_virtual_host_announce_a_service() {
        let project = parse(
            r#"{"name":"p","services":{
                "a":{"image":"w","labels":{"traefik.enable":"true"}},
                "b":{"image":"w","environment":{"VIRTUAL_HOST":"x"}},
                "c":{"image":"w","labels":{"other":"1"}}}}"#,
        );
        assert_eq!(project.services["a"].announcement().as_deref(), Some("label traefik.enable"));
        assert_eq!(project.services["b"].announcement().as_deref(), Some("variable VIRTUAL_HOST"));
        assert_eq!(project.services["c"].announcement(), None);
    }
}
