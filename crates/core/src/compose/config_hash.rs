//! Compose's hashes, recomputed from the JSON of `docker compose config`.
//!
//! Compose hashes the Go JSON of a service and writes it on each container as `com.docker.compose.config-hash`; a container
//! with another hash is recreated. Recipe read in docker/compose `pkg/compose/hash.go` and proved against running versions:
//! 2.26.1 hashes `depends_on`, 2.40.3 does not. `docker compose config --hash` tells which, but its hashes alone would not do:
//! they are taken before `service:x` and `volumes_from` become container ids.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::compose::json::{service_of_volumes_from, single_dollars};

/// Fields that Compose clears before it hashes a service.
const NOT_HASHED: [&str; 4] = ["build", "pull_policy", "scale", "profiles"];

/// The hashes that the Compose at hand would write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashes {
    /// Output of `docker compose config --hash '*'`, by service.
    printed: BTreeMap<String, String>,
    /// Whether this version hashes `depends_on`.
    depends_on: bool,
}

impl Hashes {
    /// Reads the output of `docker compose config --hash '*'` for the services as `config` printed them.
    pub fn new(printed: &str, services: &Map<String, Value>) -> Self {
        let printed: BTreeMap<String, String> = printed
            .lines()
            .filter_map(|line| line.trim().split_once(' '))
            .map(|(service, hash)| (service.to_owned(), hash.trim().to_owned()))
            .collect();
        let depends_on = services.iter().filter_map(|(name, raw)| Some((name, raw.as_object()?))).any(|(name, raw)| {
            raw.contains_key("depends_on")
                && printed.get(name) == Some(&digest(&Value::Object(hashed_fields(raw, true))))
        });
        Self { printed, depends_on }
    }

    /// Whether this version recreates what depends on a service together with it: those that hash `depends_on` do (seen with 2.26;
    /// 2.40 does neither).
    pub fn recreates_dependents(&self) -> bool {
        self.depends_on
    }

    /// Whether a container's hash is the one that Compose would write for this service now.
    ///
    /// The printed one fits too where ours does not: it knows fields that we have not met.
    pub fn fits(&self, name: &str, raw: &Map<String, Value>, ids: &BTreeMap<String, String>, found: &str) -> bool {
        let ours = service_hash(raw, ids, self.depends_on);
        ours.as_deref() == Some(found) || self.printed.get(name).is_some_and(|hash| hash == found)
    }
}

/// Hash of a service.
///
/// `raw` is the service as printed; `containers` gives the id of the first container of each service, because Compose
/// replaces `service:x` and `volumes_from: x` by ids before it hashes. A service that refers to one without a container has
/// no hash yet.
pub fn service_hash(
    raw: &Map<String, Value>,
    containers: &BTreeMap<String, String>,
    depends_on: bool,
) -> Option<String> {
    let mut service = hashed_fields(raw, depends_on);
    for key in ["network_mode", "ipc", "pid"] {
        if let Some(name) = service.get(key).and_then(Value::as_str).and_then(|mode| mode.strip_prefix("service:")) {
            let id = containers.get(name)?;
            service[key] = Value::String(format!("container:{id}"));
        }
    }
    if let Some(Value::Array(entries)) = service.get_mut("volumes_from") {
        for entry in entries {
            let text = entry.as_str()?;
            *entry = match service_of_volumes_from(text) {
                Some(name) => Value::String(containers.get(&name)?.clone()),
                None => Value::String(text.split(':').nth(1)?.to_owned()),
            };
        }
    }
    Some(digest(&Value::Object(service)))
}

/// What of a service is hashed, before references become ids: what `docker compose config --hash` prints the hash of.
fn hashed_fields(raw: &Map<String, Value>, depends_on: bool) -> Map<String, Value> {
    let mut service = match single_dollars(&Value::Object(raw.clone())) {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for field in NOT_HASHED {
        service.shift_remove(field);
    }
    if !depends_on {
        service.shift_remove("depends_on");
    }
    if let Some(Value::Object(deploy)) = service.get_mut("deploy") {
        deploy.shift_remove("replicas");
    }
    service
}

/// Hash of a network, as on its label `com.docker.compose.config-hash`.
pub fn network_hash(raw: &Map<String, Value>) -> String {
    digest(&single_dollars(&Value::Object(raw.clone())))
}

fn digest(value: &Value) -> String {
    let text = go_escaped(&value.to_string());
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Go's JSON escapes these five also inside strings; nowhere else can they stand in JSON.
fn go_escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped.push_str(&format!("\\u{:04x}", character as u32)),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn raw(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn what_compose_does_not_hash_does_not_change_the_hash() {
        let none = BTreeMap::new();
        let plain = service_hash(&raw(json!({"command": null, "image": "x"})), &none, false);
        let more = raw(json!({"build": {"context": "/"}, "command": null, "image": "x", "scale": 2,
            "depends_on": {"a": {}}, "pull_policy": "always", "profiles": ["p"]}));
        assert_eq!(service_hash(&more, &none, false), plain);
        assert_ne!(service_hash(&raw(json!({"command": null, "image": "y"})), &none, false), plain);
    }

    #[test]
    fn dollars_are_hashed_single_and_html_is_escaped_as_go_does() {
        assert_eq!(go_escaped(r#"{"a":"<b>&"}"#), r#"{"a":"\u003cb\u003e\u0026"}"#);
        let none = BTreeMap::new();
        let doubled = service_hash(&raw(json!({"image": "a$$b"})), &none, false).unwrap();
        assert_eq!(doubled, digest(&json!({"image": "a$b"})));
    }

    #[test]
    fn a_reference_is_hashed_as_the_id_of_the_container() {
        let service = raw(json!({"image": "x", "volumes_from": ["code:ro"], "network_mode": "service:code"}));
        assert_eq!(service_hash(&service, &BTreeMap::new(), false), None);
        let ids = BTreeMap::from([("code".to_owned(), "abc".to_owned())]);
        let expected = digest(&json!({"image": "x", "volumes_from": ["abc"], "network_mode": "container:abc"}));
        assert_eq!(service_hash(&service, &ids, false), Some(expected));
    }

    #[test]
    fn whether_depends_on_is_hashed_is_learned_from_compose_itself() {
        // As printed by 2.26.1 and 2.40.3 for `a: {image: x, depends_on: [b]}, b: {image: x}`.
        let services = raw(json!({
            "a": {"command": null, "depends_on": {"b": {"condition": "service_started", "required": true}},
                  "entrypoint": null, "image": "x", "networks": {"default": null}},
            "b": {"command": null, "entrypoint": null, "image": "x", "networks": {"default": null}}}));
        let old = "a bed0abdc90a9e19c94d3fae34ea706a5f79affeae478914223781285bb94572d\n\
                   b d5457d0b2799957b606d2ac4ed52d85a1e75799490e56229948300b9a59e8953";
        let new = "a d5457d0b2799957b606d2ac4ed52d85a1e75799490e56229948300b9a59e8953\n\
                   b d5457d0b2799957b606d2ac4ed52d85a1e75799490e56229948300b9a59e8953";
        let a = services["a"].as_object().unwrap();
        let none = BTreeMap::new();
        for (printed, depends_on, hash) in [(old, true, "bed0abdc"), (new, false, "d5457d0b")] {
            let hashes = Hashes::new(printed, &services);
            assert_eq!(hashes.depends_on, depends_on);
            assert!(service_hash(a, &none, depends_on).unwrap().starts_with(hash));
            assert!(!hashes.fits("a", a, &none, "another"));
        }
    }
}
