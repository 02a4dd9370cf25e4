//! What is measured, as data, and the machine it was measured on.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::engine::{Engine, text};
use super::{Result, failed, io};

/// Everything that a run has measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// Where.
    pub machine: Machine,
    /// Each deploy.
    pub rounds: Vec<Round>,
    /// The same containers, brought up by Compose while nobody waits for them.
    pub bring_ups: Vec<BringUp>,
    /// A deploy that has nothing to do.
    pub unchanged: Option<Unchanged>,
    /// Deploys in a row.
    pub in_a_row: Option<InARow>,
}

/// Where it was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub engine_name: String,
    pub engine: String,
    pub storage_driver: String,
    pub compose: String,
}

/// A way to deploy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// `handover up`
    Handover,
    /// `docker compose up -d`
    Compose,
    /// `scripts/scripted-deploy`, or behind a proxy `scripts/scale-up-deploy`
    Script,
}

impl Method {
    /// All of them, in the order in which a round measures them.
    pub const ALL: [Self; 3] = [Self::Handover, Self::Compose, Self::Script];

    /// As it is called in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Handover => "`handover up`",
            Self::Compose => "`docker compose up -d`",
            Self::Script => "script",
        }
    }
}

/// One deploy under load. Times are seconds from the start of its command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Round {
    /// The example.
    pub example: String,
    /// The way.
    pub method: Method,
    /// The round.
    pub round: usize,
    /// Requests that came to an end, from the start of the deploy until the load ended.
    pub requests: u64,
    /// Of those the failed ones. Sessions that were cut are among them.
    pub failed: u64,
    /// Kept-alive requests that a client had to send twice.
    pub retried: u64,
    /// Sessions (WebSockets and downloads) that failed.
    pub sessions_failed: u64,
    /// Longest time without a good answer on any stream, beyond its schedule.
    pub gap_ms: f64,
    /// p99 of short requests during the deploy over p99 at rest: of `new` and `keepalive`, the worse.
    pub p99_ratio: Option<f64>,
    /// p99 at rest of that stream.
    pub p99_rest_ms: Option<f64>,
    /// First answer of the new version; none if it never came.
    pub live_s: Option<f64>,
    /// First answer of the new version on the stream that got it last.
    pub live_everywhere_s: Option<f64>,
    /// Wall time of the command.
    pub done_s: f64,
    /// Highest resident memory of the command's own process.
    pub peak_kib: u64,
    /// handover's word: new connections go to the new version.
    pub own_live_s: Option<f64>,
    /// handover's word: wall time that was its own.
    pub own_s: Option<f64>,
    /// handover's steps.
    pub steps: Vec<Step>,
    /// What failed, in words: kind and count by stream.
    pub errors: Vec<String>,
    /// Failures before the deploy began; anything but 0 spoils the round.
    pub failed_at_rest: u64,
    /// How late the load generator was, at worst.
    pub latest_launch_ms: f64,
    /// How busy the machine's processors were at rest, from 0 to 1: the load, the stack and whatever else runs.
    pub busy_at_rest: f64,
    /// The machine's load average before.
    pub load_average: f64,
}

/// A step of handover's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Step {
    pub step: String,
    pub from_s: f64,
    pub to_s: f64,
}

/// One bring-up of the new containers by Compose alone: of the stand-in, or of what is rolled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BringUp {
    /// The example.
    pub example: String,
    /// The round.
    pub round: usize,
    /// Until all its ports accept and its health checks say yes.
    pub seconds: f64,
}

/// An unchanged project; wall times in seconds, run by run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unchanged {
    /// How many services it has.
    pub services: usize,
    /// `docker compose config`
    pub config_s: Vec<f64>,
    /// `handover up`
    pub handover_s: Vec<f64>,
    /// `docker compose up -d`
    pub compose_s: Vec<f64>,
    /// Highest resident memory of handover.
    pub peak_kib: u64,
}

/// Deploys in a row behind Traefik, under one load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InARow {
    /// How many deploys.
    pub deploys: usize,
    /// All of them, in seconds.
    pub wall_s: f64,
    /// Requests that were made from before the first to after the last.
    pub requests: u64,
    /// Of these failed.
    pub failed: u64,
    /// Kept-alive requests that had to be sent twice.
    pub retried: u64,
    /// Long connections that were cut.
    pub cut: u64,
    /// The longest gap between two good answers of a stream, beyond its schedule, in milliseconds.
    pub gap_ms: f64,
    /// What failed, with its words.
    pub errors: Vec<String>,
}

impl Round {
    /// A line for people who watch.
    pub(super) fn in_brief(&self) -> String {
        let live = self.live_s.map_or("never".to_owned(), |live| format!("{live:.2} s"));
        format!(
            "{} round {}, {}: {} of {} failed, {} retried, gap {:.0} ms, live {live}, done {:.2} s (busy at rest {:.0} %)",
            self.example,
            self.round,
            self.method.title(),
            self.failed,
            self.requests,
            self.retried,
            self.gap_ms,
            self.done_s,
            self.busy_at_rest * 100.0,
        )
    }

    /// The length of a step of handover's, 0 if there was none.
    pub(super) fn step_s(&self, name: &str) -> f64 {
        self.steps.iter().filter(|step| step.step == name).map(|step| step.to_s - step.from_s).sum()
    }
}

/// Looks at the machine and at the engine.
pub(super) fn machine(engine: &Engine, name: &str) -> Result<Machine> {
    let read = |file: &str| fs::read_to_string(file).map_err(io(format!("cannot read {file}")));
    let field = |text: &str, key: &str| {
        text.lines().find(|line| line.starts_with(key)).and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
    };
    let memory = field(&read("/proc/meminfo")?, "MemTotal").unwrap_or_default();
    let memory: u64 = memory.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    let compose = Command::new("docker").args(["compose", "version", "--short"]).output().map_err(io("docker"))?;
    if !compose.status.success() {
        return Err(failed("docker compose version", String::from_utf8_lossy(&compose.stderr)));
    }
    Ok(Machine {
        cpu: field(&read("/proc/cpuinfo")?, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory_mib: memory / 1024,
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        engine_name: name.to_owned(),
        engine: text(&engine.get("/version")?["Version"]).unwrap_or_default(),
        storage_driver: text(&engine.get("/info")?["Driver"]).unwrap_or_default(),
        compose: String::from_utf8_lossy(&compose.stdout).trim().to_owned(),
    })
}

/// Processor time since boot, in ticks: what was used, and all of it.
pub(super) fn processor_ticks() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).take(8).filter_map(|number| number.parse().ok()).collect();
    let all: f64 = ticks.iter().sum();
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    (all - idle, all)
}

pub(super) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}
