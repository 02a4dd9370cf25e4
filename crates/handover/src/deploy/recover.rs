//! Where an earlier run ended half-way: its stand-in serves, and the deploy is finished; or it does not, and it is removed.

use handover_core::observation::Observation;
use handover_core::plan::standin::project_name;
use handover_core::plan::{Renewal, Request, StandInPlan, plan};

use crate::deploy::context::Deploy;
use crate::deploy::drain::Drains;
use crate::deploy::settle;
use crate::deploy::standin::cutback::unfinished;
use crate::deploy::standin::guard::Guard;
use crate::event::{Event, Proof, Step};
use crate::failure::Result;

impl Deploy {
    /// Goes on where a run ended that is gone: where its stand-in serves, the real containers are settled and traffic goes
    /// back to them; where it does not serve yet, it is removed.
    pub(crate) async fn finish_earlier_run(&self, observed: &Observation) -> Result<()> {
        let standin = self.standin_of_earlier_run(observed);
        let found = Guard::find(&self.engine, observed).await?;
        let guard = match found {
            Some(guard) if !guard.counters().await?.is_empty() => guard,
            idle => return self.remove_what_does_not_serve(&standin, idle, observed).await,
        };
        self.events
            .emit(Event::Resumed("the stand-in of an earlier run serves; its deploy is finished first".to_owned()));
        let finished = async {
            let services: Vec<String> = standin.tiers.iter().flatten().cloned().collect();
            let old = self.entry_containers(&standin, observed).await?;
            let drains = Drains::listen(self, &old)?;
            self.events.step(Step::Drain, drains.finish(&self.session, &self.events)).await?;
            self.stop_old(&standin, observed, &old).await?;
            let renewals: Vec<Renewal> = plan(&self.project, observed, &Request::default())
                .renew
                .into_iter()
                .filter(|renewal| services.contains(&renewal.service))
                .collect();
            let settling = settle::settle_services(&self.compose, &services, &renewals, &self.events);
            self.events.step(Step::Settle, settling).await?;
            let names: Vec<&str> = services.iter().map(String::as_str).collect();
            self.gate_real(&names, observed, false).await?;
            self.cut_back(guard, &standin, &[], None, &mut Proof::default()).await?;
            settle::remove_renewed_volumes(&self.engine, &renewals).await;
            Ok(())
        };
        finished.await.map_err(unfinished)
    }

    /// Removes a stand-in that nothing is led to, and its guard, whether it runs or not.
    async fn remove_what_does_not_serve(
        &self,
        standin: &StandInPlan,
        guard: Option<Guard>,
        observed: &Observation,
    ) -> Result<()> {
        let what = "an earlier run left a stand-in that does not serve; it is removed";
        self.events.emit(Event::Resumed(what.to_owned()));
        let entries = self.standin_entries(standin).await?;
        let drains = Drains::listen(self, &entries)?;
        self.events.step(Step::CleanUp, self.retire_standin(standin, &entries, drains, Drains::default())).await?;
        match (guard, &observed.guard) {
            (Some(guard), _) => guard.remove(&self.engine).await,
            (None, Some(stopped)) => self.engine.remove_all(std::slice::from_ref(&stopped.id)).await,
            (None, None) => Ok(()),
        }
    }

    /// What is known of a stand-in whose plan is gone: its services, entry services first.
    fn standin_of_earlier_run(&self, observed: &Observation) -> StandInPlan {
        let members: Vec<String> = observed
            .standin
            .iter()
            .filter_map(|container| container.service.strip_prefix("standin-").map(str::to_owned))
            .collect();
        let is_entry = |name: &String| self.project.services.get(name).is_some_and(|service| service.is_entry());
        let (front, back): (Vec<String>, Vec<String>) = members.into_iter().partition(is_entry);
        let ports = front
            .iter()
            .filter_map(|name| self.project.services.get(name))
            .flat_map(|service| service.fixed_ports().map(|port| (service.name.clone(), port.clone())))
            .collect();
        StandInPlan {
            project: project_name(&self.project.name),
            tiers: vec![front, back],
            ports,
            document: serde_json::Value::Null,
            inside: None,
        }
    }
}
