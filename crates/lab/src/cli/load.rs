//! `handover-lab load`: a load from the command line, phases and its end from stdin and signals.

use std::fs;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;

use handover_lab::load::{Command, LoadSpec, Report, StreamSpec, run as run_load};
use tokio::signal::unix::{SignalKind, signal};

/// The arguments of the load generator.
///
/// Lines on stdin: `mark NAME` begins a phase of the report (the first is `rest`), `stop` ends the load; without
/// --seconds the end of stdin does, too. SIGTERM and SIGINT end it as well: what is under way is finished, then it reports.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct LoadArguments {
    /// KIND=RATE@TARGET[,OPTION=VALUE...], repeatable. Kinds: new, keepalive, post, post-new, slow, h2c, download, websocket,
    /// websocket-long, sse, udp, redis-ping, memcached, tcp-line. Options: name, path, host, netns, timeout_ms, connections,
    /// body_bytes, body_ms, session_ms, message_ms, new_socket, line, expect, redirects_ok, any_reply
    #[arg(long = "stream", value_name = "STREAM")]
    streams: Vec<StreamSpec>,
    /// The same as JSON: {"streams": [{"kind": "new", "rate": 50, "target": "127.0.0.1:8080"}], "seconds": 10}; - reads
    /// stdin to its end (then only --seconds, "seconds" or a signal can end the load)
    #[arg(long, value_name = "FILE|-")]
    spec: Option<PathBuf>,
    /// Start requests for this time
    #[arg(long, value_name = "N")]
    seconds: Option<f64>,
    /// Write the report as JSON to this file; - writes it to stdout instead of the table
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Exit with 1 if a request failed
    #[arg(long)]
    fail_on_error: bool,
}

/// Makes the load and reports.
pub(super) fn run(arguments: &LoadArguments) -> ExitCode {
    let outcome = read_spec(arguments).and_then(|spec| {
        let (sender, receiver) = mpsc::channel();
        if arguments.spec.as_deref() != Some(Path::new("-")) {
            let sender = sender.clone();
            let until_stdin_ends = spec.seconds.is_none();
            std::thread::spawn(move || obey_stdin(&sender, until_stdin_ends));
        }
        obey_signals(sender)?;
        run_load(spec, &receiver).map_err(Into::into)
    });
    let report = match outcome.and_then(|report| write(arguments, &report).map(|()| report)) {
        Ok(report) => report,
        Err(error) => return super::complain(error.as_ref()),
    };
    if arguments.fail_on_error && report.failures().is_some() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

type AnyError = Box<dyn std::error::Error>;

fn read_spec(arguments: &LoadArguments) -> Result<LoadSpec, AnyError> {
    let mut spec = match &arguments.spec {
        Some(file) => {
            let text = if file == Path::new("-") {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text)?;
                text
            } else {
                fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?
            };
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?
        }
        None => LoadSpec::new([]),
    };
    spec.streams.extend(arguments.streams.iter().cloned());
    spec.seconds = arguments.seconds.or(spec.seconds);
    Ok(spec)
}

fn obey_stdin(sender: &mpsc::Sender<Command>, until_it_ends: bool) {
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let command = match line.trim().split_once(' ') {
            Some(("mark", name)) => Command::Mark(name.trim().to_owned()),
            None if line.trim() == "stop" => Command::Stop,
            None if line.trim().is_empty() => continue,
            _ => {
                eprintln!("not understood: {line:?} (write: mark NAME, or stop)");
                continue;
            }
        };
        if sender.send(command).is_err() {
            return;
        }
    }
    if until_it_ends {
        let _ = sender.send(Command::Stop);
    }
}

fn obey_signals(sender: mpsc::Sender<Command>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = {
        let _context = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        let _ = sender.send(Command::Stop);
    });
    Ok(())
}

fn write(arguments: &LoadArguments, report: &Report) -> Result<(), AnyError> {
    let json = serde_json::to_string_pretty(report)?;
    match &arguments.json {
        Some(file) if file == Path::new("-") => println!("{json}"),
        Some(file) => {
            fs::write(file, json + "\n").map_err(|error| format!("{}: {error}", file.display()))?;
            print!("{report}");
        }
        None => print!("{report}"),
    }
    Ok(())
}
