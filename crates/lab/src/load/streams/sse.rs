//! Event streams that stay open. Each event is a good answer; its latency is by how much it came later than expected
//! (the event before, and one interval).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::websocket_long::RECONNECT_PAUSE;
use super::{StreamContext, sighting};
use crate::wire::{Failure, HttpConnection, RequestPlan, ResponseHead};

/// Runs the stream.
pub(super) async fn run(context: StreamContext) {
    let context = Arc::new(context);
    let count = context.spec.connections.unwrap_or(1).max(1);
    let mut connections = JoinSet::new();
    for _ in 0..count {
        connections.spawn(keep_open(Arc::clone(&context), count));
    }
    connections.join_all().await;
}

async fn keep_open(context: Arc<StreamContext>, count: usize) {
    let interval = context.spec.interval().mul_f64(count as f64);
    let plan = RequestPlan::new(&context.path(), &context.host(), None, true);
    let mut cut_at: Option<Instant> = None;
    let stopped = context.stopped();
    tokio::pin!(stopped);
    loop {
        let began = Instant::now();
        let opened = tokio::select! {
            biased;
            () = &mut stopped => return,
            opened = context.within_timeout(open(&context, &plan)) => opened,
        };
        let (mut connection, head) = match opened {
            Ok(opened) => opened,
            Err(failure) => {
                context.recorder.failed(context.index, began, &failure);
                tokio::time::sleep(RECONNECT_PAUSE).await;
                continue;
            }
        };
        if let Some(cut_at) = cut_at.take() {
            context.recorder.reconnected(context.index, cut_at.elapsed());
        }
        let last_event = Mutex::new(began);
        let reading = connection.receive_body(&head, |data| {
            let mut last_event = last_event.lock().unwrap_or_else(PoisonError::into_inner);
            let is_first = *last_event == began;
            let mut due = if is_first { began } else { *last_event + interval };
            let events = data.windows(2).filter(|pair| pair == b"\n\n").count();
            for _ in 0..events {
                context.recorder.succeeded(context.index, due);
                context.recorder.saw(context.index, Instant::now(), sighting::of_response(&head, data));
                due = Instant::now();
                *last_event = due;
            }
        });
        let failure = tokio::select! {
            biased;
            () = &mut stopped => return,
            ended = reading => match ended {
                Ok(_) => Failure::new("event stream ended", "the server ended it"),
                Err(failure) => failure,
            },
            () = silence(&last_event, context.spec.timeout()) => {
                let failure = Failure::new("timeout", "no event");
                context.recorder.failed(context.index, Instant::now(), &failure);
                continue;
            }
        };
        let had_events = *last_event.lock().unwrap_or_else(PoisonError::into_inner) != began;
        if had_events {
            context.recorder.cut(context.index, &failure);
            cut_at = Some(Instant::now());
        } else {
            context.recorder.failed(context.index, began, &failure);
        }
        // At once, unless it does not last anyway: do not hammer a server that has no events.
        if began.elapsed() < RECONNECT_PAUSE {
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }
}

async fn open(context: &StreamContext, plan: &RequestPlan) -> Result<(HttpConnection, ResponseHead), Failure> {
    let mut connection = HttpConnection::connect(&context.target).await?;
    connection.send(&plan.head).await?;
    let head = connection.receive_head().await?;
    match head.status {
        200..=299 => Ok((connection, head)),
        status => Err(Failure::new(format!("status {status}"), "no event stream")),
    }
}

/// Returns when there has been no event for this time.
async fn silence(last_event: &Mutex<Instant>, most: Duration) {
    loop {
        let last = *last_event.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= most {
            return;
        }
        tokio::time::sleep_until((last + most).into()).await;
    }
}
