//! The clients, kind by kind.

mod h2c;
mod http;
mod line;
mod pace;
mod sighting;
mod sse;
mod udp;
mod websocket;
mod websocket_long;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::record::Recorder;
use super::spec::{Kind, StreamSpec};
use crate::wire::{Answer, Failure, Target};

/// What a stream's client needs to know.
#[derive(Clone, Debug)]
pub(super) struct StreamContext {
    pub(super) index: usize,
    /// How many streams there are in all.
    pub(super) count: usize,
    pub(super) spec: StreamSpec,
    pub(super) target: Target,
    pub(super) recorder: Arc<Recorder>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) deadline: Option<Instant>,
}

/// Runs these streams until they are told to stop and have finished what is under way.
pub(super) async fn run_all(contexts: Vec<StreamContext>) {
    let mut streams = JoinSet::new();
    for context in contexts {
        streams.spawn(async move {
            match context.spec.kind {
                Kind::New | Kind::Keepalive | Kind::Post | Kind::PostNew | Kind::Slow | Kind::Download => {
                    http::run(context).await
                }
                Kind::H2c => h2c::run(context).await,
                Kind::Websocket => websocket::run(context).await,
                Kind::WebsocketLong => websocket_long::run(context).await,
                Kind::Sse => sse::run(context).await,
                Kind::Udp => udp::run(context).await,
                Kind::RedisPing | Kind::Memcached | Kind::TcpLine => line::run(context).await,
            }
        });
    }
    while let Some(ended) = streams.join_next().await {
        if let Err(error) = ended
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl StreamContext {
    /// Returns when no more requests shall be started.
    async fn stopped(&self) {
        let mut stop = self.stop.clone();
        let told = stop.wait_for(|stop| *stop);
        match self.deadline {
            Some(deadline) => {
                let _ = tokio::time::timeout_at(deadline.into(), told).await;
            }
            None => drop(told.await),
        }
    }

    /// The path to ask for.
    fn path(&self) -> String {
        let default = match self.spec.kind {
            Kind::Slow => "/slow?ms=400",
            Kind::H2c => "/slow?ms=200",
            Kind::Post | Kind::PostNew => "/post",
            Kind::Download => "/download?bytes=1000000&ms=2000",
            Kind::Websocket | Kind::WebsocketLong => "/ws",
            Kind::Sse => "/events",
            _ => "/",
        };
        let path = self.spec.path.as_deref().or(self.target.path.as_deref());
        path.unwrap_or(default).to_owned()
    }

    /// The Host header.
    fn host(&self) -> String {
        self.spec.host.clone().unwrap_or_else(|| self.target.authority())
    }

    /// Waits for the outcome, at most for the stream's timeout.
    async fn within_timeout<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let timeout = self.spec.timeout();
        match tokio::time::timeout(timeout, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new("timeout", format!("no complete answer within {timeout:?}"))),
        }
    }

    /// Writes down how it went.
    fn record(&self, due: Instant, outcome: Result<(), Failure>) {
        match outcome {
            Ok(()) => self.recorder.succeeded(self.index, due),
            Err(failure) => self.recorder.failed(self.index, due, &failure),
        }
    }

    /// Fails unless the status is a good one.
    fn check_status(&self, answer: &Answer) -> Result<(), Failure> {
        match answer.head.status {
            200..=299 => Ok(()),
            300..=399 if self.spec.redirects_ok => Ok(()),
            status => Err(Failure::new(format!("status {status}"), sample(&answer.beginning))),
        }
    }

    /// Fails unless the answer contains what it should.
    fn check_expected(&self, answer: &[u8]) -> Result<(), Failure> {
        match &self.spec.expect {
            Some(expected) if !contains(answer, expected.as_bytes()) => {
                Err(Failure::new("unexpected answer", sample(answer)))
            }
            _ => Ok(()),
        }
    }

    /// Where in the first interval this stream begins: streams of one rate do not all send at the same instant.
    fn offset(&self, interval: Duration) -> Duration {
        interval.mul_f64((self.index + 1) as f64 / (self.count + 1) as f64)
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

/// The beginning of an answer, to be shown.
fn sample(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(&answer[..answer.len().min(120)]);
    format!("{:?}", text.trim_end())
}
