//! After rolling: the old containers' addresses are given up once nobody calls them any more.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::try_join_all;
use handover_core::net::Protocol;
use handover_host::protocol::{Drain, DrainReport, Listeners, SessionOp};

use crate::deploy::context::Deploy;
use crate::deploy::traffic::kept;
use crate::deploy::traffic::proxy_clients::ProxyClients;
use crate::deploy::traffic::redirects::Switch;
use crate::deploy::traffic::routers::reach;
use crate::engine::Role;
use crate::event::{Event, Step};
use crate::failure::{Failure, Result};
use crate::router::nginx_process;

/// How long nobody may have used an address that is gone before its leads go: a proxy that finds containers by itself may
/// notice a change that late (Traefik: up to 2 s).
const NOTICED: Duration = Duration::from_secs(3);

/// The same where a router has confirmed that it does not use it: others find the service by its name, which leads nowhere else
/// from the change on.
const CONFIRMED: Duration = Duration::from_secs(1);

/// No proxy that finds containers by itself takes longer to notice; who calls an address then will go on doing so.
const LONGEST: Duration = Duration::from_secs(10);

/// How long connections that were led are waited for to be idle.
const CLOSING: Duration = Duration::from_secs(5);

impl Deploy {
    /// Lets every nginx among the peers resolve its names anew, but for those that were told: it does so only when it reads its
    /// configuration. One whose configuration is broken is left alone, and named. `clients`: theirs, to be spared.
    pub(crate) async fn reload_nginx(&self, switch: &Switch, told: &BTreeSet<String>, clients: &ProxyClients) {
        let reach = reach(self);
        for (id, name) in switch.nginx().await.into_iter().filter(|(id, _)| !told.contains(id)) {
            let reloading = async {
                let Some(container) = self.engine.inspect(&id).await? else { return Ok(false) };
                nginx_process::test(&reach, &container).await?;
                nginx_process::reload(&reach, &container).await?;
                Ok::<_, Failure>(true)
            };
            match clients.spared(std::slice::from_ref(&id), reloading).await {
                Ok(true) => self.events.emit(Event::Reloaded { peer: name }),
                // It has ended meanwhile, and resolves them when it starts.
                Ok(false) => {}
                Err(failure) => {
                    let why = failure.why.unwrap_or(failure.what).replace('\n', "; ");
                    self.events.emit(Event::Note(format!(
                        "{name} runs nginx, which resolves names once, and it cannot be reloaded ({why}): reload it, or it goes on \
                         calling an address that is gone"
                    )));
                }
            }
        }
    }

    /// Closes connections that were led, each while it is idle: whoever opened one shows by the next where it gets its addresses
    /// from, and none is left whose way the kernel forgets with the leads. What goes on for long is left alone.
    async fn close_led(&self, switch: &Switch) -> Result<()> {
        let drains = switch.open_connections().await?.into_iter().map(|led| async move {
            let sandbox = PathBuf::from(led.sandbox);
            let listeners = SessionOp::Listeners { sandbox: Some(sandbox.clone()) };
            let Listeners { listeners } = self.session.ask(listeners).await?;
            let tcp = listeners.iter().filter(|one| one.protocol == Protocol::Tcp && !one.address.is_loopback());
            let ports = tcp.map(|one| one.port).collect();
            let deadline_ms = u64::try_from(CLOSING.as_millis()).unwrap_or(u64::MAX);
            let drain =
                Drain { near: self.near.clone(), clients: led.clients, ..Drain::new(sandbox, ports, deadline_ms) };
            self.session.ask::<_, DrainReport>(SessionOp::Drain(drain)).await
        });
        try_join_all(drains).await.map(drop)
    }

    /// Waits until proxies have noticed that the old addresses are gone; `confirmed`: they have said so. For who calls them
    /// nevertheless the leads are kept beyond this deploy, and they are named.
    pub(crate) async fn until_unused(&self, switch: &Switch, confirmed: bool) -> Result<()> {
        let _waiting = self.events.waiting();
        let waiting = async {
            switch.until_quiet(if confirmed { CONFIRMED } else { NOTICED }, LONGEST).await?;
            let before = switch.counted().await?;
            self.close_led(switch).await?;
            let after = switch.counted().await?;
            Ok::<_, Failure>(
                after.into_iter().filter(|(who, count)| before.get(who) != Some(count)).collect::<Vec<_>>(),
            )
        };
        let stragglers = self.events.step(Step::Unused, waiting).await?;
        if stragglers.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = stragglers.iter().map(|((peer, _), _)| peer.as_str()).collect();
        kept::keep(self, switch.tables_for(&names).await).await?;
        let keeper = Role::Keeper.container_name(&self.project.name);
        for ((peer, address), connections) in stragglers {
            self.events.emit(Event::Note(format!(
                "{peer} goes on calling {address}, where a container was that is gone ({connections} connections were led on): it \
                 resolves names once. Container {keeper} leads it on until it is restarted; restart it when it suits, or let \
                 it resolve names anew"
            )));
        }
        Ok(())
    }
}
