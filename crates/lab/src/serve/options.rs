//! The flags (and environment variables) of the test service.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::wire::Target;

/// What the service does on SIGTERM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnTerm {
    /// Exit at once, with everything under way (what most applications do).
    #[default]
    Die,
    /// Stop accepting, finish the requests under way (answered with `Connection: close`, or after a GOAWAY), exit.
    Graceful,
}

/// How the service behaves. [`Default`] listens nowhere; name at least one address.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServeOptions {
    /// Serve HTTP/1.1, and HTTP/2 with prior knowledge (h2c), at ADDR:PORT (repeatable; in the environment separated by commas).
    #[arg(long, env = "LAB_HTTP", value_name = "ADDR:PORT", value_delimiter = ',')]
    pub http: Vec<SocketAddr>,
    /// Echo UDP at ADDR:PORT (repeatable); the answer is `version=… instance=… ` and the datagram.
    #[arg(long, env = "LAB_UDP", value_name = "ADDR:PORT", value_delimiter = ',')]
    pub udp: Vec<SocketAddr>,
    /// The version to say.
    #[arg(long, env = "VERSION")]
    pub version: Option<String>,
    /// A file whose content is the version to say when none is given; read once, at the start.
    #[arg(long, env = "LAB_VERSION_FILE", value_name = "FILE")]
    pub version_file: Option<PathBuf>,
    /// The instance to say [default: the host's name].
    #[arg(long, env = "LAB_INSTANCE")]
    pub instance: Option<String>,
    /// What to do on SIGTERM.
    #[arg(long, env = "LAB_ON_TERM", value_enum, default_value_t)]
    pub on_term: OnTerm,
    /// Begin to listen only after this time.
    #[arg(long, env = "LAB_BOOT_MS", value_name = "MS", default_value_t)]
    pub boot_ms: u64,
    /// Run, but never listen.
    #[arg(long, env = "LAB_NEVER_LISTEN")]
    pub never_listen: bool,
    /// Exit this time after the start.
    #[arg(long, env = "LAB_EXIT_AFTER_MS", value_name = "MS")]
    pub exit_after_ms: Option<u64>,
    /// The exit code for --exit-after-ms.
    #[arg(long, env = "LAB_EXIT_CODE", value_name = "CODE", default_value_t)]
    pub exit_code: u8,
    /// Ask this HTTP service first, for every request, over pooled kept-alive connections; answer 502 if it fails.
    #[arg(long, env = "LAB_BACKEND", value_name = "URL")]
    pub backend: Option<Target>,
    /// Look the backend's name up once, at the start (as nginx does), and exit if it has no address.
    #[arg(long, env = "LAB_BACKEND_RESOLVE_ONCE")]
    pub backend_resolve_once: bool,
    /// Pass each request on to the backend whole, as a proxy does, and its answer back, instead of asking it first (`/healthz` is
    /// still answered here). A request that was sent is never sent again, not even a GET; it is answered with 502 if it fails.
    #[arg(long, env = "LAB_BACKEND_FORWARD", requires = "backend")]
    pub backend_forward: bool,
    /// Count every request in this Redis (INCR lab:requests); answer 500 if it fails.
    #[arg(long, env = "LAB_REDIS", value_name = "HOST:PORT")]
    pub redis: Option<Target>,
    /// Close a kept-alive connection that has been idle for this time [default: never].
    #[arg(long, env = "LAB_KEEPALIVE_MS", value_name = "MS")]
    pub keepalive_ms: Option<u64>,
    /// `/healthz` answers 503 until this time after it began to listen.
    #[arg(long, env = "LAB_READY_AFTER_MS", value_name = "MS", default_value_t)]
    pub ready_after_ms: u64,
    /// `/healthz` answers 503 from this time after it began to listen.
    #[arg(long, env = "LAB_UNHEALTHY_AFTER_MS", value_name = "MS")]
    pub unhealthy_after_ms: Option<u64>,
    /// `/healthz` answers 503 while this file does not exist.
    #[arg(long, env = "LAB_HEALTH_FILE", value_name = "FILE")]
    pub health_file: Option<PathBuf>,
}

impl ServeOptions {
    /// Options for HTTP at one address in this version.
    pub fn http(address: SocketAddr, version: &str) -> Self {
        Self { http: vec![address], version: Some(version.to_owned()), ..Self::default() }
    }

    /// The version given, or the content of the version file, or `unknown`.
    ///
    /// # Errors
    /// When the version file cannot be read.
    pub fn effective_version(&self) -> io::Result<String> {
        match (&self.version, &self.version_file) {
            (Some(version), _) => Ok(version.clone()),
            (None, Some(file)) => std::fs::read_to_string(file)
                .map(|text| text.trim().to_owned())
                .map_err(|error| io::Error::new(error.kind(), format!("version file {}: {error}", file.display()))),
            (None, None) => Ok("unknown".to_owned()),
        }
    }

    /// The instance given, or the host's name (in a container: its id).
    pub fn effective_instance(&self) -> String {
        let host_name = || std::fs::read_to_string("/proc/sys/kernel/hostname");
        match &self.instance {
            Some(instance) => instance.clone(),
            None => host_name().map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned()),
        }
    }
}
