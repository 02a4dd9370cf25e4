//! What an earlier run left is put right first: [`handover_core::recover`] says what, and this does it.

use handover_core::compose::service_names::ServiceNames;
use handover_core::observation::Observation;
use handover_core::plan::standin::project_name;
use handover_core::plan::{Renewal, Request, StandInPlan, plan};
use handover_core::recover::{Recovery, Redirected, leftovers};
use handover_host::protocol::{Counters, SessionOp, Support, Unloaded};

use crate::deploy::Outcome;
use crate::deploy::context::Deploy;
use crate::deploy::drain::Drains;
use crate::deploy::preflight::{self, Host};
use crate::deploy::settle;
use crate::deploy::standin::cutback::unfinished;
use crate::deploy::standin::cutover::port_table;
use crate::deploy::standin::guard::Guard;
use crate::event::{Event, Proof, Step};
use crate::failure::{Exit, Result};
use crate::interrupt::Interrupt;

impl Deploy {
    /// Puts right what an earlier run left; what is there afterwards, and whether anything had to be done. May be repeated.
    pub(crate) async fn recover(
        &self,
        mut observed: Observation,
        interrupt: &Interrupt,
    ) -> Outcome<(Observation, bool)> {
        let redirected = self.redirected().await.map_err(crate::deploy::one)?;
        let left = leftovers(&self.project, &observed, redirected);
        let anything = !left.is_empty();
        for one in left {
            let done = match one {
                Recovery::NameHolders => {
                    let ids: Vec<String> = observed.name_holders.iter().map(|holder| holder.id.clone()).collect();
                    self.engine.remove_all(&ids).await
                }
                Recovery::HalfReplaced => self.mend_half_replaced(&observed, interrupt).await,
                Recovery::Finish { members } => self.finish_earlier_run(&observed, members).await.map_err(unfinished),
                Recovery::Remove => self.remove_what_does_not_serve(&observed, redirected).await,
            };
            done.map_err(crate::deploy::one)?;
            observed = self.observe().await?;
        }
        Ok((observed, anything))
    }

    /// What the kernel redirects, whoever loaded it. A kernel that cannot be asked redirects nothing, and a table of that name that is
    /// not ours is somebody else's.
    async fn redirected(&self) -> Result<Redirected> {
        let ports = SessionOp::Ports { project: self.project.name.clone() };
        match self.session.ask::<_, Counters>(ports).await {
            Ok(Counters { loaded, connections }) => Ok(Redirected { loaded, redirects: !connections.is_empty() }),
            Err(failure) if failure.exit == Exit::Host => Ok(Redirected::default()),
            Err(failure) => Err(failure),
        }
    }

    /// The real containers are brought up to date, and traffic goes back to them.
    async fn finish_earlier_run(&self, observed: &Observation, members: Vec<String>) -> Result<()> {
        self.events
            .emit(Event::Resumed("the stand-in of an earlier run serves; its deploy is finished first".to_owned()));
        let standin = self.standin_of_earlier_run(&members, observed);
        let Some(guard) = self.guard_of_earlier_run(&standin, observed).await? else {
            let redirected = Redirected { loaded: true, redirects: true };
            return self.remove_what_does_not_serve(observed, redirected).await;
        };
        let old = self.entry_containers(&standin, observed).await?;
        let drains = Drains::listen(self, &old)?;
        self.events.step(Step::Drain, drains.finish(&self.session, &self.events)).await?;
        self.stop_old(&standin, observed, &old).await?;
        let renewals: Vec<Renewal> = plan(&self.project, observed, &Request::default())
            .renew
            .into_iter()
            .filter(|renewal| members.contains(&renewal.service))
            .collect();
        if let Some(members) = ServiceNames::new(members.iter().cloned()) {
            let settling = settle::settle_services(&self.compose, &members, &renewals, &self.events);
            self.events.step(Step::Settle, settling).await?;
        }
        let names: Vec<&str> = members.iter().map(String::as_str).collect();
        self.gate_real(&names, observed, false).await?;
        self.cut_back(guard, &standin, &[], None, &mut Proof::default()).await?;
        settle::remove_renewed_volumes(&self.engine, &renewals).await;
        Ok(())
    }

    /// The guard that holds the redirects to a stand-in that serves, with the addresses that the stand-in has now: they change when it
    /// or the engine starts anew. Where there is no guard that answers, a new one takes over what the kernel goes on redirecting; `None`
    /// where nobody can say any more what that is.
    async fn guard_of_earlier_run(&self, standin: &StandInPlan, observed: &Observation) -> Result<Option<Guard>> {
        let host = self.host(observed).await?;
        let entries = self.standin_entries(standin).await?;
        let containers: Vec<_> = entries.into_iter().map(|(_, container)| container).collect();
        let table = port_table(&self.project.name, standin, &containers, observed, &host, &self.session).await;
        let guard = Guard::find(&self.engine, &self.project.name, observed).await?;
        let table = match (table, guard) {
            (Ok(table), Some(guard)) if guard.load(table.clone()).await.is_ok() => return Ok(Some(guard)),
            (Ok(table), _) => table,
            // The file publishes other ports by now: what leads leads on, until the real containers have them.
            (Err(_), Some(guard)) if guard.counters().await.is_ok() => return Ok(Some(guard)),
            (Err(_), _) => return Ok(None),
        };
        if let Some(dead) = &observed.guard {
            // Killed, it leaves its table where it is.
            self.engine.remove_all(std::slice::from_ref(&dead.id)).await?;
        }
        Guard::start_with(&self.engine, &self.image, table).await.map(Some)
    }

    async fn host(&self, observed: &Observation) -> Result<Host> {
        let support: Support =
            self.session.ask(SessionOp::Support { sandbox: None, ports: false, peers: false }).await?;
        Ok(preflight::host(observed, support))
    }

    /// Removes a stand-in that nothing is led to, its guard, whether it runs or not, and redirects that lead nowhere.
    async fn remove_what_does_not_serve(&self, observed: &Observation, redirected: Redirected) -> Result<()> {
        let what = if observed.standin.is_empty() && observed.guard.is_none() {
            "an earlier run left rules for published ports that lead nowhere; they are taken out"
        } else {
            "an earlier run left a stand-in that does not serve; it is removed"
        };
        self.events.emit(Event::Resumed(what.to_owned()));
        let guard = Guard::find(&self.engine, &self.project.name, observed).await?;
        let guard = match guard {
            Some(guard) if redirected.redirects && guard.release().await.is_err() => None,
            guard => guard,
        };
        if guard.is_none() {
            if let Some(dead) = &observed.guard {
                self.engine.remove_all(std::slice::from_ref(&dead.id)).await?;
            }
            // Before the stand-in goes: nobody may be led to what is about to end.
            if redirected.redirects {
                self.unload_ports().await?;
            }
        }
        let members: Vec<String> =
            observed.standin.iter().filter_map(|one| one.service.strip_prefix("standin-")).map(str::to_owned).collect();
        let standin = self.standin_of_earlier_run(&members, observed);
        let entries = self.standin_entries(&standin).await?;
        let drains = Drains::listen(self, &entries)?;
        self.events.step(Step::CleanUp, self.retire_standin(&standin, &entries, drains, Drains::default())).await?;
        match guard {
            Some(guard) => guard.remove(&self.engine, &self.session).await,
            None if redirected.loaded => self.unload_ports().await,
            None => Ok(()),
        }
    }

    async fn unload_ports(&self) -> Result<()> {
        let project = self.project.name.clone();
        self.session.ask::<_, Unloaded>(SessionOp::UnloadPorts { project }).await.map(drop)
    }

    /// What is known of a stand-in whose plan is gone: its services, entry services first.
    fn standin_of_earlier_run(&self, members: &[String], observed: &Observation) -> StandInPlan {
        let is_entry = |name: &String| self.project.services.get(name).is_some_and(|service| service.is_entry());
        let (front, back): (Vec<String>, Vec<String>) = members.iter().cloned().partition(is_entry);
        let runs = |name: &String| {
            let name = handover_core::plan::standin::service_name(name);
            observed.standin.iter().any(|container| container.running && container.service == name)
        };
        let ports = front
            .iter()
            .filter(|name| runs(name))
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
