//! Who calls the services that are rolled, as far as it can be seen now: evidence for the plan's reader, and nothing depends on it.

use futures_util::future::join_all;
use handover_core::observation::{Container, Observation};
use handover_core::plan::Plan;
use handover_core::plan::callers::called_by;
use handover_host::protocol::{Callers, SessionOp};

use crate::engine::Engine;
use crate::helper::Helper;

/// Adds to the reasons of services that are rolled who has connections to them. `helper`: the session helper or a look.
pub(crate) async fn tell(engine: &Engine, helper: &Helper, plan: &mut Plan, observed: &Observation) {
    let rolled = plan.rolling.iter().map(|rolling| rolling.service.clone());
    let looks = rolled.map(|service| async move {
        let running = observed.of_service(&service).filter(|container| container.running);
        let seen = join_all(running.map(|container| callers_of(engine, helper, container))).await;
        let all = seen.into_iter().flatten().flat_map(|seen| seen.callers);
        let words = called_by(all.map(|caller| (caller.address, caller.connections)), observed);
        (service, words)
    });
    for (service, words) in join_all(looks).await {
        let planned = plan.services.iter_mut().find(|planned| planned.service == service);
        if let Some((planned, words)) = planned.zip(words) {
            planned.reason = format!("{}; {words}", planned.reason);
        }
    }
}

/// None where it cannot be seen: the plan is as good without.
async fn callers_of(engine: &Engine, helper: &Helper, container: &Container) -> Option<Callers> {
    let found = engine.inspect(&container.id).await.ok()??;
    // That of the host would be asked otherwise.
    let found = Some(found).filter(|found| !found.sandbox.is_empty())?;
    let op = SessionOp::Callers { sandbox: found.sandbox.into(), ports: Vec::new() };
    helper.ask(op).await.ok()
}
