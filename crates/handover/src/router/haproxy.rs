//! HAProxy: its runtime API is told addresses, which count from that instant on and cost no reload; where the number of containers
//! changes, its configuration is written, too, so that a reload or a restart does not undo it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use handover_core::router::haproxy::{
    Running, commands, files, has_backend, render, running as servers, sends_to, sockets,
};
use handover_core::router::{Member, Names};
use handover_core::settings::HaproxyRouter;
use handover_host::protocol::{Door, FileRead, Process, Processes, Said, SessionOp};

use super::{Reach, Router, look, members, process_of, refused, running, writable};
use crate::engine::Inspected;
use crate::event::Event;
use crate::failure::{Exit, Failure, Result};

/// A HAProxy that was found in order.
pub(super) struct Haproxy {
    reach: Reach,
    settings: HaproxyRouter,
    names: Names,
    proxies: Vec<Proxy>,
}

/// One of its containers.
struct Proxy {
    id: String,
    name: String,
    /// Program and files, for a test of the configuration.
    test: Vec<String>,
    file: String,
    before: String,
    current: RefCell<String>,
    socket: String,
    /// Whose an address is or was, in this deploy.
    known: RefCell<BTreeMap<IpAddr, String>>,
}

impl Haproxy {
    pub(super) async fn open(
        reach: &Reach,
        settings: &HaproxyRouter,
        names: &Names,
        wanted: &[String],
        containers: &[Inspected],
    ) -> Result<Self> {
        let mut haproxy =
            Self { reach: reach.clone(), settings: settings.clone(), names: names.clone(), proxies: Vec::new() };
        for container in running(reach, &settings.service).await? {
            let proxy = haproxy.proxy(&container, wanted, containers).await?;
            haproxy.proxies.push(proxy);
        }
        Ok(haproxy)
    }

    async fn proxy(&self, container: &Inspected, wanted: &[String], containers: &[Inspected]) -> Result<Proxy> {
        let name = &container.name;
        let (program, files) = self.started(container).await?;
        let test: Vec<String> = [program, "-c".to_owned()]
            .into_iter()
            .chain(files.iter().flat_map(|file| ["-f".to_owned(), file.clone()]))
            .collect();
        self.test(container, &test).await.map_err(|failure| Failure {
            hint: Some(format!("put the configuration of {name} right first; nothing was changed")),
            ..failure
        })?;
        let (file, before, read_only) = self.configuration(container, &files).await?;
        let here = members(container, containers)?;
        let place = format!("{file} in {name}");
        self.rendered(&before, &here).map_err(|error| refused(&place, error))?;
        // Only their names count in the file.
        let unspecified = IpAddr::from([0, 0, 0, 0]);
        let lasting: Vec<Member> =
            wanted.iter().map(|name| Member { name: name.clone(), address: unspecified }).collect();
        if self.rendered(&before, &lasting).map_err(|error| refused(&place, error))? != before {
            writable(&file, name, read_only)?;
        }
        let socket = self.socket(container, &files).await?;
        let known = here.iter().map(|member| (member.address, member.name.clone()));
        let known = RefCell::new(self.names.at.clone().into_iter().chain(known).collect());
        let current = RefCell::new(before.clone());
        let proxy = Proxy { id: container.id.clone(), name: name.clone(), test, file, before, current, socket, known };
        let running = self.servers(&proxy, container).await?;
        if !running
            .iter()
            .any(|server| server.address.is_some_and(|address| proxy.known.borrow().contains_key(&address)))
        {
            let backend = &self.settings.backend;
            return Err(Failure::new(
                Exit::Host,
                format!("backend {backend} of {name} sends to no container of the service"),
            )
            .because("none of its servers has the address of one")
            .hint("see `show servers state` of its runtime API"));
        }
        // Changes nothing, but is refused where the socket does not allow changes.
        let same = running.iter().find_map(|server| Some((server, server.address?)));
        if let Some((server, address)) = same {
            let same =
                format!("set server {}/{} addr {address} port {}", self.settings.backend, server.name, server.port);
            self.say(&proxy, container, &same).await?;
        }
        Ok(proxy)
    }

    fn rendered(
        &self,
        text: &str,
        members: &[Member],
    ) -> std::result::Result<String, handover_core::router::RouterError> {
        render(text, &self.settings.backend, self.settings.port, &self.names, members)
    }

    /// The program and its files, as its first process was started.
    async fn started(&self, container: &Inspected) -> Result<(String, Vec<String>)> {
        let op = SessionOp::Processes { process: process_of(container)? };
        let Processes { processes } = self.reach.session.ask(op).await?;
        let found = processes.iter().find_map(|Process { title, .. }| {
            let program = title.split(' ').next()?;
            let files = files(title);
            (program.rsplit('/').next() == Some("haproxy") && !files.is_empty()).then(|| (program.to_owned(), files))
        });
        found.ok_or_else(|| {
            Failure::new(Exit::Host, format!("no HAProxy runs in {}", container.name))
                .because("none of its processes is a haproxy with `-f` and the path of a file")
                .hint("name the service that runs HAProxy")
        })
    }

    /// The file with the backend, its text, and why it cannot be written if it cannot.
    async fn configuration(&self, container: &Inspected, files: &[String]) -> Result<(String, String, Option<String>)> {
        let backend = &self.settings.backend;
        for file in self.settings.file.as_ref().map(std::slice::from_ref).unwrap_or(files) {
            let FileRead { text, read_only } = self.read(container, file).await?;
            match text {
                Some(text) if self.settings.file.is_some() || has_backend(&text, backend) => {
                    return Ok((file.clone(), text, read_only));
                }
                _ => {}
            }
        }
        match &self.settings.file {
            Some(file) => Err(Failure::new(Exit::Host, format!("{file} is not there in {}", container.name))
                .hint(format!("HAProxy was started with {}", files.join(", ")))),
            None => Err(Failure::new(Exit::Host, format!("{} has no backend {backend}", container.name))
                .because(format!("none of the files that it was started with has it: {}", files.join(", ")))
                .hint("name the backend that its requests to the service go through")),
        }
    }

    async fn socket(&self, container: &Inspected, files: &[String]) -> Result<String> {
        if let Some(socket) = &self.settings.socket {
            return Ok(socket.clone());
        }
        let mut found = Vec::new();
        for file in files {
            found.extend(sockets(&self.read(container, file).await?.text.unwrap_or_default()));
        }
        let admin = found.iter().find(|socket| socket.admin).or(found.first());
        admin.map(|socket| socket.path.clone()).ok_or_else(|| {
            Failure::new(Exit::Host, format!("{} opens no socket for its runtime API", container.name))
                .hint("add to its `global` section: stats socket /run/haproxy.sock mode 600 level admin")
        })
    }

    async fn read(&self, container: &Inspected, file: &str) -> Result<FileRead> {
        let process = process_of(container)?;
        self.reach.session.ask(SessionOp::ReadFile { process, path: file.into() }).await
    }

    async fn write(&self, proxy: &Proxy, container: &Inspected, text: &str) -> Result<()> {
        if *proxy.current.borrow() == text {
            return Ok(());
        }
        let process = process_of(container)?;
        let op = SessionOp::WriteFile { process, path: proxy.file.as_str().into(), text: text.to_owned() };
        let _: serde_json::Value = self.reach.session.ask(op).await?;
        text.clone_into(&mut proxy.current.borrow_mut());
        self.test(container, &proxy.test).await
    }

    async fn test(&self, container: &Inspected, test: &[String]) -> Result<()> {
        let words: Vec<&str> = test.iter().map(String::as_str).collect();
        let (code, printed) = self.reach.engine.exec(&container.id, &words).await?;
        if code == 0 {
            return Ok(());
        }
        Err(Failure::new(Exit::Host, format!("haproxy -c fails in {}", container.name)).because(printed.trim()))
    }

    /// Says a command; an error if HAProxy refuses it.
    async fn say(&self, proxy: &Proxy, container: &Inspected, command: &str) -> Result<String> {
        let op = SessionOp::Converse {
            process: process_of(container)?,
            door: Door::Socket(proxy.socket.as_str().into()),
            text: format!("{command}\n"),
        };
        let place = format!("the runtime API of {} at {}", proxy.name, proxy.socket);
        let said: Result<Said> = self.reach.session.ask(op).await;
        let Said { text } = said.map_err(|failure| {
            Failure::new(Exit::Host, format!("{place} does not answer"))
                .because(failure.why.unwrap_or(failure.what))
                .hint("it is the `stats socket` of its `global` section, with `level admin`")
        })?;
        let refusals = ["Permission denied", "Unknown command", "No such", "Require", "Invalid", "Can't", "'server"];
        if refusals.iter().any(|refusal| text.trim_start().starts_with(refusal)) {
            return Err(Failure::new(Exit::Host, format!("{place} refuses `{command}`"))
                .because(text.trim())
                .hint("it needs `level admin` behind its `stats socket`"));
        }
        Ok(text)
    }

    async fn servers(&self, proxy: &Proxy, container: &Inspected) -> Result<Vec<Running>> {
        let backend = &self.settings.backend;
        let answer = self.say(proxy, container, &format!("show servers state {backend}")).await?;
        servers(&answer, backend).map_err(|error| refused(&proxy.name, error))
    }

    async fn tell_one(&self, proxy: &Proxy, containers: &[Inspected]) -> Result<()> {
        let (container, members) = look(&self.reach, &proxy.id, &proxy.name, containers).await?;
        let container = &container;
        let place = format!("{} in {}", proxy.file, proxy.name);
        let text = self.rendered(&proxy.before, &members).map_err(|error| refused(&place, error))?;
        let previous = proxy.current.borrow().clone();
        if let Err(failure) = self.write(proxy, container, &text).await {
            self.write(proxy, container, &previous).await?;
            return Err(failure.hint(format!("{place} is as it was")));
        }
        let HaproxyRouter { backend, port, .. } = &self.settings;
        let before = self.servers(proxy, container).await?;
        proxy.known.borrow_mut().extend(members.iter().map(|member| (member.address, member.name.clone())));
        let known = proxy.known.borrow().clone();
        // With a line for the whole service the file is the same for whatever containers.
        let each = !self.rendered(&proxy.before, &[]).is_ok_and(|none| none == proxy.before);
        for command in commands(&before, backend, *port, &known, &members, each) {
            self.say(proxy, container, &command).await?;
        }
        let now = self.servers(proxy, container).await?;
        if !sends_to(&now, *port, &known, &members, each) {
            return Err(Failure::new(Exit::Host, format!("{} does not send to the new containers", proxy.name))
                .because(format!("its backend {backend} says {now:?}")));
        }
        self.reach.events.emit(Event::RouterTold {
            router: proxy.name.clone(),
            servers: members.into_iter().map(|member| member.name).collect(),
        });
        Ok(())
    }

    async fn tell_all(&self, containers: &[Inspected]) -> Result<()> {
        for proxy in &self.proxies {
            self.tell_one(proxy, containers).await?;
        }
        Ok(())
    }
}

impl Router for Haproxy {
    fn containers(&self) -> Vec<String> {
        self.proxies.iter().map(|proxy| proxy.id.clone()).collect()
    }

    fn closes_idle_clients(&self) -> bool {
        false
    }

    fn names<'a>(&'a self, containers: &'a [Inspected]) -> LocalBoxFuture<'a, Result<bool>> {
        async move {
            for proxy in &self.proxies {
                let (_, members) = look(&self.reach, &proxy.id, &proxy.name, containers).await?;
                let named = self.rendered(&proxy.before, &members);
                if !named.is_ok_and(|text| text == *proxy.current.borrow()) {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        .boxed_local()
    }

    fn tell<'a>(&'a self, containers: &'a [Inspected]) -> LocalBoxFuture<'a, Result<()>> {
        self.tell_all(containers).boxed_local()
    }

    // What its file says follows from the containers, and they are those that it named at first.
    fn restore<'a>(&'a self, containers: &'a [Inspected]) -> LocalBoxFuture<'a, Result<()>> {
        self.tell_all(containers).boxed_local()
    }

    // It changes nothing but where new connections go: what it sends to old containers has drained with those.
    fn left(&self) -> LocalBoxFuture<'_, Result<Option<String>>> {
        async { Ok(None) }.boxed_local()
    }
}
