//! The results as Markdown.

use std::fmt::Write;

use super::{Method, Results, Round};

type Row = (&'static str, fn(&Round) -> Option<f64>, fn(f64) -> String);

const ROWS: [Row; 10] = [
    ("failed requests", |round| Some(round.failed as f64), count),
    ("of these WebSocket sessions and downloads", |round| Some(round.sessions_failed as f64), count),
    ("retried keep-alive requests", |round| Some(round.retried as f64), count),
    ("requests made", |round| Some(round.requests as f64), count),
    ("longest gap beyond the schedule", |round| Some(round.gap_ms), milliseconds),
    ("p99 of short requests, during / before", |round| round.p99_ratio, ratio),
    ("new version live (first answer)", |round| round.live_s, seconds),
    ("new version live (on every path)", |round| round.live_everywhere_s, seconds),
    ("all done", |round| Some(round.done_s), seconds),
    ("own share of that", |round| round.own_s, seconds),
];

pub(super) fn render(results: &Results) -> String {
    let mut text = String::new();
    let machine = &results.machine;
    let _ = writeln!(
        text,
        "Measured on {} cores of {}, {:.0} GiB, Linux {}, Docker Engine {} ({}), Compose {}. Median [least..most].",
        machine.cores,
        machine.cpu,
        machine.memory_mib as f64 / 1024.0,
        machine.kernel,
        machine.engine,
        machine.storage_driver,
        machine.compose,
    );
    let busy: Vec<f64> = results.rounds.iter().map(|round| round.busy_at_rest * 100.0).collect();
    let _ = writeln!(
        text,
        "Processors in use before a deploy, by the load, the stack and whatever else ran: {} %.",
        spread(busy, count)
    );
    let mut examples: Vec<&str> = results.rounds.iter().map(|round| round.example.as_str()).collect();
    examples.dedup();
    for example in examples {
        render_example(&mut text, results, example);
    }
    if let Some(row) = &results.in_a_row {
        let title = format!("{} deploys in a row behind Traefik, one load", row.deploys);
        let _ = writeln!(text, "\n| {title} | |\n|---|---|");
        let rows = [
            ("failed requests (target: 0)", count(row.failed as f64)),
            ("retried keep-alive requests", count(row.retried as f64)),
            ("long connections cut", count(row.cut as f64)),
            ("requests made", count(row.requests as f64)),
            ("longest gap beyond the schedule", milliseconds(row.gap_ms)),
            ("all done", seconds(row.wall_s)),
        ];
        for (title, cell) in rows {
            let _ = writeln!(text, "| {title} | {cell} |");
        }
    }
    if let Some(unchanged) = &results.unchanged {
        let [config, handover, compose] =
            [&unchanged.config_s, &unchanged.handover_s, &unchanged.compose_s].map(|walls| walls.clone());
        let beyond = median(&handover).zip(median(&config)).map(|(all, config)| all - config);
        let _ = writeln!(text, "\n| nothing to do, {} services | |\n|---|---|", unchanged.services);
        let rows = [
            ("`docker compose config`", spread(config, seconds)),
            ("`handover up`", spread(handover, seconds)),
            ("`handover up` beyond `config` (target: under 0.5 s)", beyond.map_or_else(none, seconds)),
            ("`docker compose up -d`", spread(compose, seconds)),
            ("peak memory of handover", mebibytes(unchanged.peak_kib as f64)),
        ];
        for (title, cell) in rows {
            let _ = writeln!(text, "| {title} | {cell} |");
        }
    }
    text
}

fn render_example(text: &mut String, results: &Results, example: &str) {
    let rounds =
        |method: Method| results.rounds.iter().filter(move |round| round.example == example && round.method == method);
    let _ = write!(text, "\n| {example} |");
    for method in Method::ALL {
        let _ = write!(text, " {} |", method.title());
    }
    let _ = writeln!(text, "\n|---|---|---|---|");
    for (title, pick, format) in ROWS {
        let _ = write!(text, "| {title} |");
        for method in Method::ALL {
            let values: Vec<f64> = rounds(method).filter_map(pick).collect();
            let all = values.len() == rounds(method).count();
            let cell = if all || values.is_empty() { spread(values, format) } else { "not always".to_owned() };
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    let ours = || rounds(Method::Handover);
    let peak = spread(ours().map(|round| round.peak_kib as f64).collect(), mebibytes);
    // Pulling is the same for all, and the yardstick has its images.
    let live: Vec<f64> = ours().filter_map(|round| Some(round.own_live_s? - round.step_s("images"))).collect();
    let bring_ups = results.bring_ups.iter().filter(|bring_up| bring_up.example == example);
    let idle: Vec<f64> = bring_ups.map(|bring_up| bring_up.seconds).collect();
    let against = median(&live).zip(median(&idle)).map(|(live, idle)| live / idle);
    let rows = [
        ("peak memory (target: under 64 MiB)", peak),
        ("live, without the pull", spread(live, seconds)),
        ("the same containers, by Compose, nobody waiting", spread(idle, seconds)),
        ("live over that (target: at most 1.25)", against.map_or_else(none, ratio)),
    ];
    for (title, cell) in rows {
        let _ = writeln!(text, "| {title} | {cell} | | |");
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

fn spread(values: Vec<f64>, format: fn(f64) -> String) -> String {
    let Some(middle) = median(&values) else { return none() };
    let least = format(values.iter().copied().fold(f64::INFINITY, f64::min));
    let most = format(values.iter().copied().fold(0.0, f64::max));
    if least == most { least } else { format!("{} [{least}..{most}]", format(middle)) }
}

fn none() -> String {
    "-".to_owned()
}

fn count(value: f64) -> String {
    format!("{value:.0}")
}

fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

fn seconds(value: f64) -> String {
    format!("{value:.2} s")
}

fn milliseconds(value: f64) -> String {
    format!("{value:.0} ms")
}

fn mebibytes(kib: f64) -> String {
    format!("{:.1} MiB", kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_its_ends_when_they_differ() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0], count), "2 [1..3]");
        assert_eq!(spread(vec![0.0, 0.0], count), "0");
        assert_eq!(spread(vec![], count), "-");
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
    }
}
