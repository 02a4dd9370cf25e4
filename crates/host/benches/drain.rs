//! How often a drain meets a request: kept-alive clients that look before they ask, at regular and at random times.
//!
//! `cargo bench -p handover-host --bench drain` prints one line for each rhythm. Needs root.
#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)] // the tests use the rest
mod support;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Helper, Namespace, Outcome, ask};

const ROUNDS: usize = 12;
const CLIENTS: usize = 16;
/// Requests a second on each connection.
const RATE: f64 = 20.0;
/// How long the drain listens before it may close.
const LISTENED: Duration = Duration::from_millis(1500);

fn main() -> Outcome {
    println!("{CLIENTS} kept-alive connections with {RATE} requests/s each, {ROUNDS} drains");
    println!("rhythm    closed idle   requests lost   last look to closed, median/max   drained after, median");
    for rhythm in ["regular", "random"] {
        let mut reports = Vec::new();
        let mut lost = 0;
        for round in 0..ROUNDS {
            let (report, lost_now) = drain(rhythm == "random", round as u64)?;
            reports.push(report);
            lost += lost_now;
        }
        let number = |report: &Value, path: &str| report.pointer(path).and_then(Value::as_u64).unwrap_or_default();
        let all = |path: &str| {
            let mut all: Vec<u64> = reports.iter().map(|report| number(report, path)).collect();
            all.sort_unstable();
            all
        };
        println!(
            "{rhythm:<9} {:>11}   {lost:>13}   {:>17} / {:>6} µs   {:>18} ms",
            all("/closed_idle").iter().sum::<u64>(),
            all("/look_to_close_us/median")[ROUNDS / 2],
            all("/look_to_close_us/max")[ROUNDS - 1],
            all("/took_ms")[ROUNDS / 2],
        );
    }
    Ok(())
}

/// One drain: its report, and how many requests met a close.
fn drain(random: bool, seed: u64) -> Outcome<(Value, usize)> {
    let namespace = Namespace::new()?;
    namespace.serve("[::]:80", "old")?;
    let mut session = Helper::start(&["session"])?;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let stream = namespace.connect("127.0.0.1:80")?;
            let seed = seed * 1000 + number as u64;
            Ok(std::thread::spawn(move || ask_until_closed(stream, random, seed)))
        })
        .collect::<Outcome<_>>()?;
    let drained = session
        .send(json!({"drain": {"sandbox": namespace.path(), "ports": [80], "deadline_ms": 20_000, "hold": true}}))?;
    std::thread::sleep(LISTENED);
    session.send(json!({"proceed": {"request": drained}}))?;
    let report = session.end_of(drained)?["ok"].take();
    let lost = clients.into_iter().filter_map(|client| client.join().ok()).filter(|lost| *lost).count();
    Ok((report, lost))
}

/// Asks on one connection until it is closed; whether a request was lost by that.
fn ask_until_closed(mut stream: TcpStream, random: bool, seed: u64) -> bool {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut due = Instant::now();
    loop {
        // xorshift64*: clients need no better randomness.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let uniform = (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64;
        let share = if random { -uniform.max(1e-9).ln() } else { 1.0 };
        due += Duration::from_secs_f64(share / RATE);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if is_closed(&stream) {
            return false;
        }
        if ask(&mut stream).is_err() {
            return true;
        }
    }
}

fn is_closed(stream: &TcpStream) -> bool {
    let looked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0; 1]));
    let open = matches!(&looked, Err(error) if error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).is_err() || !open
}
