//! Projects that are deployed in the simulated world.

use std::time::Duration;

use serde_json::{Value, json};

use crate::clients::{self, Client};
use crate::process::{Ended, LONGEST_RUN, run};
use crate::world::{Behaviour, Sim};

/// Name of the project.
pub const PROJECT: &str = "shop";

/// A project, and who calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// `web` publishes port 8080.
    Published,
    /// `app` is called by name, by a proxy of another project, and is rolled.
    Called,
    /// The same with two containers.
    Replicas,
    /// `web` publishes port 8080, `api` is called by name; both have a new version, and neither is rolled.
    Both,
}

/// All of them.
pub const STACKS: [Stack; 4] = [Stack::Published, Stack::Called, Stack::Replicas, Stack::Both];

/// Versions of Compose that order their calls differently.
pub const COMPOSES: [&str; 2] = ["2.26.1", "2.40.3"];

impl Stack {
    /// The compose file with this version, as `docker compose config` prints it.
    pub fn file(self, version: &str) -> Value {
        let published = json!([{"mode": "ingress", "target": 80, "published": "8080", "protocol": "tcp"}]);
        let mut services = serde_json::Map::new();
        let is_rolled = matches!(self, Self::Called | Self::Replicas);
        if !is_rolled {
            services.insert(
                "web".to_owned(),
                json!({"image": format!("web:{version}"), "networks": {"default": null}, "ports": published,
                    "command": null, "entrypoint": null}),
            );
        }
        if is_rolled {
            let replicas = if self == Self::Replicas { 2 } else { 1 };
            services.insert(
                "app".to_owned(),
                json!({"image": format!("app:{version}"), "networks": {"default": null}, "expose": ["80"],
                    "command": null, "entrypoint": null, "deploy": {"replicas": replicas}}),
            );
        }
        if self == Self::Both {
            services.insert(
                "api".to_owned(),
                json!({"image": format!("app:{version}"), "networks": {"default": null}, "expose": ["80"],
                    "command": null, "entrypoint": null}),
            );
        }
        let mut file = json!({"name": PROJECT, "services": services,
            "networks": {"default": {"name": format!("{PROJECT}_default"), "ipam": {}}}});
        if is_rolled {
            file["x-handover"] = json!({"services": {"app": {"strategy": "rolling"}}});
        }
        file
    }

    /// A world with this Compose in which the first version of it runs and is called. The clients end when they are dropped.
    ///
    /// # Panics
    /// If the first deploy fails.
    pub async fn running(self, compose: &'static str) -> (Sim, Vec<Client>) {
        let sim = Sim::default();
        {
            let mut world = sim.world();
            for version in ["v1", "v2"] {
                for service in ["web", "app"] {
                    let image = format!("{service}:{version}");
                    let behaviour = Behaviour { health: service == "app", ..Behaviour::default() };
                    world.behaviours.insert(image.clone(), behaviour);
                    world.images.insert(image);
                }
            }
            world.images.insert("proxy:1".to_owned());
            world.file = self.file("v1");
            world.compose_version = compose;
        }
        let first = bounded(&sim, &["up"]).await;
        assert_eq!(first.code, Some(0), "the first deploy: {:?}", first.told);
        let mut callers = Vec::new();
        if matches!(self, Self::Published | Self::Both) {
            callers.push(clients::of_port(&sim, 8080));
        }
        if self != Self::Published {
            let name = if self == Self::Both { "api" } else { "app" };
            let proxy = proxy(&sim);
            callers.push(clients::of_name(&sim, &proxy, &format!("{PROJECT}_default"), name));
        }
        sim.world().file = self.file("v2");
        (sim, callers)
    }
}

/// A run that comes to its end, whatever happens.
pub async fn bounded(sim: &Sim, words: &[&str]) -> Ended {
    match tokio::time::timeout(LONGEST_RUN, run(sim, words, None)).await {
        Ok(ended) => ended,
        Err(_) => {
            sim.world().violated(format!("{words:?} has not ended within {LONGEST_RUN:?}"));
            Ended { code: None, told: Vec::new(), calls: Vec::new() }
        }
    }
}

/// A container of somebody else's on the project's network.
fn proxy(sim: &Sim) -> String {
    let id = {
        let mut world = sim.world();
        let id = world.fresh_id();
        let attached = [(format!("{PROJECT}_default"), crate::world::Attached::default())];
        world.containers.insert(
            id.clone(),
            crate::world::Container {
                id: id.clone(),
                name: "somebodys-proxy".to_owned(),
                image: "proxy:1".to_owned(),
                command: "proxy".to_owned(),
                labels: [("com.docker.compose.project".to_owned(), "edge".to_owned())].into(),
                state: crate::world::State::Created,
                attached: attached.into(),
                ports: Vec::new(),
                behaviour: Behaviour { ready_after: Some(Duration::ZERO), ..Behaviour::default() },
                restarts_itself: false,
                restarts: 0,
                auto_remove: false,
                stdin_once: false,
                open: 0,
                console: crate::world::Console::default(),
                rules_file: None,
            },
        );
        id
    };
    let _ = sim.start(&id);
    id
}
