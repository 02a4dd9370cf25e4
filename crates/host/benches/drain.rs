//! How often a drain meets a request: kept-alive clients that send POSTs without ever looking, at regular and at random times,
//! on a machine whose every processor is busy.
//!
//! `cargo bench -p handover-host --bench drain` prints one line for each way and rhythm. *closed*: the server's process is not of
//! the drained namespace, so that its connections can neither be taken over nor ended through their sockets. The last line: nobody
//! uses the connections, nothing is heard of them, and they are *ended*. Needs root.
#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)] // the tests use the rest
mod support;

use std::process::{Child, Command};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Helper, Namespace, Outcome, Server, ask, pauses, post_until_closed};

const ROUNDS: usize = 8;
const CLIENTS: usize = 24;
/// Requests a second on each connection.
const RATE: f64 = 20.0;
/// How long the drain listens before it may close.
const LISTENED: Duration = Duration::from_millis(1500);

fn main() -> Outcome {
    let _busy = (0..std::thread::available_parallelism()?.get()).map(|_| Busy::start()).collect::<Outcome<Vec<_>>>()?;
    println!("{CLIENTS} kept-alive connections with {RATE} POSTs/s each, {ROUNDS} drains");
    println!(
        "way       rhythm    closed idle   handed on   POSTs answered   lost   one takes, median/max   drained after, median"
    );
    for random in [false, true] {
        for taken_over in [false, true] {
            line(random, taken_over)?;
        }
    }
    let all = (0..ROUNDS).map(|_| unused()).collect::<Outcome<Vec<_>>>()?;
    print_line("ended", "unused", "look_to_close_us", &all, 0, 0);
    Ok(())
}

/// A drain of connections that were used before it and not again.
fn unused() -> Outcome<Value> {
    let namespace = Namespace::new()?;
    let _server = Server::start(&namespace, "0.0.0.0:80", "old")?;
    let mut clients = (0..CLIENTS).map(|_| namespace.connect("127.0.0.1:80")).collect::<Outcome<Vec<_>>>()?;
    clients.iter_mut().try_for_each(|client| ask(client).map(drop))?;
    let drain = json!({"sandbox": namespace.path(), "ports": [80], "deadline_ms": 20_000, "unheard_ms": 50});
    Helper::start(&["session"])?.ask(json!({"drain": drain}))
}

fn line(random: bool, taken_over: bool) -> Outcome {
    let (mut reports, mut answered, mut lost) = (Vec::new(), 0, 0);
    for round in 0..ROUNDS {
        let (report, clients) = drain(random, taken_over, round * CLIENTS)?;
        reports.push(report);
        answered += clients.iter().flatten().sum::<usize>();
        lost += clients.iter().filter(|client| client.is_none()).count();
    }
    let (way, took) = if taken_over { ("taken", "takeover_us") } else { ("closed", "look_to_close_us") };
    print_line(way, if random { "random" } else { "regular" }, took, &reports, answered, lost);
    Ok(())
}

/// `took`: what of the reports tells how long one took.
fn print_line(way: &str, rhythm: &str, took: &str, reports: &[Value], answered: usize, lost: usize) {
    let all = |path: &str| {
        let number = |report: &Value| report.pointer(path).and_then(Value::as_u64).unwrap_or_default();
        let mut all: Vec<u64> = reports.iter().map(number).collect();
        all.sort_unstable();
        all
    };
    println!(
        "{way:<9} {rhythm:<9} {:>11}   {:>9}   {answered:>14}   {lost:>4}   {:>11} / {:>6} µs   {:>18} ms",
        all("/closed_idle").iter().sum::<u64>(),
        all("/handed_on").iter().sum::<u64>(),
        all(&format!("/{took}/median"))[ROUNDS / 2],
        all(&format!("/{took}/max"))[ROUNDS - 1],
        all("/took_ms")[ROUNDS / 2],
    );
}

/// One drain: its report, and how many requests each client had answered; none for one that lost one.
fn drain(random: bool, taken_over: bool, seed: usize) -> Outcome<(Value, Vec<Option<usize>>)> {
    let namespace = Namespace::new()?;
    let elsewhere = Namespace::new()?;
    let _server = if taken_over {
        Server::start(&namespace, "0.0.0.0:80", "old")?
    } else {
        Server::start_from(&elsewhere, &namespace, "0.0.0.0:80", "old")?
    };
    let mut session = Helper::start(&["session"])?;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let stream = namespace.connect("127.0.0.1:80")?;
            let pauses = pauses(Duration::from_secs_f64(1.0 / RATE), random, (seed + number) as u64);
            Ok(std::thread::spawn(move || post_until_closed(stream, pauses, 100)))
        })
        .collect::<Outcome<_>>()?;
    let drained = session
        .send(json!({"drain": {"sandbox": namespace.path(), "ports": [80], "deadline_ms": 20_000, "hold": true}}))?;
    std::thread::sleep(LISTENED);
    session.send(json!({"proceed": {"request": drained}}))?;
    let report = session.end_of(drained)?["ok"].take();
    Ok((report, clients.into_iter().filter_map(|client| client.join().ok()).collect()))
}

/// A process that does nothing, and does not stop doing it until dropped.
struct Busy(Child);

impl Busy {
    fn start() -> Outcome<Self> {
        Ok(Busy(Command::new("sh").args(["-c", "while :; do :; done"]).spawn()?))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
