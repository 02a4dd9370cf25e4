//! The engine's API over the world: what handover and Compose ask of it, in the shapes of Engine 28.

use std::collections::BTreeMap;
use std::convert::Infallible;

use futures_util::stream;
use handover_core::net::Protocol;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Attached, Behaviour, Console, Container, EngineEvent, Network, Published, Sim, State, no_such};

/// What is answered.
pub type Body = BoxBody<Bytes, Infallible>;

/// A call, read.
pub struct Call {
    method: Method,
    path: Vec<String>,
    query: BTreeMap<String, String>,
    body: Value,
}

impl Call {
    /// Reads a request whole.
    pub async fn read(request: &mut Request<Incoming>) -> Self {
        let bytes = match request.body_mut().collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => Bytes::new(),
        };
        let path = request.uri().path().split('/').filter(|part| !part.is_empty()).map(decoded).collect::<Vec<_>>();
        let path = match path.first() {
            Some(first) if first.starts_with("v1.") => path[1..].to_vec(),
            _ => path,
        };
        let pairs = request.uri().query().unwrap_or_default().split('&');
        let query = pairs.filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.to_owned(), decoded(value)));
        Self {
            method: request.method().clone(),
            path,
            query: query.collect(),
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    /// As a story tells it.
    pub fn words(&self) -> String {
        let name = self.query.get("name").map(|name| format!(" ({name})")).unwrap_or_default();
        format!("{} /{}{name}", self.method, self.path.join("/"))
    }

    fn flag(&self, name: &str) -> bool {
        self.query.get(name).is_some_and(|value| value == "true" || value == "1")
    }

    fn filters(&self) -> BTreeMap<String, Vec<String>> {
        let filters = self.query.get("filters").and_then(|text| serde_json::from_str::<Value>(text).ok());
        let Some(Value::Object(filters)) = filters else { return BTreeMap::new() };
        let values = |value: Value| match value {
            Value::Array(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Value::Object(all) => all.keys().cloned().collect(),
            _ => Vec::new(),
        };
        filters.into_iter().map(|(key, value)| (key, values(value))).collect()
    }
}

/// Text without its percent-encoding.
fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'%' && tail.len() >= 2)
            .then(|| std::str::from_utf8(&tail[..2]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An answer with a JSON body.
pub fn said(status: u16, body: &Value) -> Response<Body> {
    let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let mut response = Response::new(Full::new(bytes).boxed());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

/// A refusal in the engine's words.
pub fn refused((status, message): (u16, String)) -> Response<Body> {
    if status == 304 { said(304, &Value::Null) } else { said(status, &json!({ "message": message })) }
}

/// Answers a call. `upgrade`: the connection, should it no longer be HTTP.
pub async fn answer(sim: &Sim, call: Call, upgrade: Option<OnUpgrade>) -> Response<Body> {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    match (call.method.as_str(), path.as_slice()) {
        ("GET", ["version"]) => said(
            200,
            &json!({"Version": "28.5.2", "ApiVersion": "1.51", "MinAPIVersion": "1.24", "Arch": "amd64", "Os": "linux"}),
        ),
        ("GET", ["info"]) => said(200, &json!({"SecurityOptions": []})),
        ("GET", ["images", "json"]) => said(200, &json!([])),
        ("GET", ["images", name @ .., "json"]) => image(sim, &name.join("/")),
        ("POST", ["images", "create"]) => {
            let get = |key: &str| call.query.get(key).cloned().unwrap_or_default();
            sim.world().images.insert(format!("{}:{}", get("repo"), get("tag")));
            said(200, &json!({"status": "done"}))
        }
        ("GET", ["volumes"]) => said(200, &json!({"Volumes": []})),
        ("DELETE", ["volumes", ..]) => refused((404, "no such volume".to_owned())),
        ("GET", ["networks"]) => networks(sim),
        ("POST", ["networks", "create"]) => create_network(sim, &call.body),
        ("POST", ["networks", name, verb]) => connect(sim, name, verb, &call.body),
        ("GET", ["events"]) => events(sim, &call),
        ("GET", ["containers", "json"]) => list(sim, &call),
        ("POST", ["containers", "create"]) => create(sim, &call),
        (method, ["containers", named, rest @ ..]) => {
            let Some(id) = sim.world().find(named).map(|one| one.id.clone()) else {
                return refused((404, no_such(named)));
            };
            container(sim, &id, method, rest, &call, upgrade).await
        }
        _ => refused((404, format!("page not found: {}", call.words()))),
    }
}

async fn container(
    sim: &Sim,
    id: &str,
    method: &str,
    rest: &[&str],
    call: &Call,
    upgrade: Option<OnUpgrade>,
) -> Response<Body> {
    match (method, rest) {
        ("GET", ["json"]) => said(200, &inspected(sim, id)),
        ("GET", ["logs"]) => said(200, &Value::Null),
        ("POST", ["start"]) => match sim.start(id) {
            Ok(()) => said(204, &Value::Null),
            Err(refusal) => refused(refusal),
        },
        ("POST", ["stop"]) => {
            sim.world().touched.push((id.to_owned(), "stopped"));
            match sim.stop(id).await {
                Ok(()) => said(204, &Value::Null),
                Err(refusal) => refused(refusal),
            }
        }
        ("POST", ["rename"]) => {
            let name = call.query.get("name").cloned().unwrap_or_default();
            let mut world = sim.world();
            if world.find(&name).is_some_and(|other| other.id != id) {
                return refused((409, format!("Conflict. The container name {name} is already in use")));
            }
            world.touched.push((id.to_owned(), "renamed"));
            if let Some(container) = world.containers.get_mut(id) {
                container.name = name;
            }
            world.tell("container", "rename", id, &[]);
            said(204, &Value::Null)
        }
        ("POST", ["wait"]) => {
            let mut changed = sim.world().changed.subscribe();
            while sim.world().containers.contains_key(id) && changed.changed().await.is_ok() {}
            said(200, &json!({"StatusCode": 0}))
        }
        ("POST", ["attach"]) => attach(sim, id, upgrade),
        ("DELETE", []) => {
            let runs = sim.world().containers.get(id).is_some_and(Container::runs);
            if runs && !call.flag("force") {
                return refused((409, "You cannot remove a running container".to_owned()));
            }
            sim.world().touched.push((id.to_owned(), "removed"));
            sim.remove_by_force(id);
            said(204, &Value::Null)
        }
        _ => refused((404, format!("page not found: {}", call.words()))),
    }
}

fn image(sim: &Sim, reference: &str) -> Response<Body> {
    if !sim.world().images.contains(reference) {
        return refused((404, format!("No such image: {reference}")));
    }
    said(200, &json!({"Id": format!("sha256:{reference}"), "Architecture": "amd64", "Config": {}}))
}

fn networks(sim: &Sim) -> Response<Body> {
    let world = sim.world();
    let all = world.networks.iter().map(|(name, network)| {
        json!({"Name": name, "Id": network.id, "Driver": "bridge", "Labels": network.labels, "Options": {},
            "IPAM": {"Config": [{"Subnet": format!("{}/24", network.address(0))}]}})
    });
    said(200, &all.collect())
}

fn create_network(sim: &Sim, body: &Value) -> Response<Body> {
    let mut world = sim.world();
    let name = body["Name"].as_str().unwrap_or_default().to_owned();
    let id = world.fresh_id();
    let subnet = u8::try_from(world.networks.len()).unwrap_or(200);
    world.networks.entry(name).or_insert(Network { id: id.clone(), subnet, labels: texts(&body["Labels"]) });
    said(201, &json!({ "Id": id }))
}

fn connect(sim: &Sim, network: &str, verb: &str, body: &Value) -> Response<Body> {
    let mut world = sim.world();
    let Some(id) = world.find(body["Container"].as_str().unwrap_or_default()).map(|one| one.id.clone()) else {
        return refused((404, "No such container".to_owned()));
    };
    if let Some(container) = world.containers.get_mut(&id) {
        if verb == "disconnect" {
            container.attached.remove(network);
        } else {
            let aliases = names(&body["EndpointConfig"]["Aliases"]);
            container.attached.insert(network.to_owned(), Attached { aliases, address: None });
        }
    }
    world.has_changed();
    said(200, &Value::Null)
}

fn names(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    let all = value.as_object().into_iter().flatten();
    all.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn create(sim: &Sim, call: &Call) -> Response<Body> {
    let mut world = sim.world();
    let name = call.query.get("name").cloned().unwrap_or_default();
    if world.find(&name).is_some() {
        return refused((409, format!("Conflict. The container name {name} is already in use")));
    }
    let body = &call.body;
    let image = body["Image"].as_str().unwrap_or_default().to_owned();
    if !world.images.contains(&image) {
        return refused((404, format!("No such image: {image}")));
    }
    let host = &body["HostConfig"];
    let endpoints = body["NetworkingConfig"]["EndpointsConfig"].as_object();
    let attached = endpoints
        .into_iter()
        .flatten()
        .map(|(network, endpoint)| (network.clone(), Attached { aliases: names(&endpoint["Aliases"]), address: None }));
    let bindings = host["PortBindings"].as_object();
    let ports = bindings.into_iter().flatten().flat_map(|(port, bindings)| {
        let (target, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let (target, udp) = (target.parse().unwrap_or(0), protocol == "udp");
        let fixed = |binding: &Value| binding["HostPort"].as_str().and_then(|port| port.parse().ok());
        bindings.as_array().into_iter().flatten().map(move |binding| Published {
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            target,
            fixed: fixed(binding),
            bound: None,
        })
    });
    let words: Vec<String> = names(&body["Entrypoint"]).into_iter().chain(names(&body["Cmd"])).collect();
    let id = world.fresh_id();
    let restart = host["RestartPolicy"]["Name"].as_str().unwrap_or_default();
    let container = Container {
        id: id.clone(),
        name,
        command: words.join(" "),
        labels: texts(&body["Labels"]),
        state: State::Created,
        attached: attached.collect(),
        ports: ports.collect(),
        behaviour: world
            .behaviours
            .get(&image)
            .copied()
            .unwrap_or(Behaviour { ready_after: Some(std::time::Duration::ZERO), ..Behaviour::default() }),
        restarts_itself: matches!(restart, "always" | "unless-stopped"),
        restarts: 0,
        auto_remove: host["AutoRemove"].as_bool().unwrap_or(false),
        stdin_once: body["StdinOnce"].as_bool().unwrap_or(false),
        open: 0,
        console: Console::default(),
        rules_file: None,
        image,
    };
    world.containers.insert(id.clone(), container);
    world.tell("container", "create", &id, &[]);
    said(201, &json!({"Id": id, "Warnings": []}))
}

fn endpoints(sim_networks: &BTreeMap<String, Network>, one: &Container) -> Value {
    let all = one.attached.iter().map(|(name, attached)| {
        let network = sim_networks.get(name);
        let address = attached.address.map(|address| address.to_string()).unwrap_or_default();
        let gateway = network.filter(|_| attached.address.is_some()).map(|network| network.address(1).to_string());
        let value = json!({"NetworkID": network.map(|network| network.id.clone()), "IPAddress": address,
            "Gateway": gateway.unwrap_or_default(), "Aliases": attached.aliases});
        (name.clone(), value)
    });
    Value::Object(all.collect())
}

fn list(sim: &Sim, call: &Call) -> Response<Body> {
    let world = sim.world();
    let filters = call.filters();
    let wanted = |one: &&Container| {
        let labels = filters.get("label").into_iter().flatten();
        let mut labels = labels.map(|label| label.split_once('=').unwrap_or((label, "")));
        let fits =
            |(key, value): (&str, &str)| one.label(key) == value || (value.is_empty() && one.labels.contains_key(key));
        labels.all(fits) && (call.flag("all") || one.runs())
    };
    let all = world.containers.values().filter(wanted).map(|one| {
        let ports = one.ports.iter().filter_map(|port| {
            let kind = if port.protocol == Protocol::Udp { "udp" } else { "tcp" };
            Some(json!({"IP": "0.0.0.0", "PrivatePort": port.target, "PublicPort": port.bound?, "Type": kind}))
        });
        let status = match one.state {
            State::Created => "Created".to_owned(),
            State::Running { .. } => "Up 1 second".to_owned(),
            State::Exited(code) => format!("Exited ({code}) 1 second ago"),
        };
        json!({"Id": one.id, "Names": [format!("/{}", one.name)], "Image": one.image, "Command": one.command,
            "ImageID": format!("sha256:{}", one.image), "Labels": one.labels, "State": one.state_word(), "Status": status,
            "NetworkSettings": {"Networks": endpoints(&world.networks, one)}, "Mounts": [],
            "Ports": ports.collect::<Vec<_>>(), "Created": 1})
    });
    said(200, &all.collect())
}

fn inspected(sim: &Sim, id: &str) -> Value {
    let world = sim.world();
    let Some(one) = world.containers.get(id) else { return Value::Null };
    let mut ports: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for port in &one.ports {
        let kind = if port.protocol == Protocol::Udp { "udp" } else { "tcp" };
        let bound = ports.entry(format!("{}/{kind}", port.target)).or_default();
        bound.extend(port.bound.map(|bound| json!({"HostIp": "0.0.0.0", "HostPort": bound.to_string()})));
    }
    let code = if let State::Exited(code) = one.state { code } else { 0 };
    let mut state = json!({"Status": one.state_word(), "Pid": one.process().unwrap_or(0), "ExitCode": code});
    if one.behaviour.health {
        let healthy =
            one.ready_at().is_some_and(|at| at + std::time::Duration::from_millis(50) <= tokio::time::Instant::now());
        state["Health"] = json!({"Status": if healthy { "healthy" } else { "starting" }});
    }
    let (path, args) = one.command.split_once(' ').unwrap_or((one.command.as_str(), ""));
    json!({"Id": one.id, "Name": format!("/{}", one.name), "Path": path, "Args": [args], "State": state,
        "RestartCount": one.restarts, "Image": format!("sha256:{}", one.image),
        "Config": {"Labels": one.labels, "Image": one.image}, "NetworkSettings": {"Ports": ports, "Networks": endpoints(&world.networks, one)}})
}

fn events(sim: &Sim, call: &Call) -> Response<Body> {
    let filters = call.filters();
    let wanted = move |event: &EngineEvent| {
        let any = |key: &str, fits: &dyn Fn(&str) -> bool| {
            filters.get(key).is_none_or(|all| all.iter().any(|value| fits(value)))
        };
        let labels = filters.get("label").into_iter().flatten();
        let mut labels = labels.map(|label| label.split_once('=').unwrap_or((label, "")));
        any("type", &|kind| kind == event.kind)
            && any("event", &|action| event.action == action || event.action.starts_with(&format!("{action}:")))
            && labels.all(|(key, value)| event.attributes.get(key).map(String::as_str) == Some(value))
    };
    let (before, told) = {
        let world = sim.world();
        let before: Vec<EngineEvent> =
            if call.query.contains_key("since") { world.log.iter().cloned().collect() } else { Vec::new() };
        (before, world.told.subscribe())
    };
    let line = |event: &EngineEvent| Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{}\n", event.json()))));
    let first: Vec<_> = before.iter().filter(|event| wanted(event)).map(line).collect();
    let later = stream::unfold((told, wanted), move |(mut told, wanted)| async move {
        loop {
            let event = told.recv().await.ok()?;
            if wanted(&event) {
                return Some((line(&event), (told, wanted)));
            }
        }
    });
    let all = futures_util::StreamExt::chain(stream::iter(first), later);
    Response::new(BodyExt::boxed(StreamBody::new(SyncStream(Box::pin(all)))))
}

/// A stream that nobody looks at from two places; a body has to be shareable.
struct SyncStream(std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync>>);

impl futures_util::Stream for SyncStream {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

fn attach(sim: &Sim, id: &str, upgrade: Option<OnUpgrade>) -> Response<Body> {
    let Some(upgrade) = upgrade else { return refused((400, "an attach without an upgrade".to_owned())) };
    let (console, once) = match sim.world().containers.get(id) {
        Some(container) => (container.console.clone(), container.stdin_once),
        None => return refused((404, no_such(id))),
    };
    let mut output = console.output.subscribe();
    let (sim, id) = (sim.clone(), id.to_owned());
    tokio::spawn(async move {
        let Ok(connection) = upgrade.await else { return };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(connection));
        let reading = async {
            let mut buffer = Vec::new();
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = read.read(&mut chunk).await {
                buffer.extend_from_slice(&chunk[..count]);
                while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    let _ = console.input.send(Some(String::from_utf8_lossy(&line).into_owned()));
                }
            }
            if once {
                let _ = console.input.send(None);
            }
        };
        let writing = async {
            let mut changed = sim.world().changed.subscribe();
            let mut has_run = false;
            loop {
                tokio::select! {
                    biased;
                    line = output.recv() => {
                        let Ok(line) = line else { return };
                        let line = format!("{line}\n");
                        let length = u32::try_from(line.len()).unwrap_or(0).to_be_bytes();
                        let frame = [&[1, 0, 0, 0][..], &length, line.as_bytes()].concat();
                        if write.write_all(&frame).await.is_err() || write.flush().await.is_err() {
                            return;
                        }
                    }
                    _ = changed.changed() => {
                        let runs = sim.world().containers.get(&id).is_some_and(Container::runs);
                        has_run |= runs;
                        if has_run && !runs || !sim.world().containers.contains_key(&id) {
                            let _ = write.shutdown().await;
                            return;
                        }
                    }
                }
            }
        };
        tokio::pin!(reading, writing);
        let mut said_all = false;
        loop {
            tokio::select! {
                biased;
                () = &mut writing => return,
                () = &mut reading, if !said_all => said_all = true,
            }
        }
    });
    let mut response = Response::new(Full::new(Bytes::new()).boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", hyper::header::HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", hyper::header::HeaderValue::from_static("tcp"));
    response
}
