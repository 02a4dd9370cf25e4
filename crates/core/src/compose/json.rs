//! How Compose writes things in the JSON of `docker compose config`.

use serde_json::Value;

/// The service of a `volumes_from` entry; `None` when it names a container.
pub(crate) fn service_of_volumes_from(entry: &str) -> Option<String> {
    if entry.starts_with("container:") {
        return None;
    }
    entry.split(':').next().map(str::to_owned)
}

/// Undoes Compose's doubling of `$` in every string and key (reference: `docker compose config` doubles them so that its
/// output can be read again).
pub fn single_dollars(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace("$$", "$")),
        Value::Array(items) => Value::Array(items.iter().map(single_dollars).collect()),
        Value::Object(map) => {
            Value::Object(map.iter().map(|(key, item)| (key.replace("$$", "$"), single_dollars(item))).collect())
        }
        other => other.clone(),
    }
}
