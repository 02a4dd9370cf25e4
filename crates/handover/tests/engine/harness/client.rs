//! Clients in containers.

use std::process::Command;

use handover_lab::load::Report;

use super::docker::{docker, docker_lines, lab_image};

/// A load generator in a container. Dropping it removes it.
pub(crate) struct Client {
    id: String,
}

impl Client {
    /// Whether a container on this network gets an answer from `HOST:PORT`.
    pub(crate) fn reaches(network: &str, target: &str) -> bool {
        let mut ask = Command::new("docker");
        ask.args(["run", "--rm", "--network", network, lab_image(), "healthcheck", &format!("http://{target}/")]);
        ask.output().is_ok_and(|output| output.status.success())
    }

    /// Starts streams, each `KIND=RATE@TARGET[,OPTION=VALUE…]`.
    #[track_caller]
    pub(crate) fn start(network: &str, streams: &[String]) -> Self {
        let mut args = vec!["run", "-d", "--network", network, lab_image(), "load", "--json", "-", "--seconds", "100"];
        for stream in streams {
            args.extend(["--stream", stream]);
        }
        Self { id: docker(&args) }
    }

    /// Ends the load and returns its report.
    #[track_caller]
    pub(crate) fn finish(self) -> Report {
        docker(&["stop", "--time", "30", &self.id]);
        let text = docker(&["logs", &self.id]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("no report: {error}\n{text}"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        docker_lines(&["rm", "-fv", &self.id]);
    }
}
