//! The routers of the services that are rolled: told at each replacement where the containers are, before the old one may end.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use handover_core::compose::calls::temporary_name;
use handover_core::gate::State;
use handover_core::observation::Observation;
use handover_core::plan::Plan;
use tokio::sync::Mutex;

use crate::deploy::Outcome;
use crate::deploy::context::Deploy;
use crate::deploy::traffic::proxy_clients::ProxyClients;
use crate::engine::Inspected;
use crate::event::{Event, Step};
use crate::failure::{Failure, Result};
use crate::router::{self, Reach, Router};

/// The routers of a deploy, by the service that they are told of.
#[derive(Default)]
pub(crate) struct Routers {
    routed: BTreeMap<String, Routed>,
    /// Their own clients, where they are spared.
    clients: Option<Rc<ProxyClients>>,
}

/// A service and its router.
struct Routed {
    router: Box<dyn Router>,
    /// Which one it is.
    words: String,
    /// The containers when all began, by name.
    before: BTreeMap<String, Inspected>,
    /// Those that it is to send to.
    wanted: RefCell<BTreeMap<String, Inspected>>,
    /// Ids of those that it was told; one telling at a time.
    told: Mutex<Vec<String>>,
}

impl Routers {
    /// Opens the routers of all services that the plan rolls. All failures at once; nothing is changed.
    pub(crate) async fn open(deploy: &Deploy, plan: &Plan, observed: &Observation) -> Outcome<Self> {
        let reach = reach(deploy);
        let (mut routed, mut failures) = (BTreeMap::new(), Vec::new());
        for rolling in &plan.rolling {
            let Some(plan) = &rolling.router else { continue };
            let opening = async {
                let mut before = BTreeMap::new();
                for container in observed.of_service(&rolling.service).filter(|container| container.running) {
                    let found = deploy.engine.inspect(&container.id).await?;
                    before.extend(found.map(|found| (container.name.clone(), found)));
                }
                let containers: Vec<Inspected> = before.values().cloned().collect();
                let router = router::open(&reach, plan, &containers).await?;
                let told = Mutex::new(ids(&before));
                Ok(Routed {
                    router,
                    words: plan.router.to_string(),
                    wanted: RefCell::new(before.clone()),
                    before,
                    told,
                })
            };
            match opening.await {
                Ok(one) => drop(routed.insert(rolling.service.clone(), one)),
                Err(failure) => failures.push(of_service(&rolling.service, failure)),
            }
        }
        if failures.is_empty() { Ok(Self { routed, clients: None }) } else { Err(failures) }
    }

    /// Ids of the containers that are told.
    pub(crate) fn containers(&self) -> BTreeSet<String> {
        self.routed.values().flat_map(|routed| routed.router.containers()).collect()
    }

    /// Whether one of them confirms where the containers of this service are.
    pub(crate) fn tell_of(&self, service: &str) -> bool {
        self.routed.contains_key(service)
    }

    /// Ids of those that close idle connections of their own clients when they are told.
    pub(crate) fn that_close_idle_clients(&self) -> BTreeSet<String> {
        let closing = self.routed.values().filter(|routed| routed.router.closes_idle_clients());
        closing.flat_map(|routed| routed.router.containers()).collect()
    }

    /// From now on these clients are spared.
    pub(crate) fn spare(&mut self, clients: &Rc<ProxyClients>) {
        self.clients = Some(clients.clone());
    }

    /// A container has passed its gate and serves, in place of the one with its name if there is one.
    pub(crate) async fn serves(&self, service: &str, container: &Inspected) -> Result<()> {
        self.change(service, |wanted| {
            let name = temporary_name(&container.name).map_or(container.name.as_str(), |(_, name)| name);
            wanted.insert(name.to_owned(), container.clone());
        })
        .await
    }

    /// A container is to end without a successor.
    pub(crate) async fn ends(&self, service: &str, container: &Inspected) -> Result<()> {
        self.change(service, |wanted| drop(wanted.remove(&container.name))).await
    }

    async fn change(&self, service: &str, change: impl FnOnce(&mut BTreeMap<String, Inspected>)) -> Result<()> {
        let Some(routed) = self.routed.get(service) else { return Ok(()) };
        change(&mut routed.wanted.borrow_mut());
        let mut told = routed.told.lock().await;
        let wanted = routed.wanted.borrow().clone();
        // Told with others that came side by side.
        if *told == ids(&wanted) {
            return Ok(());
        }
        let containers: Vec<Inspected> = wanted.values().cloned().collect();
        // Should it be half told, what comes next begins anew.
        told.clear();
        let as_before = ids(&wanted) == ids(&routed.before);
        let telling = if as_before { routed.router.restore(&containers) } else { routed.router.tell(&containers) };
        let telling = match &self.clients {
            Some(clients) => clients.spared(&routed.router.containers(), telling).await,
            None => telling.await,
        };
        telling.map_err(|failure| of_service(service, failure))?;
        *told = ids(&wanted);
        Ok(())
    }

    /// What is left of the generations that were told otherwise, when nobody uses the old containers any more.
    pub(crate) async fn note_left(&self, deploy: &Deploy) {
        for routed in self.routed.values() {
            match routed.router.left().await {
                Ok(None) => deploy.events.emit(Event::RouterDrained { router: routed.words.clone() }),
                Ok(Some(left)) => deploy.events.emit(Event::Note(format!(
                    "{left} go on with what was under way (WebSockets, long answers); none of it goes to the old containers"
                ))),
                Err(failure) => deploy.events.emit(Event::Note(failure.what)),
            }
        }
    }
}

impl Deploy {
    /// Tells routers that were made anew, or whose service was, where its containers are. They serve as they are made already: what
    /// cannot be told is no failure, and noted.
    pub(crate) async fn tell_routers_afterwards(&self, plan: &Plan) {
        if !plan.told_afterwards.is_empty() {
            self.events.step(Step::Routers, self.tell_routers(plan)).await;
        }
    }

    async fn tell_routers(&self, plan: &Plan) {
        for (service, router) in &plan.told_afterwards {
            let telling = async {
                let mut containers = Vec::new();
                for (id, of) in self.engine.containers_of_project(&self.project.name).await? {
                    let found = if of == *service { self.engine.inspect(&id).await? } else { None };
                    containers.extend(found.filter(|found| found.state == State::Running));
                }
                containers.sort_by(|a, b| a.name.cmp(&b.name));
                let router = router::open(&reach(self), router, &containers).await?;
                if router.names(&containers).await? { Ok(()) } else { router.tell(&containers).await }
            };
            if let Err(failure) = telling.await {
                self.events
                    .emit(Event::Note(format!("{} serves as its own configuration says: {failure}", router.router)));
            }
        }
    }
}

/// What routers are reached with.
pub(crate) fn reach(deploy: &Deploy) -> Reach {
    Reach {
        engine: deploy.engine.clone(),
        session: deploy.session.clone(),
        events: deploy.events.clone(),
        project: deploy.project.name.clone(),
    }
}

fn ids(containers: &BTreeMap<String, Inspected>) -> Vec<String> {
    containers.values().map(|container| container.id.clone()).collect()
}

fn of_service(service: &str, failure: Failure) -> Failure {
    Failure { what: format!("router of service {service}: {}", failure.what), ..failure }
}
