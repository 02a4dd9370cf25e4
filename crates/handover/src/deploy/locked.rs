//! A deploy with the lock taken: what its stages work with.

use std::net::IpAddr;
use std::time::Duration;

use handover_core::observation::Observation;
use handover_core::project::Project;

use super::gate::Gate;
use crate::cli::UpArgs;
use crate::compose::Compose;
use crate::engine::Engine;
use crate::event::Events;
use crate::helper::Helper;

const DEFAULT_GATE: Duration = Duration::from_secs(120);
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// One deploy, with the lock taken.
pub(super) struct Deploy {
    pub(super) compose: Compose,
    pub(super) engine: Engine,
    /// The session helper. It is the lock, too.
    pub(super) session: Helper,
    pub(super) events: Events,
    pub(super) project: Project,
    pub(super) args: UpArgs,
    /// Image of the guard.
    pub(super) image: String,
    /// Networks that end on the engine's host, as first address and length of the prefix.
    pub(super) near: Vec<(IpAddr, u8)>,
}

impl Deploy {
    pub(super) fn gate<'a>(&'a self, observed: &'a Observation) -> Gate<'a> {
        Gate {
            engine: &self.engine,
            session: &self.session,
            events: &self.events,
            project: &self.project,
            observed,
            deadline: self
                .args
                .gate_timeout
                .or_else(|| Duration::try_from_secs_f64(self.project.settings.gate_seconds?).ok())
                .unwrap_or(DEFAULT_GATE),
            used: None,
        }
    }

    pub(super) fn drain_deadline(&self) -> Duration {
        self.args
            .drain
            .or_else(|| Duration::try_from_secs_f64(self.project.settings.drain_seconds?).ok())
            .unwrap_or(DEFAULT_DRAIN)
    }
}
