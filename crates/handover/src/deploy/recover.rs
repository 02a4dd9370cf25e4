//! What an earlier run left is put right first: [`handover_core::recover`] says what, and this does it.

use std::collections::BTreeSet;

use handover_core::compose::calls::{Containers, Wants};
use handover_core::compose::service_names::ServiceNames;
use handover_core::gate::State;
use handover_core::observation::Observation;
use handover_core::plan::standin::project_name;
use handover_core::plan::{InsidePlan, Renewal, Request, StandInPlan, inside, plan};
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
use crate::deploy::traffic::internal_clients::Inside;
use crate::deploy::traffic::proxy_clients::ProxyClients;
use crate::deploy::traffic::redirects::Switch;
use crate::engine_proxy::{Call, EngineProxy};
use crate::event::{Event, Proof, Step};
use crate::failure::{Exit, Failure, Result};
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
        if anything {
            self.take_out_what_outlasted(&observed).await.map_err(crate::deploy::one)?;
        }
        Ok((observed, anything))
    }

    /// Takes out the redirects of an earlier run that nobody holds, in the namespaces of everybody who may have them.
    async fn take_out_what_outlasted(&self, observed: &Observation) -> Result<()> {
        let networks = observed.containers.iter().flat_map(|one| one.networks.keys().cloned()).collect();
        let time = Some(self.gate(observed).deadline);
        match Switch::begin(self, observed, networks, &[], false, &[], time).await {
            // Where redirects of clients cannot be loaded, nobody has loaded any.
            Err(failure) if failure.exit != Exit::Host => Err(failure),
            _ => Ok(()),
        }
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
        let group: BTreeSet<String> = members.iter().cloned().collect();
        let called = inside(&self.project, observed, &group);
        let clients = self.clients_of_earlier_run(called.as_ref(), &standin, observed).await?;
        let old = self.entry_containers(&standin, observed).await?;
        let mut drains = Drains::listen(self, &old)?;
        if let Some(clients) = &clients {
            drains.append(clients.listen_behind(false).await?);
        }
        self.events.step(Step::Drain, drains.finish(&self.session, &self.events)).await?;
        self.stop_old(&standin, observed, &old).await?;
        let renewals: Vec<Renewal> = plan(&self.project, observed, &Request::default())
            .renew
            .into_iter()
            .filter(|renewal| members.contains(&renewal.service))
            .collect();
        if let Some(members) = ServiceNames::new(members.iter().cloned()) {
            let settling = self.settle_members(&members, &renewals, clients.as_ref());
            self.events.step(Step::Settle, settling).await?;
        }
        let names: Vec<&str> = members.iter().map(String::as_str).collect();
        self.gate_real(&names, observed, clients.is_some()).await?;
        if let Some(clients) = &clients {
            clients.lead_to_real().await?;
            // First of all, since the engine's proxies of published ports call the stand-in as clients do. It stays until nobody needs
            // what an earlier run has redirected to it.
            guard.release().await?;
            let proxies = clients.switch.nginx().await.into_iter().map(|(id, _)| id).collect();
            let spared = ProxyClients::listen(self, proxies).await;
            clients.end(&spared).await?;
            spared.finish().await;
        }
        let guard = self.cut_back(guard, &standin, &[], clients.as_ref(), &mut Proof::default()).await?;
        guard.remove(&self.engine, &self.session).await?;
        settle::remove_renewed_volumes(&self.engine, &renewals).await;
        Ok(())
    }

    /// The clients inside of a stand-in that serves, where there are any and the kernel can redirect them. What the earlier run has
    /// redirected beyond its end stays as it is until they are through.
    async fn clients_of_earlier_run<'a>(
        &'a self,
        called: Option<&'a InsidePlan>,
        standin: &StandInPlan,
        observed: &Observation,
    ) -> Result<Option<Inside<'a>>> {
        let Some(called) = called else { return Ok(None) };
        let mut containers = Vec::new();
        for (id, _) in self.engine.containers_of_standin(&standin.project).await? {
            containers.extend(self.engine.inspect(&id).await?.filter(|found| found.state == State::Running));
        }
        let found = async {
            let clients = Inside::find(self, &BTreeSet::new(), called, observed, &containers).await?;
            clients.adopt_names(observed).await?;
            clients.lead_to_standin().await?;
            clients.hold_names().await?;
            Ok(clients)
        };
        match found.await {
            Ok(clients) => Ok(Some(clients)),
            Err(Failure { exit: Exit::Host, .. }) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Compose brings the members up to date. Whoever calls one that starts reaches the stand-in until it has passed its gate.
    async fn settle_members(
        &self,
        members: &ServiceNames,
        renewals: &[Renewal],
        clients: Option<&Inside<'_>>,
    ) -> Result<()> {
        let Some(clients) = clients else {
            return settle::settle_services(&self.compose, members, renewals, &self.events).await;
        };
        // Those that are there and do not run start like those that Compose makes.
        let mut known = Containers::default();
        for (id, service) in self.engine.containers_of_project(&self.project.name).await? {
            if members.as_slice().contains(&service)
                && let Some(found) = self.engine.inspect(&id).await?.filter(|found| found.state != State::Running)
            {
                known.made(&found.id, &found.name);
            }
        }
        let (proxy, mut calls) = EngineProxy::open(&self.engine, known)?;
        let compose = self.compose.through(proxy.host());
        let settling = settle::settle_services(&compose, members, renewals, &self.events);
        tokio::pin!(settling);
        loop {
            tokio::select! {
                biased;
                Some(call) = calls.recv() => match call {
                    Call::Held(call) if call.wants == Wants::Start => {
                        let service = self.engine.inspect(&call.container).await?.map(|found| found.service);
                        if let Err(failure) = clients.start(&service.unwrap_or_default(), call).await {
                            self.events.emit(Event::Note(failure.to_string()));
                        }
                    }
                    Call::Held(call) => call.pass(),
                    Call::Created { .. } | Call::Renamed { .. } => {}
                },
                settled = &mut settling => return settled,
            }
        }
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
