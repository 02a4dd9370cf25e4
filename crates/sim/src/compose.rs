//! A small Compose: it converges a project by the engine's API, in the order that was measured with 2.26.1 and 2.40.3
//! (`handover_core::compose::calls`).

use std::collections::BTreeMap;

use handover::outside::{ComposeCall, ComposeEnd};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::process::Process;

/// How often Compose looks whether a dependency is healthy.
const LOOK: std::time::Duration = std::time::Duration::from_millis(500);

/// What Compose says when it fails.
type Complaint = String;

struct Compose {
    process: Process,
    engine: Option<String>,
    say: UnboundedSender<String>,
    /// Names of new containers are given by id.
    old: bool,
}

/// What stands behind `up`.
#[derive(Default)]
struct Flags {
    no_recreate: bool,
    no_deps: bool,
    force: bool,
    dry: bool,
    services: Vec<String>,
}

/// Runs Compose to its end.
pub async fn run(process: Process, call: ComposeCall, say: UnboundedSender<String>) -> ComposeEnd {
    let (file, version) = {
        let world = process.sim().world();
        (world.file.clone(), world.compose_version)
    };
    let old = version.starts_with("2.26");
    let compose = Compose { process, engine: call.engine.clone(), say, old };
    let words: Vec<&str> = call.arguments.iter().map(String::as_str).collect();
    let has = |word: &str| words.contains(&word);
    let done = if has("version") {
        Ok(format!("{version}\n"))
    } else if has("--services") {
        Ok(services(&file).keys().map(|name| format!("{name}\n")).collect())
    } else if has("--hash") {
        Ok(services(&file).iter().map(|(name, service)| format!("{name} {}\n", hash(service))).collect())
    } else if has("config") {
        Ok(file.to_string())
    } else if has("pull") || has("build") {
        Ok(String::new())
    } else {
        let document =
            if has("-f") && has("-") { serde_json::from_str(&call.input).unwrap_or(Value::Null) } else { file };
        let behind = |verb: &str| words.iter().position(|word| *word == verb);
        let at = behind("up").or(behind("create")).unwrap_or(words.len());
        let flags = flags(&words[at..]);
        compose.converge(&document, &flags, has("up")).await.map(|()| String::new())
    };
    match done {
        Ok(output) => ComposeEnd { success: true, status: "exit status: 0".to_owned(), output: output.into_bytes() },
        Err(complaint) => {
            let _ = compose.say.send(complaint);
            ComposeEnd { success: false, status: "exit status: 1".to_owned(), output: Vec::new() }
        }
    }
}

fn flags(words: &[&str]) -> Flags {
    let mut flags = Flags::default();
    let mut rest = words.iter().skip(1);
    while let Some(word) = rest.next() {
        match *word {
            "--no-recreate" => flags.no_recreate = true,
            "--no-deps" => flags.no_deps = true,
            "--force-recreate" => flags.force = true,
            "--dry-run" => flags.dry = true,
            "--pull" => drop(rest.next()),
            word if word.starts_with('-') => {}
            word => flags.services.push(word.to_owned()),
        }
    }
    flags
}

fn services(document: &Value) -> BTreeMap<String, Map<String, Value>> {
    let all = document["services"].as_object().into_iter().flatten();
    all.filter_map(|(name, service)| Some((name.clone(), service.as_object()?.clone()))).collect()
}

/// What Compose writes on containers to see later whether the file has changed.
pub fn hash(service: &Map<String, Value>) -> String {
    let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in Value::Object(service.clone()).to_string().bytes() {
        sum = (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{sum:016x}")
}

/// Services with those before them that they depend on.
fn in_order(all: &BTreeMap<String, Map<String, Value>>, wanted: &Flags) -> Vec<String> {
    fn add(name: &str, all: &BTreeMap<String, Map<String, Value>>, deps: bool, order: &mut Vec<String>) {
        let Some(service) = all.get(name).filter(|_| !order.iter().any(|one| one == name)) else { return };
        if deps && let Some(depends) = service.get("depends_on").and_then(Value::as_object) {
            depends.keys().for_each(|one| add(one, all, deps, order));
        }
        order.push(name.to_owned());
    }
    let mut order = Vec::new();
    let names: Vec<&String> =
        if wanted.services.is_empty() { all.keys().collect() } else { wanted.services.iter().collect() };
    names.into_iter().for_each(|name| add(name, all, !wanted.no_deps, &mut order));
    order
}

impl Compose {
    async fn converge(&self, document: &Value, flags: &Flags, start: bool) -> Result<(), Complaint> {
        let project = document["name"].as_str().unwrap_or_default();
        let all = services(document);
        if let Some(unknown) = flags.services.iter().find(|name| !all.contains_key(*name)) {
            return Err(format!("no such service: {unknown}"));
        }
        let order = in_order(&all, flags);
        let before = self.containers(project).await?;
        if flags.dry {
            for name in &order {
                for one in of_service(&before, name) {
                    let word = if flags.force || one.hash != hash(&all[name]) { "Recreate" } else { "Running" };
                    let _ = self.say.send(format!(" DRY-RUN MODE -  Container {}  {word}", one.name));
                }
            }
            return Ok(());
        }
        self.networks(document, project).await?;
        for name in &order {
            self.converge_service(project, document, name, &all[name], &before, flags).await?;
        }
        if !start {
            return Ok(());
        }
        let now = self.containers(project).await?;
        for name in &order {
            self.until_dependencies_are_healthy(&all[name], &now).await?;
            for one in of_service(&now, name).filter(|one| !one.runs) {
                self.post(&format!("/containers/{}/start", one.id), Value::Null).await?;
            }
        }
        Ok(())
    }

    async fn converge_service(
        &self,
        project: &str,
        document: &Value,
        name: &str,
        service: &Map<String, Value>,
        before: &[Found],
        flags: &Flags,
    ) -> Result<(), Complaint> {
        let replicas = service.get("deploy").and_then(|deploy| deploy["replicas"].as_u64()).unwrap_or(1);
        let mut there: Vec<&Found> = of_service(before, name).collect();
        there.sort_by_key(|one| one.number);
        let work = (0..).take(there.len().max(usize::try_from(replicas).unwrap_or(1))).map(|index: usize| {
            let (there, wanted) = (there.get(index).copied(), (index as u64) < replicas);
            async move {
                match there {
                    Some(extra) if !wanted => {
                        self.post(&format!("/containers/{}/stop", extra.id), Value::Null).await?;
                        self.remove(&extra.id).await
                    }
                    Some(old) if flags.no_recreate || (!flags.force && old.hash == hash(service)) => Ok(()),
                    Some(old) => self.recreate(project, document, name, service, old).await,
                    None => {
                        let number = index as u64 + 1;
                        let final_name = final_name(project, name, service, number);
                        let body = body(document, project, name, service, number, &final_name);
                        self.create(&final_name, body).await.map(drop)
                    }
                }
            }
        });
        for done in futures_util::future::join_all(work).await {
            done?;
        }
        Ok(())
    }

    async fn recreate(
        &self,
        project: &str,
        document: &Value,
        name: &str,
        service: &Map<String, Value>,
        old: &Found,
    ) -> Result<(), Complaint> {
        let final_name = final_name(project, name, service, old.number);
        let temporary = format!("{}_{final_name}", &old.id[..12]);
        let new = self.create(&temporary, body(document, project, name, service, old.number, &final_name)).await?;
        self.post(&format!("/containers/{}/stop", old.id), Value::Null).await?;
        self.remove(&old.id).await?;
        let by = if self.old { new } else { temporary };
        self.post(&format!("/containers/{by}/rename?name={final_name}"), Value::Null).await.map(drop)
    }

    async fn until_dependencies_are_healthy(
        &self,
        service: &Map<String, Value>,
        now: &[Found],
    ) -> Result<(), Complaint> {
        let depends = service.get("depends_on").and_then(Value::as_object).into_iter().flatten();
        for (name, _) in depends.filter(|(_, how)| how["condition"] == "service_healthy") {
            for one in of_service(now, name) {
                loop {
                    let found = self.get(&format!("/containers/{}/json", one.id)).await?;
                    match (found["State"]["Status"].as_str(), found["State"]["Health"]["Status"].as_str()) {
                        (Some("exited"), _) => {
                            return Err(format!("dependency failed to start: container {}", one.name));
                        }
                        (_, Some("healthy")) => break,
                        (_, Some("unhealthy")) => return Err(format!("container {} is unhealthy", one.name)),
                        _ => tokio::time::sleep(LOOK).await,
                    }
                }
            }
        }
        Ok(())
    }

    async fn networks(&self, document: &Value, project: &str) -> Result<(), Complaint> {
        let there = self.get("/networks").await?;
        let names: Vec<&str> = there.as_array().into_iter().flatten().filter_map(|one| one["Name"].as_str()).collect();
        for (key, network) in document["networks"].as_object().into_iter().flatten() {
            let name = network["name"].as_str().unwrap_or(key);
            if network["external"] != true && !names.contains(&name) {
                let labels = json!({"com.docker.compose.project": project, "com.docker.compose.network": key});
                self.post("/networks/create", json!({"Name": name, "Labels": labels})).await?;
            }
        }
        Ok(())
    }

    async fn containers(&self, project: &str) -> Result<Vec<Found>, Complaint> {
        let filters = format!("%7B%22label%22%3A%5B%22com.docker.compose.project%3D{project}%22%5D%7D");
        let list = self.get(&format!("/containers/json?all=1&filters={filters}")).await?;
        let found = list.as_array().into_iter().flatten().map(|one| {
            let label = |key: &str| one["Labels"][format!("com.docker.compose.{key}")].as_str().unwrap_or_default();
            Found {
                id: one["Id"].as_str().unwrap_or_default().to_owned(),
                name: one["Names"][0].as_str().unwrap_or_default().trim_start_matches('/').to_owned(),
                service: label("service").to_owned(),
                number: label("container-number").parse().unwrap_or(0),
                hash: label("config-hash").to_owned(),
                runs: one["State"] == "running",
            }
        });
        Ok(found.collect())
    }

    async fn create(&self, name: &str, body: Value) -> Result<String, Complaint> {
        let made = self.post(&format!("/containers/create?name={name}"), body).await?;
        Ok(made["Id"].as_str().unwrap_or_default().to_owned())
    }

    async fn remove(&self, id: &str) -> Result<(), Complaint> {
        self.call("DELETE", &format!("/containers/{id}"), Value::Null).await.map(drop)
    }

    async fn get(&self, path: &str) -> Result<Value, Complaint> {
        self.call("GET", path, Value::Null).await
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value, Complaint> {
        self.call("POST", path, body).await
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Result<Value, Complaint> {
        let called = self.exchange(method, path, body);
        let (status, answer) = match &self.engine {
            // The way in is gone with whoever opened it.
            Some(_) => tokio::select! {
                biased;
                () = self.process.is_killed() => return Err("Cannot connect to the Docker daemon".to_owned()),
                answer = called => answer?,
            },
            None => called.await?,
        };
        if status < 400 {
            return Ok(answer);
        }
        Err(format!("Error response from daemon: {}", answer["message"].as_str().unwrap_or_default()))
    }

    async fn exchange(&self, method: &str, path: &str, body: Value) -> Result<(u16, Value), Complaint> {
        let broken = |error: hyper::Error| format!("error during connect: {error}");
        let connection = match &self.engine {
            Some(door) => self.process.connect_to(door).ok_or("Cannot connect to the Docker daemon")?,
            None => self.process.connect(false),
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(connection)).await.map_err(broken)?;
        let driving = tokio::spawn(connection);
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = Request::builder().method(method).uri(path).header("host", "docker").body(Full::new(body));
        let response = sender.send_request(request.map_err(|error| error.to_string())?).await.map_err(broken)?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
        driving.abort();
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }
}

/// A container of the project.
struct Found {
    id: String,
    name: String,
    service: String,
    number: u64,
    hash: String,
    runs: bool,
}

fn of_service<'a>(all: &'a [Found], name: &str) -> impl Iterator<Item = &'a Found> {
    let name = name.to_owned();
    all.iter().filter(move |one| one.service == name)
}

fn final_name(project: &str, name: &str, service: &Map<String, Value>, number: u64) -> String {
    let chosen = service.get("container_name").and_then(Value::as_str).map(str::to_owned);
    chosen.unwrap_or_else(|| format!("{project}-{name}-{number}"))
}

fn body(
    document: &Value,
    project: &str,
    name: &str,
    service: &Map<String, Value>,
    number: u64,
    final_name: &str,
) -> Value {
    let image = service.get("image").and_then(Value::as_str).unwrap_or_default();
    let mut labels = service.get("labels").and_then(Value::as_object).cloned().unwrap_or_default();
    for (key, value) in [
        ("project", project.to_owned()),
        ("service", name.to_owned()),
        ("container-number", number.to_string()),
        ("config-hash", hash(service)),
        ("image", format!("sha256:{image}")),
        ("oneoff", "False".to_owned()),
    ] {
        labels.insert(format!("com.docker.compose.{key}"), Value::String(value));
    }
    let networks = service.get("networks").and_then(Value::as_object).into_iter().flatten();
    let endpoints = networks.map(|(key, _)| {
        let network = document["networks"][key]["name"].as_str().unwrap_or(key);
        (network.to_owned(), json!({"Aliases": [final_name, name]}))
    });
    let mut bindings: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for port in service.get("ports").and_then(Value::as_array).into_iter().flatten() {
        let inside = format!("{}/{}", port["target"], port["protocol"].as_str().unwrap_or("tcp"));
        let published = port["published"].as_str().unwrap_or_default();
        bindings.entry(inside).or_default().push(json!({"HostIp": "", "HostPort": published}));
    }
    let restart = service.get("restart").and_then(Value::as_str).unwrap_or_default();
    json!({"Image": image, "Cmd": ["serve"], "Labels": labels,
        "HostConfig": {"PortBindings": bindings, "RestartPolicy": {"Name": restart}},
        "NetworkingConfig": {"EndpointsConfig": endpoints.collect::<Map<_, _>>()}})
}
