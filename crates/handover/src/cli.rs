//! The command line: what `docker compose up -d` takes, and a little more.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// docker compose up -d, and no client notices.
#[derive(Debug, Parser)]
#[command(name = "handover", version, about, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) project: ProjectArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which project, on which engine: the same flags as `docker compose`, passed on to it.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ProjectArgs {
    /// Compose configuration files
    #[arg(short = 'f', long = "file", global = true, value_name = "FILE")]
    pub(crate) files: Vec<String>,
    /// Project name
    #[arg(short = 'p', long, global = true, value_name = "NAME")]
    pub(crate) project_name: Option<String>,
    /// Alternate environment files
    #[arg(long = "env-file", global = true, value_name = "FILE")]
    pub(crate) env_files: Vec<String>,
    /// Profiles to enable
    #[arg(long = "profile", global = true, value_name = "NAME")]
    pub(crate) profiles: Vec<String>,
    /// Alternate working directory
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) project_directory: Option<String>,
    /// Docker context to use
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Engine to connect to, as DOCKER_HOST
    #[arg(short = 'H', long, global = true, value_name = "URL")]
    pub(crate) host: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create and start containers, as docker compose up -d does; no client notices
    Up(UpArgs),
    /// Show what up would do, service by service, and change nothing
    Plan(ShowPlanArgs),
    /// Put right what an earlier run left, and deploy nothing
    Recover(RecoverArgs),
    /// Runs in the guard container
    #[command(hide = true)]
    Guard,
    /// Runs in the session helper's container
    #[command(hide = true)]
    Session,
    /// Runs in the keeper's container
    #[command(hide = true)]
    Keeper,
    /// What the docker command asks of its plugins
    #[command(hide = true, name = "docker-cli-plugin-metadata")]
    PluginMetadata,
}

/// What `up` and `plan` have in common.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlanArgs {
    /// Services to deploy, with what they depend on; all if none is named
    pub(crate) services: Vec<String>,
    /// Remove containers of services that are not in the compose file
    #[arg(long)]
    pub(crate) remove_orphans: bool,
    /// Recreate containers even if nothing has changed
    #[arg(long)]
    pub(crate) force_recreate: bool,
    /// Services that cannot run twice may be restarted in place
    #[arg(long)]
    pub(crate) allow_interruption: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ShowPlanArgs {
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// How to print: lines for people, or one JSON line for programs
    #[arg(long, value_enum, default_value = "plain")]
    pub(crate) output: Output,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// Accepted for the habit's sake: handover always detaches
    #[arg(short = 'd', long)]
    pub(crate) detach: bool,
    /// Pull images before the deploy
    #[arg(long, value_enum)]
    pub(crate) pull: Option<Pull>,
    /// Build images before the deploy
    #[arg(long)]
    pub(crate) build: bool,
    /// How long a new container may take to be ready [default: 120s]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) gate_timeout: Option<Duration>,
    /// How long connections under way may last once traffic has moved [default: 30s]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) drain: Option<Duration>,
    /// How long to wait for another deploy of the same project [default: 10m]
    #[arg(long, value_parser = duration, value_name = "TIME", default_value = "10m", hide_default_value = true)]
    pub(crate) lock_wait: Duration,
    /// How to print: lines for people, or JSON lines for programs
    #[arg(long, value_enum, default_value = "plain")]
    pub(crate) output: Output,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RecoverArgs {
    /// How long a container may take to be ready [default: 120s]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    gate_timeout: Option<Duration>,
    /// How long connections under way may last once traffic has moved [default: 30s]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    drain: Option<Duration>,
    /// How long to wait for another deploy of the same project [default: 10m]
    #[arg(long, value_parser = duration, value_name = "TIME", default_value = "10m", hide_default_value = true)]
    lock_wait: Duration,
    /// How to print: lines for people, or JSON lines for programs
    #[arg(long, value_enum, default_value = "plain")]
    pub(crate) output: Output,
}

impl From<RecoverArgs> for UpArgs {
    /// The same times for a run that asks for nothing.
    fn from(args: RecoverArgs) -> Self {
        let RecoverArgs { gate_timeout, drain, lock_wait, output } = args;
        let plan =
            PlanArgs { services: Vec::new(), remove_orphans: false, force_recreate: false, allow_interruption: false };
        Self { plan, detach: true, pull: None, build: false, gate_timeout, drain, lock_wait, output }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    /// Always
    Always,
    /// Only images that are not here
    Missing,
    /// Never
    Never,
}

impl Pull {
    /// Compose's word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Missing => "missing",
            Self::Never => "never",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Lines for people
    Plain,
    /// JSON lines
    Json,
}

/// As a plugin (`docker handover up`) the Docker CLI calls us with our own name as an argument: `docker-handover handover up`.
pub(crate) fn without_plugin_name(
    args: impl Iterator<Item = std::ffi::OsString>,
) -> impl Iterator<Item = std::ffi::OsString> {
    let mut args = args.peekable();
    let program = args.next().unwrap_or_else(|| "handover".into());
    let is_plugin = std::path::Path::new(&program).file_name().is_some_and(|name| name == "docker-handover");
    let mut dropped = !is_plugin;
    std::iter::once(program).chain(args.filter(move |arg| {
        let drop_it = !dropped && arg == "handover";
        dropped |= drop_it;
        !drop_it
    }))
}

/// What the Docker CLI asks of a plugin.
pub(crate) fn plugin_metadata() -> String {
    serde_json::json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "handover",
        "Version": env!("CARGO_PKG_VERSION"),
        "ShortDescription": "docker compose up -d, and no client notices",
    })
    .to_string()
}

fn duration(text: &str) -> Result<Duration, String> {
    handover_core::settings::go_duration_seconds(text)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "write it like 30s, 1m30s or 500ms".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn as_a_plugin_its_own_name_is_left_out_once() {
        let args = |list: &[&str]| list.iter().map(std::ffi::OsString::from).collect::<Vec<_>>();
        let call = args(&["/x/docker-handover", "--context", "c", "handover", "up", "handover"]);
        let left: Vec<_> = without_plugin_name(call.into_iter()).collect();
        assert_eq!(left, args(&["/x/docker-handover", "--context", "c", "up", "handover"]));
        let plain = args(&["handover", "up", "handover"]);
        assert_eq!(without_plugin_name(plain.clone().into_iter()).collect::<Vec<_>>(), plain);
    }

    #[test]
    fn composes_flags_may_stand_before_and_after_the_command() {
        let before = Cli::try_parse_from(["handover", "-f", "a", "-f", "b", "-p", "x", "up", "-d", "web"]).unwrap();
        let after = Cli::try_parse_from(["handover", "up", "-d", "web", "-f", "a", "-f", "b", "-p", "x"]).unwrap();
        for cli in [before, after] {
            assert_eq!(cli.project.files, ["a", "b"]);
            assert_eq!(cli.project.project_name.as_deref(), Some("x"));
        }
    }
}
