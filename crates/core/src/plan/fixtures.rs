//! Projects and engines for the tests of plans, and the plan as all of them make it: checked.

use std::collections::BTreeMap;

use crate::compose::config_hash::{Hashes, service_hash};
use crate::compose::project::{Project, Service};
use crate::observation::{Container, ContainerMount, Image, Network, Observation};
use crate::plan::check::check;
use crate::plan::{Plan, Request};

/// The plan; the independent checker finds nothing in its operations.
#[track_caller]
pub(crate) fn checked_plan(project: &Project, observed: &Observation, request: &Request) -> Plan {
    let plan = crate::plan::plan(project, observed, request);
    let operations = plan.operations();
    let violations = check(&plan, &operations, project, observed, request);
    assert_eq!(violations, [], "{operations:#?}");
    plan
}

/// The reference stack in small: code carriers, php-fpm and nginx on their volumes, a WebSocket server, Redis.
pub(crate) const STACK: &str = r#"{"name":"docker","services":{
  "applications":{"image":"apps:1","container_name":"applications","networks":{"default":null}},
  "php-fpm":{"image":"php:1","expose":["9000"],"volumes_from":["applications"],"networks":{"default":null},
     "depends_on":{"applications":{"condition":"service_started"}}},
  "nginx":{"image":"nginx:1","container_name":"nginx","volumes_from":["php-fpm"],"networks":{"default":null},
     "depends_on":{"php-fpm":{"condition":"service_started"},"websocket":{"condition":"service_started"}},
     "ports":[{"target":80,"published":"80","protocol":"tcp"},{"target":443,"published":"443","protocol":"tcp"}]},
  "websocket":{"image":"ws:1","networks":{"default":null},"depends_on":{"redis":{"condition":"service_started"}},
     "ports":[{"target":9000,"published":"9001","protocol":"tcp"}]},
  "redis":{"image":"redis:1","networks":{"default":null},"volumes":[{"type":"volume","source":"data","target":"/data"}],
     "ports":[{"target":6379,"published":"6379","protocol":"tcp"}]}},
 "networks":{"default":{"name":"docker_default"}},"volumes":{"data":{"name":"docker_data"}},
 "x-handover":{"services":{"applications":{"volumes":"renew"}}}}"#;

pub(crate) fn parse(json: &str) -> Project {
    Project::parse(json, "", '-').expect("the project parses")
}

/// An engine on which the project runs exactly as wanted.
pub(crate) fn settled(project: &Project) -> Observation {
    let mut observed = Observation { architecture: "amd64".into(), ..Default::default() };
    for network in project.networks.values() {
        let known = Network { id: format!("net-{}", network.name), ..Default::default() };
        observed.networks.insert(network.name.clone(), known);
    }
    observed.volumes.extend(project.volumes.values().map(|volume| volume.name.clone()));
    for service in project.services.values() {
        let image =
            Image { id: format!("sha256:{}", service.image), architecture: "amd64".into(), ..Default::default() };
        observed.images.insert(service.image.clone(), image);
    }
    let ids: BTreeMap<String, String> =
        project.services.keys().map(|name| (name.clone(), format!("{name}-id"))).collect();
    for service in project.services.values() {
        for number in 1..=service.replicas {
            observed.containers.push(container(project, service, number, &ids));
        }
    }
    observed
}

pub(crate) fn container(
    project: &Project,
    service: &Service,
    number: u32,
    ids: &BTreeMap<String, String>,
) -> Container {
    let networks = service.networks.iter().map(|key| {
        let name = project.networks[key].name.clone();
        let network_id = format!("net-{name}");
        (name, crate::observation::Endpoint { network_id, ..Default::default() })
    });
    let mounts = service.mounts.iter().filter_map(|mount| {
        let volume = project.volumes.get(mount.source.as_ref()?)?.name.clone();
        Some(crate::observation::ContainerMount { kind: "volume".into(), volume, target: mount.target.clone() })
    });
    Container {
        id: ids[&service.name].clone(),
        name: format!("{}-{}-{number}", project.name, service.name),
        project: project.name.clone(),
        service: service.name.clone(),
        number,
        running: true,
        state: "running".into(),
        config_hash: service_hash(&service.raw, ids, false).unwrap(),
        image_id: format!("sha256:{}", service.image),
        networks: networks.collect(),
        mounts: mounts.collect(),
        ..Default::default()
    }
}

pub(crate) fn new_image(observed: &mut Observation, image: &str) {
    observed.images.get_mut(image).unwrap().id = "sha256:new".into();
}

pub(crate) fn carries(observed: &mut Observation, image: &str, path: &str) {
    observed.images.get_mut(image).unwrap().volumes.insert(path.into());
}

/// All that a deploy can do, at once: a stand-in with clients inside and a store that is made first, a service that is rolled,
/// a router that is told, old code, and a container of a service that is gone.
const EVERYTHING: &str = r#"{"name":"shop","services":{
  "code":{"image":"code:1","networks":{"default":null}},
  "php":{"image":"php:1","volumes_from":["code"],"networks":{"default":null},
    "depends_on":{"code":{"condition":"service_started"},"store":{"condition":"service_started"}}},
  "web":{"image":"web:1","networks":{"default":null},"depends_on":{"php":{"condition":"service_started"}},
    "ports":[{"target":80,"published":"80"},{"target":53,"published":"53","protocol":"udp","host_ip":"127.0.0.1"}]},
  "store":{"image":"store:1","networks":{"default":null},"volumes":[{"type":"volume","source":"data","target":"/data"}]},
  "worker":{"image":"worker:1","networks":{"default":null},"depends_on":{"web":{"condition":"service_started"}}},
  "app":{"image":"app:1","scale":2,"labels":{"traefik.enable":"true"},"networks":{"edge":null}}},
 "networks":{"default":{"name":"shop_default"},"edge":{"name":"edge"}},"volumes":{"data":{"name":"shop_data"}},
 "x-handover":{"services":{"code":{"volumes":"renew"},
   "php":{"router":{"nginx":{"service":"web","upstream":"php","port":9000}}}}}}"#;

/// [`EVERYTHING`], and an engine where all of that is to be done.
pub(crate) fn everything() -> (Project, Observation, Request) {
    let project = parse(EVERYTHING);
    let mut observed = settled(&project);
    carries(&mut observed, "code:1", "/code");
    for image in ["code:1", "php:1", "web:1", "app:1"] {
        new_image(&mut observed, image);
    }
    observed.containers.retain(|container| container.service != "store");
    let code = ContainerMount { kind: "volume".into(), volume: "0d".repeat(32), target: "/code".into() };
    for container in observed.containers.iter_mut().filter(|one| matches!(one.service.as_str(), "code" | "php")) {
        container.mounts.push(code.clone());
    }
    observed.containers.push(Container { name: "shop-old-1".into(), service: "old".into(), ..Container::default() });
    (project, observed, Request { remove_orphans: true, ..Request::default() })
}

/// The same project and engine under a Compose that hashes `depends_on`, and so recreates what depends on what it recreates.
pub(crate) fn hashed_with_dependencies(project: &mut Project, observed: &mut Observation) {
    // Compose prints no hash of what refers to containers that it does not know yet.
    let known = project.services.values().filter_map(|service| {
        Some(format!("{} {}", service.name, service_hash(&service.raw, &BTreeMap::new(), true)?))
    });
    let printed: Vec<String> = known.collect();
    let raw = project.document["services"].as_object().expect("there are services").clone();
    let ids = project.services.keys().map(|name| (name.clone(), format!("{name}-id"))).collect();
    for container in &mut observed.containers {
        if let Some(service) = project.services.get(&container.service) {
            container.config_hash = service_hash(&service.raw, &ids, true).expect("it is hashed");
        }
    }
    project.hashes = Hashes::new(&printed.join("\n"), &raw);
}
