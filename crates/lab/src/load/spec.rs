//! What load to make: streams of requests of one kind at one rate.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::wire::{Target, TargetError};

/// All streams of a load, and for how long. As JSON: `{"streams": [{"kind": "new", "rate": 50, "target": "web:80"}]}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadSpec {
    /// The streams; they run side by side.
    pub streams: Vec<StreamSpec>,
    /// How long requests are started; without it, until told to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// The kinds of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// GET, each on a connection of its own.
    New,
    /// GET over a pool of kept-alive connections, by a client that looks before it reuses one; a reused connection that fails
    /// before the first byte of the answer is replaced once (*retried*).
    Keepalive,
    /// POST over a pool of kept-alive connections; the body takes a while to send. Never retried.
    Post,
    /// POST, each on a connection of its own; the body takes a while to send.
    PostNew,
    /// As keepalive, to `/slow?ms=400`.
    Slow,
    /// GET of `/slow?ms=200` over HTTP/2 with prior knowledge, in streams side by side over few connections. Only what the server
    /// says it has not looked at is sent again (*retried*).
    H2c,
    /// GET of a large body that takes about 2 s, each on a connection of its own.
    Download,
    /// Opens a WebSocket, exchanges messages for about 1 s, closes it. Cut: failed.
    Websocket,
    /// Keeps WebSockets open and exchanges messages over them. Cut: counted as *cut*, and opened again.
    WebsocketLong,
    /// Keeps event streams open. Cut: counted as *cut*, and opened again. The rate is that of the events expected.
    Sse,
    /// Datagrams that are answered with a text that ends in them.
    Udp,
    /// `PING`, each on a connection of its own.
    RedisPing,
    /// `version`, each on a connection of its own.
    Memcached,
    /// A line, each on a connection of its own, that is answered with a line that is not empty.
    TcpLine,
}

/// One stream. `kind`, `rate` and `target` are needed, everything else has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamSpec {
    /// The kind of client.
    pub kind: Kind,
    /// Requests per second (for websocket-long: messages; for sse: events expected; of all its connections together).
    pub rate: f64,
    /// `HOST:PORT`, `[IPV6]:PORT`, or with a path `http://HOST:PORT/PATH`.
    pub target: String,
    /// The name in the report [default: the kind, with a number when there are several].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The path with its query [default: the target's, or one that the kind needs].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The Host header [default: the target].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// A network namespace's file to open sockets in, for instance `/run/netns/client`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// After this time without a complete answer a request has failed [default: 10000, udp 1000].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Size of the pool, or number of long connections [default: 8 for pools of HTTP/1.1, 1 for the others].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
    /// Length of a POST's body [default: 65536].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<usize>,
    /// How long sending a POST's body takes, in ten parts [default: 200].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_ms: Option<u64>,
    /// How long a `websocket` stays open [default: 1000].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_ms: Option<u64>,
    /// Pause between a `websocket`'s messages [default: 100].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_ms: Option<u64>,
    /// Udp: a new socket for each datagram, not one for all.
    #[serde(default, skip_serializing_if = "is_false")]
    pub new_socket: bool,
    /// The line that `tcp-line` sends [default: `hello`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// A text that the answer (its first 4 KiB) must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// Statuses 300 to 399 are good, too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub redirects_ok: bool,
    /// WebSockets and udp: any answer is good, not only an echo.
    #[serde(default, skip_serializing_if = "is_false")]
    pub any_reply: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for a reference
fn is_false(value: &bool) -> bool {
    !value
}

/// A spec that makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// No stream at all.
    #[error("no stream: name at least one, for instance --stream new=50@127.0.0.1:8080")]
    NoStreams,
    /// A rate that is no positive number.
    #[error("stream {stream}: the rate must be a positive number, not {rate}")]
    Rate {
        /// The stream.
        stream: String,
        /// Its rate.
        rate: f64,
    },
    /// Two streams of one name.
    #[error("two streams are called {0}")]
    Name(String),
    /// A target that is none.
    #[error("stream {stream}: {source}")]
    Target {
        /// The stream.
        stream: String,
        /// What is wrong.
        #[source]
        source: TargetError,
    },
    /// A time that is no positive number.
    #[error("seconds must be a positive number, not {0}")]
    Seconds(f64),
    /// A text that is no stream.
    #[error("{0:?} is no stream: write KIND=RATE@TARGET[,OPTION=VALUE…]")]
    Text(String),
    /// No such kind.
    #[error("no kind of stream is called {0:?}; there are: {known}", known = Kind::names())]
    Kind(String),
    /// No such option of a stream.
    #[error("stream option {0:?} is unknown or its value is not understood")]
    Option(String),
}

/// A stream that makes sense.
#[derive(Clone, Debug)]
pub(super) struct CheckedStream {
    pub(super) name: String,
    pub(super) target: Target,
    pub(super) spec: StreamSpec,
}

impl LoadSpec {
    /// These streams, until told to stop.
    pub fn new(streams: impl IntoIterator<Item = StreamSpec>) -> Self {
        Self { streams: streams.into_iter().collect(), seconds: None }
    }

    /// Ends by itself after this time.
    #[must_use]
    pub fn for_seconds(mut self, seconds: f64) -> Self {
        self.seconds = Some(seconds);
        self
    }

    pub(super) fn checked(&self) -> Result<Vec<CheckedStream>, SpecError> {
        if self.streams.is_empty() {
            return Err(SpecError::NoStreams);
        }
        if let Some(seconds) = self.seconds.filter(|seconds| !(seconds.is_finite() && *seconds > 0.0)) {
            return Err(SpecError::Seconds(seconds));
        }
        let mut taken = BTreeSet::new();
        self.streams
            .iter()
            .map(|spec| {
                let name = match &spec.name {
                    Some(name) if !taken.insert(name.clone()) => {
                        return Err(SpecError::Name(name.clone()));
                    }
                    Some(name) => name.clone(),
                    None => (1..)
                        .map(|number| match number {
                            1 => spec.kind.to_string(),
                            number => format!("{}-{number}", spec.kind),
                        })
                        .find(|name| taken.insert(name.clone()))
                        .unwrap_or_default(),
                };
                if !(spec.rate.is_finite() && spec.rate > 0.0) {
                    return Err(SpecError::Rate { stream: name, rate: spec.rate });
                }
                let target =
                    spec.target.parse().map_err(|source| SpecError::Target { stream: name.clone(), source })?;
                Ok(CheckedStream { name, target, spec: spec.clone() })
            })
            .collect()
    }
}

impl StreamSpec {
    /// A stream with nothing but defaults.
    pub fn new(kind: Kind, rate: f64, target: impl fmt::Display) -> Self {
        Self {
            kind,
            rate,
            target: target.to_string(),
            name: None,
            path: None,
            host: None,
            netns: None,
            timeout_ms: None,
            connections: None,
            body_bytes: None,
            body_ms: None,
            session_ms: None,
            message_ms: None,
            new_socket: false,
            line: None,
            expect: None,
            redirects_ok: false,
            any_reply: false,
        }
    }

    /// Under this name in the report.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// To this path.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// With this Host header.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// From within this network namespace.
    #[must_use]
    pub fn netns(mut self, path: impl Into<PathBuf>) -> Self {
        self.netns = Some(path.into());
        self
    }

    /// With so many connections.
    #[must_use]
    pub fn connections(mut self, count: usize) -> Self {
        self.connections = Some(count);
        self
    }

    /// Failed after this time.
    #[must_use]
    pub fn timeout_ms(mut self, timeout: u64) -> Self {
        self.timeout_ms = Some(timeout);
        self
    }

    /// The ideal time between two requests.
    pub(super) fn interval(&self) -> Duration {
        Duration::try_from_secs_f64(1.0 / self.rate).unwrap_or(Duration::MAX)
    }

    pub(super) fn timeout(&self) -> Duration {
        let default = if self.kind == Kind::Udp { 1000 } else { 10_000 };
        Duration::from_millis(self.timeout_ms.unwrap_or(default))
    }

    fn set(&mut self, option: &str, value: &str) -> Option<()> {
        let text = || Some(value.to_owned());
        match option {
            "name" => self.name = text(),
            "path" => self.path = text(),
            "host" => self.host = text(),
            "netns" => self.netns = Some(value.into()),
            "line" => self.line = text(),
            "expect" => self.expect = text(),
            "timeout_ms" => self.timeout_ms = Some(value.parse().ok()?),
            "connections" => self.connections = Some(value.parse().ok()?),
            "body_bytes" => self.body_bytes = Some(value.parse().ok()?),
            "body_ms" => self.body_ms = Some(value.parse().ok()?),
            "session_ms" => self.session_ms = Some(value.parse().ok()?),
            "message_ms" => self.message_ms = Some(value.parse().ok()?),
            "new_socket" => self.new_socket = value.parse().ok()?,
            "redirects_ok" => self.redirects_ok = value.parse().ok()?,
            "any_reply" => self.any_reply = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }
}

impl FromStr for StreamSpec {
    type Err = SpecError;

    /// `KIND=RATE@TARGET[,OPTION=VALUE…]`; an option that is true or false may stand alone. A value that contains a comma
    /// needs JSON.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || SpecError::Text(text.to_owned());
        let mut parts = text.split(',');
        let (kind, rest) = parts.next().and_then(|first| first.split_once('=')).ok_or_else(wrong)?;
        let (rate, target) = rest.split_once('@').ok_or_else(wrong)?;
        let rate = rate.parse().map_err(|_| wrong())?;
        let mut spec = Self::new(kind.parse()?, rate, target);
        for part in parts {
            let (option, value) = part.split_once('=').unwrap_or((part, "true"));
            spec.set(option, value).ok_or_else(|| SpecError::Option(part.to_owned()))?;
        }
        Ok(spec)
    }
}

impl Kind {
    fn names() -> String {
        let names = <Self as clap::ValueEnum>::value_variants().iter().map(Self::to_string);
        names.collect::<Vec<_>>().join(", ")
    }
}

impl FromStr for Kind {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        clap::ValueEnum::from_str(text, false).map_err(|_| SpecError::Kind(text.to_owned()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = clap::ValueEnum::to_possible_value(self);
        formatter.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_from_one_argument() {
        let text = "post-new=2.5@http://[::1]:80/up?a=b,name=uploads,body_ms=50,netns=/run/netns/c,redirects_ok";
        let mut expected =
            StreamSpec::new(Kind::PostNew, 2.5, "http://[::1]:80/up?a=b").named("uploads").netns("/run/netns/c");
        (expected.body_ms, expected.redirects_ok) = (Some(50), true);
        assert_eq!(text.parse(), Ok(expected));
    }

    #[test]
    fn what_is_no_stream_is_refused_in_words() {
        let refused = |text: &str| text.parse::<StreamSpec>().expect_err(text).to_string();
        assert!(refused("new").contains("KIND=RATE@TARGET"));
        assert!(refused("old=1@a:1").contains("websocket-long"));
        assert!(refused("new=1@a:1,nmae=x").contains("nmae"));
    }

    #[test]
    fn json_reads_back_as_it_was_written() {
        let spec = LoadSpec::new([StreamSpec::new(Kind::WebsocketLong, 12.5, "a:1").connections(3)]).for_seconds(1.5);
        let text = serde_json::to_string(&spec).expect("writes");
        assert_eq!(
            text,
            r#"{"streams":[{"kind":"websocket-long","rate":12.5,"target":"a:1","connections":3}],"seconds":1.5}"#
        );
        assert_eq!(serde_json::from_str::<LoadSpec>(&text).expect("reads"), spec);
        assert!(serde_json::from_str::<LoadSpec>(r#"{"streams":[],"second":1}"#).is_err());
    }

    #[test]
    fn streams_get_names_of_their_own() {
        let new = StreamSpec::new(Kind::New, 1.0, "a:1");
        let spec = LoadSpec::new([new.clone(), new.clone(), new.clone().named("x")]);
        let names: Vec<_> = spec.checked().expect("good").into_iter().map(|stream| stream.name).collect();
        assert_eq!(names, ["new", "new-2", "x"]);
        let twice = LoadSpec::new([new.clone().named("x"), new.named("x")]);
        assert_eq!(twice.checked().expect_err("twice"), SpecError::Name("x".into()));
    }
}
