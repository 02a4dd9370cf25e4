//! `handover-lab bench`: the benchmark, with its table on stdout.

use std::path::PathBuf;
use std::process::ExitCode;

use handover_lab::bench::{BenchOptions, Method, run as run_bench, table};

/// The arguments of the benchmark.
///
/// It runs in the network namespace of the engine, with DOCKER_HOST set and the images there: `scripts/bench` sees to that.
#[derive(Debug, clap::Args)]
pub(super) struct BenchArguments {
    /// The root of the source tree
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// The handover to measure
    #[arg(long)]
    handover: PathBuf,
    /// Where results and logs go
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// The engine's name in the results
    #[arg(long, default_value = "engine")]
    engine: String,
    /// Which examples, by comma
    #[arg(long, value_delimiter = ',', default_value = "web,reference,php-fpm,traefik")]
    examples: Vec<String>,
    /// Which ways to deploy, by comma
    #[arg(long, value_delimiter = ',', value_enum, default_value = "handover,compose,script")]
    methods: Vec<Method>,
    /// How often each deploy is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long the load runs before a deploy
    #[arg(long, value_name = "SECONDS", default_value_t = 6.0)]
    rest: f64,
    /// Services of the project in which nothing has changed; 0 leaves it out
    #[arg(long, default_value_t = 50)]
    unchanged_services: usize,
    /// Deploys in a row behind Traefik, under one load; 0 leaves them out
    #[arg(long, default_value_t = 50)]
    in_a_row: usize,
}

/// Measures, and prints the table.
pub(super) fn run(arguments: BenchArguments) -> ExitCode {
    let options = BenchOptions {
        root: arguments.root,
        handover: arguments.handover,
        out: arguments.out,
        engine: arguments.engine,
        examples: arguments.examples,
        methods: arguments.methods,
        rounds: arguments.rounds,
        rest_s: arguments.rest,
        unchanged_services: arguments.unchanged_services,
        in_a_row: arguments.in_a_row,
    };
    match run_bench(&options, &|step| eprintln!("bench: {step}")) {
        Ok(results) => {
            print!("{}", table(&results));
            ExitCode::SUCCESS
        }
        Err(error) => super::complain(&error),
    }
}
