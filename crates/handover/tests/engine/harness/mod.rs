//! What all tests on a real engine share.
//!
//! A [`Stack`] is a compose file in a directory of its own, with a project name and host ports of its own, so that tests run
//! side by side. Dropping it removes all of it from the engine, also after a panic.
//!
//! ```ignore
//! let mut stack = Stack::new("ports");              // environment: VERSION=v1, LAB=<image of the test service>, PORT=<free>
//! stack.compose_file(WEB);                          // or any other text; ${…} comes from the stack's environment
//! stack.start();                                    // docker compose up -d, and waits until PORT answers
//! let load = stack.load([stack.stream(Kind::New, 50.0)]);   // load from within, ready and at rest
//! stack.set("VERSION", "v2");
//! stack.up(&[]).expect_success();                   // handover up
//! stack.up(&["nonsense"]).expect_code(3).expect_says("hint:");
//! finish(load, "v2").assert_nothing_noticed();      // waits until all streams see v2, stops
//! stack.assert_done();                              // nothing left, and docker compose up -d has nothing to do
//! ```
//!
//! - [`Stack::hand_over`] does all of that in one call: start, load, new version, `handover up`, assertions.
//! - [`Stack::spawn`] starts handover and lets the test listen to its JSON events ([`Running::wait_step`]) and send it signals.
//! - [`Stack::handover`] is any command line, [`Stack::command`] the prepared [`Command`] (for another environment).
//! - [`Stack::untouched`] remembers the containers; call what it returns to assert that they are the same afterwards.
//! - The services run [`docker::lab_image`]: HTTP at port 80, dies on SIGTERM; its flags are environment variables (see
//!   `handover-lab serve --help`).

pub(crate) mod client;
pub(crate) mod docker;
pub(crate) mod net;
pub(crate) mod process;
pub(crate) mod proxies;
pub(crate) mod slow_socket;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use handover_lab::load::{Kind, Load, LoadSpec, Report, StreamSpec};
use serde_json::Value;

pub(crate) use docker::{docker, docker_lines, inspect};
pub(crate) use process::{Finished, Running};

/// One service that publishes its port itself.
pub(crate) const WEB: &str = r#"
services:
  web:
    image: ${LAB}
    environment:
      VERSION: ${VERSION}
    ports:
      - "${PORT}:80"
"#;

/// How long anything may take that should happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A project on the engine.
pub(crate) struct Stack {
    pub(crate) name: String,
    pub(crate) port: u16,
    /// Services that end by themselves: `docker compose up -d` starts them each time.
    pub(crate) one_shots: Vec<&'static str>,
    directory: tempfile::TempDir,
    began: SystemTime,
    environment: BTreeMap<String, String>,
}

/// A container, as far as Compose decides what it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Made {
    name: String,
    image: String,
    labels: BTreeMap<String, String>,
    networks: Vec<(String, Vec<String>)>,
    mounts: Vec<(String, String)>,
    ports: String,
}

impl Stack {
    /// An empty directory, a name that contains this one, a free port.
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        docker::require_engine();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = net::free_port();
        let environment = [("LAB", docker::lab_image()), ("VERSION", "v1"), ("PORT", &port.to_string())];
        Self {
            name: format!("t-{name}-{}-{number}", std::process::id()),
            port,
            one_shots: Vec::new(),
            directory: tempfile::Builder::new().prefix("handover-test-").tempdir().expect("a directory"),
            began: SystemTime::now(),
            environment: environment.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        }
    }

    /// The stack of one service, running in version v1.
    pub(crate) fn web(name: &str) -> Self {
        let stack = Self::new(name);
        stack.compose_file(WEB);
        stack.start();
        stack
    }

    /// Writes `compose.yaml`.
    pub(crate) fn compose_file(&self, text: &str) {
        self.write("compose.yaml", text);
    }

    /// Writes a file of the project.
    pub(crate) fn write(&self, path: &str, text: &str) {
        fs::write(self.path().join(path), text).expect("the stack's directory can be written to");
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Sets a variable for handover and Compose.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.environment.insert(key.to_owned(), value.to_owned());
    }

    /// A command in the project's directory, with its environment.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path()).envs(&self.environment).env("COMPOSE_PROJECT_NAME", &self.name);
        command
    }

    /// Starts `handover` with these arguments.
    #[track_caller]
    pub(crate) fn spawn(&self, args: &[&str]) -> Running {
        let mut command = self.command(env!("CARGO_BIN_EXE_handover"));
        command.args(args);
        Running::start(command)
    }

    /// Runs `handover` with these arguments to its end.
    #[track_caller]
    pub(crate) fn handover(&self, args: &[&str]) -> Finished {
        self.spawn(args).finish()
    }

    /// Runs `handover up`.
    #[track_caller]
    pub(crate) fn up(&self, args: &[&str]) -> Finished {
        self.handover(&[&["up"], args].concat())
    }

    /// Starts `handover up --output json`.
    #[track_caller]
    pub(crate) fn spawn_up(&self, args: &[&str]) -> Running {
        self.spawn(&[&["up", "--output", "json"], args].concat())
    }

    /// Runs `handover plan`.
    #[track_caller]
    pub(crate) fn plan(&self) -> Finished {
        self.handover(&["plan"])
    }

    /// Runs `docker compose`.
    #[track_caller]
    pub(crate) fn compose(&self, args: &[&str]) -> Finished {
        let mut command = self.command("docker");
        command.arg("compose").args(args);
        Running::start(command).finish()
    }

    /// `docker compose up -d`, and waits until `PORT` answers.
    #[track_caller]
    pub(crate) fn start(&self) {
        self.compose(&["up", "-d", "--quiet-pull"]).expect_success();
        self.wait_http(self.port);
    }

    /// Waits until HTTP at this port of loopback is answered with 200.
    #[track_caller]
    pub(crate) fn wait_http(&self, port: u16) {
        wait_until(&format!("port {port} answers"), || get(&format!("127.0.0.1:{port}"), "/").is_some());
    }

    /// Requests to `PORT` on loopback.
    pub(crate) fn stream(&self, kind: Kind, rate: f64) -> StreamSpec {
        StreamSpec::new(kind, rate, format!("127.0.0.1:{}", self.port))
    }

    /// Starts a load and waits until every stream has had good answers.
    #[track_caller]
    pub(crate) fn load(&self, streams: impl IntoIterator<Item = StreamSpec>) -> Load {
        let load = Load::start(LoadSpec::new(streams)).expect("the load's spec is good");
        if !load.wait_for(SOON, |progress| progress.every_stream_has(3)) {
            panic!("no rest before the deploy:\n{}", load.stop().table());
        }
        load
    }

    /// Deploys v2 under a load (on a stack that runs in v1) and asserts what must hold for every deploy: it succeeds, no
    /// request fails, every stream sees v2, nothing is left and Compose has nothing to do.
    #[track_caller]
    pub(crate) fn hand_over(
        &mut self,
        streams: impl IntoIterator<Item = StreamSpec>,
        args: &[&str],
    ) -> (Report, Finished) {
        let (report, finished) = self.deploy(streams, args);
        if let Some(failures) = report.failures() {
            panic!("{failures}\n{finished}");
        }
        (report, finished)
    }

    /// The same, but says nothing of requests that failed.
    #[track_caller]
    pub(crate) fn deploy(
        &mut self,
        streams: impl IntoIterator<Item = StreamSpec>,
        args: &[&str],
    ) -> (Report, Finished) {
        let load = self.load(streams);
        self.set("VERSION", "v2");
        load.mark("deploy");
        let finished = self.up(&[&["--output", "json"], args].concat());
        load.mark("after");
        let finished = finished.expect_success();
        let report = finish(load, "v2");
        self.assert_done();
        (report, finished)
    }

    /// Ids of all containers of the project, by name.
    pub(crate) fn container_ids(&self) -> BTreeMap<String, String> {
        let filter = format!("label=com.docker.compose.project={}", self.name);
        let lines = docker_lines(&["ps", "-a", "--no-trunc", "--filter", &filter, "--format", "{{.Names}} {{.ID}}"]);
        lines.iter().filter_map(|line| line.split_once(' ')).map(|(name, id)| (name.into(), id.into())).collect()
    }

    /// Id of the only container of a service.
    #[track_caller]
    pub(crate) fn container_id(&self, service: &str) -> String {
        let name = format!("{}-{service}-1", self.name);
        self.container_ids().get(&name).unwrap_or_else(|| panic!("{name} is not there")).clone()
    }

    /// Remembers containers, when they were started, networks and volumes; the function returned panics if any of it has
    /// changed.
    #[track_caller]
    pub(crate) fn untouched(&self) -> impl Fn() + use<> {
        let name = self.name.clone();
        let look = move || {
            let filter = format!("label=com.docker.compose.project={name}");
            let started: BTreeMap<String, Value> = docker_lines(&["ps", "-aq", "--no-trunc", "--filter", &filter])
                .into_iter()
                .map(|id| {
                    let state = inspect(&id)["State"].clone();
                    (id, serde_json::json!([state["StartedAt"], state["Status"]]))
                })
                .collect();
            let networks = docker_lines(&["network", "ls", "-q", "--filter", &filter]);
            let volumes = docker_lines(&["volume", "ls", "-q", "--filter", &filter]);
            (started, networks, volumes)
        };
        let before = look();
        move || assert_eq!(before, look(), "containers, networks or volumes have been touched")
    }

    /// All containers of the project, as Compose decides what they are.
    pub(crate) fn made(&self) -> Vec<Made> {
        let ids = self.container_ids();
        let mut all: Vec<Made> = ids.values().map(|id| made(&inspect(id), id)).collect();
        all.sort();
        all
    }

    /// Asserts [`Self::assert_nothing_left`] and [`Self::assert_compose_has_nothing_to_do`].
    #[track_caller]
    pub(crate) fn assert_done(&self) {
        self.assert_nothing_left();
        self.assert_compose_has_nothing_to_do();
    }

    /// Asserts that handover left no container, network, volume or nftables table.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.leftovers(), Vec::<String>::new(), "handover left something of project {}", self.name);
    }

    /// Asserts that `docker compose up -d` would change nothing; but it starts [`Self::one_shots`] each time.
    #[track_caller]
    pub(crate) fn assert_compose_has_nothing_to_do(&self) {
        let dry = self.compose(&["--dry-run", "--ansi=never", "--progress=plain", "up", "-d"]).expect_success();
        let told = format!("{}\n{}", dry.stdout, dry.stderr);
        assert!(told.contains("Running"), "no dry run:\n{dry}");
        let one_shot = |service: &&str| format!("{}-{service}-", self.name);
        let expected = |line: &str| self.one_shots.iter().any(|service| line.contains(&one_shot(service)));
        let changes: Vec<&str> = told
            .lines()
            .filter(|line| ["Recreat", "Creat", "Start", "Remov", "Stop"].iter().any(|word| line.contains(word)))
            .filter(|line| !expected(line))
            .collect();
        assert_eq!(changes, Vec::<&str>::new(), "docker compose up -d would still do something:\n{dry}");
    }

    fn leftovers(&self) -> Vec<String> {
        let standin = format!("label=com.docker.compose.project={}-standin", self.name);
        let mut left = Vec::new();
        for (kind, list) in [
            ("container", vec!["ps", "-a", "--filter", &standin, "--format", "{{.Names}} {{.Status}}"]),
            ("network", vec!["network", "ls", "--filter", &standin, "--format", "{{.Name}}"]),
            ("volume", vec!["volume", "ls", "--filter", &standin, "--format", "{{.Name}}"]),
        ] {
            left.extend(docker_lines(&list).into_iter().map(|name| format!("{kind} {name}")));
        }
        left.extend(self.helpers().into_iter().map(|name| format!("container {name}")));
        left.extend(self.tables().into_iter().map(|name| format!("nftables table {name}")));
        left
    }

    /// Names of handover's own containers.
    pub(crate) fn helpers(&self) -> Vec<String> {
        let filter = format!("name=^/handover-{}-(guard|session|look.*)$", self.name);
        docker_lines(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"])
    }

    /// The project's nftables tables: family and name.
    #[track_caller]
    pub(crate) fn tables(&self) -> Vec<String> {
        let output = Command::new("nft").args(["list", "tables"]).output().expect("nft is not installed");
        assert!(output.status.success(), "nft list tables: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let ours = |line: &&str| line.split_whitespace().any(|word| word == format!("handover-{}", self.name));
        text.lines().filter(ours).filter_map(|line| line.strip_prefix("table ")).map(str::to_owned).collect()
    }

    fn clean_up(&self) {
        let projects = [self.name.clone(), format!("{}-standin", self.name)];
        // Stopped, the guard deletes its table. What a keeper leads must not be another stack's address next.
        for helper in self.helpers().into_iter().chain([format!("handover-{}-keeper", self.name)]) {
            docker_lines(&["stop", "--time", "2", &helper]);
            docker_lines(&["rm", "-fv", &helper]);
        }
        // A Compose that outlives a killed handover may still be making containers.
        for _ in 0..5 {
            let mut found = false;
            for project in &projects {
                let filter = format!("label=com.docker.compose.project={project}");
                for id in docker_lines(&["ps", "-aq", "--filter", &filter]) {
                    found = true;
                    docker_lines(&["rm", "-fv", &id]);
                }
            }
            if !found {
                break;
            }
        }
        for project in &projects {
            let filter = format!("label=com.docker.compose.project={project}");
            for kind in ["volume", "network"] {
                for name in docker_lines(&[kind, "ls", "-q", "--filter", &filter]) {
                    docker_lines(&[kind, "rm", &name]);
                }
            }
        }
        for table in self.tables() {
            let mut delete = Command::new("nft");
            let _ = delete.args(["delete", "table"]).args(table.split_whitespace()).status();
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            docker::tell_what_happened(&self.name, self.began);
        }
        if std::env::var_os("HANDOVER_TEST_KEEP").is_none() {
            self.clean_up();
        }
    }
}

/// Waits until every stream has seen the version (of those that tell one), and ends the load.
#[track_caller]
pub(crate) fn finish(load: Load, version: &str) -> Report {
    let all = load.wait_for(SOON, |progress| progress.every_stream_has_seen(version));
    let report = load.stop();
    assert!(all, "not every stream sees {version}\n{}", report.table());
    report
}

/// Panics when a request failed, or more than a few had to be sent twice: those that crossed the close of a kept-alive connection on the
/// wire, which takes microseconds; but the machine that runs these tests is busy.
#[track_caller]
pub(crate) fn assert_few_retries(report: &Report) {
    report.assert_no_failures();
    let (retried, requests) = (report.total_retried(), report.total_requests());
    assert!(
        retried * 200 <= requests.max(200),
        "{retried} of {requests} requests had to be sent twice\n{}",
        report.table()
    );
}

/// GET at `HOST:PORT`; the answer's head and body, if its status is 200.
pub(crate) fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}

/// Looks again and again, soon after one another, until it holds. Panics when it takes too long.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn made(container: &Value, id: &str) -> Made {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let labels = container["Config"]["Labels"].as_object().cloned().unwrap_or_default();
    // The one label that tells an id: that of the container that Compose has replaced.
    let labels = labels.iter().filter(|(key, _)| *key != "com.docker.compose.replace");
    let networks = container["NetworkSettings"]["Networks"].as_object().cloned().unwrap_or_default();
    let aliases = |network: &Value| {
        let mut names: Vec<String> = network["Aliases"]
            .as_array()
            .into_iter()
            .flatten()
            .map(&text)
            .filter(|name| !id.starts_with(name))
            .collect();
        names.sort();
        names
    };
    let mut mounts: Vec<(String, String)> = container["Mounts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|mount| (text(&mount["Type"]), text(&mount["Destination"])))
        .collect();
    mounts.sort();
    Made {
        name: text(&container["Name"]),
        image: text(&container["Image"]),
        labels: labels.map(|(key, value)| (key.clone(), text(value))).collect(),
        networks: networks.iter().map(|(name, network)| (name.clone(), aliases(network))).collect(),
        mounts,
        ports: container["HostConfig"]["PortBindings"].to_string(),
    }
}
