//! `handover up` does what `docker compose up -d` does, and no client notices.

mod accept;
mod cli;
mod compose;
mod deploy;
mod docker_cli;
mod engine;
mod engine_proxy;
mod event;
mod failure;
mod helper;
mod interrupt;
mod machine;
pub mod outside;
mod progress;
mod render;
mod router;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use cli::{Cli, Command, Output, ProjectArgs, RecoverArgs, ShowPlanArgs, UpArgs};
use compose::Compose;
use event::{Event, Events};
use failure::Failure;
use interrupt::Interrupt;
use machine::Machine;
use outside::Outside;
use tokio::sync::watch;

/// The whole program, for these arguments; its own name is the first of them.
pub fn run(args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let cli = Cli::parse_from(cli::without_plugin_name(args));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            render::print_failures(
                Output::Plain,
                &[Failure::new(failure::Exit::Engine, "the program cannot start").because(error)],
            );
            return ExitCode::from(failure::Exit::Engine as u8);
        }
    };
    runtime.block_on(async {
        match cli.command {
            Command::Up(args) => up(cli.project, args).await,
            Command::Recover(args) => recover(cli.project, args).await,
            Command::Plan(args) => plan(cli.project, args).await,
            Command::Guard => handover_host::guard::run(std::path::Path::new(handover_host::guard::RULES_FILE)).await,
            Command::Session => handover_host::session::run().await,
            Command::Keeper => handover_host::keeper::run().await,
            Command::PluginMetadata => {
                render::print_lines(&[cli::plugin_metadata()]);
                ExitCode::SUCCESS
            }
        }
    })
}

/// One command line (`up`, `plan` or `recover`; the program's own name is its first word) in a world of the caller's; its exit code.
/// What happens is told as the JSON lines of `--output json`, and nothing is printed. `asked` says how often the user has asked to
/// stop. Dropped under way, it is as if the program had been killed.
pub async fn execute(
    args: impl Iterator<Item = std::ffi::OsString>,
    outside: Arc<dyn Outside>,
    asked: watch::Receiver<usize>,
    mut tell: impl FnMut(serde_json::Value),
) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(wrong) => {
            tell(serde_json::json!({ "event": "usage", "text": wrong.to_string() }));
            return u8::try_from(wrong.exit_code()).unwrap_or(2);
        }
    };
    let compose = Compose::new(cli.project, outside);
    let interrupt = Interrupt::of(asked);
    let (events, mut stream) = Events::new();
    // On the heap: a thread of a test has no room for all that a deploy may wait for.
    let work = Box::pin(async {
        match cli.command {
            Command::Up(args) => deploy::up(compose, &args, &events, &interrupt).await,
            Command::Recover(args) => deploy::recover(compose, args.into(), &events, &interrupt).await,
            Command::Plan(args) => {
                let plan = deploy::show_plan(compose, &args.plan, &events).await?;
                events.emit(Event::Planned(Box::new(plan.clone())));
                if plan.refusals.is_empty() { Ok(()) } else { Err(Failure::refused(&plan.refusals)) }
            }
            _ => Err(vec![Failure::new(failure::Exit::Engine, "this command is for the machine alone")]),
        }
    });
    let working = async {
        tokio::select! {
            biased;
            outcome = work => outcome,
            never = interrupt.explain(|_| events.interrupted()) => match never {},
        }
    };
    tokio::pin!(working);
    let outcome = loop {
        tokio::select! {
            biased;
            Some((at, event)) = stream.recv() => tell(render::json_line(at, &event)),
            outcome = &mut working => break outcome,
        }
    };
    while let Ok((at, event)) = stream.try_recv() {
        tell(render::json_line(at, &event));
    }
    let Err(failures) = outcome else { return 0 };
    tell(render::json_failures(&failures));
    failures.first().map_or(1, |failure| failure.exit as u8)
}

async fn up(project: ProjectArgs, args: UpArgs) -> ExitCode {
    told(args.output, async |events, interrupt| deploy::up(compose_on_machine(project), &args, events, interrupt).await)
        .await
}

async fn recover(project: ProjectArgs, args: RecoverArgs) -> ExitCode {
    told(args.output, async |events, interrupt| {
        deploy::recover(compose_on_machine(project), args.into(), events, interrupt).await
    })
    .await
}

/// Compose, and by it the engine, as this machine has them.
fn compose_on_machine(project: ProjectArgs) -> Compose {
    let machine = Machine::new(&project);
    Compose::new(project, Arc::new(machine))
}

/// Something that tells of itself while it is done, and can be interrupted.
async fn told(output: Output, work: impl AsyncFnOnce(&Events, &Interrupt) -> Result<(), Vec<Failure>>) -> ExitCode {
    let (events, stream) = Events::new();
    let interrupt = Interrupt::listen();
    let renderer = tokio::spawn(render::render(output, stream));
    let outcome = tokio::select! {
        biased;
        outcome = work(&events, &interrupt) => outcome,
        never = interrupt.explain(|_| events.interrupted()) => match never {},
    };
    drop(events);
    // The renderer ends with the stream; what it has not printed yet comes before any error.
    let _ = renderer.await;
    exit(output, outcome)
}

async fn plan(project: ProjectArgs, args: ShowPlanArgs) -> ExitCode {
    let (events, _stream) = Events::new();
    match deploy::show_plan(compose_on_machine(project), &args.plan, &events).await {
        Ok(plan) => {
            render::print_plan(args.output, &plan);
            // The plan's line has its refusals.
            let refused = if plan.refusals.is_empty() { Ok(()) } else { Err(Failure::refused(&plan.refusals)) };
            exit(Output::Plain, refused)
        }
        Err(failures) => exit(args.output, Err(failures)),
    }
}

fn exit(output: Output, outcome: Result<(), Vec<Failure>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failures) => {
            render::print_failures(output, &failures);
            ExitCode::from(failures.first().map_or(1, |failure| failure.exit as u8))
        }
    }
}
