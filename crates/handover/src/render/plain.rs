//! Lines for people, in a terminal or a CI log: no colours to lose, no cursor tricks.

use std::time::Duration;

use handover_core::plan::Plan;

use super::foreign::harmless;
use crate::event::{DrainSummary, Event, Proof, Step};

/// The lines of one event, which came `at` after the start.
pub(crate) fn lines(at: Duration, event: &Event) -> Vec<String> {
    raw_lines(at, event).iter().map(|line| harmless(line)).collect()
}

fn raw_lines(at: Duration, event: &Event) -> Vec<String> {
    let stamped = |text: &str| vec![stamped(at, text)];
    match event {
        Event::Planned(planned) => plan(planned),
        Event::NothingToDo => vec!["nothing to do: everything runs as wanted".to_owned()],
        Event::WaitingForLock { holder } => stamped(&format!("waiting for {holder}, who deploys this project")),
        // Too quick to be told apart.
        Event::StepBegan(Step::Load | Step::Observe | Step::Lock) | Event::StepEnded(_) => Vec::new(),
        // Its step says it.
        Event::Operation { .. } => Vec::new(),
        Event::StepBegan(step) => stamped(step.words()),
        Event::Compose { step, line } if matches!(*step, "pull" | "build") => stamped(&format!("  {line}")),
        Event::Compose { .. } => Vec::new(),
        Event::Ready { container } => stamped(&format!("  {container} is ready")),
        Event::Switched { container } => stamped(&format!("  {container}: new connections go to the new container")),
        Event::Reloaded { peer } => stamped(&format!("  {peer} was reloaded, so that it resolves names anew")),
        Event::RouterTold { router, servers } => {
            stamped(&format!("  {router} confirms that it sends to {}", servers.join(", ")))
        }
        Event::RouterDrained { router } => stamped(&format!("  {router}: nothing goes on by its old configuration")),
        Event::Live => stamped("the new version is live"),
        Event::Drained { container, report } => stamped(&format!("  {container}: {}", drained(report))),
        Event::Note(text) => stamped(&format!("note: {text}")),
        Event::Resumed(text) => stamped(text),
        Event::Proof(done) => proof(done),
    }
}

/// A line with its time.
pub(crate) fn stamped(at: Duration, text: &str) -> String {
    format!("{:>7.2}s  {text}", at.as_secs_f64())
}

/// A plan that is about to be carried out: service by service, with the reasons, and what is redirected.
fn plan(plan: &Plan) -> Vec<String> {
    let mut lines = services(plan);
    if let Some(standin) = &plan.standin {
        let ports = standin.ports.iter().filter_map(|(service, port)| Some(format!("{} ({service})", port.published?)));
        lines.push(format!("  ports led to the stand-in: {}", ports.collect::<Vec<_>>().join(", ")));
        if let Some(inside) = &standin.inside {
            let members: Vec<&str> = inside.members.iter().map(|member| member.service.as_str()).collect();
            lines.push(format!("  led as well, if they call {}: {}", members.join(", "), inside.peers.join(", ")));
        }
    }
    lines
}

/// A plan that nobody carries out: service by service, with the reasons, and what would be done first to last.
pub(crate) fn plan_in_order(plan: &Plan) -> Vec<String> {
    let mut lines = services(plan);
    let operations = plan.operations();
    if !operations.is_empty() {
        lines.push("in this order:".to_owned());
    }
    lines.extend(operations.iter().zip(1..).map(|(operation, number)| format!("  {number:>2}  {operation}")));
    lines
}

/// Service by service, with the reasons.
fn services(plan: &Plan) -> Vec<String> {
    let mut lines = vec![format!("plan for project {}", plan.project)];
    let width = plan.services.iter().map(|planned| planned.service.len()).max().unwrap_or(0);
    for planned in &plan.services {
        lines.push(format!("  {:width$}  {:8}  {}", planned.service, planned.action.word(), planned.reason));
    }
    for orphan in &plan.remove_orphans {
        lines.push(format!("  {orphan}  remove  its service is not in the compose file"));
    }
    for renewal in &plan.renew {
        lines.push(format!("  {}: its anonymous volumes are made anew from the image", renewal.service));
    }
    for router in plan.rolling.iter().filter_map(|rolling| rolling.router.as_ref()) {
        lines.push(format!("  {} is told:", router.router));
        lines.extend(router.sends.iter().map(|line| format!("      {line}")));
    }
    for note in &plan.notes {
        lines.push(format!("  note: {note}"));
    }
    lines
}

fn proof(proof: &Proof) -> Vec<String> {
    let mut lines = Vec::new();
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    match proof.live {
        Some(live) => lines.push(format!("live after {}, done after {}", seconds(live), seconds(proof.done))),
        None => lines.push(format!("done after {}", seconds(proof.done))),
    }
    if proof.live.is_some() {
        let led: Vec<String> = proof.led.iter().map(|(port, count)| format!("{count} for {port}")).collect();
        lines.push(format!("  connections led: {}", led.join(", ")));
        lines.push(format!("  connections drained: {}", drained(&proof.drained)));
    }
    lines.push(format!("  handover's own share of the time: {}", seconds(proof.own)));
    if proof.differs.is_empty() {
        lines.push("  docker compose up -d has nothing to do".to_owned());
    } else {
        lines.push("  docker compose up -d would still change:".to_owned());
        lines.extend(proof.differs.iter().map(|difference| format!("    {difference}")));
    }
    lines
}

fn drained(report: &DrainSummary) -> String {
    let mut text = format!(
        "{} closed while idle, {} handed on, {} ended by themselves",
        report.closed_idle, report.handed_on, report.ended
    );
    if report.cut.is_empty() {
        text.push_str(", none cut");
    } else {
        text.push_str(&format!(", {} cut at the deadline: {}", report.cut.len(), report.cut.join(", ")));
    }
    text
}
