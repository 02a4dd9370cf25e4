//! Containers: our own two (guard and session helper), and the few things done to the user's: inspect, stop, remove, read
//! the log. Nothing is stopped or removed here that a caller did not name by id.

use bollard::container::{AttachContainerResults, LogOutput};
use bollard::errors::Error;
use bollard::exec::StartExecResults;
use bollard::models::{
    ContainerCreateBody, ContainerStateStatusEnum, EventMessage, ExecConfig, HealthStatusEnum, HostConfig,
    RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, EventsOptions, InspectContainerOptions, ListContainersOptions,
    LogsOptions, RemoveContainerOptions, RemoveVolumeOptions, RenameContainerOptions, StartContainerOptions,
    StopContainerOptions, WaitContainerOptions,
};
use futures_util::future::join_all;
use futures_util::{Stream, StreamExt, TryStreamExt};
use handover_core::gate::{Health, State};
use handover_core::identity::helper_name;
use handover_core::observation::{Endpoint, LABEL_PROJECT, LABEL_ROLE, LABEL_STANDIN_FOR};

use super::connect::Engine;
use crate::failure::{Exit, Failure, Result, engine_status, engine_words};

/// Which of our containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Holds the port rules.
    Guard,
    /// Lives as long as the deploy: the lock, and our hands in the host's kernel.
    Session,
    /// Keeps leads after a rolling deploy, for peers that go on calling an address that is gone.
    Keeper,
    /// Looks at what containers hold open, and can do nothing else: no lock, no network.
    Look,
}

impl Role {
    /// The word on its label and in its name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Session => "session",
            Self::Keeper => "keeper",
            Self::Look => "look",
        }
    }

    /// The hidden command that it runs.
    fn command(self) -> &'static str {
        match self {
            // The same ears and mouth; what it may do is up to its container.
            Self::Look => Self::Session.word(),
            role => role.word(),
        }
    }

    /// Name of its container; unique in the engine, which is what makes the session helper a lock.
    pub(crate) fn container_name(self, project: &str) -> String {
        helper_name(project, self.word())
    }
}

/// A container, inspected.
#[derive(Clone, Debug)]
pub(crate) struct Inspected {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) service: String,
    pub(crate) state: State,
    pub(crate) health: Option<Health>,
    pub(crate) restarts: i64,
    /// Its network namespace, as the session helper reaches it; empty while it does not run.
    pub(crate) sandbox: String,
    pub(crate) networks: Vec<(String, Endpoint)>,
    /// The program that it runs, with its arguments.
    pub(crate) command: String,
    /// Published ports: container port with protocol (`80/tcp`), address on the host, port on the host.
    pub(crate) ports: Vec<(String, String, u16)>,
}

impl Inspected {
    /// Its first process, as the host counts; `None` while it does not run.
    pub(crate) fn process(&self) -> Option<u32> {
        self.sandbox.strip_prefix("/proc/")?.split('/').next()?.parse().ok()
    }
}

impl Engine {
    /// Creates one of our containers; its id. `Ok(None)`: its name is taken.
    pub(crate) async fn create_ours(
        &self,
        role: Role,
        project: &str,
        image: &str,
        holder: &str,
    ) -> Result<Option<String>> {
        let _waiting = self.events.waiting();
        let mut name = role.container_name(project);
        if role == Role::Look {
            // Many may look at once.
            name.push_str(&format!("-{:016x}", self.outside.random()));
        }
        let options = CreateContainerOptions { name: Some(name), ..Default::default() };
        let labels = [
            (LABEL_PROJECT.to_owned(), project.to_owned()),
            (LABEL_ROLE.to_owned(), role.word().to_owned()),
            (LABEL_HOLDER.to_owned(), holder.to_owned()),
        ];
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            entrypoint: Some(vec!["/handover".to_owned()]),
            cmd: Some(vec![role.command().to_owned()]),
            labels: Some(labels.into()),
            open_stdin: Some(true),
            // The session helper and a look end when this connection does; the others outlive it.
            stdin_once: Some(matches!(role, Role::Session | Role::Look)),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            host_config: Some(host_config(role)),
            ..Default::default()
        };
        match self.docker.create_container(Some(options), body).await {
            Ok(created) => Ok(Some(created.id)),
            Err(error) if engine_status(&error) == Some(409) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Attaches to one of our containers that was just created, and starts it. If it does not start, it is removed.
    pub(crate) async fn start_ours(&self, id: &str) -> Result<AttachContainerResults> {
        let _waiting = self.events.waiting();
        let started = async {
            let attached = self.attach(id).await?;
            self.docker.start_container(id, None::<StartContainerOptions>).await?;
            Ok(attached)
        };
        let started = started.await;
        if started.is_err() {
            let _ = self.remove(id).await;
        }
        started
    }

    /// Attaches to a container of ours that runs already.
    pub(crate) async fn attach(&self, id: &str) -> Result<AttachContainerResults> {
        let _waiting = self.events.waiting();
        let options =
            AttachContainerOptions { stream: true, stdin: true, stdout: true, stderr: true, ..Default::default() };
        Ok(self.docker.attach_container(id, Some(options)).await?)
    }

    /// Who holds the lock, if it is held: id of the session helper's container and what its label says.
    pub(crate) async fn lock_holder(&self, project: &str) -> Result<Option<(String, String)>> {
        let _waiting = self.events.waiting();
        let name = Role::Session.container_name(project);
        match self.docker.inspect_container(&name, None::<InspectContainerOptions>).await {
            Ok(found) => {
                let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
                let holder = labels.get(LABEL_HOLDER).cloned().unwrap_or_else(|| "somebody".to_owned());
                Ok(found.id.map(|id| (id, holder)))
            }
            Err(error) if engine_status(&error) == Some(404) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until a container is removed.
    pub(crate) async fn wait_removed(&self, id: &str) {
        let _waiting = self.events.waiting();
        let options = WaitContainerOptions { condition: "removed".to_owned() };
        let _ = self.docker.wait_container(id, Some(options)).try_collect::<Vec<_>>().await;
    }

    /// Ids of the service containers of a Compose project, running or not, with their service.
    pub(crate) async fn containers_of_project(&self, project: &str) -> Result<Vec<(String, String)>> {
        self.service_containers(vec![format!("com.docker.compose.project={project}")]).await
    }

    /// The same of a project's stand-in. Somebody's own project may have that name; its containers are not among them.
    pub(crate) async fn containers_of_standin(&self, standin: &str) -> Result<Vec<(String, String)>> {
        let of = standin.strip_suffix("-standin").unwrap_or(standin);
        let labels = [format!("com.docker.compose.project={standin}"), format!("{LABEL_STANDIN_FOR}={of}")];
        self.service_containers(labels.to_vec()).await
    }

    async fn service_containers(&self, labels: Vec<String>) -> Result<Vec<(String, String)>> {
        let _waiting = self.events.waiting();
        let filters = [("label".to_owned(), labels)].into();
        let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let list = self.docker.list_containers(Some(options)).await?;
        Ok(list
            .into_iter()
            .filter_map(|summary| {
                let labels = summary.labels.unwrap_or_default();
                let one_off = labels.get("com.docker.compose.oneoff").map(String::as_str) == Some("True");
                let service = labels.get("com.docker.compose.service")?.clone();
                (!one_off).then_some((summary.id?, service))
            })
            .collect())
    }

    /// Inspects a container; `None` if it is not there.
    pub(crate) async fn inspect(&self, id: &str) -> Result<Option<Inspected>> {
        let _waiting = self.events.waiting();
        match self.docker.inspect_container(id, None::<InspectContainerOptions>).await {
            Ok(found) => Ok(Some(inspected(found))),
            Err(error) if engine_status(&error) == Some(404) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Stops containers side by side, each with its own signal and grace period. One that is gone is as good as stopped.
    pub(crate) async fn stop(&self, ids: &[String]) -> Result<()> {
        self.each(ids, |id| async move { self.docker.stop_container(&id, None::<StopContainerOptions>).await }).await
    }

    /// Starts a container of the user's. One that runs already is as good as started. One that cannot be started, for want of its
    /// program say, is no fault of the engine's.
    pub(crate) async fn start(&self, id: &str) -> Result<()> {
        let _waiting = self.events.waiting();
        match self.docker.start_container(id, None::<StartContainerOptions>).await {
            Err(error) if engine_status(&error) == Some(304) => Ok(()),
            Err(error) if engine_status(&error).is_some() => {
                Err(Failure::new(Exit::DeployFailed, "a container could not be started").because(engine_words(&error)))
            }
            other => Ok(other?),
        }
    }

    /// Gives a container another name.
    pub(crate) async fn rename(&self, id: &str, name: &str) -> Result<()> {
        let _waiting = self.events.waiting();
        Ok(self.docker.rename_container(id, RenameContainerOptions { name: name.to_owned() }).await?)
    }

    /// Removes a container with its anonymous volumes, but leaves one that runs.
    pub(crate) async fn remove_unless_running(&self, id: &str) -> Result<()> {
        self.each(&[id.to_owned()], |id| async move {
            let options = RemoveContainerOptions { v: true, force: false, link: false };
            self.docker.remove_container(&id, Some(options)).await
        })
        .await
    }

    /// Removes a container that has stopped; its anonymous volumes stay, because the one that replaces it has them.
    pub(crate) async fn remove_replaced(&self, id: &str) -> Result<()> {
        self.each(&[id.to_owned()], |id| async move {
            let options = RemoveContainerOptions { v: false, force: false, link: false };
            self.docker.remove_container(&id, Some(options)).await
        })
        .await
    }

    /// Removes stopped or running containers side by side, with their anonymous volumes.
    pub(crate) async fn remove_all(&self, ids: &[String]) -> Result<()> {
        self.each(ids, |id| async move { self.remove(&id).await }).await
    }

    async fn remove(&self, id: &str) -> std::result::Result<(), Error> {
        let options = RemoveContainerOptions { v: true, force: true, link: false };
        self.docker.remove_container(id, Some(options)).await
    }

    /// Calls one after the other would add up their grace periods; all are awaited even if one fails.
    async fn each<F>(&self, ids: &[String], call: impl Fn(String) -> F) -> Result<()>
    where
        F: Future<Output = std::result::Result<(), Error>>,
    {
        let _waiting = self.events.waiting();
        let results = join_all(ids.iter().map(|id| call(id.clone()))).await;
        for result in results {
            match result {
                Err(error) if !matches!(engine_status(&error), Some(304 | 404 | 409)) => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Runs a command inside a container and waits for its end: its exit code and what it printed, its complaints last.
    pub(crate) async fn exec(&self, id: &str, command: &[&str]) -> Result<(i64, String)> {
        let _waiting = self.events.waiting();
        let config = ExecConfig {
            cmd: Some(command.iter().map(|word| (*word).to_owned()).collect()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let made = self.docker.create_exec(id, config).await?;
        // Apart from each other: a line of the one may come in two chunks, with one of the other in between.
        let (mut printed, mut complained) = (Vec::new(), Vec::new());
        if let StartExecResults::Attached { mut output, .. } = self.docker.start_exec(&made.id, None).await? {
            while let Some(Ok(chunk)) = output.next().await {
                match chunk {
                    LogOutput::StdErr { message } => complained.extend_from_slice(&message),
                    other => printed.extend_from_slice(other.as_ref()),
                }
            }
        }
        let printed = String::from_utf8_lossy(&printed).into_owned() + &String::from_utf8_lossy(&complained);
        let ended = self.docker.inspect_exec(&made.id).await?;
        Ok((ended.exit_code.unwrap_or(-1), printed))
    }

    /// Removes a volume if nothing mounts it; whether it is gone.
    pub(crate) async fn remove_volume_if_unused(&self, name: &str) -> bool {
        let _waiting = self.events.waiting();
        self.docker.remove_volume(name, None::<RemoveVolumeOptions>).await.is_ok()
    }

    /// The last lines of a container's log.
    pub(crate) async fn last_log_lines(&self, id: &str, count: usize) -> Vec<String> {
        let _waiting = self.events.waiting();
        let options = LogsOptions { stdout: true, stderr: true, tail: count.to_string(), ..Default::default() };
        let chunks: Vec<LogOutput> =
            self.docker.logs(id, Some(options)).filter_map(|chunk| async { chunk.ok() }).collect().await;
        let text: String = chunks.iter().map(|chunk| String::from_utf8_lossy(chunk.as_ref()).into_owned()).collect();
        text.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Ids of containers of whatever project that start or join a network from now on. Ends with the connection.
    pub(crate) fn newcomers(&self) -> impl Stream<Item = String> + use<> {
        let filters = [
            ("type".to_owned(), ["container", "network"].map(str::to_owned).to_vec()),
            ("event".to_owned(), ["start", "connect"].map(str::to_owned).to_vec()),
        ];
        let events = self.docker.events(Some(EventsOptions { filters: Some(filters.into()), ..Default::default() }));
        events.filter_map(|event| async move {
            let actor = event.ok()?.actor?;
            // A network's event names the container among its attributes.
            actor.attributes.and_then(|mut attributes| attributes.remove("container")).or(actor.id)
        })
    }

    /// Events of the containers of a Compose project: those that the engine still remembers (its last 256), then all from now on.
    /// A stream begins when it is first asked, and what happens between a look at a container and that would else be missed.
    pub(crate) fn container_events(
        &self,
        project: &str,
    ) -> impl Stream<Item = std::result::Result<EventMessage, Error>> + use<> {
        let filters = [
            ("type".to_owned(), vec!["container".to_owned()]),
            ("label".to_owned(), vec![format!("com.docker.compose.project={project}")]),
            // Each run of a HEALTHCHECK is three more events; they say nothing.
            ("event".to_owned(), ["start", "die", "destroy", "health_status"].map(str::to_owned).to_vec()),
        ];
        // The first second of the engine's time: everything that it remembers.
        let since = Some("1".to_owned());
        self.docker.events(Some(EventsOptions { since, filters: Some(filters.into()), ..Default::default() }))
    }
}

/// Label on our containers: who deploys, in words.
const LABEL_HOLDER: &str = "handover.holder";

fn host_config(role: Role) -> HostConfig {
    let mut config = HostConfig {
        network_mode: Some("host".to_owned()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(vec!["NET_ADMIN".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        // Where the engine remaps users, only so does a container get the host's namespaces.
        userns_mode: Some("host".to_owned()),
        ..Default::default()
    };
    match role {
        Role::Guard => {
            // Where the engine remaps users, the image's files are not the guard's, and it keeps its rules among them.
            config.cap_add = Some(["NET_ADMIN", "DAC_OVERRIDE"].map(str::to_owned).to_vec());
            config.restart_policy =
                Some(RestartPolicy { name: Some(RestartPolicyNameEnum::UNLESS_STOPPED), maximum_retry_count: None });
        }
        Role::Session | Role::Keeper => {
            config.auto_remove = Some(true);
            // By /proc/<pid>/ns/net into the network namespaces of containers, also of those that start later: the engine's
            // own files for them appear in here only where the host shares its mounts, and not every host does.
            config.pid_mode = Some("host".to_owned());
            let mut needed = ["NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_NICE", "SYS_PTRACE"].to_vec();
            // Routers' files belong to whoever runs the proxy.
            needed.extend((role == Role::Session).then_some("DAC_OVERRIDE"));
            config.cap_add = Some(needed.into_iter().map(str::to_owned).collect());
            // Older engines' seccomp profiles do not know pidfd_getfd, by which a drain takes connections over.
            let security = ["no-new-privileges", "apparmor=unconfined", "seccomp=unconfined"];
            config.security_opt = Some(security.map(str::to_owned).to_vec());
            config.readonly_rootfs = Some(true);
        }
        Role::Look => {
            config.auto_remove = Some(true);
            config.network_mode = Some("none".to_owned());
            config.pid_mode = Some("host".to_owned());
            config.cap_add = Some(["DAC_READ_SEARCH", "SYS_PTRACE"].map(str::to_owned).to_vec());
            config.security_opt = Some(["no-new-privileges", "apparmor=unconfined"].map(str::to_owned).to_vec());
            config.readonly_rootfs = Some(true);
        }
    }
    config
}

fn inspected(found: bollard::models::ContainerInspectResponse) -> Inspected {
    let state = found.state.unwrap_or_default();
    let settings = found.network_settings.unwrap_or_default();
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    let ports = settings.ports.unwrap_or_default().into_iter().flat_map(|(target, bindings)| {
        bindings.unwrap_or_default().into_iter().filter_map(move |binding| {
            let published = binding.host_port?.parse().ok()?;
            Some((target.clone(), binding.host_ip.unwrap_or_default(), published))
        })
    });
    let networks = settings.networks.unwrap_or_default().into_iter().map(|(name, endpoint)| {
        let address = |text: Option<String>| text.and_then(|text| text.parse().ok());
        let endpoint = Endpoint {
            network_id: endpoint.network_id.unwrap_or_default(),
            address: address(endpoint.ip_address),
            address_v6: endpoint.global_ipv6_address.and_then(|text| text.parse().ok()),
            gateway: address(endpoint.gateway),
        };
        (name, endpoint)
    });
    Inspected {
        id: found.id.unwrap_or_default(),
        name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        service: labels.get("com.docker.compose.service").cloned().unwrap_or_default(),
        state: match state.status {
            Some(ContainerStateStatusEnum::RUNNING) => State::Running,
            Some(ContainerStateStatusEnum::CREATED) => State::Created,
            // Between its end and its next start; the gate fails it by the restart itself.
            Some(ContainerStateStatusEnum::RESTARTING | ContainerStateStatusEnum::EXITED) => {
                State::Exited(state.exit_code.unwrap_or(-1))
            }
            _ => State::Gone,
        },
        health: state.health.and_then(|health| match health.status {
            Some(HealthStatusEnum::STARTING) => Some(Health::Starting),
            Some(HealthStatusEnum::HEALTHY) => Some(Health::Healthy),
            Some(HealthStatusEnum::UNHEALTHY) => Some(Health::Unhealthy),
            _ => None,
        }),
        restarts: found.restart_count.unwrap_or(0),
        sandbox: match state.pid {
            Some(pid) if pid > 0 => format!("/proc/{pid}/ns/net"),
            _ => String::new(),
        },
        networks: networks.collect(),
        command: found.path.into_iter().chain(found.args.unwrap_or_default()).collect::<Vec<_>>().join(" "),
        ports: ports.collect(),
    }
}
