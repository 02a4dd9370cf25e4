//! The guard beside the engine, which holds the rules of a project's published ports.

use std::sync::{Arc, Mutex, PoisonError};

use handover_core::gate::State;
use handover_core::observation::Observation;
use handover_core::redirect::ports::PortTable;
use handover_host::protocol::{Counters, GuardOp, Loaded, SessionOp, Unloaded};

use crate::engine::{Engine, Role};
use crate::failure::{Exit, Failure, Result};
use crate::helper::Helper;

/// The guard of a project: the container that holds its port rules, and our connection to it.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    project: String,
    id: String,
    helper: Helper,
    /// What it was given last; `None` of one that an earlier run has left.
    table: Arc<Mutex<Option<PortTable>>>,
}

impl Guard {
    /// Starts the guard. Its table leads nothing yet, but from now on the kernel tracks connections of IPv6 too: it then knows
    /// at cutover which are under way, and leaves them where they are.
    pub(crate) async fn start(engine: &Engine, project: &str, image: &str) -> Result<Self> {
        let leads = Vec::new();
        let table = PortTable { project: project.to_owned(), leads, bridges: Vec::new(), userland_proxy: true };
        Self::start_with(engine, image, table).await
    }

    /// Starts the guard with a table in place of what the kernel has of the project, in one transaction. A table that an earlier guard
    /// has left behind goes on leading without a gap.
    pub(crate) async fn start_with(engine: &Engine, image: &str, table: PortTable) -> Result<Self> {
        let project = &table.project;
        let id = engine.create_ours(Role::Guard, project, image, "").await?.ok_or_else(|| {
            Failure::new(Exit::Host, format!("the container name {} is taken", Role::Guard.container_name(project)))
        })?;
        let attached = engine.start_ours(&id).await?;
        let (project, helper) = (project.clone(), Helper::new("guard", attached));
        let guard = Self { project, id, helper, table: Arc::default() };
        match guard.load(table).await {
            Ok(_) => Ok(guard),
            Err(failure) => {
                // By force: what the kernel had before goes on.
                let _ = engine.remove_all(std::slice::from_ref(&guard.id)).await;
                Err(failure)
            }
        }
    }

    /// Connects to a guard that an earlier run left; `None` if it does not run.
    pub(crate) async fn find(engine: &Engine, project: &str, observed: &Observation) -> Result<Option<Self>> {
        let Some(container) = &observed.guard else {
            return Ok(None);
        };
        if engine.inspect(&container.id).await?.is_none_or(|found| found.state != State::Running) {
            return Ok(None);
        }
        let attached = engine.attach(&container.id).await?;
        let (project, helper) = (project.to_owned(), Helper::new("guard", attached));
        Ok(Some(Self { project, id: container.id.clone(), helper, table: Arc::default() }))
    }

    /// This guard, or one in its place where it has died meanwhile or somebody has removed it. What the kernel redirects goes on in
    /// any case.
    pub(crate) async fn alive(self, engine: &Engine, image: &str) -> Result<Self> {
        let answers = self.counters().await.is_ok();
        let Some(table) = self.last_table().filter(|_| !answers) else { return Ok(self) };
        if let Some(found) = engine.inspect(&self.id).await? {
            if found.state == State::Running {
                // The engine has started it again, with the rules that it keeps.
                let attached = engine.attach(&self.id).await?;
                return Ok(Self { helper: Helper::new("guard", attached), ..self });
            }
            engine.remove_all(std::slice::from_ref(&self.id)).await?;
        }
        Self::start_with(engine, image, table).await
    }

    fn last_table(&self) -> Option<PortTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Cutover: leads all ports at one instant.
    pub(crate) async fn load(&self, table: PortTable) -> Result<Loaded> {
        let loaded = self.helper.ask(GuardOp::Load { table: table.clone() }).await?;
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = Some(table);
        Ok(loaded)
    }

    /// Cutback: leads nothing new from one instant on; what was led goes on.
    pub(crate) async fn release(&self) -> Result<Loaded> {
        self.helper.ask(GuardOp::Release).await
    }

    /// How many connections each lead has led; empty when it leads nothing.
    pub(crate) async fn counters(&self) -> Result<Vec<u64>> {
        let counters: Counters = self.helper.ask(GuardOp::Counters).await?;
        Ok(counters.connections)
    }

    /// Deletes the table, ends the guard and removes its container. May be repeated. A guard that does not answer any more has left
    /// the table in the kernel: then the session deletes it.
    pub(crate) async fn remove(self, engine: &Engine, session: &Helper) -> Result<()> {
        let unloaded: Result<Unloaded> = self.helper.ask(GuardOp::Unload).await;
        // Stopping runs the guard's own removal of the table, should the request not have reached it.
        engine.stop(std::slice::from_ref(&self.id)).await?;
        engine.remove_all(&[self.id]).await?;
        if unloaded.is_err() {
            let _: Unloaded = session.ask(SessionOp::UnloadPorts { project: self.project }).await?;
        }
        Ok(())
    }
}
