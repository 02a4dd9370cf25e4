//! Caddy: its admin API is told by name, and confirms by what it answers when it is read back.

use std::cell::Cell;
use std::net::SocketAddr;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use handover_core::router::Names;
use handover_core::router::caddy::{Upstreams, Wanted, find, rendered};
use handover_core::settings::CaddyRouter;
use handover_host::protocol::{Door, Said, SessionOp};
use serde_json::Value;

use super::{Reach, Router, look, members, process_of, refused, running};
use crate::engine::Inspected;
use crate::event::Event;
use crate::failure::{Exit, Failure, Result};

/// A Caddy whose admin API answers.
pub(super) struct Caddy {
    reach: Reach,
    settings: CaddyRouter,
    names: Names,
    proxies: Vec<Proxy>,
}

/// One of its containers.
struct Proxy {
    id: String,
    name: String,
    /// The lists of upstreams with the service when all began.
    before: Vec<Upstreams>,
    told: Cell<bool>,
}

impl Caddy {
    pub(super) async fn open(
        reach: &Reach,
        settings: &CaddyRouter,
        names: &Names,
        containers: &[Inspected],
    ) -> Result<Self> {
        let mut caddy =
            Self { reach: reach.clone(), settings: settings.clone(), names: names.clone(), proxies: Vec::new() };
        for container in running(reach, &settings.service).await? {
            let config = caddy.ask(&container, "GET", "/", None).await?;
            let before = find(&config, &caddy.wanted(), &members(&container, containers)?)
                .map_err(|error| refused(&format!("the configuration of {}", container.name), error))?;
            caddy.proxies.push(Proxy {
                id: container.id.clone(),
                name: container.name.clone(),
                before,
                told: Cell::new(false),
            });
        }
        Ok(caddy)
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted { id: self.settings.id.as_deref(), port: self.settings.port, names: &self.names }
    }

    /// One call to the admin API, from inside the container.
    async fn ask(&self, container: &Inspected, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let admin = &self.settings.admin;
        let place = format!("the admin API of {} at {admin}", container.name);
        let hint = "say `admin:` as Caddy's configuration does; `admin off` leaves nothing to tell";
        let body = body.map(Value::to_string).unwrap_or_default();
        // 1.0: the answer comes in one piece and ends with the connection.
        let request = format!(
            "{method} /config{path} HTTP/1.0\r\nHost: {admin}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (mut answer, mut why) = (None, None);
        for address in addresses(admin) {
            let process = process_of(container)?;
            let op = SessionOp::Converse { process, door: Door::Address(address), text: request.clone() };
            match self.reach.session.ask::<_, Said>(op).await {
                Ok(said) => {
                    answer = Some(said);
                    break;
                }
                // The first address is the one that counts where there are two.
                Err(failure) => drop(why.get_or_insert(failure.why.unwrap_or(failure.what))),
            }
        }
        let Some(Said { text }) = answer else {
            return Err(Failure::new(Exit::Host, format!("{place} does not answer"))
                .because(why.unwrap_or_else(|| "that is no address with a port".to_owned()))
                .hint(hint));
        };
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status != "200" {
            return Err(Failure::new(Exit::Host, format!("{place} answers {method} with {status}"))
                .because(body.trim())
                .hint(hint));
        }
        Ok(serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// Each list of upstreams is to be what `new` makes of it.
    async fn tell_one(
        &self,
        proxy: &Proxy,
        containers: &[Inspected],
        new: impl Fn(&Upstreams, &[handover_core::router::Member]) -> Vec<Value>,
    ) -> Result<()> {
        let (container, members) = look(&self.reach, &proxy.id, &proxy.name, containers).await?;
        let container = &container;
        let mut changed = false;
        for upstreams in &proxy.before {
            let list = Value::Array(new(upstreams, &members));
            if self.ask(container, "GET", &upstreams.path, None).await? != list {
                proxy.told.set(true);
                changed = true;
                self.ask(container, "PATCH", &upstreams.path, Some(&list)).await?;
            }
            let now = self.ask(container, "GET", &upstreams.path, None).await?;
            if now != list {
                return Err(Failure::new(Exit::Host, format!("{} does not send to the new containers", proxy.name))
                    .because(format!("its configuration says {now}")));
            }
        }
        let servers = members.into_iter().map(|member| member.name).collect();
        self.reach.events.emit(Event::RouterTold { router: proxy.name.clone(), servers });
        if changed {
            self.reach.events.emit(Event::Note(format!(
                "{} sends to other containers than before, and knows it until it starts anew: its own configuration should name \
                 them, or the service",
                proxy.name
            )));
        }
        Ok(())
    }
}

impl Router for Caddy {
    fn containers(&self) -> Vec<String> {
        self.proxies.iter().map(|proxy| proxy.id.clone()).collect()
    }

    fn closes_idle_clients(&self) -> bool {
        true
    }

    fn names<'a>(&'a self, containers: &'a [Inspected]) -> LocalBoxFuture<'a, Result<bool>> {
        async move {
            for proxy in &self.proxies {
                let (_, members) = look(&self.reach, &proxy.id, &proxy.name, containers).await?;
                let named = |one: &Upstreams| rendered(&one.list, &self.wanted(), &members) == one.list;
                if !proxy.before.iter().all(named) {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        .boxed_local()
    }

    fn tell<'a>(&'a self, containers: &'a [Inspected]) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            for proxy in &self.proxies {
                let new = |one: &Upstreams, members: &[_]| rendered(&one.list, &self.wanted(), members);
                self.tell_one(proxy, containers, new).await?;
            }
            Ok(())
        }
        .boxed_local()
    }

    fn restore<'a>(&'a self, containers: &'a [Inspected]) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            for proxy in self.proxies.iter().filter(|proxy| proxy.told.get()) {
                self.tell_one(proxy, containers, |one, _| one.list.clone()).await?;
            }
            Ok(())
        }
        .boxed_local()
    }

    // Names are resolved for each connection: nothing goes on by what they meant before.
    fn left(&self) -> LocalBoxFuture<'_, Result<Option<String>>> {
        async { Ok(None) }.boxed_local()
    }
}

/// Where an address of the admin API is, seen from inside: `localhost` is both, and no host is every address.
fn addresses(admin: &str) -> Vec<SocketAddr> {
    let spelled = match admin.rsplit_once(':') {
        Some(("localhost" | "" | "0.0.0.0", port)) => vec![format!("127.0.0.1:{port}"), format!("[::1]:{port}")],
        _ => vec![admin.to_owned()],
    };
    spelled.iter().filter_map(|text| text.parse().ok()).collect()
}
