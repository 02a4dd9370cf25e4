//! The open loop: requests start when they are due, whatever became of the ones before.

use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::StreamContext;

/// Starts one task for each request as it becomes due, until told to stop; then waits for those under way.
///
/// A request that is due while the machine is asleep is started late but keeps its due instant, so no stall is forgotten.
pub(super) async fn paced<F>(context: &StreamContext, mut request: impl FnMut(u64, Instant) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let interval = context.spec.interval();
    let first = context.recorder.started() + context.offset(interval);
    let (sender, mut dues) = mpsc::unbounded_channel();
    let deadline = context.deadline;
    let metronome =
        thread::Builder::new().name("lab-pace".into()).spawn(move || tick(&sender, first, interval, deadline));
    let metronome = match metronome {
        Ok(metronome) => metronome,
        Err(error) => {
            let failure = crate::wire::Failure::from_io("thread", &error);
            return context.recorder.failed(context.index, first, &failure);
        }
    };
    let mut under_way = JoinSet::new();
    let stopped = context.stopped();
    tokio::pin!(stopped);
    let mut next = 0;
    let mut end = None;
    // What was due before the end is started, however late.
    while end.is_none_or(|end| due_instant(first, interval, next) <= end) {
        let due = tokio::select! {
            biased;
            () = &mut stopped, if end.is_none() => {
                end = Some(Instant::now());
                continue;
            }
            due = dues.recv() => due,
        };
        let Some(due) = due else { break };
        context.recorder.launched_late(context.index, due.elapsed());
        under_way.spawn(request(next, due));
        next += 1;
        while let Some(ended) = under_way.try_join_next() {
            forward_panic(ended);
        }
    }
    drop(dues);
    metronome.thread().unpark();
    while let Some(ended) = under_way.join_next().await {
        forward_panic(ended);
    }
}

/// Says each due instant when it has come. A thread of its own, because the runtime's timers only know whole milliseconds,
/// and would add up to one to each latency.
fn tick(dues: &mpsc::UnboundedSender<Instant>, first: Instant, interval: Duration, deadline: Option<Instant>) {
    for number in 0_u64.. {
        let due = due_instant(first, interval, number);
        if deadline.is_some_and(|deadline| due >= deadline) {
            return;
        }
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if dues.is_closed() {
                return;
            }
            if left.is_zero() {
                break;
            }
            thread::park_timeout(left);
        }
        if dues.send(due).is_err() {
            return;
        }
    }
}

fn due_instant(first: Instant, interval: Duration, number: u64) -> Instant {
    first + interval.mul_f64(number as f64)
}

fn forward_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}
