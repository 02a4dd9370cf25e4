//! Docker Compose as a program: it resolves the project, pulls, builds and creates. Nothing else parses compose files.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use handover_core::compose::dry_run;
use handover_core::compose::service_names::{Asked, ServiceNames};

use crate::cli::ProjectArgs;
use crate::event::{Event, Events};
use crate::failure::{Exit, Failure, Result};
use crate::outside::{ComposeCall, ComposeEnd, Outside};

/// Oldest Compose whose JSON, flags and calls are known to fit.
const OLDEST: (u32, u32) = (2, 26);

/// Longest time for a dry run, which takes some 50 ms. One that waits for a container that is not there does not end by itself.
const DRY_RUN: Duration = Duration::from_secs(60);

/// How Compose prints for programs.
const PLAIN: [&str; 4] = ["--ansi", "never", "--progress", "plain"];

/// Images are there by the time that anything is brought up.
const UP: [&str; 5] = ["up", "-d", "--pull", "never", "--no-build"];

/// How Compose is called for one project.
#[derive(Clone, Debug)]
pub(crate) struct Compose {
    pub(crate) args: Arc<ProjectArgs>,
    pub(crate) outside: Arc<dyn Outside>,
    /// What it is to take for the engine, in place of what the user named.
    engine: Option<String>,
}

/// What Compose has printed to its end.
struct Output {
    success: bool,
    status: String,
    output: Vec<u8>,
    error: String,
}

impl Output {
    fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.output)
    }

    fn last_words(&self) -> String {
        let lines = self.error.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty());
        essence(&lines.collect::<Vec<_>>())
    }
}

fn arguments(all: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
    all.into_iter().map(|one| one.as_ref().to_owned()).collect()
}

impl Compose {
    pub(crate) fn new(args: ProjectArgs, outside: Arc<dyn Outside>) -> Self {
        Self { args: Arc::new(args), outside, engine: None }
    }

    /// The same, talking to another engine, as `DOCKER_HOST` names it.
    pub(crate) fn through(&self, engine: String) -> Self {
        Self { engine: Some(engine), ..self.clone() }
    }

    /// Version in Compose's own words. Fails if Compose is missing or older than 2.26.
    pub(crate) async fn version(&self) -> Result<String> {
        let output = self.output(arguments(["version", "--short"])).await?;
        let text = output.text().trim().trim_start_matches('v').to_owned();
        if !output.success {
            return Err(Failure::new(Exit::Engine, "Docker Compose is missing")
                .because(output.last_words())
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
        let output = self.output(self.project_with(["config"].iter().chain(flags))).await?;
        if !output.success {
            let words = output.last_words();
            return Err(Failure::new(Exit::Project, "Compose refuses the project").because(&words).hint(
                if words.contains("no configuration file provided") {
                    "run it where the compose file is, or name it with -f"
                } else {
                    "`docker compose config` shows the same"
                },
            ));
        }
        String::from_utf8(output.output)
            .map_err(|error| Failure::new(Exit::Project, "what Compose printed is not UTF-8").because(error))
    }

    /// Names of all services, those of profiles that are not enabled included.
    pub(crate) async fn all_services(&self) -> Result<Vec<String>> {
        let output = self.output(self.project_with(&["--profile", "*", "config", "--services"])).await?;
        let names = output.text().lines().map(str::to_owned).collect::<Vec<_>>();
        if output.success && !names.is_empty() {
            return Ok(names);
        }
        let why = Some(output.last_words()).filter(|words| !words.is_empty());
        Err(Failure::new(Exit::Project, "Compose does not say which services there are")
            .because(why.unwrap_or_else(|| format!("it ended with {} and no names", output.status)))
            .hint("`docker compose --profile '*' config --services` shows the same"))
    }

    /// Pulls the images of services.
    pub(crate) async fn pull(&self, policy: Option<&str>, services: &ServiceNames, events: &Events) -> Result<()> {
        let policy = policy.map(|policy| ["--policy", policy]);
        let mut arguments = self.project_with(["pull"].iter().chain(policy.iter().flatten()));
        arguments.extend_from_slice(services.as_slice());
        self.run(arguments, "pull", events).await.map_err(|words| {
            Failure::new(Exit::Image, format!("the pull of {} failed", services.as_slice().join(", ")))
                .because(words)
                .hint("nothing was changed; `docker compose pull` shows the same")
        })
    }

    /// Builds the images of services.
    pub(crate) async fn build(&self, services: &ServiceNames, events: &Events) -> Result<()> {
        let mut arguments = self.project_with(&["build"]);
        arguments.extend_from_slice(services.as_slice());
        self.run(arguments, "build", events).await.map_err(|words| {
            Failure::new(Exit::Image, format!("the build of {} failed", services.as_slice().join(", ")))
                .because(words)
                .hint("nothing was changed; `docker compose build` shows the same")
        })
    }

    /// Makes what is missing of networks, volumes and containers, and neither starts nor recreates anything.
    pub(crate) async fn create_missing(&self, services: &ServiceNames, events: &Events) -> Result<()> {
        let mut arguments = self.project_with(&["create", "--no-recreate", "--pull", "never", "--no-build"]);
        arguments.extend_from_slice(services.as_slice());
        self.run(arguments, "create", events).await.map_err(|words| {
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
        let mut arguments = self.project_with(UP.iter().chain(flags));
        arguments.extend_from_slice(services.as_slice());
        self.run(arguments, "up", events).await
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
        let mut arguments = self.project_with(UP.iter().chain(&["--dry-run"]));
        arguments.extend_from_slice(services.as_slice());
        let silent = |why: String| {
            Failure::new(Exit::Engine, "Compose does not say what it would recreate")
                .because(why)
                .hint("`docker compose up -d --dry-run` shows the same; nothing of the old version was stopped")
        };
        let output = match tokio::time::timeout(DRY_RUN, self.output(arguments)).await {
            Ok(output) => output?,
            Err(_) => return Err(silent(format!("its dry run has not ended after {} s", DRY_RUN.as_secs()))),
        };
        let words = &output.error;
        if !output.success && dry_run::gave_up_on_files(words) {
            events.emit(Event::Note(
                "Compose's dry run ends where it would copy files (configs, secrets) into a container that it has only pretended to \
                 make: what it would recreate after that is not known"
                    .to_owned(),
            ));
        } else if !output.success && !dry_run::is_through_with_recreating(words) {
            let why = Some(output.last_words()).filter(|words| !words.is_empty());
            return Err(silent(why.unwrap_or_else(|| format!("its dry run ended with {}", output.status))));
        }
        if let Some(recreated) = dry_run::recreated(words, expected) {
            return Ok(recreated);
        }
        let version = self.version().await?;
        let said = output.last_words();
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
        let directory = self.args.project_directory.as_ref().map(|directory| ["--project-directory", directory]);
        let project = ["-p", project, "-f", "-"];
        let all = PLAIN.iter().chain(&project).chain(directory.iter().flatten()).chain(&UP);
        let call = ComposeCall {
            arguments: arguments(all),
            input: document.to_owned(),
            engine: self.engine.clone(),
            hidden_variables: &["COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_REMOVE_ORPHANS"],
        };
        self.run_call(call, "stand-in", events).await
    }

    /// The arguments that say how Compose prints, and which project is meant.
    fn project(&self) -> Vec<String> {
        let mut arguments: Vec<&str> = PLAIN.to_vec();
        for (flag, values) in
            [("-f", &self.args.files), ("--env-file", &self.args.env_files), ("--profile", &self.args.profiles)]
        {
            arguments.extend(values.iter().flat_map(|value| [flag, value]));
        }
        for (flag, value) in [("-p", &self.args.project_name), ("--project-directory", &self.args.project_directory)] {
            arguments.extend(value.iter().flat_map(|value| [flag, value]));
        }
        arguments.into_iter().map(str::to_owned).collect()
    }

    /// The same, with what is to be done.
    fn project_with<'a>(&self, more: impl IntoIterator<Item = &'a &'a str>) -> Vec<String> {
        let mut all = self.project();
        all.extend(arguments(more));
        all
    }

    /// Runs Compose to its end and keeps all that it prints.
    async fn output(&self, arguments: Vec<String>) -> Result<Output> {
        let mut error = String::new();
        let mut keep = |line: &str| error.extend([line, "\n"]);
        let call = ComposeCall { arguments, engine: self.engine.clone(), ..ComposeCall::default() };
        let ComposeEnd { success, status, output } =
            self.outside.compose(call, &mut keep).await.map_err(|error| docker_missing(&error))?;
        Ok(Output { success, status, output, error })
    }

    /// Runs Compose, turns each line that it prints into an event, and returns its last words if it fails.
    async fn run(
        &self,
        arguments: Vec<String>,
        step: &'static str,
        events: &Events,
    ) -> std::result::Result<(), String> {
        let call = ComposeCall { arguments, engine: self.engine.clone(), ..ComposeCall::default() };
        self.run_call(call, step, events).await
    }

    async fn run_call(
        &self,
        call: ComposeCall,
        step: &'static str,
        events: &Events,
    ) -> std::result::Result<(), String> {
        let _waiting = events.waiting();
        let mut last: Vec<String> = Vec::new();
        let mut tell = |line: &str| {
            events.emit(Event::Compose { step, line: line.trim().to_owned() });
            last.push(line.trim().to_owned());
            if last.len() > 10 {
                last.remove(0);
            }
        };
        let end = self.outside.compose(call, &mut tell).await.map_err(|error| docker_missing(&error).what)?;
        if end.success { Ok(()) } else { Err(essence(&last)) }
    }
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
