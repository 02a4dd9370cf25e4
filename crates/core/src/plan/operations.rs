//! The plan as an ordered list of operations: what a deploy does to the user's containers and their traffic, first to last.
//!
//! `handover plan` prints this list, [`crate::plan::check`] holds it against the rules of a deploy, and the steps that a run
//! goes through are those of the list. Ways back are no part of it: they undo what was done so far.

use std::fmt;

use crate::compose::project::Port;
use crate::plan::{Action, Plan, StandInPlan};

/// One thing that a deploy does. All names are of services, where nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Compose makes what the stand-in uses and what is not there yet.
    CreateFirst {
        /// Whether networks and volumes are missing.
        resources: bool,
        /// Services without a container that must not run twice.
        services: Vec<String>,
    },
    /// A second copy of these services starts, in the new version.
    BringUp {
        /// Whose copy.
        services: Vec<String>,
    },
    /// Nothing goes on before these containers are ready.
    Gate {
        /// Which containers.
        of: Side,
        /// Of which services.
        services: Vec<String>,
    },
    /// New connections to these ports of the host go to the stand-in.
    Redirect {
        /// The ports, each with the service that publishes it.
        ports: Vec<(String, Port)>,
    },
    /// New connections of these containers to these services go to the stand-in.
    RedirectClients {
        /// Names of the containers.
        clients: Vec<String>,
        /// What they call.
        services: Vec<String>,
    },
    /// Connections that are in flight come to their end.
    Drain {
        /// With which containers.
        of: Side,
        /// Of which services.
        services: Vec<String>,
    },
    /// The real containers are stopped, one tier after the other.
    Stop {
        /// Services that may be stopped side by side, front to back.
        tiers: Vec<Vec<String>>,
    },
    /// Compose gives these services new anonymous volumes when it recreates them, with what their images bring.
    RenewVolumes {
        /// Which services.
        services: Vec<String>,
    },
    /// Compose recreates a service container by container: each new one is started, passes its gate and gets the traffic before
    /// its old one drains and ends.
    Roll {
        /// Which service.
        service: String,
        /// How many containers it has afterwards.
        containers: usize,
        /// How many are replaced side by side; `None` is all.
        at_once: Option<usize>,
        /// The proxy of the user's that is told of each.
        router: Option<String>,
    },
    /// Compose makes, recreates, starts or scales containers in its own way, and removes those that nobody wants.
    Converge {
        /// What it does to which service.
        services: Vec<(String, Action)>,
        /// Names of containers that it removes.
        remove: Vec<String>,
    },
    /// A proxy of the user's is told where a service's containers are now.
    TellRouter {
        /// Of which service.
        service: String,
        /// Which proxy, in words.
        router: String,
    },
    /// What these containers call is real again.
    SwitchClientsBack {
        /// Names of the containers.
        clients: Vec<String>,
    },
    /// New connections to these ports go to the real containers again.
    SwitchBack {
        /// The ports, each with the service that publishes it.
        ports: Vec<(String, Port)>,
    },
    /// The second copy is stopped and removed.
    Remove {
        /// Whose copy.
        services: Vec<String>,
    },
    /// Volumes of old code are removed, where nothing mounts them any more.
    RemoveVolumes {
        /// Their names.
        volumes: Vec<String>,
    },
}

/// Which of two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The containers that Compose makes.
    Real,
    /// The stand-in.
    StandIn,
}

impl Plan {
    /// What a deploy by this plan does, first to last. Nothing, where the plan is refused.
    pub fn operations(&self) -> Vec<Operation> {
        if self.is_empty() || !self.refusals.is_empty() {
            return Vec::new();
        }
        let mut operations = Vec::new();
        if let Some(standin) = &self.standin {
            operations.extend(self.to_the_standin(standin));
        }
        operations.extend(self.converging());
        if let Some(standin) = &self.standin {
            operations.extend(from_the_standin(standin));
        }
        let mut volumes: Vec<String> = self.renew.iter().flat_map(|renewal| renewal.volumes.iter().cloned()).collect();
        volumes.extend(self.inherited_code.iter().cloned());
        volumes.sort();
        volumes.dedup();
        if !volumes.is_empty() {
            operations.push(Operation::RemoveVolumes { volumes });
        }
        operations
    }

    /// Until the real containers are out of the way.
    fn to_the_standin(&self, standin: &StandInPlan) -> Vec<Operation> {
        let members = members(standin);
        let mut drained: Vec<String> = standin.ports.iter().map(|(service, _)| service.clone()).collect();
        drained.extend(standin.inside.iter().flat_map(|inside| inside.members.iter().map(|one| one.service.clone())));
        drained.sort();
        drained.dedup();
        let mut operations = Vec::new();
        if self.create_resources || !self.create_first.is_empty() {
            let (resources, services) = (self.create_resources, self.create_first.clone());
            operations.push(Operation::CreateFirst { resources, services });
        }
        operations.push(Operation::BringUp { services: members.clone() });
        operations.push(Operation::Gate { of: Side::StandIn, services: members });
        operations.push(Operation::Redirect { ports: standin.ports.clone() });
        if let Some(inside) = &standin.inside {
            let services = inside.members.iter().map(|member| member.service.clone()).collect();
            operations.push(Operation::RedirectClients { clients: inside.peers.clone(), services });
        }
        operations.push(Operation::Drain { of: Side::Real, services: drained });
        operations.push(Operation::Stop { tiers: standin.tiers.clone() });
        operations
    }

    /// Until all that Compose makes is ready.
    fn converging(&self) -> Vec<Operation> {
        let rolled = |name: &str| self.rolling.iter().any(|rolling| rolling.service == name);
        let mut operations = Vec::new();
        if !self.renew.is_empty() {
            let services = self.renew.iter().map(|renewal| renewal.service.clone()).collect();
            operations.push(Operation::RenewVolumes { services });
        }
        operations.extend(self.rolling.iter().map(|rolling| Operation::Roll {
            service: rolling.service.clone(),
            containers: rolling.replicas,
            at_once: rolling.update.parallelism,
            router: rolling.router.as_ref().map(|router| router.router.to_string()),
        }));
        let others = self.services.iter().filter(|planned| planned.action != Action::Keep && !rolled(&planned.service));
        let services: Vec<(String, Action)> = others.map(|planned| (planned.service.clone(), planned.action)).collect();
        if !services.is_empty() || !self.remove_orphans.is_empty() {
            operations.push(Operation::Converge { services, remove: self.remove_orphans.clone() });
        }
        let services: Vec<String> = self.settled_services().map(str::to_owned).collect();
        if !services.is_empty() {
            operations.push(Operation::Gate { of: Side::Real, services });
        }
        let told = self.told_afterwards.iter();
        operations.extend(told.map(|(service, router)| Operation::TellRouter {
            service: service.clone(),
            router: router.router.to_string(),
        }));
        operations
    }
}

/// Until nothing of the stand-in is left.
fn from_the_standin(standin: &StandInPlan) -> Vec<Operation> {
    let clients = standin.inside.iter().map(|inside| Operation::SwitchClientsBack { clients: inside.peers.clone() });
    let services = members(standin);
    let rest = [
        Operation::SwitchBack { ports: standin.ports.clone() },
        Operation::Drain { of: Side::StandIn, services: services.clone() },
        Operation::Remove { services },
    ];
    clients.chain(rest).collect()
}

fn members(standin: &StandInPlan) -> Vec<String> {
    standin.tiers.iter().flatten().cloned().collect()
}

impl Operation {
    /// Its name for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateFirst { .. } => "create-first",
            Self::BringUp { .. } => "bring-up",
            Self::Gate { .. } => "gate",
            Self::Redirect { .. } => "redirect",
            Self::RedirectClients { .. } => "redirect-clients",
            Self::Drain { .. } => "drain",
            Self::Stop { .. } => "stop",
            Self::RenewVolumes { .. } => "renew-volumes",
            Self::Roll { .. } => "roll",
            Self::Converge { .. } => "converge",
            Self::TellRouter { .. } => "tell-router",
            Self::SwitchClientsBack { .. } => "switch-clients-back",
            Self::SwitchBack { .. } => "switch-back",
            Self::Remove { .. } => "remove",
            Self::RemoveVolumes { .. } => "remove-volumes",
        }
    }

    /// The services that it touches.
    pub fn services(&self) -> Vec<&str> {
        match self {
            Self::CreateFirst { services, .. }
            | Self::BringUp { services }
            | Self::RenewVolumes { services }
            | Self::Gate { services, .. }
            | Self::RedirectClients { services, .. }
            | Self::Drain { services, .. }
            | Self::Remove { services } => services.iter().map(String::as_str).collect(),
            Self::Redirect { ports } | Self::SwitchBack { ports } => {
                let mut services: Vec<&str> = ports.iter().map(|(service, _)| service.as_str()).collect();
                services.dedup();
                services
            }
            Self::Stop { tiers } => tiers.iter().flatten().map(String::as_str).collect(),
            Self::Roll { service, .. } | Self::TellRouter { service, .. } => vec![service],
            Self::Converge { services, .. } => services.iter().map(|(service, _)| service.as_str()).collect(),
            Self::SwitchClientsBack { .. } | Self::RemoveVolumes { .. } => Vec::new(),
        }
    }
}

/// One line, in the user's words.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateFirst { resources, services } => {
                let resources = resources.then(|| "the missing networks and volumes".to_owned());
                let all: Vec<String> = resources.into_iter().chain(services.iter().cloned()).collect();
                write!(f, "create what the stand-in uses: {}", all.join(", "))
            }
            Self::BringUp { services } => write!(f, "bring up a second copy, the stand-in: {}", services.join(", ")),
            Self::Gate { of: Side::StandIn, .. } => write!(f, "gate: wait until the stand-in is ready"),
            Self::Gate { of: Side::Real, services } => write!(f, "gate: wait until {} ready", are(services)),
            Self::Redirect { ports } => write!(f, "redirect to the stand-in: {}", ports_in_words(ports)),
            Self::RedirectClients { clients, services } => {
                write!(f, "redirect {} to the stand-in, where they call {}", clients.join(", "), services.join(", "))
            }
            Self::Drain { of: Side::StandIn, .. } => write!(f, "drain the stand-in"),
            Self::Drain { of: Side::Real, services } => write!(f, "drain the old containers: {}", services.join(", ")),
            Self::Stop { tiers } => {
                let tiers: Vec<String> = tiers.iter().map(|tier| tier.join(", ")).collect();
                write!(f, "stop the old containers: {}", tiers.join("; then "))
            }
            Self::RenewVolumes { services } => {
                write!(f, "make anonymous volumes anew from the images: {}", services.join(", "))
            }
            Self::Roll { service, containers, at_once, router } => {
                write!(f, "roll {service}")?;
                match (*containers, *at_once) {
                    (..=1, _) => {}
                    (containers, None) => write!(f, " ({containers} containers, all at once)")?,
                    (containers, Some(at_once)) => write!(f, " ({containers} containers, {at_once} at a time)")?,
                }
                let told = router.as_ref().map(|router| format!(", {router} is told")).unwrap_or_default();
                write!(f, ": a new container starts, is ready{told} and has the traffic before its old one ends")
            }
            Self::Converge { services, remove } => write!(f, "Compose {}", converged(services, remove)),
            Self::TellRouter { service, router } => write!(f, "tell {router} where {service} is"),
            Self::SwitchClientsBack { clients } => write!(f, "give back {} to the real containers", clients.join(", ")),
            Self::SwitchBack { ports } => write!(f, "give back to the real containers: {}", ports_in_words(ports)),
            Self::Remove { services } => write!(f, "remove the stand-in: {}", services.join(", ")),
            Self::RemoveVolumes { volumes } => {
                write!(f, "remove old code that nothing mounts any more: {}", volumes.join(", "))
            }
        }
    }
}

fn are(services: &[String]) -> String {
    format!("{} {}", services.join(", "), if services.len() == 1 { "is" } else { "are" })
}

fn converged(services: &[(String, Action)], remove: &[String]) -> String {
    const WORDS: [(&str, &[Action]); 5] = [
        ("recreates", &[Action::StandIn, Action::Recreate, Action::Rolling]),
        ("restarts in place", &[Action::InPlace]),
        ("creates", &[Action::Create]),
        ("starts", &[Action::Start]),
        ("scales", &[Action::Scale]),
    ];
    let of = |actions: &[Action]| -> Vec<String> {
        let some = services.iter().filter(|(_, action)| actions.contains(action));
        some.map(|(service, _)| service.clone()).collect()
    };
    let all = WORDS.map(|(word, actions)| (word, of(actions))).into_iter().chain([("removes", remove.to_vec())]);
    let words = all.filter(|(_, names)| !names.is_empty()).map(|(word, names)| format!("{word} {}", names.join(", ")));
    words.collect::<Vec<_>>().join("; ")
}

/// `8080 (web), 127.0.0.1:53/udp (dns)`.
fn ports_in_words(ports: &[(String, Port)]) -> String {
    let words: Vec<String> = ports.iter().map(|(service, port)| format!("{port} ({service})")).collect();
    format!("{} {}", if words.len() == 1 { "port" } else { "ports" }, words.join(", "))
}

#[cfg(test)]
#[path = "operations_tests.rs"]
mod tests;
