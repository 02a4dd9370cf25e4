//! An engine that is reached over TCP with TLS, by who shows a certificate, as remote engines are.
//!
//! The tests run on an engine of their own that listens at a port of loopback, too (`scripts/test`). `HANDOVER_TEST_TLS` says which,
//! and the folder with the certificates by the names that the Docker CLI looks for: `127.0.0.1:2376 /folder`.

use handover_lab::load::{Kind, StreamSpec};

use crate::harness::{Stack, docker};

/// The engine's URL and the folder.
fn engine() -> (String, String) {
    let both = std::env::var("HANDOVER_TEST_TLS").expect("HANDOVER_TEST_TLS names no engine");
    let (address, folder) = both.split_once(' ').expect("an address and a folder");
    (format!("tcp://{address}"), folder.to_owned())
}

/// Deploys under load.
#[track_caller]
fn deployed(stack: &mut Stack) {
    let streams = [
        stack.stream(Kind::New, 40.0),
        stack.stream(Kind::Keepalive, 40.0),
        StreamSpec { body_ms: Some(200), ..stack.stream(Kind::Post, 10.0) },
    ];
    stack.hand_over(streams, &[]).0.assert_nothing_noticed();
}

#[test]
fn an_engine_that_the_environment_names() {
    let mut stack = Stack::web("tls");
    let (host, folder) = engine();
    stack.set("DOCKER_HOST", &host);
    stack.set("DOCKER_TLS_VERIFY", "1");
    stack.set("DOCKER_CERT_PATH", &folder);
    deployed(&mut stack);
}

/// A context of the Docker CLI, removed when dropped.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        docker(&["context", "rm", "--force", &self.0]);
    }
}

#[test]
fn an_engine_that_a_context_names() {
    let mut stack = Stack::web("tls-context");
    let (host, folder) = engine();
    let endpoint = format!("host={host},ca={folder}/ca.pem,cert={folder}/cert.pem,key={folder}/key.pem");
    docker(&["context", "create", &stack.name, "--docker", &endpoint]);
    let context = Context(stack.name.clone());
    stack.set("DOCKER_HOST", "");
    stack.set("DOCKER_CONTEXT", &context.0);
    deployed(&mut stack);
}

#[test]
fn an_engine_that_does_not_know_us_is_one_that_does_not_answer() {
    let mut stack = Stack::web("tls-unknown");
    let untouched = stack.untouched();
    stack.set("DOCKER_HOST", &engine().0);
    stack.set("VERSION", "v2");
    stack.up(&[]).expect_code(4).expect_says("the Docker engine does not answer");
    untouched();
}
