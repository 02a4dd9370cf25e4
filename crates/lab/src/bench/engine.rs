//! The few questions that the benchmark has for the engine, without a process for each.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value;

use super::{Result, failed, io};

/// An engine behind a Unix socket.
#[derive(Debug)]
pub(super) struct Engine {
    socket: PathBuf,
}

impl Engine {
    /// The engine that `DOCKER_HOST` names, else the machine's.
    pub(super) fn from_environment() -> Result<Self> {
        let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
        match host.strip_prefix("unix://") {
            Some(path) => Ok(Self { socket: path.into() }),
            None => Err(failed("DOCKER_HOST", format!("{host} is no Unix socket; the load runs beside the engine"))),
        }
    }

    /// The file of its socket.
    pub(super) fn socket(&self) -> String {
        self.socket.display().to_string()
    }

    /// The answer to a GET.
    pub(super) fn get(&self, path: &str) -> Result<Value> {
        let what = || format!("GET {path} of {}", self.socket.display());
        let mut stream = UnixStream::connect(&self.socket).map_err(io(what()))?;
        // HTTP/1.0: no chunks, and the end of the answer is the end of the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: engine\r\n\r\n").map_err(io(what()))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(io(what()))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        if head.split(' ').nth(1) != Some("200") {
            return Err(failed(what(), head.lines().next().unwrap_or("no answer")));
        }
        serde_json::from_str(body).map_err(|error| failed(what(), error))
    }

    fn containers(&self, project: &str) -> Result<Vec<Value>> {
        let filter = format!("%7B%22label%22%3A%5B%22com.docker.compose.project%3D{project}%22%5D%7D");
        let answer = self.get(&format!("/containers/json?all=1&filters={filter}"))?;
        Ok(answer.as_array().cloned().unwrap_or_default())
    }

    /// The volumes that a project's containers mount.
    pub(super) fn volumes(&self, project: &str) -> Result<Vec<String>> {
        let containers = self.containers(project)?;
        let mounts = containers.iter().filter_map(|container| container["Mounts"].as_array()).flatten();
        Ok(mounts.filter(|mount| mount["Type"] == "volume").filter_map(|mount| text(&mount["Name"])).collect())
    }

    /// Whether no container of the project waits for its health check any more.
    pub(super) fn is_healthy(&self, project: &str) -> Result<bool> {
        let status = |container: &Value| text(&container["Status"]).unwrap_or_default();
        let waits = |status: String| status.contains("(health: starting)") || status.contains("(unhealthy)");
        Ok(!self.containers(project)?.iter().map(status).any(waits))
    }

    /// All TCP ports that a project's containers expose or publish, at the containers' own addresses.
    pub(super) fn tcp_ports(&self, project: &str) -> Result<Vec<SocketAddr>> {
        let mut ports = Vec::new();
        for container in self.containers(project)? {
            let networks = container["NetworkSettings"]["Networks"].as_object().cloned().unwrap_or_default();
            let address = networks.values().find_map(|network| network["IPAddress"].as_str()?.parse::<IpAddr>().ok());
            let numbers = container["Ports"].as_array().cloned().unwrap_or_default();
            let numbers = numbers
                .iter()
                .filter(|port| port["Type"] == "tcp")
                .filter_map(|port| u16::try_from(port["PrivatePort"].as_u64()?).ok());
            ports.extend(numbers.filter_map(|number| Some(SocketAddr::new(address?, number))));
        }
        ports.sort();
        ports.dedup();
        Ok(ports)
    }
}

pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}
