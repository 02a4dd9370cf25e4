//! Clients inside: containers outside the stand-in's group that call its members by name or address. At cutover the switch leads
//! them to the stand-in; while the real containers are away our containers hold their names; once the real ones are ready they
//! are led there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use handover_core::gate::State;
use handover_core::identity::{NAME_HOLDER, helper_name};
use handover_core::net::Protocol;
use handover_core::observation::Observation;
use handover_core::plan::standin::service_name;
use handover_core::plan::{CalledMember, InsidePlan};
use tokio::sync::Mutex;

use crate::deploy::context::Deploy;
use crate::deploy::drain::Drains;
use crate::deploy::traffic::kept;
use crate::deploy::traffic::proxy_clients::ProxyClients;
use crate::deploy::traffic::redirects::Switch;
use crate::engine::Inspected;
use crate::engine_proxy::HeldCall;
use crate::failure::{Exit, Result};

/// How long clients are redirected to the stand-in when everything of ours has died and nobody runs handover again. After that an
/// address of before may well be another's.
pub(crate) const OUTLASTS: Duration = Duration::from_secs(3600);

/// The clients inside, of one stand-in.
pub(crate) struct Inside<'a> {
    deploy: &'a Deploy,
    plan: &'a InsidePlan,
    /// The leads of this deploy, those of services that are rolled included.
    pub(crate) switch: Switch,
    members: BTreeMap<String, Member>,
    /// The real containers that Compose has made anew, names by id.
    real: Mutex<BTreeMap<String, String>>,
    /// What holds the names of members, by service. They outlive us, as the redirects from their addresses do.
    holders: Mutex<BTreeMap<String, Inspected>>,
}

/// A member that can be called from inside.
struct Member {
    /// Its real containers as they were.
    old: Vec<Inspected>,
    /// Those that stand in for them.
    standin: Vec<Inspected>,
}

impl<'a> Inside<'a> {
    /// Finds out who may call what. Nothing is led yet, apart from what an earlier deploy has kept.
    pub(crate) async fn find(
        deploy: &'a Deploy,
        rolled: &BTreeSet<&str>,
        inside: &'a InsidePlan,
        observed: &Observation,
        standin: &[Inspected],
    ) -> Result<Self> {
        let mut members = BTreeMap::new();
        for CalledMember { service, .. } in &inside.members {
            let running = observed.of_service(service).filter(|container| container.running);
            let old = try_join_all(running.map(|container| deploy.engine.inspect(&container.id))).await?;
            let old: Vec<Inspected> = old.into_iter().flatten().collect();
            let stands_in = |container: &&Inspected| container.service == service_name(service);
            let standin: Vec<Inspected> = standin.iter().filter(stands_in).cloned().collect();
            let both = old.iter().chain(&standin);
            let ports = try_join_all(both.map(|container| deploy.used_ports(container))).await?;
            // A code carrier, say, listens at nothing and cannot be called.
            if ports.iter().all(Vec::is_empty) {
                continue;
            }
            members.insert(service.clone(), Member { old, standin });
        }
        let rolled_networks = observed
            .containers
            .iter()
            .filter(|container| rolled.contains(container.service.as_str()))
            .flat_map(|container| container.networks.keys().cloned());
        let networks = inside.members.iter().flat_map(|member| member.networks.iter().cloned()).chain(rolled_networks);
        let services = members.keys().map(String::as_str).chain(rolled.iter().copied());
        let served = services.filter_map(|name| deploy.project.services.get(name)).flat_map(|one| one.served_ports());
        let udp = served.into_iter().any(|(_, protocol)| protocol == Protocol::Udp);
        // Members call each other as ever: the old ones the old ones, those of the stand-in each other.
        let of_group = observed.containers.iter().filter(|container| container.running);
        let in_group = |service: &str| standin.iter().any(|one| one.service == service_name(service));
        let of_group = of_group.filter(|container| in_group(&container.service));
        let of_group = try_join_all(of_group.map(|container| deploy.engine.inspect(&container.id))).await?;
        let others: Vec<Inspected> = of_group.into_iter().flatten().chain(standin.iter().cloned()).collect();
        let kept = kept::kept(deploy, observed).await?;
        let networks = networks.collect();
        let switch = Switch::begin(deploy, observed, networks, &others, udp, &kept, None).await?;
        kept::end_keeper(deploy, observed).await?;
        Ok(Self { deploy, plan: inside, switch, members, real: Mutex::default(), holders: Mutex::default() })
    }

    /// Cutover: new connections to the members' real containers go to the stand-in.
    pub(crate) async fn lead_to_standin(&self) -> Result<()> {
        for member in self.members.values() {
            for (old, standin) in pairs(&member.old, &member.standin) {
                self.switch.lead(old, standin).await?;
            }
        }
        Ok(())
    }

    /// The way back, while the real containers have not been touched: whoever has learnt the address of a name's holder reaches them.
    pub(crate) async fn lead_back(&self) -> Result<()> {
        for (service, member) in &self.members {
            for old in &member.old {
                self.switch.free(old).await?;
            }
            let holder = self.holders.lock().await.get(service).cloned();
            if let (Some(holder), Some(old)) = (holder, member.old.first()) {
                self.switch.lead(&holder, old).await?;
                self.give_names_back(service).await?;
            }
        }
        self.switch.let_go().await
    }

    /// The connections that members behind the entry services have, to be drained before those are stopped.
    pub(crate) async fn listen_behind(&self, standin: bool) -> Result<Drains> {
        let mut drains = Drains::default();
        for (service, member) in &self.members {
            if self.deploy.project.services.get(service).is_some_and(|service| service.is_entry()) {
                continue;
            }
            for container in if standin { &member.standin } else { &member.old } {
                let ports = self.deploy.used_ports(container).await?;
                drains.add(self.deploy, container, &ports)?;
            }
        }
        Ok(drains)
    }

    /// From now on the members' names resolve to addresses that are led to the stand-in, also when the real containers have stopped.
    pub(crate) async fn hold_names(&self) -> Result<()> {
        let holding = self.plan.members.iter().map(|member| self.hold_names_of(member));
        // All to their end: given up half-way, one would leave its container.
        join_all(holding).await.into_iter().collect()
    }

    /// Takes over who holds the names for an earlier run.
    pub(crate) async fn adopt_names(&self, observed: &Observation) -> Result<()> {
        for holder in observed.name_holders.iter().filter(|holder| holder.running) {
            let prefix = format!("{}-", helper_name(&self.deploy.project.name, NAME_HOLDER));
            let Some(service) = holder.name.strip_prefix(&prefix) else { continue };
            let standin = self.members.get(service).and_then(|member| member.standin.first());
            if let (Some(standin), Some(holder)) = (standin, self.deploy.engine.inspect(&holder.id).await?) {
                self.switch.lead(&holder, standin).await?;
                self.holders.lock().await.insert(service.to_owned(), holder);
            }
        }
        Ok(())
    }

    async fn hold_names_of(&self, member: &CalledMember) -> Result<()> {
        let Deploy { engine, project, image, .. } = self.deploy;
        let CalledMember { service, networks, names } = member;
        let Some(standin) = self.members.get(service).and_then(|member| member.standin.first()) else { return Ok(()) };
        if self.holders.lock().await.contains_key(service) {
            return Ok(());
        }
        let id = engine.create_name_holder(&project.name, service, image, networks, names).await?;
        match self.switch.start(&id, standin).await {
            Ok(held) => {
                self.holders.lock().await.insert(service.clone(), held);
                Ok(())
            }
            Err(failure) => {
                engine.remove_all(&[id]).await?;
                Err(failure)
            }
        }
    }

    /// Whether a service is one whose containers are led.
    pub(crate) fn has(&self, service: &str) -> bool {
        self.members.contains_key(service)
    }

    /// Compose wants to start a real container: it is started so that who calls it reaches the stand-in until it has passed its
    /// gate, and has its names for itself from now on. What starts after it must not learn an address that goes away.
    /// An error says that they may see its restart; Compose goes on. Where it cannot be started so, Compose is refused.
    pub(crate) async fn start(&self, service: &str, call: HeldCall) -> Result<()> {
        let started = async {
            let Some(standin) = self.members.get(service).and_then(|member| member.standin.first()) else {
                return Ok(());
            };
            self.switch.start(&call.container, standin).await?;
            self.give_names_back(service).await
        };
        match started.await {
            // One that runs already is as good as started.
            Ok(()) => call.pass(),
            // Clients see the restart then, as with Compose: the host does not allow anything else.
            Err(failure) if failure.exit == Exit::Host => {
                call.pass();
                return Err(failure);
            }
            // The stand-in serves on, and the next run goes on from there.
            Err(failure) => call.refuse(failure.to_string()),
        }
        Ok(())
    }

    async fn give_names_back(&self, service: &str) -> Result<()> {
        let Some(holder) = self.holders.lock().await.remove(service) else { return Ok(()) };
        // Off the networks its names are gone, sooner than with its end.
        let networks = holder.networks.iter().map(|(network, _)| self.deploy.engine.disconnect(&holder.id, network));
        try_join_all(networks).await?;
        self.deploy.engine.remove_all(std::slice::from_ref(&holder.id)).await?;
        self.switch.forget_ungated(&holder.id).await
    }

    /// The real containers have passed their gate: new connections go to them.
    pub(crate) async fn lead_to_real(&self) -> Result<()> {
        let Deploy { engine, project, .. } = self.deploy;
        let mut real: BTreeMap<String, Vec<Inspected>> = BTreeMap::new();
        for (id, service) in engine.containers_of_project(&project.name).await? {
            if self.has(&service)
                && let Some(found) = engine.inspect(&id).await?.filter(|found| found.state == State::Running)
            {
                real.entry(service).or_default().push(found);
            }
        }
        for (service, real) in &real {
            self.give_names_back(service).await?;
            self.real.lock().await.extend(real.iter().map(|one| (one.id.clone(), one.name.clone())));
            for container in real {
                self.switch.free(container).await?;
            }
            let standin = self.members.get(service).map(|member| member.standin.as_slice()).unwrap_or_default();
            for (standin, real) in pairs(standin, real) {
                self.switch.lead(standin, real).await?;
            }
        }
        Ok(())
    }

    /// Waits until nobody uses addresses that are gone, if anybody was led at all; how many connections were.
    /// `clients`: those of proxies among them, to be spared.
    pub(crate) async fn end(&self, clients: &ProxyClients) -> Result<u64> {
        // The real containers have learnt no address that is gone: what they called was led only while others were not ready.
        let real = self.real.lock().await.clone();
        self.deploy.reload_nginx(&self.switch, &real.keys().cloned().collect(), clients).await;
        let counted = self.switch.counted().await?.into_iter();
        let led: u64 =
            counted.filter(|((peer, _), _)| !real.values().any(|name| name == peer)).map(|(_, count)| count).sum();
        if led > 0 {
            self.deploy.until_unused(&self.switch, false).await?;
        }
        for service in self.members.keys() {
            self.give_names_back(service).await?;
        }
        self.switch.let_go().await?;
        Ok(led)
    }
}

/// Each of `from` with one of `to`, all of them in turn; none where `to` is empty.
fn pairs<'c>(from: &'c [Inspected], to: &'c [Inspected]) -> impl Iterator<Item = (&'c Inspected, &'c Inspected)> {
    from.iter().zip(to.iter().cycle())
}
