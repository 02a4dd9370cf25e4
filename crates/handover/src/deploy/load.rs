//! Load: Compose resolves the project, the engine tells what is there, both side by side.

use handover_core::compose::project::{Project, ProjectError};

use crate::cli::ProjectArgs;
use crate::compose::Compose;
use crate::engine::{Engine, Listing};
use crate::event::Events;
use crate::failure::{Exit, Failure, Result};
use crate::outside::Outside;

/// What is known when Compose and the engine have answered.
pub(crate) struct Loaded {
    pub(crate) project: Project,
    pub(crate) engine: Engine,
    /// What the engine listed meanwhile.
    pub(crate) listing: Listing,
}

/// Loads the project and connects to the engine. Whether Compose is new enough is only asked where its words make no sense: whoever
/// goes on asks that.
pub(crate) async fn load(compose: &Compose, events: &Events) -> Result<Loaded> {
    let _waiting = events.waiting();
    let (outside, args) = (compose.outside.clone(), &*compose.args);
    let connecting = async {
        let engine = Engine::connect(outside, events.clone()).await?;
        let listing = engine.list().await?;
        Ok((engine, listing))
    };
    let (config, hashes, connected) = tokio::join!(compose.config(), compose.hashes(), connecting);
    let project = config.and_then(|config| parse(&config, &hashes?, args, &*compose.outside));
    match project {
        Ok(project) => connected.map(|(engine, listing)| Loaded { project, engine, listing }),
        Err(failure) => Err(compose.version().await.err().unwrap_or(failure)),
    }
}

fn parse(config: &str, hashes: &str, args: &ProjectArgs, outside: &dyn Outside) -> Result<Project> {
    Project::parse(config, hashes, separator(args, outside)).map_err(|error| match error {
        ProjectError::Settings(wrong) => {
            let hint = wrong.hint.clone();
            Failure::new(Exit::Project, wrong.to_string()).hint(hint)
        }
        other => Failure::new(Exit::Project, other.to_string()),
    })
}

/// What Compose puts between project, service and number in names: `_` if `COMPOSE_COMPATIBILITY` says so, in the environment
/// or, as Compose reads it, in an environment file.
fn separator(args: &ProjectArgs, outside: &dyn Outside) -> char {
    let value = outside.variable("COMPOSE_COMPATIBILITY").or_else(|| {
        let default =
            args.project_directory.as_ref().map_or_else(|| ".env".into(), |directory| format!("{directory}/.env"));
        let files = if args.env_files.is_empty() { vec![default] } else { args.env_files.clone() };
        let texts = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
        texts.filter_map(|text| compatibility_line(&text)).next_back()
    });
    let compatible =
        value.is_some_and(|value| matches!(value.to_lowercase().as_str(), "1" | "t" | "true" | "y" | "yes"));
    if compatible { '_' } else { '-' }
}

fn compatibility_line(text: &str) -> Option<String> {
    let value = text.lines().filter_map(|line| line.trim().strip_prefix("COMPOSE_COMPATIBILITY=")).next_back()?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compatibility_is_found_among_other_lines() {
        assert_eq!(compatibility_line("A=1\nCOMPOSE_COMPATIBILITY=\"true\"\n").as_deref(), Some("true"));
        assert_eq!(compatibility_line("A=1"), None);
    }
}
