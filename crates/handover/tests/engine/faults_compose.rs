//! Compose that does not do its part: whatever it is asked before anything stops, its silence is no permission.

use std::os::unix::fs::PermissionsExt;

use handover_lab::load::Kind;

use crate::harness::Stack;

#[test]
fn a_dry_run_that_fails_or_is_not_understood_stops_nothing() {
    let mut stack = Stack::web("dryrun");
    stack.set("VERSION", "v2");
    let real = std::path::Path::new(&std::env::var("DOCKER_CONFIG").unwrap_or_default())
        .join("cli-plugins/docker-compose")
        .display()
        .to_string();
    for (name, dry_run, words) in [
        ("fails", "echo out of order >&2; exit 1", "Compose does not say what it would recreate"),
        ("other-words", "echo ' Container x  Ersetzen' >&2; exit 0", "were not understood"),
    ] {
        let folder = stack.path().join(name).join("cli-plugins");
        std::fs::create_dir_all(&folder).unwrap();
        let plugin = folder.join("docker-compose");
        let script = format!("#!/bin/sh\ncase \" $* \" in *' --dry-run '*) {dry_run};; esac\nexec {real} \"$@\"\n");
        std::fs::write(&plugin, script).unwrap();
        std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
        let untouched = stack.untouched();
        let load = stack.load([stack.stream(Kind::New, 20.0)]);
        stack.set("DOCKER_CONFIG", &stack.path().join(name).display().to_string());
        stack.up(&[]).expect_code(4).expect_says(words).expect_says("nothing of the old version was stopped");
        stack.set("DOCKER_CONFIG", &std::env::var("DOCKER_CONFIG").unwrap_or_default());
        load.stop().assert_no_failures();
        untouched();
        stack.assert_nothing_left();
    }
}
