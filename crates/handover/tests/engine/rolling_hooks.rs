//! Services for which Compose does something only when it starts a container itself: it does.

use crate::harness::Stack;
use crate::harness::proxies::{HEALTHCHECK, LABELS, TRAEFIK};
use crate::rolling::{requests, rolled};
use crate::rolling_failures::{file, refused};

/// A service that says the version that it reads from this file at its start.
fn reads(path: &str, keys: &str, more: &str) -> String {
    format!(
        "services:{TRAEFIK}\n  app:\n    image: ${{LAB}}\n    environment: {{ LAB_VERSION_FILE: \"{path}\", WANTED: \"${{VERSION}}\", \
         LAB_BOOT_MS: \"300\" }}\n{keys}{LABELS}{HEALTHCHECK}\n{more}"
    )
}

/// Deploys v2 under load: nobody notices, and the new containers say v2.
#[track_caller]
fn comes_out_whole(name: &str, text: &str) {
    let mut stack = crate::harness::proxies::behind_traefik(name, "");
    stack.compose_file(text);
    stack.start();
    let before = stack.container_ids();
    let streams = requests(&stack);
    let (report, finished) = stack.hand_over(streams, &[]);
    report.assert_nothing_noticed();
    rolled(&finished);
    let after = stack.container_ids();
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{finished}");
    assert!(after.iter().filter(|(name, _)| name.contains("-app-")).all(|(name, id)| before[name] != *id));
}

#[test]
fn configs_that_are_in_the_compose_file_itself() {
    let keys = "    configs: [{ source: version, target: /version }]\n    deploy: { replicas: 2 }\n";
    comes_out_whole("roll-content", &reads("/version", keys, "configs: { version: { content: \"${VERSION}\" } }\n"));
}

#[test]
fn secrets_from_the_environment() {
    let keys = "    secrets: [version]\n";
    let text = reads("/run/secrets/version", keys, "secrets: { version: { environment: VERSION } }\n");
    comes_out_whole("roll-secret", &text);
}

#[test]
fn a_container_name_and_secrets_from_the_environment() {
    let keys = "    secrets: [version]\n    container_name: ${COMPOSE_PROJECT_NAME}-app-named\n";
    let text = reads("/run/secrets/version", keys, "secrets: { version: { environment: VERSION } }\n");
    comes_out_whole("roll-secret-name", &text);
}

/// Whether this Compose runs `post_start`. It does since 2.30; 2.26 takes the key and does nothing.
fn knows_hooks(stack: &Stack) -> bool {
    let version = stack.compose(&["version", "--short"]).stdout;
    let mut numbers =
        version.trim().trim_start_matches('v').split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let known = (numbers.next(), numbers.next()) >= (Some(2), Some(30));
    if !known {
        eprintln!("left out: this Compose runs no post_start");
    }
    known
}

const GOOD: &str = "    post_start: [{ command: [\"/handover-lab\", \"serve\", \"--help\"] }]\n";
const BAD: &str = "    post_start: [{ command: [\"/handover-lab\", \"nonsense\"] }]\n";

#[test]
fn commands_after_the_start() {
    let stack = crate::harness::proxies::behind_traefik("roll-hook", "");
    stack.compose_file(&file(&[], &[GOOD]));
    if !knows_hooks(&stack) {
        return;
    }
    let three = "    deploy: { replicas: 3, update_config: { parallelism: 2 } }\n";
    comes_out_whole("roll-hooks", &file(&[("LAB_BOOT_MS", "300")], &[GOOD, three]));
}

#[test]
fn a_command_that_fails_after_the_start_leaves_the_old_container_serving() {
    let mut stack = crate::harness::proxies::behind_traefik("roll-hook-bad", "");
    stack.compose_file(&file(&[], &[GOOD]));
    if !knows_hooks(&stack) {
        return;
    }
    stack.start();
    let finished = refused(&mut stack, &file(&[], &[BAD]), &file(&[], &[GOOD]), &[], false);
    assert!(finished.stderr.contains("post_start"), "{finished}");
}

#[test]
fn a_version_whose_files_compose_writes_and_that_exits_is_removed_again() {
    let secret = |environment: &[(&str, &str)]| {
        let text = file(environment, &["    secrets: [version]\n"]);
        format!("{text}\nsecrets: {{ version: {{ environment: VERSION }} }}\n")
    };
    let mut stack = crate::harness::proxies::behind_traefik("roll-secret-bad", "");
    stack.compose_file(&secret(&[]));
    stack.start();
    let bad = secret(&[("LAB_EXIT_AFTER_MS", "0"), ("LAB_EXIT_CODE", "3")]);
    refused(&mut stack, &bad, &secret(&[]), &[], false);
}
