//! Bad input: one clear error that names the thing and the way out, its exit code, and nothing changed.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Finished, Stack, docker};

/// Deploys, which must be refused with this code and these words, and must change nothing.
#[track_caller]
pub(crate) fn refused(stack: &Stack, args: &[&str], code: i32, words: &[&str]) -> Finished {
    let untouched = stack.untouched();
    let mut finished = stack.up(args).expect_code(code);
    for word in words {
        finished = finished.expect_says(word);
    }
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    assert!(finished.stderr.starts_with("error: "), "{}", finished.stderr);
    untouched();
    stack.assert_nothing_left();
    finished
}

#[test]
fn no_compose_file() {
    let stack = Stack::new("nofile");
    refused(&stack, &[], 3, &["no configuration file", "name it with -f"]);
}

#[test]
fn a_file_that_compose_refuses_is_refused_in_composes_own_words() {
    let stack = Stack::new("refused");
    stack.compose_file("services:\n  web:\n    image: x\n    imagee: y\n");
    refused(&stack, &[], 3, &["Compose refuses the project", "imagee"]);
    stack.compose_file("services:\n  web: [\n");
    refused(&stack, &[], 3, &["Compose refuses the project", "yaml"]);
}

#[test]
fn a_service_that_is_not_there_is_answered_with_the_nearest() {
    let stack = Stack::web("unknown");
    refused(&stack, &["wbe"], 3, &["there is no service `wbe`", "did you mean `web`?"]);
}

#[test]
fn settings_that_are_not_known_are_answered_with_the_nearest() {
    let stack = Stack::new("settings");
    stack.compose_file("services: {web: {image: x}}\nx-handover: {services: {web: {volume: share}}}\n");
    refused(&stack, &[], 3, &["x-handover.services.web.volume", "did you mean `volumes`?"]);
}

#[test]
fn compose_that_does_not_run_or_is_too_old() {
    let mut stack = Stack::web("nocompose");
    stack.set("VERSION", "v2");
    for (name, body, words) in [
        ("none", "echo no such thing >&2; exit 1", "Docker Compose is missing"),
        ("old", "echo 2.20.3", "Docker Compose 2.20.3 is too old"),
    ] {
        let folder = stack.path().join(name).join("cli-plugins");
        std::fs::create_dir_all(&folder).unwrap();
        let plugin = folder.join("docker-compose");
        std::fs::write(&plugin, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
        let untouched = stack.untouched();
        stack.set("DOCKER_CONFIG", &stack.path().join(name).display().to_string());
        stack.up(&[]).expect_code(4).expect_says(words).expect_says("2.26 or newer");
        untouched();
    }
    stack.set("DOCKER_CONFIG", &std::env::var("DOCKER_CONFIG").unwrap_or_default());
}

#[test]
fn an_engine_that_does_not_answer() {
    let stack = Stack::web("noengine");
    let untouched = stack.untouched();
    let missing = stack.path().join("no.sock").display().to_string();
    let finished = stack.handover(&["--host", &format!("unix://{missing}"), "up"]);
    finished.expect_code(4).expect_says("the Docker engine does not answer").expect_says("DOCKER_HOST");
    let nobody = format!("tcp://127.0.0.1:{}", crate::harness::net::free_port());
    stack.handover(&["--host", &nobody, "up"]).expect_code(4).expect_says("the Docker engine does not answer");
    untouched();
}

#[test]
fn a_pull_that_fails() {
    let mut stack = Stack::web("pull");
    stack.set("LAB", &format!("127.0.0.1:{}/nothing:v2", crate::harness::net::free_port()));
    refused(&stack, &[], 5, &["the pull of web failed", "nothing was changed"]);
    refused(&stack, &["--pull", "never"], 5, &["is not here", "--pull missing"]);
}

#[test]
fn a_build_that_fails() {
    let stack = Stack::new("build");
    stack.compose_file("services: {web: {build: ., image: handover-tests/broken}}\n");
    stack.write("Dockerfile", "FROM scratch\nCOPY missing /\n");
    refused(&stack, &[], 5, &["the build of web failed"]);
}

#[test]
fn a_port_that_a_process_holds() {
    let mut stack = Stack::web("process");
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    stack.set("PORT", &listener.local_addr().unwrap().port().to_string());
    let port = format!("port {}/tcp is taken", listener.local_addr().unwrap().port());
    refused(&stack, &[], 7, &[&port, "a process on the host"]);
    let mut fresh = Stack::new("process");
    fresh.compose_file(crate::harness::WEB);
    fresh.set("PORT", &listener.local_addr().unwrap().port().to_string());
    refused(&fresh, &[], 7, &[&port]);
}

#[test]
fn a_port_or_a_name_that_another_projects_container_holds() {
    let holder = Stack::web("holder");
    let mut stack = Stack::web("taken");
    stack.set("PORT", &holder.port.to_string());
    refused(&stack, &[], 7, &["is taken", &format!("{}-web-1 of project {}", holder.name, holder.name)]);
    stack.set("PORT", &stack.port.to_string());
    let name = format!("container_name: {}-web-1", holder.name);
    stack.compose_file(&format!("{}    {name}\n", crate::harness::WEB));
    refused(&stack, &[], 7, &["the container name", "is taken"]);
}

#[test]
fn an_image_of_another_architecture() {
    let mut stack = Stack::web("arch");
    let image = "handover-tests/arm:1";
    // `docker import --platform` is experimental on 20.10; an archive as `docker save` writes it is not.
    stack.write("layer.tar", &"\0".repeat(1024));
    stack.write(
        "manifest.json",
        &format!(r#"[{{"Config":"config.json","RepoTags":["{image}"],"Layers":["layer.tar"]}}]"#),
    );
    let empty = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"; // sha256 of that layer
    let config = format!(
        r#"{{"architecture":"arm64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:{empty}"]}}}}"#
    );
    stack.write("config.json", &config);
    let mut tar = stack.command("tar");
    assert!(tar.args(["cf", "image.tar", "layer.tar", "manifest.json", "config.json"]).status().unwrap().success());
    docker(&["load", "-i", &stack.path().join("image.tar").display().to_string()]);
    stack.set("LAB", image);
    refused(&stack, &[], 5, &["is built for arm64", "platform:"]);
}

#[test]
fn a_service_that_keeps_state_is_not_doubled_without_a_word() {
    let mut stack = Stack::new("state");
    let file = format!("{}    volumes: [data:/data]\nvolumes: {{data: }}\n", crate::harness::WEB);
    stack.compose_file(&file);
    stack.start();
    stack.set("VERSION", "v2");
    refused(&stack, &[], 6, &["volume data at /data", "web: { volumes: share }", "web: { volumes: own }"]);
    stack.plan().expect_code(6).expect_says("volume data at /data");

    stack.compose_file(&format!("{file}x-handover: {{services: {{web: {{volumes: own}}}}}}\n"));
    refused(&stack, &[], 6, &["would interrupt", "--allow-interruption"]);
    stack.up(&["--allow-interruption"]).expect_success().expect_says("in-place");
    stack.assert_done();

    stack.set("VERSION", "v3");
    stack.compose_file(&format!("{file}x-handover: {{services: {{web: {{volumes: share}}}}}}\n"));
    stack.up(&[]).expect_success().expect_says("the new version is live");
    stack.assert_done();
}

#[test]
fn a_network_that_changes_is_refused() {
    let mut stack = Stack::web("network");
    stack.compose_file(&format!("{}networks: {{default: {{driver_opts: {{x: y}}}}}}\n", crate::harness::WEB));
    stack.set("VERSION", "v2");
    // Compose 2.26 writes no hash on networks and leaves a changed one as it is; 2.40 makes it anew.
    let network = docker(&["network", "inspect", &format!("{}_default", stack.name)]);
    if !network.contains("com.docker.compose.config-hash") {
        stack.up(&[]).expect_success();
        stack.assert_done();
        return;
    }
    refused(&stack, &[], 6, &["has another definition now", "docker compose up -d"]);
}

#[test]
fn a_wrong_command_line() {
    let stack = Stack::new("usage");
    stack.handover(&["up", "--no-such-flag"]).expect_code(2).expect_says("--no-such-flag");
    stack.handover(&["up", "--drain", "soon"]).expect_code(2).expect_says("write it like 30s");
}
