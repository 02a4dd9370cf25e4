//! nginx: its file is written, tested, and read anew by workers of a new generation.
//!
//! The new generation is told addresses: names resolve to the old and the new container as long as both are there. Once it runs,
//! the file says names, which are right whenever nginx starts anew.

use std::cell::RefCell;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use handover_core::router::nginx::{Block, has_upstream, render};
use handover_core::router::{CallBy, Names};
use handover_core::settings::NginxRouter;
use handover_host::protocol::{FileRead, SessionOp};

use super::{Reach, Router, look, members, nginx_process, process_of, refused, running, writable};
use crate::engine::Inspected;
use crate::event::Event;
use crate::failure::{Exit, Failure, Result};

/// Before the name of each file in what `nginx -T` prints.
const FILE_MARK: &str = "# configuration file ";

/// An nginx that was found in order.
pub(super) struct Nginx {
    reach: Reach,
    settings: NginxRouter,
    names: Names,
    proxies: Vec<Proxy>,
}

/// One of its containers.
struct Proxy {
    id: String,
    name: String,
    file: String,
    /// The file when all began.
    before: String,
    /// The file as it is now.
    current: RefCell<String>,
    /// Whether it may work by anything else than that file.
    told: RefCell<bool>,
}

impl Nginx {
    pub(super) async fn open(
        reach: &Reach,
        settings: &NginxRouter,
        names: &Names,
        containers: &[Inspected],
    ) -> Result<Self> {
        let mut nginx =
            Self { reach: reach.clone(), settings: settings.clone(), names: names.clone(), proxies: Vec::new() };
        for container in running(reach, &settings.service).await? {
            let proxy = nginx.proxy(&container, containers).await?;
            nginx.proxies.push(proxy);
        }
        Ok(nginx)
    }

    async fn proxy(&self, container: &Inspected, containers: &[Inspected]) -> Result<Proxy> {
        let name = &container.name;
        nginx_process::test(&self.reach, container).await.map_err(|failure| Failure {
            hint: Some(format!("put the configuration of {name} right first; nothing was changed")),
            ..failure
        })?;
        let (file, before, read_only) = match &self.settings.file {
            Some(file) => {
                let (before, read_only) = self.given(container, file).await?;
                (file.clone(), before, read_only)
            }
            None => self.search(container).await?,
        };
        let block = self.block();
        render(&before, &block, &members(container, containers)?, CallBy::Name)
            .map_err(|error| refused(&format!("{file} in {name}"), error))?;
        writable(&file, name, read_only)?;
        let current = RefCell::new(before.clone());
        Ok(Proxy { id: container.id.clone(), name: name.clone(), file, before, current, told: RefCell::new(false) })
    }

    fn block(&self) -> Block<'_> {
        Block { upstream: &self.settings.upstream, port: self.settings.port, names: &self.names }
    }

    /// The text of the file that the settings name, and why it cannot be written if it cannot.
    async fn given(&self, container: &Inspected, file: &str) -> Result<(String, Option<String>)> {
        let FileRead { text, read_only } = self.read(container, file).await?;
        let Some(text) = text else {
            let read = self.files(container).await.unwrap_or_default();
            let near = handover_core::settings::nearest::nearest(file, read.iter().map(String::as_str));
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("nginx reads: {}", read.join(", ")),
            };
            return Err(Failure::new(Exit::Host, format!("{file} is not there in {}", container.name)).hint(hint));
        };
        Ok((text, read_only))
    }

    /// The file with the upstream among all that nginx reads.
    async fn search(&self, container: &Inspected) -> Result<(String, String, Option<String>)> {
        let upstream = &self.settings.upstream;
        let files = self.files(container).await?;
        for file in &files {
            let FileRead { text, read_only } = self.read(container, file).await?;
            if let Some(text) = text.filter(|text| has_upstream(text, upstream)) {
                return Ok((file.clone(), text, read_only));
            }
        }
        Err(Failure::new(Exit::Host, format!("{} has no upstream {upstream}", container.name))
            .because(format!("none of the files that it reads has it: {}", files.join(", ")))
            .hint("name the upstream that its requests to the service go through"))
    }

    /// The files that nginx reads.
    async fn files(&self, container: &Inspected) -> Result<Vec<String>> {
        let (_, printed) = nginx_process::run(&self.reach, container, &["-T"]).await?;
        let names = printed.lines().filter_map(|line| line.strip_prefix(FILE_MARK)?.strip_suffix(':'));
        Ok(names.map(str::to_owned).collect())
    }

    async fn read(&self, container: &Inspected, file: &str) -> Result<FileRead> {
        let process = process_of(container)?;
        self.reach.session.ask(SessionOp::ReadFile { process, path: file.into() }).await
    }

    async fn write(&self, proxy: &Proxy, container: &Inspected, text: &str) -> Result<()> {
        if *proxy.current.borrow() == text {
            return Ok(());
        }
        let op = SessionOp::WriteFile {
            process: process_of(container)?,
            path: proxy.file.as_str().into(),
            text: text.to_owned(),
        };
        let _: serde_json::Value = self.reach.session.ask(op).await?;
        text.clone_into(&mut proxy.current.borrow_mut());
        Ok(())
    }

    async fn tell_one(&self, proxy: &Proxy, containers: &[Inspected], lasting: Lasting) -> Result<()> {
        let (container, members) = look(&self.reach, &proxy.id, &proxy.name, containers).await?;
        let container = &container;
        let place = format!("{} in {}", proxy.file, proxy.name);
        let text = |by| render(&proxy.before, &self.block(), &members, by).map_err(|error| refused(&place, error));
        let now = text(CallBy::Address)?;
        let last = if lasting == Lasting::AsBefore { proxy.before.clone() } else { text(CallBy::Name)? };
        let previous = proxy.current.borrow().clone();
        let told = async {
            self.write(proxy, container, &now).await?;
            nginx_process::test(&self.reach, container).await?;
            *proxy.told.borrow_mut() = true;
            nginx_process::reload(&self.reach, container).await?;
            self.write(proxy, container, &last).await?;
            // What it said before has been tested already.
            if last == proxy.before { Ok(()) } else { nginx_process::test(&self.reach, container).await }
        };
        let told = told.await;
        if let Err(failure) = told {
            self.write(proxy, container, &previous).await?;
            return Err(failure.hint(format!("{place} is as it was")));
        }
        self.reach.events.emit(Event::RouterTold {
            router: proxy.name.clone(),
            servers: members.into_iter().map(|member| member.name).collect(),
        });
        Ok(())
    }
}

/// What the file says in the end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lasting {
    Names,
    AsBefore,
}

impl Router for Nginx {
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
                let named = render(&proxy.before, &self.block(), &members, CallBy::Name);
                if !named.is_ok_and(|text| text == *proxy.current.borrow()) {
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
                self.tell_one(proxy, containers, Lasting::Names).await?;
            }
            Ok(())
        }
        .boxed_local()
    }

    fn restore<'a>(&'a self, containers: &'a [Inspected]) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            for proxy in self.proxies.iter().filter(|proxy| *proxy.told.borrow()) {
                self.tell_one(proxy, containers, Lasting::AsBefore).await?;
            }
            Ok(())
        }
        .boxed_local()
    }

    fn left(&self) -> LocalBoxFuture<'_, Result<Option<String>>> {
        async move {
            let mut left = Vec::new();
            for proxy in &self.proxies {
                if let Some(container) = self.reach.engine.inspect(&proxy.id).await? {
                    let ending = nginx_process::look(&self.reach, &container).await?.ending;
                    left.extend((ending > 0).then(|| format!("{ending} old workers of {}", proxy.name)));
                }
            }
            Ok((!left.is_empty()).then(|| left.join(", ")))
        }
        .boxed_local()
    }
}
