//! Proxies of the user's own, and the services behind them that publish no port.

use super::Stack;
use super::docker::docker_lines;
use super::net::engine_socket;

/// Traefik, which sends to the containers of its own project that have [`LABELS`].
pub(crate) const TRAEFIK: &str = r#"
  traefik:
    image: handover-lab/traefik:3.7
    command:
      - --providers.docker.exposedByDefault=false
      - --providers.docker.constraints=Label(`com.docker.compose.project`,`${COMPOSE_PROJECT_NAME}`)
      - --entryPoints.web.address=:80
      - --log.level=DEBUG
    ports:
      - "${PORT}:80"
    volumes:
      - ${DOCKER_SOCKET}:/var/run/docker.sock:ro
"#;

/// Traefik, which sends to the containers of other projects that name its network in a label.
pub(crate) const TRAEFIK_OUTSIDE: &str = r#"
  traefik:
    image: handover-lab/traefik:3.7
    command:
      - --providers.docker.exposedByDefault=false
      - --providers.docker.constraints=Label(`traefik.docker.network`,`${NETWORK}`)
      - --entryPoints.web.address=:80
      - --log.level=DEBUG
    ports:
      - "${PORT}:80"
    volumes:
      - ${DOCKER_SOCKET}:/var/run/docker.sock:ro
"#;

/// The labels by which Traefik finds a service, without one about the service itself.
pub(crate) const LABELS: &str = r#"
    labels:
      traefik.enable: "true"
      traefik.http.routers.app.rule: PathPrefix(`/`)
"#;

/// The labels of a service in another project than Traefik's: they name all there is.
pub(crate) const LABELS_OUTSIDE: &str = r#"
    labels:
      traefik.enable: "true"
      traefik.docker.network: ${NETWORK}
      traefik.http.routers.app.rule: PathPrefix(`/`)
      traefik.http.routers.app.service: app
      traefik.http.services.app.loadbalancer.server.port: "80"
"#;

/// A health check that is asked often.
pub(crate) const HEALTHCHECK: &str = r#"
    healthcheck:
      test: ["CMD", "/handover-lab", "healthcheck", "http://127.0.0.1/healthz"]
      interval: 1s
      timeout: 2s
      retries: 3
"#;

/// The networks of a service that is called from another project over [`NETWORK`], and of its project.
pub(crate) const JOINS: &str = "\n    networks: [default, outside]\n";
/// The network of another project.
pub(crate) const NETWORK: &str = "\nnetworks:\n  outside: { name: \"${NETWORK}\", external: true }\n";

/// The service `app`, with more environment and more keys (each line indented by four).
pub(crate) fn app(environment: &[(&str, &str)], keys: &[&str]) -> String {
    let lines: String = environment.iter().map(|(key, value)| format!("      {key}: \"{value}\"\n")).collect();
    let keys = keys.concat();
    format!("\n  app:\n    image: ${{LAB}}\n    environment:\n      VERSION: ${{VERSION}}\n{lines}{keys}")
}

/// A stack with Traefik that does not run yet, with [`app`] behind it.
pub(crate) fn behind_traefik(name: &str, app: &str) -> Stack {
    let stack = with_images(name, &["handover-lab/traefik:3.7"]);
    stack.compose_file(&format!("services:{TRAEFIK}{app}"));
    stack
}

/// A running project of its own with this proxy, whose network `${NETWORK}` others join, and a project that does not run yet
/// for what is behind. They are to be dropped the second first.
pub(crate) fn outside(name: &str, image: &str, proxy: &str, files: &[(&str, &str)]) -> (Stack, Stack) {
    let mut proxies = with_images(&format!("{name}-proxy"), &[image]);
    let network = format!("{}-net", proxies.name);
    proxies.set("NETWORK", &network);
    proxies.compose_file(&format!("services:{proxy}\nnetworks: {{ default: {{ name: \"${{NETWORK}}\" }} }}\n"));
    for (path, text) in files {
        proxies.write(path, text);
    }
    proxies.compose(&["up", "-d"]).expect_success();
    let mut behind = Stack::new(name);
    behind.set("NETWORK", &network);
    (proxies, behind)
}

/// A stack without a file.
pub(crate) fn with_images(name: &str, images: &[&str]) -> Stack {
    let mut stack = Stack::new(name);
    for image in images.iter().filter(|image| image.starts_with("handover-lab/")) {
        let found = !docker_lines(&["images", "-q", image]).is_empty();
        assert!(found, "the image {image} is not on this engine: scripts/images traefik proxies --engines NAME");
    }
    stack.set("DOCKER_SOCKET", &engine_socket());
    stack
}
