//! A large project in which nothing has changed.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::deploy::events;
use super::{BenchOptions, Result, Unchanged, failed, io, process};

const PROJECT: &str = "benchmany";
const TIMES: usize = 5;

pub(super) fn measure(options: &BenchOptions, logs: &Path, say: &dyn Fn(&str)) -> Result<Unchanged> {
    let services = options.unchanged_services;
    say(&format!("unchanged project: bring up {services} services"));
    let file = options.out.join("many.yaml");
    fs::write(&file, document(services)).map_err(io(format!("cannot write {}", file.display())))?;
    let compose = |words: &[&str]| {
        let mut command = Command::new("docker");
        command.args(["compose", "--progress", "quiet", "-p", PROJECT, "-f"]).arg(&file).args(words);
        command
    };
    process::run(&mut compose(&["up", "-d"]), logs, "many-up")?;
    let handover = || {
        let mut command = Command::new(&options.handover);
        command.args(["up", "-p", PROJECT, "--output", "json", "-f"]).arg(&file);
        command
    };
    let outcome = repeat(services, &compose, &handover, logs);
    process::run(&mut compose(&["down", "--timeout", "0"]), logs, "many-down")?;
    outcome
}

fn repeat(
    services: usize,
    compose: &dyn Fn(&[&str]) -> Command,
    handover: &dyn Fn() -> Command,
    logs: &Path,
) -> Result<Unchanged> {
    let mut measured =
        Unchanged { services, config_s: Vec::new(), handover_s: Vec::new(), compose_s: Vec::new(), peak_kib: 0 };
    // Once without measuring: everything has been read from the disk then.
    for time in 0..=TIMES {
        let config = process::run(&mut compose(&["config"]), logs, "many-config")?;
        let ours = process::run(&mut handover(), logs, "many-handover")?;
        let up = process::run(&mut compose(&["up", "-d"]), logs, "many-compose")?;
        if !events(&ours.stdout).iter().any(|event| event["event"] == "nothing-to-do") {
            return Err(failed("handover up of an unchanged project", ours.stdout));
        }
        if time > 0 {
            measured.config_s.push(config.wall.as_secs_f64());
            measured.handover_s.push(ours.wall.as_secs_f64());
            measured.compose_s.push(up.wall.as_secs_f64());
            measured.peak_kib = measured.peak_kib.max(ours.peak_kib);
        }
    }
    Ok(measured)
}

fn document(services: usize) -> String {
    let mut text = "services:\n".to_owned();
    for number in 1..=services {
        let _ = writeln!(text, "  s{number}:\n    image: handover-lab/debian:12\n    command: [sleep, infinity]");
        let _ = writeln!(text, "    environment: {{ NUMBER: \"{number}\" }}");
    }
    text
}
