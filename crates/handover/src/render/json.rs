//! JSON lines for programs. The wire types are this file's own, so that the events inside may change.

use std::time::Duration;

use handover_core::plan::operations::{Operation, Side};
use handover_core::plan::{Plan, RefusalKind};
use serde_json::{Value, json};

use crate::event::Event;
use crate::failure::Failure;

/// A plan: what happens to each service and why, and all operations, first to last.
pub(crate) fn plan(plan: &Plan) -> Value {
    let words = |kind| match kind {
        RefusalKind::Project => "project",
        RefusalKind::Image => "image",
        RefusalKind::Consent => "consent",
        RefusalKind::Host => "host",
        RefusalKind::Fault => "fault",
    };
    json!({
        "event": "plan",
        "project": plan.project,
        "services": plan.services.iter().map(|planned| json!({
            "service": planned.service, "action": planned.action.word(), "reason": planned.reason,
        })).collect::<Vec<_>>(),
        "notes": plan.notes,
        "refusals": plan.refusals.iter().map(|refusal| json!({
            "kind": words(refusal.kind), "service": refusal.service, "what": refusal.what, "why": refusal.why,
            "hint": refusal.hint,
        })).collect::<Vec<_>>(),
        "operations": plan.operations().iter().zip(1..).map(|(one, number)| operation(number, one)).collect::<Vec<_>>(),
    })
}

/// One operation, with all that it touches.
fn operation(number: usize, operation: &Operation) -> Value {
    let mut value = json!({
        "number": number, "operation": operation.name(), "services": operation.services(), "words": operation.to_string(),
    });
    let side = |side: &Side| match side {
        Side::Real => "real",
        Side::StandIn => "stand-in",
    };
    match operation {
        Operation::Gate { of, .. } | Operation::Drain { of, .. } => value["of"] = json!(side(of)),
        Operation::CreateFirst { resources, .. } => value["networks_and_volumes"] = json!(resources),
        Operation::Redirect { ports } | Operation::SwitchBack { ports } => {
            value["ports"] = ports.iter().map(|(service, port)| json!({
                "service": service, "published": port.published, "address": port.host_ip, "protocol": port.protocol,
                "target": port.target,
            })).collect();
        }
        Operation::RedirectClients { clients, .. } | Operation::SwitchClientsBack { clients } => {
            value["clients"] = json!(clients);
        }
        Operation::Stop { tiers } => value["tiers"] = json!(tiers),
        Operation::Roll { containers, at_once, router, .. } => {
            value["containers"] = json!(containers);
            value["at_once"] = json!(at_once);
            value["router"] = json!(router);
        }
        Operation::Converge { services, remove } => {
            value["actions"] =
                services.iter().map(|(service, action)| (service.clone(), json!(action.word()))).collect();
            value["remove"] = json!(remove);
        }
        Operation::TellRouter { router, .. } => value["router"] = json!(router),
        Operation::RemoveVolumes { volumes } => value["volumes"] = json!(volumes),
        Operation::BringUp { .. } | Operation::RenewVolumes { .. } | Operation::Remove { .. } => {}
    }
    value
}

/// The last line of a run that failed.
pub(crate) fn failed(failures: &[Failure]) -> Value {
    let problem = |failure: &Failure| {
        let mut problem = json!({"what": failure.what, "why": failure.why, "hint": failure.hint});
        if let Some((container, lines)) = &failure.logs {
            problem["logs"] = json!({"container": container, "lines": lines});
        }
        problem
    };
    json!({
        "event": "failed",
        "exit": failures.first().map_or(1, |failure| failure.exit as u8),
        "problems": failures.iter().map(problem).collect::<Vec<_>>(),
    })
}

/// The line of one event.
pub(crate) fn line(at: Duration, event: &Event) -> Value {
    let mut line = match event {
        Event::Planned(plan) => self::plan(plan),
        Event::NothingToDo => json!({"event": "nothing-to-do"}),
        Event::WaitingForLock { holder } => json!({"event": "waiting-for-lock", "holder": holder}),
        Event::StepBegan(step) => json!({"event": "step-began", "step": step.name()}),
        Event::StepEnded(step) => json!({"event": "step-ended", "step": step.name()}),
        Event::Operation { number, operation } => {
            json!({"event": "operation", "number": number, "operation": operation})
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn a_failure_is_an_event_with_its_exit_code_and_all_its_problems() {
        let with_log =
            Failure { logs: Some(("web-1".to_owned(), vec!["out".to_owned()])), ..Failure::new(Exit::Host, "b") };
        let failures = [Failure::new(Exit::Consent, "a").because("b").hint("c"), with_log];
        assert_eq!(
            failed(&failures),
            json!({"event": "failed", "exit": 6, "problems": [
                {"what": "a", "why": "b", "hint": "c"},
                {"what": "b", "why": null, "hint": null, "logs": {"container": "web-1", "lines": ["out"]}},
            ]})
        );
    }
}
