//! Streams of HTTP/2 with prior knowledge, many at once over few connections.

use std::sync::Arc;
use std::time::Instant;

use super::pace::paced;
use super::{StreamContext, sighting};
use crate::wire::{Failure, H2cPool};

/// Runs the stream.
pub(super) async fn run(context: StreamContext) {
    let pool = H2cPool::new(context.target.clone(), context.spec.connections.unwrap_or(1));
    let shared = Arc::new((context.clone(), pool));
    paced(&context, |number, due| {
        let shared = Arc::clone(&shared);
        async move {
            let (context, pool) = &*shared;
            context.record(due, request(context, pool, number, due).await);
        }
    })
    .await;
}

async fn request(context: &StreamContext, pool: &H2cPool, number: u64, due: Instant) -> Result<(), Failure> {
    let outcome = context.within_timeout(pool.get(number, &context.path(), &context.host())).await;
    context.recorder.closed_while_idle(context.index, pool.replaced());
    let answer = outcome?;
    if let Some(failure) = &answer.retried {
        context.recorder.retried(context.index, due, failure);
    }
    let seen = sighting::of_response(&answer.head, &answer.beginning);
    context.recorder.saw(context.index, answer.head_at, seen);
    context.check_status(&answer)?;
    context.check_expected(&answer.beginning)
}
