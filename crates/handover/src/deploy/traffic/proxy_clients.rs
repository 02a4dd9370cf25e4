//! The clients of proxies that reload. Whichever proxy reads its configuration anew closes what is idle on its side just then, and a
//! request that crosses that is lost where it may not be sent twice. So idle connections are taken over meanwhile, as in a drain.

use std::cell::RefCell;
use std::collections::BTreeSet;

use futures_util::future::join_all;
use handover_host::protocol::{Drain, DrainReport, SessionOp};
use serde_json::Value;

use crate::deploy::context::Deploy;
use crate::deploy::drain::{held_drain, summary};
use crate::event::DrainSummary;
use crate::helper::{Helper, UnderWay};

/// Listens to connections of proxies' clients from its beginning on. Best effort: what cannot be listened to sees a reload as ever.
pub(crate) struct ProxyClients {
    session: Helper,
    proxies: RefCell<Vec<Proxy>>,
}

struct Proxy {
    /// Id of its container.
    id: String,
    drain: UnderWay,
}

impl ProxyClients {
    /// Begins to listen to the clients of these containers. None shares the network of another (one that does is no peer and no
    /// router), so that no connection is taken over twice.
    pub(crate) async fn listen(deploy: &Deploy, containers: BTreeSet<String>) -> Self {
        let found = containers.into_iter().map(|id| async move {
            let container = deploy.engine.inspect(&id).await.ok()??;
            let ports = deploy.used_ports(&container).await.ok()?;
            let drain = Drain { lasts: true, ..held_drain(deploy, &container, &ports)? };
            Some(Proxy { id, drain: deploy.session.begin(SessionOp::Drain(drain)).ok()? })
        });
        let proxies = join_all(found).await.into_iter().flatten().collect();
        Self { session: deploy.session.clone(), proxies: RefCell::new(proxies) }
    }

    /// Lets these proxies reload. May be repeated.
    pub(crate) async fn spared<T>(&self, containers: &[String], reload: impl Future<Output = T>) -> T {
        let drains: Vec<u64> = {
            let proxies = self.proxies.borrow();
            proxies.iter().filter(|proxy| containers.contains(&proxy.id)).map(|proxy| proxy.drain.id).collect()
        };
        for request in &drains {
            let _ = self.session.ask::<_, Value>(SessionOp::Proceed { request: *request }).await;
        }
        let reloaded = reload.await;
        for request in &drains {
            let _ = self.session.ask::<_, Value>(SessionOp::Hold { request: *request }).await;
        }
        reloaded
    }

    /// Waits until what was taken over has ended; what was done with it.
    pub(crate) async fn finish(&self) -> DrainSummary {
        let reports = join_all(self.proxies.take().into_iter().map(|proxy| async move {
            let _ = self.session.ask::<_, Value>(SessionOp::Leave { request: proxy.drain.id }).await;
            proxy.drain.answer::<DrainReport>().await
        }));
        let reports = reports.await;
        let mut sum = DrainSummary::default();
        reports.into_iter().flatten().for_each(|report| sum.add(&summary(&report)));
        sum
    }
}
