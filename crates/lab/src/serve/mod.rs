//! The test service: HTTP and UDP, in a version, with chosen virtues and vices.
//!
//! In a test, [`Service::start`] runs it on threads of its own; the binary awaits [`Running::start`].

mod backend;
mod forward;
mod http;
mod options;
mod redis;
mod udp;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, oneshot, watch};

pub use options::{OnTerm, ServeOptions};

use crate::wire::Target;
use backend::Backend;
use forward::Forward;
use redis::Redis;

/// What all connections share.
#[derive(Debug)]
struct Shared {
    version: String,
    instance: String,
    started: Instant,
    health: Health,
    backend: Option<Backend>,
    forward: Option<Forward>,
    redis: Option<Redis>,
    keepalive: Option<Duration>,
    requests: AtomicU64,
}

/// When `/healthz` says yes.
#[derive(Debug)]
struct Health {
    from: Duration,
    until: Option<Duration>,
    file: Option<std::path::PathBuf>,
}

impl Health {
    fn is_good_at(&self, age: Duration) -> bool {
        age >= self.from
            && self.until.is_none_or(|until| age < until)
            && self.file.as_ref().is_none_or(|file| file.exists())
    }
}

/// A service that is listening, within a tokio runtime.
#[derive(Debug)]
pub struct Running {
    /// The HTTP addresses, with the ports really bound.
    pub http: Vec<SocketAddr>,
    /// The UDP addresses, with the ports really bound.
    pub udp: Vec<SocketAddr>,
    /// The version it says.
    pub version: String,
    /// The instance it says it is: the host's name unless chosen.
    pub instance: String,
    shared: Arc<Shared>,
    stopping: watch::Sender<bool>,
    ended: mpsc::Receiver<()>,
}

impl Running {
    /// Binds all addresses and begins to serve. Does not wait for `boot_ms`; the caller does.
    ///
    /// # Errors
    /// When an address cannot be bound, the version file cannot be read, or `--backend-resolve-once` finds no address.
    pub async fn start(options: &ServeOptions) -> io::Result<Self> {
        let upstream = match &options.backend {
            Some(target) if options.backend_resolve_once => {
                let address = target.resolve().await.map_err(io::Error::other)?;
                Some(Target { path: target.path.clone(), ..address.into() })
            }
            other => other.clone(),
        };
        let (forward, backend) = match (upstream, &options.backend) {
            (Some(upstream), _) if options.backend_forward => (Some(Forward::new(&upstream)?), None),
            (Some(upstream), Some(named)) => (None, Some(Backend::new(upstream, named))),
            _ => (None, None),
        };
        let shared = Arc::new(Shared {
            version: options.effective_version()?,
            instance: options.effective_instance(),
            started: Instant::now(),
            health: Health {
                from: Duration::from_millis(options.ready_after_ms),
                until: options.unhealthy_after_ms.map(Duration::from_millis),
                file: options.health_file.clone(),
            },
            backend,
            forward,
            redis: options.redis.clone().map(Redis::new),
            keepalive: options.keepalive_ms.map(Duration::from_millis),
            requests: AtomicU64::new(0),
        });
        let (stopping, stop) = watch::channel(false);
        let (alive, ended) = mpsc::channel(1);
        let mut running = Self {
            http: Vec::new(),
            udp: Vec::new(),
            version: shared.version.clone(),
            instance: shared.instance.clone(),
            shared: Arc::clone(&shared),
            stopping,
            ended,
        };
        for address in &options.http {
            let listener = TcpListener::bind(address).await.map_err(at(*address))?;
            running.http.push(listener.local_addr()?);
            tokio::spawn(http::accept(listener, Arc::clone(&shared), stop.clone(), alive.clone()));
        }
        for address in &options.udp {
            let socket = UdpSocket::bind(address).await.map_err(at(*address))?;
            running.udp.push(socket.local_addr()?);
            tokio::spawn(udp::echo(socket, Arc::clone(&shared), stop.clone()));
        }
        Ok(running)
    }

    /// How many HTTP requests have come in.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Stops accepting, lets every request under way finish, closes WebSockets and event streams, and returns when no
    /// connection is left.
    pub async fn finish(mut self) {
        self.stopping.send_replace(true);
        // Every connection holds a sender; when the last is gone, the channel says so.
        while self.ended.recv().await.is_some() {}
    }
}

fn at(address: SocketAddr) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("cannot listen at {address}: {error}"))
}

/// A service on a thread of its own, for synchronous tests.
#[derive(Debug)]
pub struct Service {
    /// The HTTP addresses, with the ports really bound.
    pub http: Vec<SocketAddr>,
    /// The UDP addresses, with the ports really bound.
    pub udp: Vec<SocketAddr>,
    shared: Arc<Shared>,
    end: Option<(oneshot::Sender<bool>, std::thread::JoinHandle<()>)>,
}

impl Service {
    /// Starts it and returns when it listens. `boot_ms`, `never_listen` and `exit_after_ms` are the binary's and ignored.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub fn start(options: ServeOptions) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let running = runtime.block_on(Running::start(&options))?;
        let (http, udp) = (running.http.clone(), running.udp.clone());
        let shared = Arc::clone(&running.shared);
        let (sender, receiver) = oneshot::channel();
        let thread = std::thread::Builder::new().name("lab-serve".into()).spawn(move || {
            runtime.block_on(async {
                if receiver.await == Ok(true) {
                    running.finish().await;
                }
            });
            // Dropping the runtime drops all sockets, as the kernel does when a process dies.
        })?;
        Ok(Self { http, udp, shared, end: Some((sender, thread)) })
    }

    /// How many HTTP requests have come in.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Dies at once with everything under way, as most applications do on SIGTERM. So does dropping it.
    pub fn kill(mut self) {
        self.end_it(false);
    }

    /// Stops accepting, finishes what is under way, and returns when that is done.
    pub fn stop_gracefully(mut self) {
        self.end_it(true);
    }

    fn end_it(&mut self, gracefully: bool) {
        if let Some((sender, thread)) = self.end.take() {
            // The thread waits for this word or for the sender's end; neither can go wrong.
            let _ = sender.send(gracefully);
            let _ = thread.join();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end_it(false);
    }
}
