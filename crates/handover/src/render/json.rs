//! JSON lines for programs. The wire types are this file's own, so that the events inside may change.

use std::time::Duration;

use serde_json::{Value, json};

use crate::event::Event;

/// The line of one event.
pub(crate) fn line(at: Duration, event: &Event) -> Value {
    let mut line = match event {
        Event::Planned(plan) => json!({
            "event": "plan",
            "project": plan.project,
            "services": plan.services.iter().map(|planned| json!({
                "service": planned.service, "action": planned.action.word(), "reason": planned.reason,
            })).collect::<Vec<_>>(),
            "notes": plan.notes,
        }),
        Event::NothingToDo => json!({"event": "nothing-to-do"}),
        Event::WaitingForLock { holder } => json!({"event": "waiting-for-lock", "holder": holder}),
        Event::StepBegan(step) => json!({"event": "step-began", "step": step.name()}),
        Event::StepEnded(step) => json!({"event": "step-ended", "step": step.name()}),
        Event::Compose { step, line } => json!({"event": "compose", "step": step, "line": line}),
        Event::Ready { container } => json!({"event": "ready", "container": container}),
        Event::Switched { container } => json!({"event": "switched", "container": container}),
        Event::Reloaded { peer } => json!({"event": "reloaded", "peer": peer}),
        Event::RouterTold { router, servers } => json!({"event": "router-told", "router": router, "servers": servers}),
        Event::RouterDrained { router } => json!({"event": "router-drained", "router": router}),
        Event::Live => json!({"event": "live"}),
        Event::Drained { container, report } => json!({
            "event": "drained", "container": container,
            "closed_idle": report.closed_idle, "handed_on": report.handed_on, "ended": report.ended, "cut": report.cut,
            "last_look_to_closed_us": {"median": report.last_look_us.0, "max": report.last_look_us.1},
            "takeover_us": {"median": report.takeover_us.0, "max": report.takeover_us.1}, "doubts": report.doubts,
        }),
        Event::Note(text) => json!({"event": "note", "text": text}),
        Event::Resumed(text) => json!({"event": "resumed", "text": text}),
        Event::Proof(proof) => json!({
            "event": "proof",
            "live_s": proof.live.map(|live| live.as_secs_f64()),
            "done_s": proof.done.as_secs_f64(),
            "own_s": proof.own.as_secs_f64(),
            "led": proof.led.iter().map(|(port, count)| json!({"for": port, "connections": count})).collect::<Vec<_>>(),
            "closed_idle": proof.drained.closed_idle,
            "handed_on": proof.drained.handed_on,
            "ended": proof.drained.ended,
            "cut": proof.drained.cut,
            "differs": proof.differs,
        }),
    };
    line["at_s"] = json!(at.as_secs_f64());
    line
}
