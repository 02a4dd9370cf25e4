//! Failures on standard error: what, why, logs, and a hint that leads out.

use std::io::Write;

use super::foreign::harmless;
use crate::failure::Failure;

/// Prints failures, the most telling parts first.
pub(crate) fn print(failures: &[Failure]) {
    let mut output = std::io::stderr().lock();
    for line in failures.iter().flat_map(lines) {
        // Nobody may be there to read it; the exit code tells nevertheless.
        let _ = writeln!(output, "{}", harmless(&line));
    }
}

fn lines(failure: &Failure) -> Vec<String> {
    let mut lines = vec![format!("error: {}", failure.what)];
    if let Some(why) = &failure.why {
        lines.extend(indented("  because: ", why));
    }
    if let Some((container, log)) = &failure.logs {
        lines.push(format!("  last lines of {container}:"));
        lines.extend(log.iter().map(|line| format!("    | {line}")));
        if log.is_empty() {
            lines.push("    (it printed nothing)".to_owned());
        }
    }
    if let Some(hint) = &failure.hint {
        lines.extend(indented("  hint: ", hint));
    }
    lines
}

fn indented(head: &str, text: &str) -> Vec<String> {
    text.lines()
        .enumerate()
        .map(|(number, line)| if number == 0 { format!("{head}{line}") } else { format!("    {line}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn a_failure_tells_what_why_and_the_way_out() {
        let failure = Failure::new(Exit::Host, "port 80 is taken").because("nginx\nhas it").hint("stop it");
        assert_eq!(lines(&failure), ["error: port 80 is taken", "  because: nginx", "    has it", "  hint: stop it"]);
    }
}
