//! GET and POST, on new and on kept-alive connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::pace::paced;
use super::{StreamContext, contains, sample, sighting};
use crate::load::Kind;
use crate::wire::{Answer, BodyPlan, FNV_SEED, Failure, Pool, RequestPlan, exchange_once, exchange_pooled, fnv1a};

const POOL_SIZE: usize = 8;
const BODY_PARTS: usize = 10;
/// How long a finished connection waits for the server to close it first.
const CLOSING: Duration = Duration::from_millis(500);

/// What all requests of the stream share.
struct Client {
    context: StreamContext,
    plan: RequestPlan,
    /// None: each request on a connection of its own.
    pool: Option<Pool>,
    /// Of the body sent.
    hash: u64,
}

/// Runs the stream.
pub(super) async fn run(context: StreamContext) {
    let spec = &context.spec;
    let posts = matches!(spec.kind, Kind::Post | Kind::PostNew);
    let pooled = matches!(spec.kind, Kind::Keepalive | Kind::Post | Kind::Slow);
    let content: Bytes = (0..spec.body_bytes.unwrap_or(65_536)).map(|at| (at % 251) as u8).collect();
    let hash = fnv1a(FNV_SEED, &content);
    let body = posts.then(|| BodyPlan {
        content,
        over: Duration::from_millis(spec.body_ms.unwrap_or(200)),
        parts: BODY_PARTS,
    });
    let client = Arc::new(Client {
        plan: RequestPlan::new(&context.path(), &context.host(), body, pooled),
        pool: pooled.then(|| Pool::new(context.target.clone(), spec.connections.unwrap_or(POOL_SIZE))),
        hash,
        context: context.clone(),
    });
    paced(&context, |_, due| Arc::clone(&client).request(due)).await;
}

impl Client {
    async fn request(self: Arc<Self>, due: Instant) {
        let context = &self.context;
        let outcome = context
            .within_timeout(async {
                match &self.pool {
                    Some(pool) => exchange_pooled(pool, &self.plan).await.map(|answer| (answer, None)),
                    None => {
                        let (answer, connection) = exchange_once(&context.target, &self.plan).await?;
                        Ok((answer, Some(connection)))
                    }
                }
            })
            .await;
        if let Some(pool) = &self.pool {
            context.recorder.closed_while_idle(context.index, pool.closed_while_idle());
        }
        let (answer, connection) = match outcome {
            Ok(done) => done,
            Err(failure) => return context.record(due, Err(failure)),
        };
        if let Some(failure) = &answer.retried {
            context.recorder.retried(context.index, due, failure);
        }
        let seen = sighting::of_response(&answer.head, &answer.beginning);
        context.recorder.saw(context.index, answer.head_at, seen);
        context.record(due, self.check(&answer));
        if let Some(mut connection) = connection {
            let _ = tokio::time::timeout(CLOSING, connection.wait_for_end()).await;
        }
    }

    fn check(&self, answer: &Answer) -> Result<(), Failure> {
        self.context.check_status(answer)?;
        if let Some(body) = &self.plan.body
            && contains(&answer.beginning, b" hash=")
        {
            let expected = format!("bytes={} hash={:016x}", body.content.len(), self.hash);
            if !contains(&answer.beginning, expected.as_bytes()) {
                return Err(Failure::new("body damaged", sample(&answer.beginning)));
            }
        }
        self.context.check_expected(&answer.beginning)
    }
}
