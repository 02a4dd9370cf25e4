//! The gate: what must hold of containers before traffic moves to them.

use std::collections::BTreeMap;

use crate::compose::project::{Project, Service};

/// A container as the gate sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gated {
    /// Name of the container.
    pub name: String,
    /// Whether its service is meant to exit.
    pub meant_to_exit: bool,
    /// State now.
    pub state: State,
    /// Health, where the container has a HEALTHCHECK.
    pub health: Option<Health>,
    /// How often the engine has restarted it.
    pub restarts: i64,
    /// Whether every port that it serves accepts; `true` where it serves none. Not asked of one with a HEALTHCHECK.
    pub accepts: bool,
}

/// State of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Created, not started.
    Created,
    /// Running.
    Running,
    /// Ended, with its exit code.
    Exited(i64),
    /// Removed, dead or paused: it will not serve.
    Gone,
}

/// Health of a container, by its HEALTHCHECK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not known yet.
    Starting,
    /// Healthy.
    Healthy,
    /// Unhealthy.
    Unhealthy,
}

/// What the gate says of a set of containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Traffic may move.
    Passed,
    /// Not yet; for each container that is waited for, what is missing.
    Waiting(BTreeMap<String, String>),
    /// Never: one of them failed.
    Failed {
        /// Name of the container.
        container: String,
        /// What happened to it.
        why: String,
    },
}

/// Judges containers. A failure of one outweighs the waiting of others, so that it is told at once.
pub fn verdict<'a>(containers: impl IntoIterator<Item = &'a Gated>) -> Verdict {
    let mut waiting = BTreeMap::new();
    for container in containers {
        match judge(container) {
            Ok(None) => {}
            Ok(Some(missing)) => {
                waiting.insert(container.name.clone(), missing.to_owned());
            }
            Err(why) => {
                return Verdict::Failed { container: container.name.clone(), why };
            }
        }
    }
    if waiting.is_empty() { Verdict::Passed } else { Verdict::Waiting(waiting) }
}

fn judge(container: &Gated) -> Result<Option<&'static str>, String> {
    if container.restarts > 0 {
        return Err("it ended and was restarted".to_owned());
    }
    match container.state {
        State::Gone => return Err("it is gone".to_owned()),
        State::Exited(0) if container.meant_to_exit => return Ok(None),
        State::Exited(code) => return Err(format!("it exited with {code}")),
        State::Created => return Ok(Some("to be started")),
        State::Running if container.meant_to_exit => return Ok(Some("to exit with 0")),
        State::Running => {}
    }
    match container.health {
        Some(Health::Unhealthy) => Err("its health check says unhealthy".to_owned()),
        Some(Health::Starting) => Ok(Some("to be healthy")),
        Some(Health::Healthy) => Ok(None),
        None if container.accepts => Ok(None),
        None => Ok(Some("to accept connections")),
    }
}

/// Whether a service is meant to exit: others wait for its success, or it only carries volumes for others and nothing would
/// start it again.
pub fn meant_to_exit(service: &Service, project: &Project, exited_before: bool) -> bool {
    let awaited = project.services.values().any(|other| {
        other.depends_on.get(&service.name).is_some_and(|dep| dep.condition == "service_completed_successfully")
    });
    let serves = !service.served_ports().is_empty() || service.raw.contains_key("healthcheck");
    let restarts = service.raw.get("restart").and_then(|value| value.as_str()).is_some_and(|policy| policy != "no");
    awaited || (exited_before && !serves && !restarts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(name: &str) -> Gated {
        Gated {
            name: name.into(),
            meant_to_exit: false,
            state: State::Running,
            health: None,
            restarts: 0,
            accepts: true,
        }
    }

    #[test]
    fn all_ready_passes() {
        let healthy = Gated { health: Some(Health::Healthy), accepts: false, ..running("b") };
        let done = Gated { meant_to_exit: true, state: State::Exited(0), ..running("c") };
        assert_eq!(verdict(&[running("a"), healthy, done]), Verdict::Passed);
    }

    #[test]
    fn a_port_that_does_not_accept_is_waited_for() {
        let closed = Gated { accepts: false, ..running("a") };
        assert_eq!(
            verdict(&[closed]),
            Verdict::Waiting(BTreeMap::from([("a".into(), "to accept connections".into())]))
        );
    }

    #[test]
    fn a_failure_outweighs_waiting() {
        let starting = Gated { health: Some(Health::Starting), ..running("a") };
        for (failed, why) in [
            (Gated { state: State::Exited(3), ..running("b") }, "it exited with 3"),
            (Gated { state: State::Exited(0), ..running("b") }, "it exited with 0"),
            (Gated { meant_to_exit: true, state: State::Exited(1), ..running("b") }, "it exited with 1"),
            (Gated { restarts: 1, ..running("b") }, "it ended and was restarted"),
            (Gated { health: Some(Health::Unhealthy), ..running("b") }, "its health check says unhealthy"),
            (Gated { state: State::Gone, ..running("b") }, "it is gone"),
        ] {
            let expected = Verdict::Failed { container: "b".into(), why: why.into() };
            assert_eq!(verdict(&[starting.clone(), failed]), expected);
        }
    }
}
