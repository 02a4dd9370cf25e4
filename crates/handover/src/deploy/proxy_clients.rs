//! The clients of proxies that reload. Whichever proxy reads its configuration anew closes what is idle on its side just then, and a
//! request that crosses that is lost where it may not be sent twice. So idle connections are taken over meanwhile, as in a drain.

use std::cell::RefCell;
use std::collections::BTreeSet;

use futures_util::future::join_all;
use handover_host::protocol::{Drain, DrainReport, SessionOp};
use serde_json::Value;

use super::drain::{held_drain, summary};
use super::steps::Deploy;
use crate::event::DrainSummary;
use crate::helper::{Helper, UnderWay};

/// Listens to connections of proxies' clients from its beginning on. Best effort: what cannot be listened to sees a reload as ever.
pub(super) struct ProxyClients {
    session: Helper,
    proxies: Vec<Proxy>,
    /// What has been taken over and not ended.
    ending: RefCell<Vec<UnderWay>>,
}

struct Proxy {
    /// Id of its container.
    id: String,
    drain: Drain,
    listening: RefCell<Option<UnderWay>>,
}

impl ProxyClients {
    /// Begins to listen to the clients of these containers. None shares the network of another (one that does is no peer and no
    /// router), so that no connection is taken over twice.
    pub(super) async fn listen(deploy: &Deploy, containers: BTreeSet<String>) -> Self {
        let found = containers.into_iter().map(|id| async move {
            let container = deploy.engine.inspect(&id).await.ok()??;
            let ports = deploy.used_ports(&container).await.ok()?;
            let drain = held_drain(deploy, &container, &ports)?;
            Some(Proxy { id, drain, listening: RefCell::default() })
        });
        let proxies = join_all(found).await.into_iter().flatten().collect();
        let clients = Self { session: deploy.session.clone(), proxies, ending: RefCell::default() };
        clients.proxies.iter().for_each(|proxy| clients.listen_to(proxy));
        clients
    }

    fn listen_to(&self, proxy: &Proxy) {
        proxy.listening.replace(self.session.begin(SessionOp::Drain(proxy.drain.clone())).ok());
    }

    /// Lets these proxies reload. May be repeated.
    pub(super) async fn spared<T>(&self, containers: &[String], reload: impl Future<Output = T>) -> T {
        let proxies: Vec<&Proxy> = self.proxies.iter().filter(|proxy| containers.contains(&proxy.id)).collect();
        let begun: Vec<UnderWay> = proxies.iter().filter_map(|proxy| proxy.listening.take()).collect();
        for drain in &begun {
            let _ = self.session.ask::<_, Value>(SessionOp::Proceed { request: drain.id }).await;
        }
        let reloaded = reload.await;
        for drain in &begun {
            let _ = self.session.ask::<_, Value>(SessionOp::Leave { request: drain.id }).await;
        }
        self.ending.borrow_mut().extend(begun);
        proxies.into_iter().for_each(|proxy| self.listen_to(proxy));
        reloaded
    }

    /// Waits until what was taken over has ended; what was done with it.
    pub(super) async fn finish(&self) -> DrainSummary {
        for listening in self.proxies.iter().filter_map(|proxy| proxy.listening.take()) {
            self.session.cancel(listening.id);
        }
        let reports = join_all(self.ending.take().into_iter().map(UnderWay::answer::<DrainReport>)).await;
        let mut sum = DrainSummary::default();
        reports.into_iter().flatten().for_each(|report| sum.add(&summary(&report)));
        sum
    }
}
