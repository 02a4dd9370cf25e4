//! What the Docker CLI knows: its configuration, and where its plugins are.

use std::path::PathBuf;

use serde_json::Value;

/// Where Docker's packages put plugins, in the CLI's own order (docker/cli `cli-plugins/manager`).
const PLUGIN_FOLDERS: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// The context that `docker context use` has chosen, if one was.
pub(crate) fn current_context() -> Option<String> {
    configuration()?.get("currentContext")?.as_str().filter(|context| !context.is_empty()).map(str::to_owned)
}

/// The program of the Compose plugin that `docker compose` would run.
pub(crate) fn compose_plugin() -> Option<PathBuf> {
    let extra = configuration().and_then(|configuration| configuration.get("cliPluginsExtraDirs").cloned());
    let extra = extra.as_ref().and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    folder()
        .map(|folder| folder.join("cli-plugins"))
        .into_iter()
        .chain(extra.map(PathBuf::from))
        .chain(PLUGIN_FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join("docker-compose"))
        .find(|plugin| plugin.is_file())
}

fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    named.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")))
}

fn configuration() -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(folder()?.join("config.json")).ok()?).ok()
}
