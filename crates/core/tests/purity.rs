//! The invariant of this crate: decisions know no clock, no file, no socket, no engine and no runtime.

use std::path::Path;

#[test]
fn the_crate_depends_on_data_and_nothing_else() {
    let manifest = include_str!("../Cargo.toml");
    let dependencies = manifest.split("[dependencies]").nth(1).and_then(|rest| rest.split("\n[").next());
    let names: Vec<&str> = dependencies
        .expect("the manifest has dependencies")
        .lines()
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|name| !name.is_empty())
        .collect();
    assert_eq!(names, ["serde", "serde_json", "sha2", "strsim", "thiserror"]);
}

#[test]
fn no_source_file_reaches_for_the_outside() {
    let effects = [
        "std::fs",
        "std::io",
        "std::process",
        "std::env",
        "std::thread",
        "std::net::Tcp",
        "std::net::Udp",
        "Instant::now",
        "SystemTime",
        "async fn",
        "println!",
    ];
    check_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &effects);
}

fn check_folder(folder: &Path, effects: &[&str]) {
    for entry in std::fs::read_dir(folder).expect("the source is there") {
        let path = entry.expect("the source can be listed").path();
        if path.is_dir() {
            check_folder(&path, effects);
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("the source can be read");
        for effect in effects {
            assert!(!text.contains(effect), "{} uses {effect}", path.display());
        }
    }
}
