//! The yardstick for "live": the very stand-in that handover asks Compose for, brought up by Compose alone while nobody
//! waits for it.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::example::Example;
use super::{BenchOptions, Result, failed, io, process};
use crate::load::Load;

const POLL: Duration = Duration::from_millis(5);
const LIMIT: Duration = Duration::from_secs(120);

/// Stands in for the Compose plugin and keeps what a project that comes through stdin was brought up with.
const RECORDER: &str = r#"#!/bin/sh
compose=$RECORDER_COMPOSE
case " $* " in
    *" -f - "*)
        cat >"$RECORDER_TO/document"
        env >"$RECORDER_TO/environment"
        printf '%s\n' "$@" >"$RECORDER_TO/arguments"
        exec "$compose" "$@" <"$RECORDER_TO/document"
        ;;
esac
exec "$compose" "$@"
"#;

/// A recorded call of Compose.
#[derive(Debug)]
pub(super) struct Recorded {
    folder: PathBuf,
    project: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// Deploys once with handover and keeps its call of Compose for the stand-in.
pub(super) fn record(example: &Example, options: &BenchOptions, logs: &Path) -> Result<Recorded> {
    let folder = options.out.join(format!("standin-{}", example.name));
    fs::create_dir_all(&folder).map_err(io(format!("cannot make {}", folder.display())))?;
    let plugins = folder.join("cli-plugins");
    fs::create_dir_all(&plugins).map_err(io(format!("cannot make {}", plugins.display())))?;
    let recorder = plugins.join("docker-compose");
    fs::write(&recorder, RECORDER).map_err(io(format!("cannot write {}", recorder.display())))?;
    fs::set_permissions(&recorder, fs::Permissions::from_mode(0o755)).map_err(io(recorder.display().to_string()))?;
    let mut command = example.handover();
    command.env("DOCKER_CONFIG", &folder).env("RECORDER_TO", &folder).env("RECORDER_COMPOSE", plugin()?);
    process::run(&mut command, logs, &format!("record-{}", example.name))?;

    let arguments: Vec<String> = process::read(&folder.join("arguments"))?.lines().map(str::to_owned).collect();
    let project = arguments.iter().skip_while(|argument| *argument != "-p").nth(1);
    let project = project.ok_or_else(|| failed("the stand-in's project", "was not named with -p"))?.clone();
    let environment = process::read(&folder.join("environment"))?;
    let environment = environment.lines().filter_map(|line| line.split_once('='));
    let environment = environment.filter(|(name, _)| *name != "DOCKER_CONFIG");
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(Recorded { folder, project, arguments, environment })
}

/// The Compose plugin that `docker compose` runs.
fn plugin() -> Result<PathBuf> {
    let own = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    let system = ["/usr/local/lib/docker", "/usr/local/libexec/docker", "/usr/lib/docker", "/usr/libexec/docker"];
    let folders = own.or(home).into_iter().chain(system.map(PathBuf::from));
    let found = folders.map(|folder| folder.join("cli-plugins/docker-compose")).find(|plugin| plugin.is_file());
    found.ok_or_else(|| failed("the Compose plugin", "is not where the Docker CLI looks for it"))
}

/// Brings the stand-in up beside the running stack, under the same load, and takes it away again. Returns the seconds until
/// all ports of its containers accepted.
pub(super) fn bring_up(
    example: &Example,
    engine: &Engine,
    recorded: &Recorded,
    round: usize,
    options: &BenchOptions,
    logs: &Path,
) -> Result<f64> {
    let load = Load::start(example.load())?;
    std::thread::sleep(Duration::from_secs_f64(options.rest_s.min(3.0)));
    let mut command = Command::new("docker");
    command.arg("compose").args(&recorded.arguments);
    command.envs(recorded.environment.iter().map(|(name, value)| (name, value)));
    process::stdin_from(&mut command, &recorded.folder.join("document"))?;
    let began = Instant::now();
    process::run(&mut command, logs, &format!("{}-{}-{round}-bring-up", options.engine, example.name))?;
    let ports = engine.tcp_ports(&recorded.project)?;
    if ports.is_empty() {
        return Err(failed(format!("the stand-in {}", recorded.project), "has no ports"));
    }
    let accepted = ports.iter().all(|port| wait_until_accepting(*port, began));
    let seconds = began.elapsed().as_secs_f64();
    load.stop();

    let mut down = Command::new("docker");
    down.args(["compose", "--progress", "quiet", "-p", &recorded.project, "down", "--volumes", "--timeout", "1"]);
    process::run(&mut down, logs, "standin-down")?;
    if accepted { Ok(seconds) } else { Err(failed("the stand-in", format!("does not accept on all of {ports:?}"))) }
}

fn wait_until_accepting(port: SocketAddr, began: Instant) -> bool {
    while began.elapsed() < LIMIT {
        if TcpStream::connect_timeout(&port, Duration::from_secs(1)).is_ok() {
            return true;
        }
        std::thread::sleep(POLL);
    }
    false
}
