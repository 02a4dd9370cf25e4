//! The session helper: eyes and hands of one run of the command line, on the host and in containers' networks.
//!
//! Its container has the host's network and PID namespace, and enters the network namespaces of others by their processes. It
//! lives as long as its standard input: by its unique name it is the lock of the project, and the lock goes with whoever holds
//! the other end; only connections that it has taken over are brought to their ends first. It keeps nothing but the tables in
//! peers' network namespaces, which go with it; what it has closed or deleted is done, everything else ends.

use std::collections::HashMap;
use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::channel::{self, Output, hello};
use crate::drain::{self, Control};
use crate::error::HostError;
use crate::peers::Peers;
use crate::protocol::{Counters, Failure, Request, Role, SILENCE, SessionOp, Unloaded};
use crate::{accepts, callers, flows, gateway, inside, listeners, open_files, ports, support};

/// For how long connections that were taken over may go on when nobody is at the other end any more.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// Runs until its standard input ends or a signal comes, both of which are success and end everything that is under
/// way. Needs a tokio runtime with I/O and time.
pub async fn run() -> ExitCode {
    let (output, writer) = match Output::open() {
        Ok(both) => both,
        Err(_) => return ExitCode::FAILURE,
    };
    output.hello(Role::Session);
    match serve(&output).await {
        // What is still under way may hold on to the output: do not wait for it, nobody reads any more.
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(None, error.failure());
            drop(output);
            writer.finish();
            ExitCode::FAILURE
        }
    }
}

/// A request that has not been answered.
struct UnderWay {
    cancel: oneshot::Sender<()>,
    drain: Option<Arc<Control>>,
}

/// By request id.
type Requests = Arc<Mutex<HashMap<u64, UnderWay>>>;

async fn serve(output: &Output) -> Result<(), HostError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(HostError::kernel("watching for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(HostError::kernel("watching for SIGINT"))?;
    let mut lines = channel::input_lines()?;
    let requests = Requests::default();
    let peers = Arc::new(Peers::new("peers"));
    let (draining, drained) = mpsc::channel(1);
    let mut has_heartbeat = false;
    loop {
        let line = tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            line = lines.recv() => line,
            // Its machine or the network in between may be gone, and nothing else tells: the lock is not kept for the dead.
            () = tokio::time::sleep(SILENCE), if has_heartbeat => None,
        };
        let Some(line) = line else {
            drop(draining);
            leave(&requests, drained).await;
            return Ok(());
        };
        match serde_json::from_str::<Request<SessionOp>>(&line) {
            Ok(Request { id, op: SessionOp::Heartbeat }) => {
                has_heartbeat = true;
                output.ok(id, &json!({}));
            }
            Ok(request) => begin(request, &requests, &peers, output, &draining),
            Err(error) => {
                let what = format!("not a request to a session: {error}");
                output.error(None, Failure { what, hint: None, cancelled: false });
            }
        }
    }
}

/// Whoever asked is gone, perhaps in the middle of a drain: what was taken over comes to its end, and nothing else is.
async fn leave(requests: &Requests, mut drained: mpsc::Receiver<Infallible>) {
    for (_, UnderWay { cancel, drain }) in lock(requests).drain() {
        match drain {
            Some(drain) => drain.leave(),
            None => drop(cancel.send(())),
        }
    }
    // Until the last of them drops its end.
    let _ = tokio::time::timeout(LAST_REQUESTS, drained.recv()).await;
}

fn begin(
    request: Request<SessionOp>,
    requests: &Requests,
    peers: &Arc<Peers>,
    output: &Output,
    draining: &mpsc::Sender<Infallible>,
) {
    let Request { id, op } = request;
    match op {
        SessionOp::Cancel { request } => {
            if let Some(under_way) = lock(requests).remove(&request) {
                // It may have been answered in this very moment.
                let _ = under_way.cancel.send(());
            }
            output.ok(id, &json!({}));
        }
        SessionOp::Proceed { request } => {
            tell(requests, request, Control::proceed);
            output.ok(id, &json!({}));
        }
        SessionOp::Hold { request } => {
            tell(requests, request, Control::hold);
            output.ok(id, &json!({}));
        }
        SessionOp::Leave { request } => {
            tell(requests, request, Control::leave);
            output.ok(id, &json!({}));
        }
        op => {
            let (cancel, cancelled) = oneshot::channel();
            let control = matches!(op, SessionOp::Drain(_)).then(Arc::<Control>::default);
            let draining = control.is_some().then(|| draining.clone());
            lock(requests).insert(id, UnderWay { cancel, drain: control.clone() });
            let (requests, peers, output) = (requests.clone(), peers.clone(), output.clone());
            tokio::spawn(async move {
                let _draining = draining;
                tokio::select! {
                    Ok(()) = cancelled => {
                        output.error(Some(id), Failure { what: "cancelled".into(), hint: None, cancelled: true });
                    }
                    result = answer(id, op, control.unwrap_or_default(), &peers, &output) => {
                        lock(&requests).remove(&id);
                        if let Err(error) = result {
                            output.error(Some(id), error.failure());
                        }
                    }
                }
            });
        }
    }
}

/// Tells a drain, if it has not ended.
fn tell(requests: &Requests, request: u64, word: fn(&Control)) {
    if let Some(control) = lock(requests).get(&request).and_then(|under_way| under_way.drain.as_ref()) {
        word(control);
    }
}

fn lock(requests: &Requests) -> std::sync::MutexGuard<'_, HashMap<u64, UnderWay>> {
    // The map is whole at every instant, whoever panicked.
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    id: u64,
    op: SessionOp,
    control: Arc<Control>,
    peers: &Peers,
    output: &Output,
) -> Result<(), HostError> {
    match op {
        SessionOp::Hello => output.ok(id, &hello(Role::Session)),
        SessionOp::Support { sandbox, ports, peers } => {
            output.ok(id, &support::find_out(sandbox, ports, peers).await);
        }
        SessionOp::Listeners { sandbox } => output.ok(id, &listeners::of(sandbox).await?),
        SessionOp::Gateway { sandbox } => output.ok(id, &gateway::of(sandbox).await?),
        SessionOp::Accepts { targets } => {
            output.ok(id, &accepts::wait_for(targets, progress(id, output)).await?);
        }
        SessionOp::Listens { sandbox, protocol, ports } => {
            output.ok(id, &listeners::wait_for(sandbox, protocol, ports, progress(id, output)).await?);
        }
        SessionOp::Drain(request) => output.ok(id, &drain::run(request, control, progress(id, output)).await?),
        SessionOp::ForgetUdp { flows } => output.ok(id, &flows::forget(flows).await?),
        SessionOp::Peers { tables } => output.ok(id, &peers.load(tables).await),
        SessionOp::PeerCounters { sandboxes } => output.ok(id, &peers.count(sandboxes).await),
        SessionOp::Callers { sandbox, ports } => output.ok(id, &callers::of(sandbox, ports).await?),
        SessionOp::OpenFiles { sandbox, targets } => output.ok(id, &open_files::below(sandbox, targets).await?),
        SessionOp::Ports { project } => {
            let counted = ports::counters(&project).await?;
            output.ok(id, &Counters { loaded: counted.is_some(), connections: counted.unwrap_or_default() });
        }
        SessionOp::UnloadPorts { project } => {
            output.ok(id, &Unloaded { was_loaded: ports::unload(&project).await? });
        }
        SessionOp::ReadFile { process, path } => output.ok(id, &inside::read(process, path).await?),
        SessionOp::WriteFile { process, path, text } => {
            inside::write(process, path, text).await?;
            output.ok(id, &json!({}));
        }
        SessionOp::Processes { process } => output.ok(id, &inside::processes(process).await?),
        SessionOp::Converse { process, door, text } => {
            output.ok(id, &inside::converse(process, door, text).await?);
        }
        // Answered where they came in.
        SessionOp::Heartbeat
        | SessionOp::Cancel { .. }
        | SessionOp::Proceed { .. }
        | SessionOp::Hold { .. }
        | SessionOp::Leave { .. } => {}
    }
    Ok(())
}

fn progress<T: Serialize>(id: u64, output: &Output) -> impl FnMut(T) + Send + use<T> {
    let output = output.clone();
    move |progress| output.progress(id, &progress)
}
