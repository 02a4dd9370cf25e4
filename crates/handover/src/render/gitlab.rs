//! The same lines as everywhere, folded for the log of a GitLab job: what was done stands in sections that are closed until somebody
//! clicks them; the plan, the moment when the new version is live, notes, the way back and the verdict stand outside.
//!
//! The markers are GitLab's own (`section_start`, `section_end`); `\r\x1b[0K` belongs to them, and a terminal hides them by it.
//! Sections do not nest: a line that is for everybody's eyes ends the open one, and what comes after it opens another.

use std::time::Duration;

use super::foreign::harmless;
use super::plain;
use crate::event::{Event, Step};

/// What is folded, and how far the log has come.
#[derive(Debug)]
pub(crate) struct Folded {
    /// When the deploy began, since the Unix epoch: GitLab computes from the markers' times how long a section took.
    began: Duration,
    /// The part of the deploy under way.
    part: Option<Part>,
    /// The open section: what it is of, and its name.
    open: Option<(Part, String)>,
    /// Sections so far; it makes their names unique, as GitLab wants them.
    sections: usize,
}

/// A part of a deploy that is worth a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Images,
    StandIn,
    Drain,
    Settle,
    Roll,
    GateReal,
    CleanUp,
}

impl Part {
    /// The part that a step belongs to; none for those that are one line, and for the way back, which nobody should have to look for.
    fn of(step: Step) -> Option<Self> {
        match step {
            Step::Images => Some(Self::Images),
            Step::CreateFirst | Step::StandIn | Step::Gate => Some(Self::StandIn),
            Step::Drain | Step::Stop => Some(Self::Drain),
            Step::Settle => Some(Self::Settle),
            Step::Roll | Step::Unused => Some(Self::Roll),
            Step::GateReal => Some(Self::GateReal),
            Step::CleanUp => Some(Self::CleanUp),
            Step::Load
            | Step::Observe
            | Step::Lock
            | Step::Helpers
            | Step::Preflight
            | Step::Cutover
            | Step::Routers
            | Step::ClientsBack
            | Step::Cutback
            | Step::OldCode
            | Step::Back => None,
        }
    }

    /// For the section's name, which may have letters, digits, `_`, `.` and `-` only.
    fn name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::StandIn => "stand-in",
            Self::Drain => "drain",
            Self::Settle => "settle",
            Self::Roll => "roll",
            Self::GateReal => "gate-real",
            Self::CleanUp => "clean-up",
        }
    }

    /// What is read while the section is closed.
    fn title(self) -> &'static str {
        match self {
            Self::Images => Step::Images.words(),
            Self::StandIn => "bring up the stand-in, and gate it",
            Self::Drain => "drain and stop the old containers",
            Self::Settle => Step::Settle.words(),
            Self::Roll => Step::Roll.words(),
            Self::GateReal => Step::GateReal.words(),
            Self::CleanUp => Step::CleanUp.words(),
        }
    }
}

impl Folded {
    /// A log of a deploy that began at this time since the Unix epoch.
    pub(crate) fn new(began: Duration) -> Self {
        Self { began, part: None, open: None, sections: 0 }
    }

    /// The lines of one event, which came `at` after the start.
    pub(crate) fn lines(&mut self, at: Duration, event: &Event) -> Vec<String> {
        match event {
            // The section says it already, unless it has several steps.
            Event::StepBegan(step) if Part::of(*step).is_some_and(|part| part.title() == step.words()) => {
                self.part = Part::of(*step);
                self.fold(at, Vec::new())
            }
            Event::StepBegan(step) => {
                let lines = plain::lines(at, event);
                if lines.is_empty() {
                    return lines;
                }
                self.part = Part::of(*step);
                self.fold(at, lines)
            }
            // Folded away, Compose's own words cost nobody anything.
            Event::Compose { line, .. } if self.part.is_some() => {
                self.fold(at, vec![plain::stamped(at, &harmless(&format!("  {line}")))])
            }
            Event::Ready { .. }
            | Event::Switched { .. }
            | Event::Reloaded { .. }
            | Event::RouterTold { .. }
            | Event::RouterDrained { .. }
            | Event::Drained { .. } => self.fold(at, plain::lines(at, event)),
            Event::StepEnded(_) | Event::Operation { .. } | Event::Compose { .. } => plain::lines(at, event),
            Event::Planned(_)
            | Event::NothingToDo
            | Event::WaitingForLock { .. }
            | Event::Live
            | Event::Note(_)
            | Event::Resumed(_)
            | Event::Proof(_) => self.unfolded(at, plain::lines(at, event)),
        }
    }

    /// The lines after the last event: what comes then, errors above all, must not be folded away.
    pub(crate) fn end(&mut self, at: Duration) -> Vec<String> {
        self.unfolded(at, Vec::new())
    }

    /// Puts lines into the section of the part under way, opening it if it is not open.
    fn fold(&mut self, at: Duration, lines: Vec<String>) -> Vec<String> {
        let Some(part) = self.part else { return self.unfolded(at, lines) };
        if self.open.as_ref().is_some_and(|(open, _)| *open == part) {
            return lines;
        }
        let mut folded = self.unfolded(at, Vec::new());
        self.sections += 1;
        let name = format!("handover_{}_{}", self.sections, part.name());
        let title = plain::stamped(at, part.title());
        folded.push(format!("\x1b[0Ksection_start:{}:{name}[collapsed=true]\r\x1b[0K{title}", self.unix_time(at)));
        self.open = Some((part, name));
        folded.extend(lines);
        folded
    }

    /// Puts lines outside of any section, ending the open one.
    fn unfolded(&mut self, at: Duration, lines: Vec<String>) -> Vec<String> {
        let end = self.open.take();
        let end = end.map(|(_, name)| format!("\x1b[0Ksection_end:{}:{name}\r\x1b[0K", self.unix_time(at)));
        end.into_iter().chain(lines).collect()
    }

    fn unix_time(&self, at: Duration) -> u64 {
        (self.began + at).as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DrainSummary, Proof};

    /// The log of a deploy that begins at 1000 s, an event each 500 ms, with the escape character written as `^`.
    fn log(events: &[Event]) -> String {
        let mut folded = Folded::new(Duration::from_secs(1000));
        let at = |number: usize| Duration::from_millis(500 * number as u64);
        let mut lines: Vec<String> =
            events.iter().enumerate().flat_map(|(number, event)| folded.lines(at(number), event)).collect();
        lines.extend(folded.end(at(events.len())));
        lines.join("\n").replace('\x1b', "^").replace('\r', "~")
    }

    fn step(step: Step) -> [Event; 2] {
        [Event::StepBegan(step), Event::StepEnded(step)]
    }

    fn compose(step: &'static str, line: &str) -> Event {
        Event::Compose { step, line: line.to_owned() }
    }

    fn ready(container: &str) -> Event {
        Event::Ready { container: container.to_owned() }
    }

    fn drained(container: &str) -> Event {
        let report = DrainSummary { closed_idle: 2, ended: 1, ..DrainSummary::default() };
        Event::Drained { container: container.to_owned(), report }
    }

    #[test]
    fn the_work_is_folded_and_what_matters_is_not() {
        let proof = Proof {
            live: Some(Duration::from_secs(2)),
            done: Duration::from_secs(9),
            led: vec![("port 80".to_owned(), 7)],
            ..Proof::default()
        };
        let events = [
            vec![Event::StepBegan(Step::Images), compose("pull", "web Pulled"), Event::StepEnded(Step::Images)],
            step(Step::Lock).into(),
            step(Step::Helpers).into(),
            vec![Event::StepBegan(Step::StandIn), compose("stand-in", "Container web  Started")],
            vec![
                Event::StepEnded(Step::StandIn),
                Event::StepBegan(Step::Gate),
                ready("web"),
                Event::StepEnded(Step::Gate),
            ],
            step(Step::Cutover).into(),
            vec![Event::Live, Event::StepBegan(Step::Drain), drained("web"), Event::StepEnded(Step::Drain)],
            step(Step::Stop).into(),
            vec![Event::StepBegan(Step::Settle), compose("up", "Container web  Recreate")],
            vec![Event::StepEnded(Step::Settle), Event::Proof(Box::new(proof))],
        ]
        .concat();
        assert_eq!(
            log(&events),
            "\
^[0Ksection_start:1000:handover_1_images[collapsed=true]~^[0K   0.00s  pull and build images
   0.50s    web Pulled
^[0Ksection_end:1002:handover_1_images~^[0K
   2.50s  start the helpers beside the engine
^[0Ksection_start:1003:handover_2_stand-in[collapsed=true]~^[0K   3.50s  bring up the stand-in, and gate it
   3.50s  bring up the stand-in
   4.00s    Container web  Started
   5.00s  gate the stand-in
   5.50s    web is ready
^[0Ksection_end:1006:handover_2_stand-in~^[0K
   6.50s  cutover: lead traffic to the stand-in
   7.50s  the new version is live
^[0Ksection_start:1008:handover_3_drain[collapsed=true]~^[0K   8.00s  drain and stop the old containers
   8.00s  drain the old containers
   8.50s    web: 2 closed while idle, 0 handed on, 1 ended by themselves, none cut
   9.50s  stop the old containers
^[0Ksection_end:1010:handover_3_drain~^[0K
^[0Ksection_start:1010:handover_4_settle[collapsed=true]~^[0K  10.50s  settle: Compose recreates the real containers
  11.00s    Container web  Recreate
^[0Ksection_end:1012:handover_4_settle~^[0K
live after 2.00 s, done after 9.00 s
  connections led: 7 for port 80
  connections drained: 0 closed while idle, 0 handed on, 0 ended by themselves, none cut
  handover's own share of the time: 0.00 s
  docker compose up -d has nothing to do"
        );
    }

    #[test]
    fn a_word_to_everybody_in_the_middle_stands_outside_and_the_rest_is_folded_again() {
        let events = [
            Event::StepBegan(Step::Roll),
            Event::Switched { container: "app".to_owned() },
            Event::Live,
            drained("app"),
            Event::StepEnded(Step::Roll),
        ];
        assert_eq!(
            log(&events),
            "\
^[0Ksection_start:1000:handover_1_roll[collapsed=true]~^[0K   0.00s  roll: Compose recreates, each new container starts first
   0.50s    app: new connections go to the new container
^[0Ksection_end:1001:handover_1_roll~^[0K
   1.00s  the new version is live
^[0Ksection_start:1001:handover_2_roll[collapsed=true]~^[0K   1.50s  roll: Compose recreates, each new container starts first
   1.50s    app: 2 closed while idle, 0 handed on, 1 ended by themselves, none cut
^[0Ksection_end:1002:handover_2_roll~^[0K"
        );
    }

    #[test]
    fn a_failure_finds_its_section_closed_and_the_way_back_open() {
        let events = [Event::StepBegan(Step::Gate), Event::StepEnded(Step::Gate), Event::StepBegan(Step::Back)];
        assert_eq!(
            log(&events),
            "\
^[0Ksection_start:1000:handover_1_stand-in[collapsed=true]~^[0K   0.00s  bring up the stand-in, and gate it
   0.00s  gate the stand-in
^[0Ksection_end:1001:handover_1_stand-in~^[0K
   1.00s  back to the old version"
        );
    }

    #[test]
    fn a_deploy_that_ends_within_a_section_ends_it() {
        let log = log(&[Event::StepBegan(Step::Images)]);
        assert!(log.ends_with("^[0Ksection_end:1000:handover_1_images~^[0K"), "{log}");
    }
}
