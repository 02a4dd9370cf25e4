//! The HTTP side: connections, routes, bodies.

use std::convert::Infallible;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::{Shared, websocket};
use crate::wire::{FNV_SEED, accept_key, fnv1a};

/// A body that fails cuts its connection (or its stream, with HTTP/2).
type Body = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

const EVENT_INTERVAL: Duration = Duration::from_millis(100);
const DOWNLOAD_INTERVAL: Duration = Duration::from_millis(20);
const LARGEST_DOWNLOAD: u64 = 10_000_000_000;

/// One connection's share of the service.
struct Connection {
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
    under_way: AtomicUsize,
    /// Told each time a request is done.
    done: tokio::sync::Notify,
}

/// Accepts connections until told to stop.
pub(super) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = Arc::new(Connection {
                    shared: Arc::clone(&shared),
                    stop: stop.clone(),
                    alive: alive.clone(),
                    under_way: AtomicUsize::new(0),
                    done: tokio::sync::Notify::new(),
                });
                tokio::spawn(serve(stream, connection));
            }
            // Out of descriptors, or a client that has gone already: do not spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(stream: TcpStream, connection: Arc<Connection>) {
    let _ = stream.set_nodelay(true);
    let handler = Arc::clone(&connection);
    let service = service_fn(move |request| {
        let connection = Arc::clone(&handler);
        async move {
            connection.under_way.fetch_add(1, Ordering::Relaxed);
            let response = connection.answer(request).await;
            connection.under_way.fetch_sub(1, Ordering::Relaxed);
            connection.done.notify_one();
            Ok::<_, Infallible>(response)
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let mut stop = connection.stop.clone();
    tokio::select! {
        _ = &mut serving => return,
        _ = stop.wait_for(|stop| *stop) => {}
        () = connection.idle_for_too_long() => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}

impl Connection {
    async fn idle_for_too_long(&self) {
        let Some(keepalive) = self.shared.keepalive else {
            return std::future::pending().await;
        };
        loop {
            let quiet = tokio::time::timeout(keepalive, self.done.notified()).await.is_err();
            if quiet && self.under_way.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let shared = &self.shared;
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let mut facts = format!("version={} instance={}", shared.version, shared.instance);
        if let Some(forward) = shared.forward.as_ref().filter(|_| request.uri().path() != "/healthz") {
            return match forward.pass_on(request).await {
                Ok(answer) => answer.map(|body| body.map_err(Into::into).boxed_unsync()),
                Err(failure) => text(StatusCode::BAD_GATEWAY, format!("{failure}\n")),
            };
        }
        let (backend_version, mut response) = if request.uri().path() == "/healthz" {
            (None, self.health(&facts))
        } else {
            match self.ask_others(&mut facts).await {
                Ok(backend_version) => (backend_version, self.route(request, &facts).await),
                Err(response) => (None, response),
            }
        };
        for (name, value) in [
            ("x-version", Some(&shared.version)),
            ("x-instance", Some(&shared.instance)),
            ("x-backend-version", backend_version.as_ref()),
        ] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    fn health(&self, facts: &str) -> Response<Body> {
        let shared = &self.shared;
        if shared.health.is_good_at(shared.started.elapsed()) {
            text(StatusCode::OK, format!("ready {facts}\n"))
        } else {
            text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready {facts}\n"))
        }
    }

    /// Asks Redis and the backend, adds what they say to the facts, and returns the backend's version.
    async fn ask_others(&self, facts: &mut String) -> Result<Option<String>, Response<Body>> {
        if let Some(redis) = &self.shared.redis {
            let count = redis
                .increment()
                .await
                .map_err(|failure| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{facts} redis: {failure}\n")))?;
            let _ = write!(facts, " count={count}");
        }
        let Some(backend) = &self.shared.backend else {
            return Ok(None);
        };
        let answer = backend
            .ask()
            .await
            .map_err(|failure| text(StatusCode::BAD_GATEWAY, format!("{facts} backend: {failure}\n")))?;
        let version = answer.head.header("x-version").unwrap_or("unknown").to_owned();
        let _ = write!(facts, " backend_version={version}");
        if let Some(failure) = answer.retried {
            let _ = write!(facts, " backend_retried={:?}", failure.kind);
        }
        Ok(Some(version))
    }

    async fn route(&self, request: Request<Incoming>, facts: &str) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let number = |name: &str, default: u64| query_number(request.uri().query(), name).unwrap_or(default);
        match (request.method(), path.as_str()) {
            (&Method::GET, "/slow") => {
                tokio::time::sleep(Duration::from_millis(number("ms", 400))).await;
                text(StatusCode::OK, format!("{facts} slow\n"))
            }
            (&Method::POST, "/post") => receive(request.into_body(), facts).await,
            (&Method::GET, "/download") => {
                let bytes = number("bytes", 1_000_000).min(LARGEST_DOWNLOAD);
                download(bytes, Duration::from_millis(number("ms", 2000)))
            }
            (&Method::GET, "/events") => self.events(facts),
            (&Method::GET, "/ws") => self.upgrade(request),
            (&Method::GET | &Method::HEAD, path) => match path.strip_prefix("/status/") {
                Some(code) => match code.parse().map(StatusCode::from_u16) {
                    Ok(Ok(status)) => text(status, format!("{facts} path={path}\n")),
                    _ => text(StatusCode::BAD_REQUEST, format!("{code:?} is no status\n")),
                },
                None => text(StatusCode::OK, format!("{facts} path={path}\n")),
            },
            (_, path) => text(StatusCode::METHOD_NOT_ALLOWED, format!("{facts} path={path}\n")),
        }
    }

    fn upgrade(&self, mut request: Request<Incoming>) -> Response<Body> {
        let Some(accept) =
            request.headers().get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).map(accept_key)
        else {
            return text(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket\n".to_owned());
        };
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(websocket::echo(upgrade, self.stop.clone(), self.alive.clone()));
        let mut response = Response::new(whole(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }

    /// A line now and every 100 ms, until the client goes or the service stops.
    fn events(&self, facts: &str) -> Response<Body> {
        let began = tokio::time::Instant::now();
        let state = (0_u32, self.stop.clone(), facts.to_owned());
        let events = stream::unfold(state, move |(number, mut stop, facts)| async move {
            tokio::select! {
                () = tokio::time::sleep_until(began + EVENT_INTERVAL * number) => {}
                _ = stop.wait_for(|stop| *stop) => return None,
            }
            let event = Bytes::from(format!("data: {facts} event={number}\n\n"));
            Some((Ok(Frame::data(event)), (number + 1, stop, facts)))
        });
        let mut response = Response::new(StreamBody::new(events).boxed_unsync());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // nginx would otherwise collect the events.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }
}

/// Reads the whole body, however slowly it comes, and says how long it was.
async fn receive(mut body: Incoming, facts: &str) -> Response<Body> {
    let (mut length, mut hash) = (0, FNV_SEED);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    length += data.len();
                    hash = fnv1a(hash, &data);
                }
            }
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("{facts} body: {error}\n")),
        }
    }
    text(StatusCode::OK, format!("{facts} bytes={length} hash={hash:016x}\n"))
}

/// `bytes` bytes, evenly over this time, with their length said beforehand.
fn download(bytes: u64, over: Duration) -> Response<Body> {
    let pieces = u64::try_from(over.as_millis() / DOWNLOAD_INTERVAL.as_millis()).map_or(1, |pieces| pieces.max(1));
    let began = Instant::now();
    let content = Bytes::from_static(&[b'x'; 64 * 1024]);
    let data = stream::unfold((0, 0), move |(sent, piece): (u64, u64)| {
        let content = content.clone();
        async move {
            if sent == bytes {
                return None;
            }
            // By the end of piece n, n/pieces of all bytes should have gone; large pieces go in several frames.
            let by_now =
                |piece: u64| u64::try_from(u128::from(bytes) * u128::from(piece) / u128::from(pieces)).unwrap_or(bytes);
            let mut piece = piece;
            while by_now(piece) <= sent {
                piece += 1;
            }
            let due = over.mul_f64(piece as f64 / pieces as f64);
            tokio::time::sleep_until((began + due).into()).await;
            let length = (by_now(piece) - sent).min(content.len() as u64);
            let frame = Frame::data(content.slice(..length as usize));
            Some((Ok(frame), (sent + length, piece)))
        }
    });
    let mut response = Response::new(StreamBody::new(data).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    response
}

fn text(status: StatusCode, content: String) -> Response<Body> {
    let mut response = Response::new(whole(content.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn whole(content: Bytes) -> Body {
    Full::new(content).map_err(|never| match never {}).boxed_unsync()
}

fn query_number(query: Option<&str>, name: &str) -> Option<u64> {
    query?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}
