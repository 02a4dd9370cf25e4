//! The independent checker finds nothing in the plans of generated small projects, on generated engines.
//!
//! `PROPTEST_CASES=100000 cargo test -p handover-core generated` looks further.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};

use super::fixtures::{checked_plan, hashed_with_dependencies, parse, settled};
use crate::compose::project::Project;
use crate::observation::{Container, Endpoint, Observation};
use crate::plan::{Action, Request};

const NAMES: [&str; 5] = ["code", "store", "api", "app", "web"];

/// A service, with references by position to those before it.
#[derive(Clone, Debug)]
struct Generated {
    ports: usize,
    networks: Vec<&'static str>,
    host_network: bool,
    depends_on: Vec<(usize, bool)>,
    mount: Mounted,
    volumes_from: Option<usize>,
    announced: bool,
    order: Option<&'static str>,
    replicas: u32,
    word: Option<&'static str>,
    /// The word on what its image declares, where it is another.
    word_on_state: Option<&'static str>,
    strategy: Option<&'static str>,
    fronts: Option<usize>,
    router: Option<usize>,
    seen: Seen,
    image_volume: bool,
    fewer: bool,
}

#[derive(Clone, Copy, Debug)]
enum Mounted {
    Nothing,
    Named,
    NamedReadOnly,
    Anonymous,
    Folder,
    Memory,
}

/// How its containers are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    AsWanted,
    OldImage,
    OldConfiguration,
    Missing,
    Stopped,
    ChangedAndStopped,
}

fn a_service() -> impl Strategy<Value = Generated> {
    let what = (
        prop_oneof![4 => Just(0usize), 3 => Just(1), 1 => Just(2)],
        prop_oneof![5 => Just(vec!["default"]), 2 => Just(vec!["back"]), 2 => Just(vec!["back", "default"])],
        prop::bool::weighted(0.05),
        prop::collection::vec((0..NAMES.len(), prop::bool::weighted(0.15)), 0..3),
        select(vec![
            Mounted::Nothing,
            Mounted::Nothing,
            Mounted::Nothing,
            Mounted::Named,
            Mounted::NamedReadOnly,
            Mounted::Anonymous,
            Mounted::Folder,
            Mounted::Memory,
        ]),
        prop::option::weighted(0.1, 0..NAMES.len()),
        prop::bool::weighted(0.15),
        prop_oneof![6 => Just(None), 1 => Just(Some("start-first")), 1 => Just(Some("stop-first"))],
        prop_oneof![5 => Just(1u32), 1 => Just(2), 1 => Just(3)],
    );
    let settings = (
        prop_oneof![3 => Just(None), 3 => Just(Some("share")), 1 => Just(Some("own")), 2 => Just(Some("renew"))],
        prop_oneof![6 => Just(None), 1 => Just(Some("share")), 1 => Just(Some("renew"))],
        prop_oneof![8 => Just(None), 1 => Just(Some("in-place")), 1 => Just(Some("rolling"))],
        prop::option::weighted(0.1, 0..NAMES.len()),
        prop::option::weighted(0.1, 0..NAMES.len()),
    );
    let seen = (
        select(vec![
            Seen::AsWanted,
            Seen::AsWanted,
            Seen::OldImage,
            Seen::OldImage,
            Seen::OldConfiguration,
            Seen::Missing,
            Seen::Stopped,
            Seen::ChangedAndStopped,
        ]),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    );
    (what, settings, seen).prop_map(
        |(
            (ports, networks, host_network, depends_on, mount, volumes_from, announced, order, replicas),
            (word, word_on_state, strategy, fronts, router),
            (seen, image_volume, fewer),
        )| Generated {
            ports,
            networks,
            host_network,
            depends_on,
            mount,
            volumes_from,
            announced,
            order,
            replicas,
            word,
            word_on_state,
            strategy,
            fronts,
            router,
            seen,
            image_volume,
            fewer,
        },
    )
}

/// The project as Compose prints it.
fn document(services: &[Generated]) -> String {
    let mut all = Map::new();
    let mut settings = Map::new();
    for (position, one) in services.iter().enumerate() {
        let (entry, words) = (entry(position, one), words(position, one, services.len()));
        all.insert(NAMES[position].to_owned(), Value::Object(entry));
        settings.insert(NAMES[position].to_owned(), Value::Object(words));
    }
    json!({
        "name": "p", "services": all,
        "networks": {"default": {"name": "p_default"}, "back": {"name": "p_back"}},
        "volumes": {"data": {"name": "p_data"}}, "x-handover": {"services": settings},
    })
    .to_string()
}

fn entry(position: usize, one: &Generated) -> Map<String, Value> {
    let mut entry = Map::new();
    let name = NAMES[position];
    entry.insert("image".into(), json!(format!("{name}:1")));
    let ports: Vec<Value> = (0..one.ports)
        .map(|number| json!({"target": 80 + number, "published": format!("{}", 8000 + 10 * position + number)}))
        .collect();
    entry.insert("ports".into(), json!(ports));
    if one.host_network {
        entry.insert("network_mode".into(), json!("host"));
    } else {
        entry.insert("networks".into(), one.networks.iter().map(|key| ((*key).to_owned(), Value::Null)).collect());
    }
    let mut needed: Map<String, Value> = Map::new();
    for (other, restart) in one.depends_on.iter().filter(|(other, _)| *other < position) {
        needed.insert(NAMES[*other].into(), json!({"condition": "service_started", "restart": restart}));
    }
    if let Some(other) = one.volumes_from.filter(|other| *other < position) {
        entry.insert("volumes_from".into(), json!([NAMES[other]]));
        needed.entry(NAMES[other].to_owned()).or_insert(json!({"condition": "service_started"}));
    }
    entry.insert("depends_on".into(), Value::Object(needed));
    let mount = match one.mount {
        Mounted::Nothing => None,
        Mounted::Named => Some(json!({"type": "volume", "source": "data", "target": "/data"})),
        Mounted::NamedReadOnly => {
            Some(json!({"type": "volume", "source": "data", "target": "/data", "read_only": true}))
        }
        Mounted::Anonymous => Some(json!({"type": "volume", "target": "/data"})),
        Mounted::Folder => Some(json!({"type": "bind", "source": "/srv/data", "target": "/data"})),
        Mounted::Memory => Some(json!({"type": "tmpfs", "target": "/data"})),
    };
    entry.insert("volumes".into(), mount.into_iter().collect());
    if one.announced {
        entry.insert("labels".into(), json!({"traefik.enable": "true"}));
    }
    if let Some(order) = one.order {
        entry.insert("deploy".into(), json!({"update_config": {"order": order}}));
    }
    // Two containers cannot hold one port.
    entry.insert("scale".into(), json!(if one.ports == 0 { one.replicas } else { 1 }));
    entry
}

fn words(position: usize, one: &Generated, services: usize) -> Map<String, Value> {
    let mut words = Map::new();
    let other = |other: usize| (other < services && other != position).then(|| NAMES[other]);
    match (one.word, one.word_on_state) {
        (Some(word), Some(on_state)) => {
            drop(words.insert("volumes".into(), json!({"/data": word, "/state": on_state})))
        }
        (Some(word), None) => drop(words.insert("volumes".into(), json!(word))),
        (None, _) => {}
    }
    if let Some(strategy) = one.strategy {
        words.insert("strategy".into(), json!(strategy));
    }
    if let Some(fronted) = one.fronts.and_then(other) {
        words.insert("fronts".into(), json!([fronted]));
    }
    if let Some(router) = one.router.and_then(other).filter(|_| one.strategy.is_none()) {
        words.insert("router".into(), json!({"nginx": {"service": router, "upstream": "u", "port": 80}}));
    }
    words
}

/// What else is on the engine.
#[derive(Clone, Copy, Debug)]
struct Around {
    foreign: bool,
    orphan: bool,
    /// A network is missing.
    no_network: bool,
    /// Compose recreates what depends on what it recreates.
    dependents: bool,
}

fn a_world(document: &str, services: &[Generated], around: Around) -> (Project, Observation) {
    let mut project = parse(document);
    let mut observed = settled(&project);
    if around.dependents {
        hashed_with_dependencies(&mut project, &mut observed);
    }
    for (one, name) in services.iter().zip(NAMES) {
        let image = observed.images.get_mut(&format!("{name}:1")).expect("each service has its image");
        if matches!(one.seen, Seen::OldImage | Seen::ChangedAndStopped) {
            image.id = "sha256:new".to_owned();
        }
        if one.image_volume {
            image.volumes.insert("/state".to_owned());
        }
        let mut kept = 0;
        observed.containers.retain_mut(|container| {
            if container.service != name {
                return true;
            }
            if one.seen == Seen::OldConfiguration {
                container.config_hash = "another".to_owned();
            }
            if matches!(one.seen, Seen::Stopped | Seen::ChangedAndStopped) {
                (container.running, container.status) = (false, "Exited (1) 3 seconds ago".to_owned());
            }
            kept += 1;
            one.seen != Seen::Missing && (kept == 1 || !one.fewer)
        });
        if one.fewer && one.seen == Seen::AsWanted && one.ports == 0 {
            // One more than is wanted.
            let more = observed.containers.iter().find(|container| container.service == name).cloned();
            observed.containers.extend(more.into_iter().flat_map(|container| {
                (8..=10).map(move |number| Container {
                    name: format!("p-{name}-{number}"),
                    number,
                    ..container.clone()
                })
            }));
        }
    }
    let networks =
        [("p_default".to_owned(), Endpoint { network_id: "net-p_default".to_owned(), ..Endpoint::default() })];
    let stranger = Container { name: "other".into(), running: true, networks: networks.into(), ..Container::default() };
    observed.foreign.extend(around.foreign.then_some(stranger));
    let orphan = Container { name: "p-old-1".into(), service: "old".into(), running: true, ..Container::default() };
    observed.containers.extend(around.orphan.then_some(orphan));
    if around.no_network {
        observed.networks.remove("p_back");
    }
    (project, observed)
}

#[test]
fn no_plan_breaks_a_rule() {
    let cases = Config::default().cases.max(1000);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let services = prop::collection::vec(a_service(), 2..=NAMES.len());
    let around = (prop::bool::weighted(0.2), any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.3))
        .prop_map(|(foreign, orphan, no_network, dependents)| Around { foreign, orphan, no_network, dependents });
    let request = (
        prop::bool::weighted(0.15),
        any::<bool>(),
        prop::bool::weighted(0.7),
        prop_oneof![3 => Just(Vec::new()), 1 => subsequence(NAMES.to_vec(), 1..=2)],
    );
    // What came of them: a checker that only ever sees empty lists proves nothing.
    let (standins, rolled, in_place, both) = Default::default();
    let seen: [std::cell::Cell<u32>; 4] = [standins, rolled, in_place, both];
    let outcome = runner.run(&(services, around, request), |(services, around, request)| {
        let document = document(&services);
        let (project, observed) = a_world(&document, &services, around);
        let (force_recreate, remove_orphans, allow_interruption, asked) = request;
        let asked = asked.into_iter().filter(|name| NAMES[..services.len()].contains(name)).map(str::to_owned);
        let request = Request { services: asked.collect(), force_recreate, remove_orphans, allow_interruption };
        let plan = checked_plan(&project, &observed, &request);
        if plan.refusals.is_empty() {
            let rolls = !plan.rolling.is_empty();
            let interrupts = plan.services.iter().any(|one| one.action == Action::InPlace);
            let what = [plan.standin.is_some(), rolls, interrupts, plan.standin.is_some() && rolls];
            what.iter().zip(&seen).filter(|(it, _)| **it).for_each(|(_, count)| count.set(count.get() + 1));
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    for (what, count) in ["stand-ins", "rolled", "in place", "stand-ins beside rolled"].iter().zip(&seen) {
        assert!(count.get() > cases / 100, "only {} plans of {cases} had {what}", count.get());
    }
}
