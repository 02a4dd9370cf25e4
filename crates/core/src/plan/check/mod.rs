//! Holds a plan's operations against the rules of a deploy, independently of how the plan was made: nothing here calls the
//! planner's code. A violation is a fault of the planner, and the deploy is refused before anything moves.
//!
//! The rules speak only of what is certain from the project and from what runs. They do not ask whether a plan is the best one.

mod rules;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::compose::project::{Port, Project, Service};
use crate::compose::update_config::Order;
use crate::net::Protocol;
use crate::observation::{Container, Observation};
use crate::plan::operations::{Operation, Side};
use crate::plan::{Action, Plan, Refusal, RefusalKind, Request};
use crate::settings::{Strategy, VolumeUse};
pub use rules::{Rule, Violation};

/// Checks these operations of a plan. None are to be refused where the plan is.
pub fn check(
    plan: &Plan,
    operations: &[Operation],
    project: &Project,
    observed: &Observation,
    request: &Request,
) -> Vec<Violation> {
    if !plan.refusals.is_empty() {
        let what = || "the plan is refused, and something is done".to_owned();
        return operations
            .first()
            .map(|_| Violation { rule: Rule::OnlyWhatIsNamed, what: what() })
            .into_iter()
            .collect();
    }
    let actions = plan.services.iter().map(|planned| (planned.service.as_str(), planned.action)).collect();
    let mut walk = Walk { plan, project, observed, request, actions, done: Done::default(), violations: Vec::new() };
    for operation in operations {
        walk.step(operation);
    }
    walk.end();
    walk.violations
}

/// Reasons not to begin, where a plan's own operations break a rule: a fault of ours, said before anything moves.
pub fn refusals(plan: &Plan, project: &Project, observed: &Observation, request: &Request) -> Vec<Refusal> {
    let violations = check(plan, &plan.operations(), project, observed, request);
    let refusal = |violation: &Violation| Refusal {
        kind: RefusalKind::Fault,
        service: None,
        what: format!("handover's own plan breaks its rule that {}", violation.rule.words()),
        why: violation.what.clone(),
        hint: "nothing has moved; please report this fault with what `docker compose config` and `handover plan` say. \
               docker compose up -d deploys meanwhile, with its interruption"
            .to_owned(),
    };
    violations.iter().map(refusal).collect()
}

/// What has been done so far.
#[derive(Default)]
struct Done<'a> {
    created_first: BTreeSet<&'a str>,
    standin: BTreeSet<&'a str>,
    standin_removed: bool,
    gated_standin: BTreeSet<&'a str>,
    /// Ports that were redirected, each with whether it is given back.
    ports: BTreeMap<Key, bool>,
    /// Clients that were redirected, by the services that they call, and whether they are given back.
    clients: BTreeMap<&'a str, (BTreeSet<&'a str>, bool)>,
    drained: BTreeSet<&'a str>,
    standin_drained: BTreeSet<&'a str>,
    stopped: BTreeSet<&'a str>,
    /// Services that Compose is through with.
    converged: BTreeSet<&'a str>,
    rolled: BTreeSet<&'a str>,
    gated: BTreeSet<&'a str>,
    removed: BTreeSet<&'a str>,
}

/// One port of the host: protocol, number and address.
type Key = (Protocol, Option<u16>, Option<std::net::IpAddr>);

struct Walk<'a> {
    plan: &'a Plan,
    project: &'a Project,
    observed: &'a Observation,
    request: &'a Request,
    actions: BTreeMap<&'a str, Action>,
    done: Done<'a>,
    violations: Vec<Violation>,
}

impl<'a> Walk<'a> {
    fn step(&mut self, operation: &'a Operation) {
        match operation {
            Operation::CreateFirst { services, .. } => self.create_first(services),
            Operation::BringUp { services } => self.bring_up(services),
            Operation::Gate { of: Side::StandIn, services } => {
                self.done.gated_standin.extend(services.iter().map(String::as_str));
            }
            Operation::Gate { of: Side::Real, services } => self.gate_real(services),
            Operation::Redirect { ports } => self.redirect(ports),
            Operation::RedirectClients { clients, services } => self.redirect_clients(clients, services),
            Operation::Drain { of: Side::Real, services } => {
                self.done.drained.extend(services.iter().map(String::as_str));
            }
            Operation::Drain { of: Side::StandIn, services } => {
                if self.done.ports.values().chain(self.done.clients.values().map(|(_, back)| back)).any(|back| !back) {
                    self.broken(Rule::GivenBack, "the stand-in is drained while traffic still goes to it".to_owned());
                }
                self.done.standin_drained.extend(services.iter().map(String::as_str));
            }
            Operation::Stop { tiers } => self.stop(tiers),
            Operation::RenewVolumes { services } => services.iter().for_each(|service| self.renew_volumes(service)),
            Operation::Roll { service, .. } => self.roll(service),
            Operation::Converge { services, remove } => self.converge(services, remove),
            Operation::TellRouter { service, .. } => self.tell_router(service),
            Operation::SwitchClientsBack { clients } => self.switch_clients_back(clients),
            Operation::SwitchBack { ports } => self.switch_back(ports),
            Operation::Remove { services } => self.remove(services),
            Operation::RemoveVolumes { volumes } => self.remove_volumes(volumes),
        }
    }

    fn create_first(&mut self, services: &'a [String]) {
        for service in services {
            self.is_named(service, "made first", &[Action::Create]);
            if self.containers_of(service).next().is_some() {
                self.broken(Rule::OnlyWhatIsNamed, format!("{service} is made first, and has containers"));
            }
            if self.done.standin.contains(service.as_str()) {
                self.broken(Rule::OneStrategy, format!("{service} is made first, after its stand-in"));
            }
            self.done.created_first.insert(service);
        }
    }

    fn bring_up(&mut self, services: &'a [String]) {
        for service in services {
            self.is_named(service, "brought up as a stand-in", &[Action::StandIn]);
            self.may_run_twice(service);
            if self.done.created_first.contains(service.as_str()) || self.done.rolled.contains(service.as_str()) {
                self.broken(Rule::OneStrategy, format!("{service} has a stand-in and is made in another way, too"));
            }
            self.done.standin.insert(service);
        }
        let document = self.plan.standin.as_ref().map(|standin| &standin.document);
        let made = document.and_then(|document| document.get("services")).and_then(Value::as_object);
        let made: BTreeSet<&str> = made.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let named: BTreeSet<String> = services.iter().map(|service| format!("standin-{service}")).collect();
        if made != named.iter().map(String::as_str).collect() {
            let made: Vec<&str> = made.into_iter().collect();
            self.broken(Rule::OnlyWhatIsNamed, format!("the stand-in's document makes {}", made.join(", ")));
        }
    }

    fn gate_real(&mut self, services: &'a [String]) {
        for service in services {
            if !self.done.converged.contains(service.as_str()) && !self.done.rolled.contains(service.as_str()) {
                self.broken(Rule::AllThatIsNamed, format!("{service} is gated before Compose has made it"));
            }
            self.done.gated.insert(service);
        }
    }

    fn redirect(&mut self, ports: &'a [(String, Port)]) {
        for (service, port) in ports {
            let published = self.project.services.get(service).is_some_and(|known| known.ports.contains(port));
            if !published || port.published.is_none() || !self.done.standin.contains(service.as_str()) {
                let words = format!("{} of {service} is redirected, and no stand-in has it", words(port));
                self.broken(Rule::RedirectedOnce, words);
            }
            if !self.done.gated_standin.contains(service.as_str()) {
                self.broken(Rule::GatedBeforeRedirect, format!("{} goes to {service} before its gate", words(port)));
            }
            if self.done.ports.insert(key(port), false).is_some() {
                self.broken(Rule::RedirectedOnce, format!("{} is redirected twice", words(port)));
            }
        }
    }

    fn redirect_clients(&mut self, clients: &'a [String], services: &'a [String]) {
        for service in services.iter().filter(|service| !self.done.gated_standin.contains(service.as_str())) {
            self.violations.push(Violation {
                rule: Rule::GatedBeforeRedirect,
                what: format!("{} go to {service} before its gate", clients.join(", ")),
            });
        }
        let services: BTreeSet<&str> = services.iter().map(String::as_str).collect();
        for client in clients {
            if self.done.clients.insert(client, (services.clone(), false)).is_some() {
                self.broken(Rule::RedirectedOnce, format!("{client} is redirected twice"));
            }
        }
    }

    fn stop(&mut self, tiers: &'a [Vec<String>]) {
        for (number, tier) in tiers.iter().enumerate() {
            for service in tier {
                self.is_named(service, "stopped", &[Action::StandIn]);
                self.is_redirected(service);
                self.is_drained(service);
                if !self.done.standin.contains(service.as_str()) {
                    self.broken(Rule::RedirectedBeforeStop, format!("{service} is stopped, and nothing stands in"));
                }
                self.users_first(service, &tiers[number + 1..]);
                self.done.stopped.insert(service);
            }
        }
    }

    /// Those in later tiers that need this one; an entry service ends first in any case, its clients are the redirected ones.
    fn users_first(&mut self, service: &str, later: &[Vec<String>]) {
        let publishes = |name: &str| self.project.services.get(name).is_some_and(|known| !fixed(known).is_empty());
        let uses = |user: &&String| {
            self.project.services.get(*user).is_some_and(|known| known.depends_on.contains_key(service))
        };
        let user = later.iter().flatten().find(uses).filter(|_| !publishes(service)).cloned();
        if let Some(user) = user {
            self.broken(Rule::UsersFirst, format!("{service} is stopped before {user}, which depends on it"));
        }
    }

    /// Compose renews all anonymous volumes of a container or none.
    fn renew_volumes(&mut self, service: &str) {
        self.is_changed(service, "gets new volumes");
        let Some(known) = self.project.services.get(service) else { return };
        let volumes = self.project.settings.service(service).volumes;
        let anonymous = self.written(known).into_iter().filter(|(source, _)| source.is_none());
        let lost =
            anonymous.map(|(_, target)| target).find(|target| volumes.word_on(None, target) != Some(VolumeUse::Renew));
        if let Some(lost) = lost.map(str::to_owned) {
            self.broken(Rule::OnlyWhatIsNamed, format!("{service} loses what it keeps at {lost}"));
        }
    }

    fn roll(&mut self, service: &'a str) {
        self.is_named(service, "rolled", &[Action::Rolling, Action::Scale]);
        self.may_run_twice(service);
        if !self.project.services.get(service).map(fixed).unwrap_or_default().is_empty() {
            self.broken(Rule::RedirectedOnce, format!("{service} is rolled, and two containers cannot hold its ports"));
        }
        self.made(service);
        self.done.rolled.insert(service);
    }

    fn converge(&mut self, services: &'a [(String, Action)], remove: &'a [String]) {
        for (service, action) in services {
            if *action == Action::Keep || self.actions.get(service.as_str()) != Some(action) {
                self.broken(Rule::OnlyWhatIsNamed, format!("Compose changes {service}, and the plan says otherwise"));
            }
            self.may_be_ended_by_compose(service, *action);
            self.made(service);
            self.done.converged.insert(service);
        }
        for name in remove {
            let is_orphan = |one: &&Container| one.name == *name && !self.project.services.contains_key(&one.service);
            if !self.plan.remove_orphans.contains(name) || !self.observed.containers.iter().any(|one| is_orphan(&one)) {
                self.broken(
                    Rule::OnlyWhatIsNamed,
                    format!("container {name} is removed, and the plan does not say so"),
                );
            }
            self.done.removed.insert(name);
        }
    }

    /// A service whose containers Compose ends itself, with nobody holding it back.
    fn may_be_ended_by_compose(&mut self, service: &'a str, action: Action) {
        let Some(known) = self.project.services.get(service) else { return };
        let running = self.containers_of(service).filter(|container| container.running).count();
        let agreed = self.request.allow_interruption
            || self.project.settings.service(service).strategy == Some(Strategy::InPlace);
        let ends = match action {
            Action::StandIn => !self.done.stopped.contains(service),
            Action::InPlace => !agreed,
            Action::Recreate | Action::Rolling => true,
            Action::Scale => running > known.replicas as usize && !agreed,
            Action::Keep | Action::Create | Action::Start => false,
        };
        if let Some(who) = self.reached_by(known).filter(|_| ends && running > 0) {
            self.broken(Rule::RedirectedBeforeStop, format!("Compose ends {service}, which is reached by {who}"));
        }
    }

    /// Compose is through with a service: once.
    fn made(&mut self, service: &'a str) {
        if self.done.converged.contains(service) || self.done.rolled.contains(service) {
            self.broken(Rule::OneStrategy, format!("{service} is made twice"));
        }
    }

    fn tell_router(&mut self, service: &'a str) {
        let router = self.project.settings.service(service).router.map(|router| router.service().to_owned());
        let not_ready = |name: &str| {
            self.actions.get(name).is_some_and(|action| *action != Action::Keep) && !self.done.gated.contains(name)
        };
        if not_ready(service) || router.as_deref().is_none_or(not_ready) {
            self.broken(Rule::GatedBeforeRedirect, format!("a router is told of {service} before both are ready"));
        }
    }

    fn switch_clients_back(&mut self, clients: &'a [String]) {
        for client in clients {
            let Some((services, back)) = self.done.clients.get_mut(client.as_str()) else {
                self.broken(Rule::GivenBack, format!("{client} is given back, and was not redirected"));
                continue;
            };
            *back = true;
            if !services.is_subset(&self.done.gated) {
                self.broken(Rule::GatedBeforeRedirect, format!("{client} goes to real containers before their gate"));
            }
        }
    }

    fn switch_back(&mut self, ports: &'a [(String, Port)]) {
        for (service, port) in ports {
            match self.done.ports.get_mut(&key(port)) {
                Some(back) => *back = true,
                None => self.broken(Rule::GivenBack, format!("{} is given back, and was not redirected", words(port))),
            }
            if !self.done.gated.contains(service.as_str()) {
                let words = format!("{} goes to the real {service} before its gate", words(port));
                self.broken(Rule::GatedBeforeRedirect, words);
            }
        }
    }

    fn remove(&mut self, services: &'a [String]) {
        let removed: BTreeSet<&str> = services.iter().map(String::as_str).collect();
        if removed != self.done.standin {
            self.broken(Rule::StandInRemoved, format!("of the stand-in {} is removed", services.join(", ")));
        }
        if !removed.is_subset(&self.done.standin_drained) {
            self.broken(Rule::DrainedBeforeEnd, "the stand-in is removed before it has drained".to_owned());
        }
        let led = self.done.ports.values().chain(self.done.clients.values().map(|(_, back)| back));
        if led.into_iter().any(|back| !back) {
            self.broken(Rule::GivenBack, "the stand-in is removed while traffic still goes to it".to_owned());
        }
        self.done.standin_removed = true;
    }

    fn remove_volumes(&mut self, volumes: &'a [String]) {
        for volume in volumes {
            let digits = volume.chars().filter(|digit| matches!(digit, '0'..='9' | 'a'..='f')).count();
            if digits != 64 || digits != volume.len() {
                self.broken(Rule::OnlyWhatIsNamed, format!("volume {volume} has a name, and is removed"));
            }
            // Whoever mounts it now is made anew before, or it is not old code.
            let users = self.observed.containers.iter();
            let kept = users.filter(|one| self.actions.get(one.service.as_str()) == Some(&Action::Keep));
            let user = kept.filter(|one| one.mounts.iter().any(|mount| mount.volume == *volume)).map(|one| &one.name);
            let renewed = self.plan.renew.iter().any(|renewal| renewal.volumes.contains(volume));
            if let Some(user) = user.into_iter().next().filter(|_| !renewed).cloned() {
                self.broken(Rule::OnlyWhatIsNamed, format!("volume {volume} is removed, and {user} mounts it"));
            }
        }
    }

    fn end(&mut self) {
        let named: Vec<&str> =
            self.actions.iter().filter(|(_, action)| **action != Action::Keep).map(|it| *it.0).collect();
        for service in named {
            if !self.done.converged.contains(service) && !self.done.rolled.contains(service) {
                self.broken(Rule::AllThatIsNamed, format!("{service} is left as it is, and the plan says otherwise"));
            }
            if !self.done.gated.contains(service) {
                self.broken(Rule::AllThatIsNamed, format!("{service} is not gated in the end"));
            }
        }
        for name in self.plan.remove_orphans.iter().filter(|name| !self.done.removed.contains(name.as_str())) {
            let what = format!("{name} is not removed, and the plan says so");
            self.violations.push(Violation { rule: Rule::AllThatIsNamed, what });
        }
        if !self.done.standin.is_empty() && !self.done.standin_removed {
            self.broken(Rule::StandInRemoved, "the stand-in is left behind".to_owned());
        }
        let ports = self.done.ports.iter().filter(|(_, back)| !**back);
        let ports = ports.map(|((_, number, _), _)| format!("port {}", number.unwrap_or_default()));
        let clients = self.done.clients.iter().filter(|(_, (_, back))| !back).map(|(client, _)| (*client).to_owned());
        let left: Vec<String> = ports.chain(clients).collect();
        for one in left {
            self.broken(Rule::GivenBack, format!("{one} is not given back"));
        }
    }

    fn is_changed(&mut self, service: &str, done: &str) {
        self.is_named(service, done, &[Action::StandIn, Action::Rolling, Action::InPlace, Action::Recreate]);
    }

    fn is_named(&mut self, service: &str, done: &str, actions: &[Action]) {
        if !self.actions.get(service).is_some_and(|action| actions.contains(action)) {
            self.broken(Rule::OnlyWhatIsNamed, format!("{service} is {done}, and the plan says otherwise"));
        }
    }

    /// A real service that ends has its ports, and whoever certainly calls it, at the stand-in.
    fn is_redirected(&mut self, service: &str) {
        let Some(known) = self.project.services.get(service) else { return };
        if !self.containers_of(service).any(|container| container.running) {
            return;
        }
        for port in fixed(known) {
            if !self.done.ports.contains_key(&key(port)) {
                self.broken(
                    Rule::RedirectedBeforeStop,
                    format!("{service} is stopped while {} leads to it", words(port)),
                );
            }
        }
        let missed = self.certain_callers(known).into_iter().find(|caller| {
            self.done.clients.get(caller.as_str()).is_none_or(|(services, _)| !services.contains(service))
        });
        if let Some(caller) = missed {
            self.broken(Rule::RedirectedBeforeStop, format!("{service} is stopped while {caller} calls it"));
        }
    }

    /// Running containers outside the stand-in whose service says that it needs this one, where they share a network.
    fn certain_callers(&self, service: &Service) -> Vec<String> {
        let networks: Vec<&str> = service
            .networks
            .iter()
            .filter_map(|key| self.project.networks.get(key))
            .map(|it| it.name.as_str())
            .collect();
        let calls = |container: &&Container| {
            let user = self.project.services.get(&container.service);
            container.running
                && !self.done.standin.contains(container.service.as_str())
                && user.is_some_and(|user| user.depends_on.contains_key(&service.name))
                && networks.iter().any(|network| container.networks.contains_key(*network))
        };
        self.observed.containers.iter().filter(calls).map(|container| container.name.clone()).collect()
    }

    fn is_drained(&mut self, service: &str) {
        let called = self.project.services.get(service).is_some_and(|known| !fixed(known).is_empty())
            || self.done.clients.values().any(|(services, _)| services.contains(service));
        if called && !self.done.drained.contains(service) {
            self.broken(Rule::DrainedBeforeEnd, format!("{service} is stopped before it has drained"));
        }
    }

    fn may_run_twice(&mut self, service: &str) {
        let Some(known) = self.project.services.get(service) else { return };
        if let Some(why) = self.no_second_copy(known) {
            self.broken(Rule::SecondCopyNeedsConsent, format!("{service} has a second copy, and {why}"));
        }
    }

    /// Why a service must not run twice, where that is certain.
    fn no_second_copy(&self, service: &'a Service) -> Option<String> {
        let settings = self.project.settings.service(&service.name);
        if settings.strategy == Some(Strategy::InPlace) {
            return Some("its strategy is in-place".to_owned());
        }
        if service.update.order == Some(Order::StopFirst) {
            return Some("its order is stop-first".to_owned());
        }
        if service.network_mode.as_deref() == Some("host") || !service.host_namespaces.is_empty() {
            return Some("it lives in the host's namespaces".to_owned());
        }
        self.written(service).into_iter().find_map(|(source, target)| match settings.volumes.word_on(source, target) {
            Some(VolumeUse::Share | VolumeUse::Renew) => None,
            Some(VolumeUse::Own) => Some(format!("what it keeps at {target} is its own")),
            None => Some(format!("nobody has said that two may write at {target}")),
        })
    }

    /// Volumes that a service certainly writes to: key, or none for an anonymous one, and path.
    fn written(&self, service: &'a Service) -> Vec<(Option<&'a str>, &'a str)> {
        let declared = service.mounts.iter().filter(|mount| mount.kind == "volume" && !mount.read_only);
        let declared = declared.map(|mount| (mount.source.as_deref(), mount.target.as_str()));
        let image = self.observed.images.get(&service.image);
        let by_image = image.into_iter().flat_map(|image| &image.volumes).filter(|path| !self.covers(service, path));
        declared.chain(by_image.map(|path| (None, path.as_str()))).collect()
    }

    /// Whether something else than an anonymous volume of its own may be mounted at a path.
    fn covers(&self, service: &Service, path: &str) -> bool {
        let tmpfs = service.raw.get("tmpfs").and_then(Value::as_array).into_iter().flatten();
        let mut tmpfs = tmpfs.filter_map(|entry| entry.as_str()?.split(':').next());
        !service.volumes_from.is_empty()
            || service.mounts.iter().any(|mount| mount.target == path)
            || tmpfs.any(|mounted| mounted == path)
    }

    /// Who reaches a service from outside of the stand-in, where that is certain.
    fn reached_by(&self, service: &Service) -> Option<String> {
        let settings = self.project.settings.service(&service.name);
        if let Some(port) = fixed(service).first() {
            return Some(words(port));
        }
        if service.announcement().is_some() {
            return Some("a proxy that finds it".to_owned());
        }
        if settings.router.is_some() {
            return Some("its router".to_owned());
        }
        if settings.strategy == Some(Strategy::Rolling) || service.update.order == Some(Order::StartFirst) {
            return Some("whoever it is to be rolled for".to_owned());
        }
        let network = |network: &String| {
            !matches!(network.as_str(), "bridge" | "host" | "none")
                && self.containers_of(&service.name).any(|own| own.running && own.networks.contains_key(network))
        };
        let other = self.observed.foreign.iter().find(|one| one.running && one.networks.keys().any(network));
        other.map(|other| other.name.clone())
    }

    fn containers_of(&self, service: &str) -> impl Iterator<Item = &'a Container> {
        let service = service.to_owned();
        self.observed.containers.iter().filter(move |container| container.service == service)
    }

    fn broken(&mut self, rule: Rule, what: String) {
        self.violations.push(Violation { rule, what });
    }
}

fn fixed(service: &Service) -> Vec<&Port> {
    service.ports.iter().filter(|port| port.published.is_some()).collect()
}

fn key(port: &Port) -> Key {
    (port.protocol, port.published, port.host_ip)
}

fn words(port: &Port) -> String {
    format!("port {port}")
}

#[cfg(test)]
mod tests;
