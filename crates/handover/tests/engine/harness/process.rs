//! Programs under test: started, listened to, and ended for certain.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// No deploy of these tests takes longer; one that does hangs.
const LONGEST: Duration = Duration::from_secs(120);

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// `None`: ended by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Finished {
    /// Panics, with all the program said, unless it ended with this code.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "\n{self}");
        self
    }

    /// Panics, with all the program said, unless it succeeded.
    #[track_caller]
    pub(crate) fn expect_success(self) -> Self {
        self.assert_plan_followed();
        self.expect_code(0)
    }

    /// A deploy that tells its events has carried out the operations of its plan, each once and in their order.
    #[track_caller]
    fn assert_plan_followed(&self) {
        let events = self.events();
        let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
        let numbered = |one: &Value| (one["number"].clone(), one["operation"].clone());
        let planned: Vec<_> =
            of("plan").iter().filter_map(|plan| plan["operations"].as_array()).flatten().map(numbered).collect();
        // `handover plan` carries nothing out.
        if !of("proof").is_empty() {
            let done: Vec<_> = of("operation").into_iter().map(numbered).collect();
            assert_eq!(planned, done, "the operations of the plan, and what was done\n{self}");
        }
    }

    /// Panics unless standard output or standard error contains the text.
    #[track_caller]
    pub(crate) fn expect_says(self, text: &str) -> Self {
        assert!(self.stdout.contains(text) || self.stderr.contains(text), "it does not say {text:?}\n{self}");
        self
    }

    /// The JSON events on standard output, for a deploy with `--output json`.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The first JSON event of this kind.
    #[track_caller]
    pub(crate) fn event(&self, kind: &str) -> Value {
        let found = self.events().into_iter().find(|event| event["event"] == kind);
        found.unwrap_or_else(|| panic!("no event {kind}\n{self}"))
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, stdout, stderr, took } = self;
        write!(formatter, "code {code:?} after {took:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// A program that runs. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    began: Instant,
    lines: Receiver<String>,
    seen: Vec<String>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let (send, lines) = channel();
        let (stdout, stderr) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let stderr = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What came before an error is all there is.
            let _ = BufReader::new(stderr).read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Self { child, began: Instant::now(), lines, seen: Vec::new(), stderr: Some(stderr) }
    }

    /// Waits for a line of standard output. Panics if the program ends or hangs before.
    #[track_caller]
    pub(crate) fn wait_line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            match self.lines.recv_timeout(LONGEST.saturating_sub(self.began.elapsed())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(_) => {
                    let _ = self.child.kill();
                    let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
                    panic!("it ended or hung before {what}:\n{}\n--- stderr\n{stderr}", self.seen.join("\n"));
                }
            }
        }
    }

    /// Waits for a JSON event (`--output json`).
    #[track_caller]
    pub(crate) fn wait_event(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_default();
        let line = self.wait_line(what, |line| wanted(&parse(line)));
        parse(&line)
    }

    /// Waits until a step begins (`--output json`).
    #[track_caller]
    pub(crate) fn wait_step(&mut self, step: &str) {
        self.wait_event(&format!("the step {step}"), |event| event["event"] == "step-began" && event["step"] == step);
    }

    /// Sends a signal by its name, for instance `INT`.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "signal {name} cannot be sent");
    }

    /// The same to all processes of its group, for a program that was started as the first of one.
    #[track_caller]
    pub(crate) fn signal_group(&self, name: &str) {
        let group = format!("-{}", self.child.id());
        let sent = Command::new("kill").args([&format!("-{name}"), "--", &group]).status();
        assert!(sent.is_ok_and(|status| status.success()), "signal {name} cannot be sent");
    }

    /// Sends SIGKILL to the Compose that it has started, and panics if there is none.
    #[track_caller]
    pub(crate) fn kill_compose(&self) {
        let parent = self.child.id().to_string();
        let is_compose = |id: &String| {
            let read = |file: &str| std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
            // After the name in parentheses: the state, the parent.
            let stat = read("stat");
            let of_ours = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(&parent);
            let command = read("cmdline");
            of_ours && command.contains("compose") && command.split('\0').any(|word| word == "up")
        };
        let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
        let mut ids = processes.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let compose = ids.find(is_compose).expect("Compose runs");
        let sent = Command::new("kill").args(["-KILL", &compose]).status();
        assert!(sent.is_ok_and(|status| status.success()), "Compose cannot be killed");
    }

    /// Waits for its end. Panics if it hangs; it is killed then.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        let deadline = self.began + LONGEST;
        let mut hangs = false;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    hangs = true;
                    // Its end closes the pipes.
                    let _ = self.child.kill();
                    break;
                }
            }
        }
        let status = self.child.wait().expect("a child");
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let finished =
            Finished { code: status.code(), stdout: self.seen.join("\n"), stderr, took: self.began.elapsed() };
        assert!(!hangs, "killed because it hung\n{finished}");
        finished
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
