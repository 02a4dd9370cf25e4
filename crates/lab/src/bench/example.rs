//! The examples, as the benchmark runs them: names and ports of their own, so that others fit beside them on the engine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::engine::Engine;
use super::{BenchOptions, Method, Result, failed, process};
use crate::load::{Kind, Load, LoadSpec, StreamSpec};

/// The version that runs before a deploy, and the one that is deployed.
pub(super) const OLD: &str = "v1";
pub(super) const NEW: &str = "v2";

/// How handover deploys an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Road {
    StandIn,
    /// This service; it publishes no port.
    Rolling(&'static str),
    /// This one, and its proxy is told. It is not brought up alone: it has volumes from others.
    Routed(&'static str),
}

/// One example.
#[derive(Debug)]
pub(super) struct Example {
    pub(super) name: &'static str,
    pub(super) project: &'static str,
    pub(super) road: Road,
    root: PathBuf,
    handover: PathBuf,
    /// What both Compose and handover are told.
    options: Vec<String>,
    environment: Vec<(&'static str, String)>,
    /// The variable that names the version.
    version: &'static str,
    /// Whether a deploy pulls, from the registry on loopback.
    pulls: bool,
    /// Code lives in anonymous volumes, which Compose carries over unless it is told to renew them.
    renews: bool,
    streams: Vec<StreamSpec>,
    /// Anonymous volumes that the example's containers had; the scripted deploy and -V leave some behind.
    volumes: BTreeSet<String>,
}

impl Example {
    pub(super) fn named(name: &str, engine: &Engine, options: &BenchOptions) -> Result<Self> {
        let folder = options.root.join("examples").join(name);
        let path = |file: &str| folder.join(file).display().to_string();
        let of_all = Self {
            name: "web",
            project: "benchweb",
            road: Road::StandIn,
            root: options.root.clone(),
            handover: options.handover.clone(),
            options: Vec::new(),
            environment: Vec::new(),
            version: "VERSION",
            pulls: false,
            renews: false,
            streams: Vec::new(),
            volumes: BTreeSet::new(),
        };
        match name {
            "web" => Ok(Self {
                options: ["-p", "benchweb", "-f", &path("compose.yaml")].map(str::to_owned).to_vec(),
                environment: vec![("WEB_PORT", "18080".to_owned())],
                streams: web_load("127.0.0.1:18080"),
                ..of_all
            }),
            "reference" => Ok(Self {
                name: "reference",
                project: "benchref",
                options: [
                    ["-p", "benchref"],
                    ["-f", &path("docker-compose-staging.yml")],
                    ["--env-file", &path(".env.staging.lc")],
                ]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .collect(),
                environment: [
                    ("HTTP_PORT", "18081"),
                    ("HTTPS_PORT", "18443"),
                    ("WS_PORT", "18090"),
                    ("REDIS_PORT", "16379"),
                    ("MEMCACHED_PORT", "21211"),
                    ("SDCV_PORT", "19095"),
                    ("NGINX_NAME", "bench-nginx"),
                    ("APPLICATIONS_NAME", "bench-applications"),
                    ("APPLICATIONS1_NAME", "bench-applications1"),
                    ("PHP_FPM_SERVER", "benchref_php-fpm_1:9000"),
                    ("COMPOSE_PROJECT_NAME", "benchref"),
                    ("COMPOSE_COMPATIBILITY", "true"),
                ]
                .map(|(name, value)| (name, value.to_owned()))
                .to_vec(),
                version: "TAG",
                pulls: true,
                renews: true,
                streams: reference_load("127.0.0.1:18081", "127.0.0.1:18090", "127.0.0.1:16379"),
                ..of_all
            }),
            // The same stack, and only the application is deployed.
            "php-fpm" => {
                let road = Road::Routed("php-fpm");
                Ok(Self { name: "php-fpm", road, ..Self::named("reference", engine, options)? })
            }
            "traefik" => Ok(Self {
                name: "traefik",
                project: "benchtraefik",
                road: Road::Rolling("app"),
                options: ["-p", "benchtraefik", "-f", &path("compose.yaml")].map(str::to_owned).to_vec(),
                environment: vec![("PORT", "18082".to_owned()), ("DOCKER_SOCKET", engine.socket())],
                streams: traefik_load("127.0.0.1:18082"),
                ..of_all
            }),
            _ => Err(failed(format!("no example {name}"), "there are web, reference, php-fpm and traefik")),
        }
    }

    /// The command that deploys the new version.
    pub(super) fn deploy(&self, method: Method) -> Command {
        let mut command = match method {
            Method::Handover => self.handover(NEW),
            Method::Compose => {
                let mut command = self.compose(NEW);
                command.args(["up", "-d"]);
                command.args(self.renews.then_some("--renew-anon-volumes"));
                command.args(if self.pulls { &["--pull", "always"][..] } else { &[] });
                command.args(self.alone_deployed());
                command
            }
            Method::Script => {
                let (script, what) = match self.road {
                    Road::StandIn | Road::Routed(_) => ("scripts/scripted-deploy", self.name),
                    Road::Rolling(service) => ("scripts/scale-up-deploy", service),
                };
                let mut command = Command::new(self.root.join(script));
                command.arg(what).args(&self.options).env("PULL", if self.pulls { "yes" } else { "no" });
                self.in_environment(command, NEW)
            }
        };
        command.stdin(std::process::Stdio::null());
        command
    }

    /// `handover up`, for this version.
    pub(super) fn handover(&self, version: &str) -> Command {
        let mut command = Command::new(&self.handover);
        command.arg("up").args(&self.options).args(["--output", "json"]);
        command.args(if self.pulls { &["--pull", "always"][..] } else { &[] });
        command.args(self.alone_deployed());
        self.in_environment(command, version)
    }

    /// The service that a deploy names, where it is not of the whole project.
    fn alone_deployed(&self) -> Option<&'static str> {
        match self.road {
            Road::Routed(service) => Some(service),
            Road::StandIn | Road::Rolling(_) => None,
        }
    }

    pub(super) fn load(&self) -> LoadSpec {
        LoadSpec::new(self.streams.clone())
    }

    /// A new copy of the old version that answers.
    pub(super) fn fresh(&mut self, engine: &Engine, logs: &Path) -> Result<()> {
        self.down(engine, logs)?;
        let mut up = self.compose(OLD);
        process::run(up.args(["up", "-d"]), logs, "fresh")?;
        self.volumes.extend(engine.volumes(self.project)?);
        // Gently: an open loop at full rate would bury a stack that is still starting on a busy machine.
        let gentle = |stream: &StreamSpec| StreamSpec { rate: stream.rate.min(2.0), ..stream.clone() };
        let load = Load::start(LoadSpec::new(self.streams.iter().map(gentle)))?;
        let answers = load.wait_for(Duration::from_secs(60), |progress| progress.every_stream_has(2));
        let report = load.stop();
        if answers { Ok(()) } else { Err(failed(format!("{} does not answer", self.name), report)) }
    }

    /// Takes it away, with all volumes that it ever had.
    pub(super) fn down(&mut self, engine: &Engine, logs: &Path) -> Result<()> {
        self.volumes.extend(engine.volumes(self.project)?);
        let mut down = self.compose(OLD);
        process::run(down.args(["down", "--volumes", "--remove-orphans", "--timeout", "1"]), logs, "down")?;
        if !self.volumes.is_empty() {
            let mut remove = Command::new("docker");
            remove.args(["volume", "rm", "--force"]).args(&self.volumes);
            process::run(&mut remove, logs, "volumes")?;
            self.volumes.clear();
        }
        Ok(())
    }

    fn compose(&self, version: &str) -> Command {
        let mut command = Command::new("docker");
        command.args(["compose", "--progress", "quiet"]).args(&self.options);
        self.in_environment(command, version)
    }

    /// The command that brings the new version of one service up in another project, without what it depends on.
    pub(super) fn alone(&self, project: &str, service: &str, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        // The last -p counts.
        command.args(["compose", "--progress", "quiet"]).args(&self.options).args(["-p", project]).args(words);
        command.args((words[0] == "up").then_some(service));
        self.in_environment(command, NEW)
    }

    fn in_environment(&self, mut command: Command, version: &str) -> Command {
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).env(self.version, version);
        command
    }
}

fn web_load(web: &str) -> Vec<StreamSpec> {
    vec![
        StreamSpec::new(Kind::New, 80.0, web),
        StreamSpec::new(Kind::Keepalive, 80.0, web),
        StreamSpec::new(Kind::Slow, 20.0, web),
        post(web, "/post"),
        StreamSpec::new(Kind::Download, 2.0, web).path("/download?mb=2&seconds=1"),
    ]
}

fn reference_load(web: &str, websocket: &str, redis: &str) -> Vec<StreamSpec> {
    vec![
        StreamSpec::new(Kind::New, 80.0, web),
        StreamSpec::new(Kind::Keepalive, 60.0, web),
        StreamSpec::new(Kind::New, 40.0, web).named("static").path("/static/version.txt"),
        StreamSpec::new(Kind::New, 20.0, web).named("admin").path("/admin/"),
        StreamSpec::new(Kind::Slow, 20.0, web).path("/slow.php?ms=400"),
        post(web, "/post.php"),
        StreamSpec::new(Kind::Download, 2.0, web).path("/download.php?mb=2&seconds=1"),
        StreamSpec { any_reply: true, ..StreamSpec::new(Kind::Websocket, 8.0, websocket) },
        StreamSpec::new(Kind::RedisPing, 10.0, redis),
    ]
}

fn traefik_load(web: &str) -> Vec<StreamSpec> {
    vec![
        StreamSpec::new(Kind::New, 70.0, web),
        StreamSpec::new(Kind::Keepalive, 70.0, web),
        StreamSpec::new(Kind::Slow, 20.0, web),
        StreamSpec { rate: 20.0, ..post(web, "/post") },
        StreamSpec::new(Kind::Download, 2.0, web).path("/download?bytes=2000000&ms=1000"),
        StreamSpec::new(Kind::Websocket, 8.0, web),
    ]
}

/// POSTs over kept-alive connections, whose body is under way for 150 ms.
fn post(target: &str, path: &str) -> StreamSpec {
    StreamSpec { body_ms: Some(150), ..StreamSpec::new(Kind::Post, 10.0, target).path(path) }
}
