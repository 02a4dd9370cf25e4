//! A service behind Traefik that publishes no port is rolled, and comes out as Compose makes it.

use handover_lab::load::{Kind, StreamSpec};
use serde_json::Value;

use crate::harness::proxies::{HEALTHCHECK, JOINS, LABELS, LABELS_OUTSIDE, NETWORK, TRAEFIK_OUTSIDE};
use crate::harness::proxies::{app, behind_traefik, outside};
use crate::harness::slow_socket::SlowSocket;
use crate::harness::{Finished, Stack, docker, finish, inspect};

/// Every kind of short request, to this stack's port.
pub(crate) fn requests(stack: &Stack) -> [StreamSpec; 4] {
    [
        stack.stream(Kind::New, 40.0),
        stack.stream(Kind::Keepalive, 40.0),
        stack.stream(Kind::Post, 15.0),
        stack.stream(Kind::Slow, 10.0),
    ]
}

/// What the plan says of `app`; it must be that it is rolled.
#[track_caller]
pub(crate) fn rolled(finished: &Finished) -> String {
    let plan = finished.event("plan");
    let services: Vec<&Value> = plan["services"].as_array().into_iter().flatten().collect();
    let app = services.iter().find(|one| one["service"] == "app").unwrap_or_else(|| panic!("no app\n{finished}"));
    assert_eq!(app["action"], "rolling", "{finished}");
    app["reason"].as_str().unwrap_or_default().to_owned()
}

/// Asserts that Compose itself would have made the same containers of `app`.
#[track_caller]
fn assert_made_as_compose_makes_it(stack: &Stack) {
    let ours = stack.made();
    stack.compose(&["up", "-d", "--force-recreate", "--no-deps", "app"]).expect_success();
    assert_eq!(ours, stack.made());
}

#[test]
fn nobody_notices_behind_traefik_in_the_same_project() {
    let mut stack = behind_traefik("roll", &app(&[], &[LABELS, HEALTHCHECK]));
    stack.start();
    let (traefik, before) = (stack.container_id("traefik"), stack.container_id("app"));
    let streams = requests(&stack);
    let (report, finished) = stack.hand_over(streams, &[]);
    report.assert_nothing_noticed();
    let reason = rolled(&finished);
    assert!(reason.contains("traefik.enable"), "the plan does not name the label\n{finished}");
    let caller = format!("called now by {}-traefik-1 (", stack.name);
    assert!(reason.contains(&caller), "the plan does not name who has connections\n{finished}");
    assert_eq!(finished.event("proof")["cut"], serde_json::json!([]), "{finished}");
    assert_eq!(stack.container_id("traefik"), traefik, "Traefik was touched");
    assert_ne!(stack.container_id("app"), before);
    // A plan alone looks, too, and leaves nothing behind.
    stack.set("VERSION", "v3");
    stack.plan().expect_success().expect_says(&caller);
    stack.assert_nothing_left();
    stack.set("VERSION", "v2");
    assert_made_as_compose_makes_it(&stack);
}

#[test]
fn a_service_that_boots_slowly_gets_no_request_before_it_listens() {
    let (proxy, mut stack) = outside("roll-boot", "handover-lab/traefik:3.7", TRAEFIK_OUTSIDE, &[]);
    let slow = app(&[("LAB_BOOT_MS", "10000")], &[LABELS_OUTSIDE, JOINS]);
    stack.compose_file(&format!("services:{slow}{NETWORK}"));
    stack.compose(&["up", "-d"]).expect_success();
    proxy.wait_http(proxy.port);
    let untouched = proxy.untouched();
    let (report, finished) = stack.hand_over(requests(&proxy), &[]);
    report.assert_nothing_noticed();
    assert!(rolled(&finished).contains("traefik."), "the plan does not name the label\n{finished}");
    untouched();
    assert_made_as_compose_makes_it(&stack);
}

#[test]
fn an_application_that_drains_by_itself_is_left_to_do_so() {
    let mut stack = behind_traefik("roll-graceful", &app(&[("LAB_ON_TERM", "graceful")], &[LABELS, HEALTHCHECK]));
    stack.start();
    let streams = requests(&stack);
    let (report, _) = stack.hand_over(streams, &[]);
    report.assert_nothing_noticed();
}

#[test]
fn a_container_name_stays_the_same() {
    let mut stack = behind_traefik("roll-name", "");
    let name = format!("{}-by-name", stack.name);
    let keys = format!("    container_name: {name}\n");
    stack.compose_file(&format!(
        "services:{}{}",
        crate::harness::proxies::TRAEFIK,
        app(&[], &[LABELS, HEALTHCHECK, &keys])
    ));
    stack.start();
    let before = inspect(&name)["Id"].clone();
    let streams = requests(&stack);
    let (report, finished) = stack.hand_over(streams, &[]);
    report.assert_nothing_noticed();
    rolled(&finished);
    assert_ne!(inspect(&name)["Id"], before);
    assert_made_as_compose_makes_it(&stack);
}

#[test]
fn volumes_are_carried_over() {
    let volumes = "    volumes: [/anonymous, data:/data]\n";
    let more = "\nvolumes: { data: }\nx-handover: { services: { app: { volumes: share } } }\n";
    let service = app(&[], &[LABELS, HEALTHCHECK, volumes]);
    let mut stack = behind_traefik("roll-volumes", &format!("{service}{more}"));
    stack.start();
    let mounted = |stack: &Stack| {
        let mounts = inspect(&stack.container_id("app"))["Mounts"].clone();
        let named = |mount: &Value| (mount["Destination"].to_string(), mount["Name"].to_string());
        let mut all: Vec<_> = mounts.as_array().into_iter().flatten().map(named).collect();
        all.sort();
        all
    };
    let before = mounted(&stack);
    assert_eq!(before.len(), 2, "{before:?}");
    let streams = requests(&stack);
    let (report, finished) = stack.hand_over(streams, &[]);
    report.assert_nothing_noticed();
    rolled(&finished);
    assert_eq!(mounted(&stack), before);
    for volume in before {
        docker(&["volume", "inspect", volume.1.trim_matches('"')]);
    }
}

#[test]
fn several_networks_and_their_aliases_come_out_as_before() {
    let networks =
        "    networks:\n      default: { aliases: [front] }\n      back: { aliases: [shop, shop.internal] }\n";
    let service = app(&[], &[LABELS, HEALTHCHECK, networks, "    hostname: shop\n"]);
    // Traefik is on one of them only, and would otherwise choose by chance.
    let labelled = service.replace(
        "      traefik.enable: \"true\"\n",
        "      traefik.enable: \"true\"\n      traefik.docker.network: ${COMPOSE_PROJECT_NAME}_default\n",
    );
    let caller = r#"
  caller:
    image: ${LAB}
    environment: { VERSION: caller, LAB_BACKEND: "http://shop.internal", LAB_BACKEND_FORWARD: "true" }
    ports: ["${CALLER}:80"]
    networks: [back]

networks: { back: }
"#;
    let mut stack = behind_traefik("roll-networks", &format!("{labelled}{caller}"));
    let port = crate::harness::net::free_port();
    stack.set("CALLER", &port.to_string());
    stack.start();
    stack.wait_http(port);
    let caller = stack.container_id("caller");
    let by_alias = |kind, rate, name: &str| StreamSpec::new(kind, rate, format!("127.0.0.1:{port}")).named(name);
    let streams = [
        stack.stream(Kind::New, 30.0),
        stack.stream(Kind::Post, 10.0),
        by_alias(Kind::New, 20.0, "alias"),
        by_alias(Kind::Post, 10.0, "alias-post"),
    ];
    let (report, finished) = stack.hand_over(streams, &[]);
    report.assert_nothing_noticed();
    rolled(&finished);
    assert_eq!(stack.container_id("caller"), caller, "the caller was touched");
    assert_made_as_compose_makes_it(&stack);
}

#[test]
fn ten_deploys_in_a_row_lose_no_kept_alive_post() {
    let mut stack = behind_traefik("roll-ten", &app(&[], &[LABELS, HEALTHCHECK]));
    stack.start();
    let load = stack.load([stack.stream(Kind::Post, 20.0), stack.stream(Kind::Keepalive, 40.0)]);
    let mut told = String::new();
    for number in 2..=11 {
        let version = format!("v{number}");
        stack.set("VERSION", &version);
        load.mark(&version);
        told += &stack.up(&[]).expect_success().to_string();
        stack.assert_nothing_left();
    }
    let report = finish(load, "v11");
    // Those that Traefik keeps alive are handed on: not one may cross the drain.
    if report.total.failed > 0 {
        eprintln!("{told}");
    }
    report.assert_no_failures();
    report.assert_nothing_noticed();
    stack.assert_done();
}

/// Traefik looks at one container after another: a look that comes to the new one before it is ready, and to the old one after its
/// end, finds neither.
#[test]
fn a_proxy_that_takes_long_to_look_at_all_containers_never_finds_none() {
    let mut stack = behind_traefik("roll-slow-look", &app(&[], &[LABELS, HEALTHCHECK]));
    let path = stack.path().join("engine.sock");
    let socket = SlowSocket::at(&path);
    stack.set("DOCKER_SOCKET", &path.to_string_lossy());
    stack.start();
    let load = stack.load(requests(&stack));
    stack.set("VERSION", "v2");
    socket.slow_down(&stack.container_id("app"));
    let finished = stack.up(&["--output", "json"]).expect_success();
    rolled(&finished);
    let report = finish(load, "v2");
    if let Some(failures) = report.failures() {
        panic!("{failures}\n{finished}");
    }
    stack.assert_done();
}
