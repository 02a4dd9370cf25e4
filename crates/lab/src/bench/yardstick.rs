//! The yardstick for "live": what handover has Compose start, brought up by Compose alone while nobody waits for it. For the
//! stand-in's road that is the very stand-in, as handover asked Compose for it; for the rolling one, the service in a project
//! of its own.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::example::{Example, NEW, Road};
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

/// What is brought up.
#[derive(Debug)]
pub(super) enum Yardstick {
    StandIn(Recorded),
    Service { name: &'static str, project: String },
}

impl Yardstick {
    /// Deploys once with handover, which makes its images and, for a stand-in, tells what it asks Compose for. None where there is nothing to compare with.
    pub(super) fn of(example: &Example, options: &BenchOptions, logs: &Path) -> Result<Option<Self>> {
        if example.road == Road::StandIn {
            return Ok(Some(Self::StandIn(record(example, options, logs)?)));
        }
        process::run(&mut example.handover(NEW), logs, &format!("warm-up-{}", example.name))?;
        Ok(match example.road {
            Road::Rolling(name) => Some(Self::Service { name, project: format!("{}-idle", example.project) }),
            Road::StandIn | Road::Routed(_) => None,
        })
    }

    /// Brings it up beside the running stack, under the same load, and takes it away again. Returns the seconds until all ports
    /// of its containers accepted and their health checks, if any, said yes.
    pub(super) fn bring_up(
        &self,
        example: &Example,
        engine: &Engine,
        round: usize,
        options: &BenchOptions,
        logs: &Path,
    ) -> Result<f64> {
        let load = Load::start(example.load())?;
        std::thread::sleep(Duration::from_secs_f64(options.rest_s.min(3.0)));
        let (mut up, project) = match self {
            Self::StandIn(recorded) => (recorded.command()?, &recorded.project),
            Self::Service { name, project } => (example.alone(project, name, &["up", "-d", "--no-deps"]), project),
        };
        let began = Instant::now();
        process::run(&mut up, logs, &format!("{}-{}-{round}-bring-up", options.engine, example.name))?;
        let ports = engine.tcp_ports(project)?;
        let ready =
            ports.iter().all(|port| wait_until_accepting(*port, began)) && wait_until_healthy(engine, project, began)?;
        let seconds = began.elapsed().as_secs_f64();
        load.stop();

        let mut down = match self {
            Self::StandIn(_) => {
                let mut down = Command::new("docker");
                down.args(["compose", "--progress", "quiet", "-p", project, "down", "--volumes", "--timeout", "1"]);
                down
            }
            Self::Service { name, project } => example.alone(project, name, &["down", "--volumes", "--timeout", "1"]),
        };
        process::run(&mut down, logs, "yardstick-down")?;
        match ready {
            _ if ports.is_empty() => Err(failed(project, "has no ports")),
            true => Ok(seconds),
            false => Err(failed(project, format!("is not ready on all of {ports:?}"))),
        }
    }
}

/// A recorded call of Compose.
#[derive(Debug)]
pub(super) struct Recorded {
    folder: PathBuf,
    project: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// Deploys once with handover and keeps its call of Compose for the stand-in.
fn record(example: &Example, options: &BenchOptions, logs: &Path) -> Result<Recorded> {
    let folder = options.out.join(format!("standin-{}", example.name));
    fs::create_dir_all(&folder).map_err(io(format!("cannot make {}", folder.display())))?;
    let plugins = folder.join("cli-plugins");
    fs::create_dir_all(&plugins).map_err(io(format!("cannot make {}", plugins.display())))?;
    let recorder = plugins.join("docker-compose");
    fs::write(&recorder, RECORDER).map_err(io(format!("cannot write {}", recorder.display())))?;
    fs::set_permissions(&recorder, fs::Permissions::from_mode(0o755)).map_err(io(recorder.display().to_string()))?;
    let mut command = example.handover(NEW);
    command.env("DOCKER_CONFIG", &folder).env("RECORDER_TO", &folder).env("RECORDER_COMPOSE", plugin()?);
    process::run(&mut command, logs, &format!("record-{}", example.name))?;

    let arguments: Vec<String> = process::read(&folder.join("arguments"))?.lines().map(str::to_owned).collect();
    let project = arguments.iter().skip_while(|argument| *argument != "-p").nth(1);
    let project = project.ok_or_else(|| failed("the stand-in's project", "was not named with -p"))?.clone();
    let environment = process::read(&folder.join("environment"))?;
    let environment = environment.lines().filter_map(|line| line.split_once('='));
    // Compose was led through a socket of handover's, which is gone.
    let environment = environment.filter(|(name, _)| !["DOCKER_CONFIG", "DOCKER_HOST"].contains(name));
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(Recorded { folder, project, arguments, environment })
}

impl Recorded {
    fn command(&self) -> Result<Command> {
        let mut command = Command::new("docker");
        command.arg("compose").args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        process::stdin_from(&mut command, &self.folder.join("document"))?;
        Ok(command)
    }
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

fn wait_until_healthy(engine: &Engine, project: &str, began: Instant) -> Result<bool> {
    while began.elapsed() < LIMIT {
        if engine.is_healthy(project)? {
            return Ok(true);
        }
        std::thread::sleep(POLL);
    }
    Ok(false)
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
