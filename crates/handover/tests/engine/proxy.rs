//! A real proxy in front: Caddy publishes the port and finds the service by its name.

use std::path::Path;

use handover_lab::load::{Kind, StreamSpec};

use crate::harness::{Stack, assert_few_retries, docker_lines};

#[test]
fn caddy_goes_on_while_the_service_behind_it_changes() {
    for image in ["handover-lab/caddy:2.6", "handover-lab/web:v1", "handover-lab/web:v2"] {
        let found = !docker_lines(&["images", "-q", image]).is_empty();
        assert!(found, "the image {image} is not on this engine: scripts/images caddy --engines NAME");
    }
    let mut stack = Stack::new("caddy");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/caddy/compose.yaml");
    let file = file.canonicalize().expect("the example is there");
    stack.set("COMPOSE_FILE", &file.to_string_lossy());
    stack.set("CADDY_PORT", &stack.port.to_string());
    stack.start();
    let caddy = stack.container_id("caddy");
    let app = stack.container_id("app");
    let streams = [
        stack.stream(Kind::New, 25.0),
        stack.stream(Kind::Keepalive, 25.0),
        stack.stream(Kind::Slow, 10.0),
        stack.stream(Kind::Post, 8.0),
        StreamSpec { body_ms: Some(300), ..stack.stream(Kind::PostNew, 8.0) },
    ];
    let (report, _) = stack.hand_over(streams, &[]);
    assert_few_retries(&report);
    assert_ne!(stack.container_id("app"), app);
    // Compose 2.26 recreates what depends on a recreated service, 2.40 does not: what it does alone is what is asked for.
    let (before, after) = (caddy, stack.container_id("caddy"));
    stack.set("VERSION", "v1");
    stack.compose(&["up", "-d"]).expect_success();
    let by_compose = stack.container_id("caddy") != after;
    assert_eq!(after != before, by_compose, "Caddy is recreated when Compose does so, and only then");
}
