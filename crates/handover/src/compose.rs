//! Docker Compose as a process: it resolves the project, pulls, builds and creates. Nothing else parses compose files.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use handover_core::compose::dry_run;
use handover_core::compose::service_names::{Asked, ServiceNames};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::cli::ProjectArgs;
use crate::event::{Event, Events};
use crate::failure::{Exit, Failure, Result};

/// Oldest Compose whose JSON, flags and calls are known to fit.
const OLDEST: (u32, u32) = (2, 26);

/// Longest time for a dry run, which takes some 50 ms. One that waits for a container that is not there does not end by itself.
const DRY_RUN: Duration = Duration::from_secs(60);

/// How Compose is called for one project.
#[derive(Clone, Debug)]
pub(crate) struct Compose {
    args: Arc<ProjectArgs>,
    /// The plugin's own program, where it is found.
    plugin: Option<PathBuf>,
    /// The socket that it is to take for the engine, in place of what the user named.
    engine: Option<String>,
}

impl Compose {
    pub(crate) fn new(args: ProjectArgs) -> Self {
        Self { args: Arc::new(args), plugin: crate::docker_cli::compose_plugin(), engine: None }
    }

    /// The same, talking to another socket (`unix://…`) in place of the engine.
    pub(crate) fn through(&self, engine: String) -> Self {
        Self { engine: Some(engine), ..self.clone() }
    }

    /// Version in Compose's own words. Fails if Compose is missing or older than 2.26.
    pub(crate) async fn version(&self) -> Result<String> {
        let mut command = self.compose();
        command.args(["version", "--short"]);
        let output = command.output().await.map_err(|error| docker_missing(&error))?;
        let text = String::from_utf8_lossy(&output.stdout).trim().trim_start_matches('v').to_owned();
        if !output.status.success() {
            return Err(Failure::new(Exit::Engine, "Docker Compose is missing")
                .because(last_words(&output.stderr))
                .hint("install the Compose plugin 2.26 or newer; `docker compose version` must work"));
        }
        let mut numbers = text.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if found < OLDEST {
            return Err(Failure::new(Exit::Engine, format!("Docker Compose {text} is too old"))
                .because("handover needs what `docker compose config` prints since 2.26")
                .hint("install the Compose plugin 2.26 or newer"));
        }
        Ok(text)
    }

    /// The project as JSON (`docker compose config --format json`).
    pub(crate) async fn config(&self) -> Result<String> {
        self.config_with(&["--format", "json"]).await
    }

    /// The hash of each service, a line each (`docker compose config --hash '*'`).
    pub(crate) async fn hashes(&self) -> Result<String> {
        self.config_with(&["--hash", "*"]).await
    }

    async fn config_with(&self, flags: &[&str]) -> Result<String> {
        let mut command = self.project();
        command.arg("config").args(flags);
        let output = command.output().await.map_err(|error| docker_missing(&error))?;
        if !output.status.success() {
            let words = last_words(&output.stderr);
            return Err(Failure::new(Exit::Project, "Compose refuses the project").because(&words).hint(
                if words.contains("no configuration file provided") {
                    "run it where the compose file is, or name it with -f"
                } else {
                    "`docker compose config` shows the same"
                },
            ));
        }
        String::from_utf8(output.stdout)
            .map_err(|error| Failure::new(Exit::Project, "what Compose printed is not UTF-8").because(error))
    }

    /// Names of all services, those of profiles that are not enabled included.
    pub(crate) async fn all_services(&self) -> Result<Vec<String>> {
        let mut command = self.project();
        command.args(["--profile", "*", "config", "--services"]);
        let output = command.output().await.map_err(|error| docker_missing(&error))?;
        let names = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>();
        if output.status.success() && !names.is_empty() {
            return Ok(names);
        }
        let why = Some(last_words(&output.stderr)).filter(|words| !words.is_empty());
        Err(Failure::new(Exit::Project, "Compose does not say which services there are")
            .because(why.unwrap_or_else(|| format!("it ended with {} and no names", output.status)))
            .hint("`docker compose --profile '*' config --services` shows the same"))
    }

    /// Pulls the images of services.
    pub(crate) async fn pull(&self, policy: Option<&str>, services: &ServiceNames, events: &Events) -> Result<()> {
        let mut command = self.project();
        command.arg("pull");
        if let Some(policy) = policy {
            command.args(["--policy", policy]);
        }
        command.args(services.as_slice());
        self.run(command, "pull", events).await.map_err(|words| {
            Failure::new(Exit::Image, format!("the pull of {} failed", services.as_slice().join(", ")))
                .because(words)
                .hint("nothing was changed; `docker compose pull` shows the same")
        })
    }

    /// Builds the images of services.
    pub(crate) async fn build(&self, services: &ServiceNames, events: &Events) -> Result<()> {
        let mut command = self.project();
        command.arg("build").args(services.as_slice());
        self.run(command, "build", events).await.map_err(|words| {
            Failure::new(Exit::Image, format!("the build of {} failed", services.as_slice().join(", ")))
                .because(words)
                .hint("nothing was changed; `docker compose build` shows the same")
        })
    }

    /// Makes what is missing of networks, volumes and containers, and neither starts nor recreates anything.
    pub(crate) async fn create_missing(&self, services: &ServiceNames, events: &Events) -> Result<()> {
        let mut command = self.project();
        command.args(["create", "--no-recreate", "--pull", "never", "--no-build"]).args(services.as_slice());
        self.run(command, "create", events).await.map_err(|words| {
            Failure::new(Exit::DeployFailed, "Compose could not create what the stand-in needs").because(words)
        })
    }

    /// `docker compose up -d` as the user has asked for it, with more flags. Pulls and builds nothing. May be repeated.
    pub(crate) async fn up(
        &self,
        flags: &[&str],
        services: &Asked,
        events: &Events,
    ) -> std::result::Result<(), String> {
        let mut command = self.project();
        command.args(["up", "-d", "--pull", "never", "--no-build"]).args(flags).args(services.as_slice());
        self.run(command, "up", events).await
    }

    /// The same for services that a plan names.
    pub(crate) async fn up_services(
        &self,
        flags: &[&str],
        services: &ServiceNames,
        events: &Events,
    ) -> std::result::Result<(), String> {
        self.up(flags, &Asked::Named(services.clone()), events).await
    }

    /// Names of the containers that `docker compose up -d` would recreate; changes nothing. Of the `expected` containers, which run
    /// and are asked about, Compose has to say something: a dry run that fails, or that is not understood, is a failure.
    pub(crate) async fn would_recreate(
        &self,
        services: &Asked,
        expected: impl Fn(&str) -> bool,
        events: &Events,
    ) -> Result<Vec<String>> {
        let _waiting = events.waiting();
        let mut command = self.project();
        command.args(["up", "-d", "--dry-run", "--pull", "never", "--no-build"]).args(services.as_slice());
        let silent = |why: String| {
            Failure::new(Exit::Engine, "Compose does not say what it would recreate")
                .because(why)
                .hint("`docker compose up -d --dry-run` shows the same; nothing of the old version was stopped")
        };
        let output = match tokio::time::timeout(DRY_RUN, command.output()).await {
            Ok(output) => output.map_err(|error| docker_missing(&error))?,
            Err(_) => return Err(silent(format!("its dry run has not ended after {} s", DRY_RUN.as_secs()))),
        };
        let words = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() && dry_run::gave_up_on_files(&words) {
            events.emit(Event::Note(
                "Compose's dry run ends where it would copy files (configs, secrets) into a container that it has only pretended to \
                 make: what it would recreate after that is not known"
                    .to_owned(),
            ));
        } else if !output.status.success() && !dry_run::is_through_with_recreating(&words) {
            let why = Some(last_words(&output.stderr)).filter(|words| !words.is_empty());
            return Err(silent(why.unwrap_or_else(|| format!("its dry run ended with {}", output.status))));
        }
        if let Some(recreated) = dry_run::recreated(&words, expected) {
            return Ok(recreated);
        }
        let version = self.version().await?;
        let said = last_words(&output.stderr);
        Err(Failure::new(Exit::Engine, format!("the words of Compose {version} were not understood"))
            .because(if said.is_empty() { "its dry run said nothing".to_owned() } else { format!("its dry run said:\n{said}") })
            .hint("deploy with a version of Compose that handover knows (2.26 to 2.40); nothing of the old version was stopped"))
    }

    /// Brings up a project that is not in any file. Pulls and builds nothing. May be repeated.
    pub(crate) async fn up_document(
        &self,
        project: &str,
        document: &str,
        events: &Events,
    ) -> std::result::Result<(), String> {
        let mut command = self.compose();
        command.args(["--ansi", "never", "--progress", "plain", "-p", project, "-f", "-"]);
        if let Some(directory) = &self.args.project_directory {
            command.args(["--project-directory", directory]);
        }
        command.args(["up", "-d", "--pull", "never", "--no-build"]);
        command.env_remove("COMPOSE_FILE").env_remove("COMPOSE_PROFILES").env_remove("COMPOSE_REMOVE_ORPHANS");
        run_with_input(command, document, "stand-in", events).await
    }

    async fn run(&self, command: Command, step: &'static str, events: &Events) -> std::result::Result<(), String> {
        run_with_input(command, "", step, events).await
    }

    /// Compose, by its plugin's own program where that is found: `docker compose` starts two more processes on the way to it
    /// (**measured**: 51 ms against 95 ms for `config`).
    fn compose(&self) -> Command {
        let mut command = Command::new(self.plugin.as_deref().unwrap_or(Path::new("docker")));
        if let Some(engine) = &self.engine {
            command.env("DOCKER_HOST", engine);
            ["DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY"].iter().for_each(|name| {
                command.env_remove(name);
            });
        } else {
            if let Some(context) = &self.args.context {
                command.args(["--context", context]);
            }
            if let Some(host) = &self.args.host {
                command.args(["--host", host]);
            }
        }
        if self.plugin.is_none() {
            command.arg("compose");
        }
        // Where we run as a plugin ourselves, the Docker CLI's marks of that would make Compose take itself for one.
        command.env_remove("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND").env_remove("DOCKER_CLI_PLUGIN_SOCKET");
        // A deploy that is interrupted ends its steps itself, in order; the terminal's signal must not cut Compose off. What is
        // given up before anything moves (a pull, say) is ended with us.
        command.process_group(0).kill_on_drop(true).stdin(Stdio::null());
        command
    }

    fn project(&self) -> Command {
        let mut command = self.compose();
        command.args(["--ansi", "never", "--progress", "plain"]);
        for (flag, values) in
            [("-f", &self.args.files), ("--env-file", &self.args.env_files), ("--profile", &self.args.profiles)]
        {
            for value in values {
                command.args([flag, value]);
            }
        }
        for (flag, value) in [("-p", &self.args.project_name), ("--project-directory", &self.args.project_directory)] {
            if let Some(value) = value {
                command.args([flag, value]);
            }
        }
        command
    }
}

/// Runs Compose, turns each line that it prints into an event, and returns its last words if it fails.
async fn run_with_input(
    mut command: Command,
    input: &str,
    step: &'static str,
    events: &Events,
) -> std::result::Result<(), String> {
    let _waiting = events.waiting();
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| docker_missing(&error).what)?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let write = async move {
        if let Some(mut stdin) = stdin {
            // Compose that ends early says why itself.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let read = async move {
        let mut last: Vec<String> = Vec::new();
        if let Some(stderr) = stderr {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                events.emit(Event::Compose { step, line: line.trim().to_owned() });
                last.push(line.trim().to_owned());
                if last.len() > 10 {
                    last.remove(0);
                }
            }
        }
        last
    };
    let ((), last) = tokio::join!(write, read);
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(essence(&last)) }
}

/// Of Compose's last lines those that tell what went wrong.
fn essence(lines: &[String]) -> String {
    let telling: Vec<&str> = lines
        .iter()
        .map(String::as_str)
        .filter(|line| {
            let lower = line.to_lowercase();
            [
                "error",
                "fail",
                "denied",
                "refused",
                "not found",
                "conflict",
                "invalid",
                "no such",
                "unhealthy",
                "didn't complete",
            ]
            .iter()
            .any(|word| lower.contains(word))
        })
        .collect();
    let lines = if telling.is_empty() { lines.iter().map(String::as_str).collect() } else { telling };
    let mut lines: Vec<&str> = lines.into_iter().rev().take(3).collect();
    lines.reverse();
    lines.dedup();
    lines.join("\n")
}

fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    essence(&lines)
}

fn docker_missing(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Engine, "the docker command cannot be run")
        .because(error)
        .hint("install the Docker CLI with its Compose plugin 2.26 or newer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_lines_those_with_the_error_are_told() {
        let lines: Vec<String> =
            [" Container a  Creating", "Error response from daemon: Conflict. The name is taken", "exit"]
                .map(|line| line.trim().to_owned())
                .to_vec();
        assert_eq!(essence(&lines), "Error response from daemon: Conflict. The name is taken");
        assert_eq!(essence(&["only".to_owned(), "this".to_owned()]), "only\nthis");
    }
}
