//! Connecting to the engine, by whatever way there is to it ([`crate::outside`]).

use std::sync::Arc;

use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;

use crate::event::Events;
use crate::failure::{Exit, Failure, Result, engine_words};
use crate::outside::Outside;

/// Seconds after which a call that has not answered is given up; a stop may take as long as its grace period.
const CALL_TIMEOUT: u64 = 3600;

/// A connection to the engine. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(super) docker: Docker,
    /// The way to it.
    pub(crate) outside: Arc<dyn Outside>,
    /// Architecture of the engine's host, in the words of images.
    pub(crate) architecture: String,
    /// Whether it runs without root.
    pub(super) rootless: bool,
    pub(crate) events: Events,
}

impl Engine {
    /// Connects to the engine. Fails if it does not answer.
    pub(crate) async fn connect(outside: Arc<dyn Outside>, events: Events) -> Result<Self> {
        let _waiting = events.waiting();
        let way = outside.clone();
        let transport = move |request: BollardRequest| -> crate::outside::Later<'static, _> {
            Box::pin(exchange(way.clone(), request))
        };
        let docker =
            Docker::connect_with_custom_transport(transport, Some("http://docker"), CALL_TIMEOUT, API_DEFAULT_VERSION);
        let docker = docker.map_err(|error| unreachable_engine(&engine_words(&error)))?;
        let docker = docker.negotiate_version().await.map_err(|error| unreachable_engine(&words(&error)))?;
        let docker = with_version_in_path(docker);
        let (version, info) =
            tokio::try_join!(docker.version(), docker.info()).map_err(|error| unreachable_engine(&words(&error)))?;
        let architecture = version.arch.unwrap_or_default();
        let rootless = info.security_options.iter().flatten().any(|option| option == "name=rootless");
        Ok(Self { docker, outside, architecture, rootless, events: events.clone() })
    }
}

/// One request on a connection of its own, which ends with the answer. No connection waits for the next request: the engine may be
/// restarted in between.
async fn exchange(
    outside: Arc<dyn Outside>,
    mut request: BollardRequest,
) -> std::result::Result<Response<Incoming>, bollard::errors::Error> {
    let stream = outside.dial().await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // How it ended is heard by whoever reads the answer.
        let _ = connection.with_upgrades().await;
    });
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse();
    *request.uri_mut() = path.map_err(|error: hyper::http::uri::InvalidUri| std::io::Error::other(error))?;
    request.headers_mut().insert(HOST, HeaderValue::from_static("docker"));
    Ok(sender.send_request(request).await?)
}

/// bollard 0.21 negotiates a version and then leaves it out of the path; the engine would take its own newest.
fn with_version_in_path(docker: Docker) -> Docker {
    let version = docker.client_version();
    let prefix = format!("/v{}.{}", version.major_version, version.minor_version);
    docker.with_request_modifier(move |mut request| {
        let uri = request.uri().to_string();
        let path = request.uri().path();
        if !path.starts_with("/v1.")
            && let Some(at) = uri.find("://").map(|at| at + 3)
            && let Some(slash) = uri[at..].find('/').map(|slash| at + slash)
            && let Ok(with_version) = format!("{}{prefix}{}", &uri[..slash], &uri[slash..]).parse()
        {
            *request.uri_mut() = with_version;
        }
        request
    })
}

fn words(error: &bollard::errors::Error) -> String {
    // The library's own text says only that a client error happened; the cause is further down.
    let mut text = engine_words(error);
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

fn unreachable_engine(why: &str) -> Failure {
    let hint = if why.to_lowercase().contains("permission denied") {
        "run it as root, or as a member of the group `docker`"
    } else {
        "start the engine, or name another with DOCKER_HOST, --host or --context; `docker version` must show a server"
    };
    Failure::new(Exit::Engine, "the Docker engine does not answer").because(why).hint(hint)
}
