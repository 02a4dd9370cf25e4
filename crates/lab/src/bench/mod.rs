//! The benchmark: the same stack under the same load, deployed by `handover up`, by `docker compose up -d` and by a
//! script, in turn; and what it takes Compose to bring up the very same containers while nobody waits for them.
//!
//! It runs in the network namespace of the engine (`scripts/bench` sees to that). Every number comes from the run.

mod deploy;
mod engine;
mod example;
mod in_a_row;
mod measure;
mod process;
mod table;
mod unchanged;
mod yardstick;

use std::fs;
use std::path::{Path, PathBuf};

pub use measure::{BringUp, InARow, Machine, Method, Results, Round, Step, Unchanged};

use crate::load::LoadError;
use engine::Engine;
use example::Example;
use yardstick::Yardstick;

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// The root of the source tree: examples and scripts lie there.
    pub root: PathBuf,
    /// The `handover` to measure.
    pub handover: PathBuf,
    /// Where the results, the logs and what was printed go.
    pub out: PathBuf,
    /// The engine's name in the results.
    pub engine: String,
    /// The examples: `web`, `reference`, `php-fpm`, `traefik`.
    pub examples: Vec<String>,
    /// The ways to deploy.
    pub methods: Vec<Method>,
    /// How often each deploy is measured.
    pub rounds: usize,
    /// How long the load runs before a deploy, in seconds.
    pub rest_s: f64,
    /// Services of the unchanged project; 0 leaves it out.
    pub unchanged_services: usize,
    /// Deploys in a row behind Traefik; 0 leaves them out.
    pub in_a_row: usize,
}

/// Why there are no results.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file or process that did not work.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it did not work.
        source: std::io::Error,
    },
    /// A command that failed or an answer that was not understood.
    #[error("{what}: {words}")]
    Failed {
        /// What was tried.
        what: String,
        /// What was said.
        words: String,
    },
    /// The load could not be started.
    #[error(transparent)]
    Load(#[from] LoadError),
}

type Result<T> = std::result::Result<T, BenchError>;

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> BenchError {
    let what = what.into();
    move |source| BenchError::Io { what, source }
}

fn failed(what: impl Into<String>, words: impl ToString) -> BenchError {
    BenchError::Failed { what: what.into(), words: words.to_string() }
}

/// Measures everything; `say` hears of each step. The results so far are in `OUT/ENGINE.json` after each round.
///
/// # Errors
/// When a command fails: a benchmark of deploys that do not work is none.
pub fn run(options: &BenchOptions, say: &dyn Fn(&str)) -> Result<Results> {
    let logs = options.out.join("logs");
    fs::create_dir_all(&logs).map_err(io(format!("cannot make {}", logs.display())))?;
    let engine = Engine::from_environment()?;
    let mut results = Results { machine: measure::machine(&engine, &options.engine)?, ..Results::default() };
    for name in &options.examples {
        let mut example = Example::named(name, &engine, options)?;
        let outcome = measure_example(&mut example, &engine, options, &logs, &mut results, say);
        say(&format!("{name}: clean up"));
        let cleaned = example.down(&engine, &logs);
        outcome?;
        cleaned?;
    }
    if options.unchanged_services > 0 {
        results.unchanged = Some(unchanged::measure(options, &logs, say)?);
    }
    if options.in_a_row > 0 {
        results.in_a_row = Some(in_a_row::measure(&engine, options, &logs, say)?);
    }
    save(&results, options)?;
    Ok(results)
}

/// The results as a table for people, in Markdown.
pub fn table(results: &Results) -> String {
    table::render(results)
}

fn measure_example(
    example: &mut Example,
    engine: &Engine,
    options: &BenchOptions,
    logs: &Path,
    results: &mut Results,
    say: &dyn Fn(&str),
) -> Result<()> {
    // Not measured: the helper's image is imported, everything is read from the disk once, and the stand-in is recorded.
    say(&format!("{}: warm up", example.name));
    example.fresh(engine, logs)?;
    let yardstick = match options.methods.contains(&Method::Handover) {
        true => Yardstick::of(example, options, logs)?,
        false => None,
    };
    for round in 1..=options.rounds {
        for &method in &options.methods {
            example.fresh(engine, logs)?;
            let measured = deploy::measure(example, method, round, options, logs)?;
            say(&measured.in_brief());
            results.rounds.push(measured);
            save(results, options)?;
        }
        let Some(yardstick) = &yardstick else { continue };
        example.fresh(engine, logs)?;
        let seconds = yardstick.bring_up(example, engine, round, options, logs)?;
        say(&format!("{} round {round}, the same by Compose, nobody waiting: {seconds:.2} s", example.name));
        results.bring_ups.push(BringUp { example: example.name.to_owned(), round, seconds });
        save(results, options)?;
    }
    Ok(())
}

fn save(results: &Results, options: &BenchOptions) -> Result<()> {
    let file = options.out.join(format!("{}.json", options.engine));
    let json = serde_json::to_string_pretty(results).map_err(|error| failed("cannot write the results", error))?;
    fs::write(&file, json + "\n").map_err(io(format!("cannot write {}", file.display())))
}
