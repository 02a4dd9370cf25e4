//! Talking to our own containers: JSON lines over an attached connection.
//!
//! Every request ends: with its answer, with the end of the connection, or, where the answer waits for nothing but the helper
//! itself, with a deadline. A connection to the session helper has a heartbeat besides: that helper is the lock, and holds
//! redirects, so neither side goes on without the other.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::container::{AttachContainerResults, LogOutput};
use futures_util::{Stream, StreamExt};
use handover_host::protocol::{GuardOp, HEARTBEAT, Line, Request, SILENCE, SessionOp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::failure::{Exit, Failure, Result};

/// Longest time for an answer that waits for nothing but the helper and its kernel.
const PROMPT: Duration = Duration::from_secs(30);

/// Id of the heartbeat's requests; all others have numbers of their own, from 1 on.
const HEARTBEAT_ID: u64 = 0;

/// A request, and how long its answer may take.
pub(crate) trait Asked: Serialize {
    /// `None` where it waits for something that takes its own time.
    fn deadline(&self) -> Option<Duration>;
}

impl Asked for GuardOp {
    fn deadline(&self) -> Option<Duration> {
        Some(PROMPT)
    }
}

impl Asked for SessionOp {
    fn deadline(&self) -> Option<Duration> {
        match self {
            // Containers that get ready, connections that end: whoever asks knows how long he waits.
            Self::Accepts { .. } | Self::Listens { .. } | Self::Drain(_) => None,
            // A server inside a container, which has limits of its own there.
            Self::Converse { .. } => None,
            _ => Some(PROMPT),
        }
    }
}

/// The requests that wait, until the connection has ended.
#[derive(Debug)]
enum Pending {
    Waiting(HashMap<u64, oneshot::Sender<Answered>>),
    /// Why there is no connection any more.
    Ended(String),
}

/// What has been answered to a request.
type Answered = std::result::Result<serde_json::Value, Failed>;

/// Why a request has failed.
#[derive(Debug)]
enum Failed {
    /// The helper says so: what, and a hint.
    Refused(String, Option<String>),
    /// There is no helper any more.
    Gone(String),
}

/// A connection to one of our containers. Requests may run side by side.
#[derive(Clone, Debug)]
pub(crate) struct Helper {
    name: &'static str,
    lines: mpsc::UnboundedSender<String>,
    pending: Arc<Mutex<Pending>>,
    next: Arc<AtomicU64>,
    /// True once the connection has ended.
    ended: watch::Receiver<bool>,
}

/// A request in flight.
pub(crate) struct UnderWay {
    pub(crate) id: u64,
    answer: oneshot::Receiver<Answered>,
    deadline: Option<Duration>,
    name: &'static str,
}

impl Helper {
    /// Takes over an attached connection.
    pub(crate) fn new(name: &'static str, attached: AttachContainerResults) -> Self {
        Self::over(name, attached.output, attached.input, false)
    }

    /// The same to the session helper, with a heartbeat.
    pub(crate) fn session(attached: AttachContainerResults) -> Self {
        Self::over("session helper", attached.output, attached.input, true)
    }

    /// Takes over a connection: what the helper prints, and where it reads.
    fn over<E>(
        name: &'static str,
        output: impl Stream<Item = std::result::Result<LogOutput, E>> + Send + Unpin + 'static,
        input: impl AsyncWrite + Send + Unpin + 'static,
        heartbeat: bool,
    ) -> Self
    where
        E: Send + 'static,
    {
        let (lines, to_write) = mpsc::unbounded_channel::<String>();
        let pending = Arc::new(Mutex::new(Pending::Waiting(HashMap::new())));
        let (ending, ended) = watch::channel(false);
        tokio::spawn({
            let pending = pending.clone();
            async move {
                let (output, input) = (read(output, &pending, heartbeat), write(input, to_write, heartbeat));
                tokio::pin!(input);
                let why = tokio::select! {
                    biased;
                    why = output => why,
                    written = &mut input => match written {
                        Err(error) => format!("nothing can be written to it: {error}"),
                        // Nobody asks any more, and nobody waits for what it still has to say.
                        Ok(()) => String::new(),
                    },
                };
                end(&pending, &format!("the {name} ended: {why}"));
                let _ = ending.send(true);
            }
        });
        // Ends what an earlier writer may have left half-written.
        let _ = lines.send("\n".to_owned());
        Self { name, lines, pending, next: Arc::new(AtomicU64::new(HEARTBEAT_ID + 1)), ended }
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask<Op: Asked, Answer: DeserializeOwned>(&self, op: Op) -> Result<Answer> {
        self.begin(op)?.answer().await
    }

    /// Asks; the answer can be awaited later.
    pub(crate) fn begin<Op: Asked>(&self, op: Op) -> Result<UnderWay> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let deadline = op.deadline();
        let line = serde_json::to_string(&Request { id, op })
            .map_err(|error| Failure::new(Exit::Engine, "a request cannot be written").because(error))?;
        let (sender, answer) = oneshot::channel();
        match &mut *lock(&self.pending) {
            Pending::Waiting(waiting) => waiting.insert(id, sender),
            Pending::Ended(why) => return Err(gone(self.name, why)),
        };
        // Where the connection ends in this very moment, its end answers what waits.
        let _ = self.lines.send(line + "\n");
        Ok(UnderWay { id, answer, deadline, name: self.name })
    }

    /// Ends when the connection has ended, with the reason.
    pub(crate) async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        // An error says that whoever tells is gone, which comes to the same.
        let _ = ended.wait_for(|ended| *ended).await;
        match &*lock(&self.pending) {
            Pending::Ended(why) => why.clone(),
            Pending::Waiting(_) => format!("the {} cannot be reached", self.name),
        }
    }
}

impl UnderWay {
    /// Waits for the answer.
    pub(crate) async fn answer<Answer: DeserializeOwned>(self) -> Result<Answer> {
        let Self { answer, deadline, name, .. } = self;
        let answered = match deadline {
            None => answer.await,
            Some(deadline) => match timeout(deadline, answer).await {
                Ok(answered) => answered,
                Err(_) => return Err(gone(name, &format!("it has not answered for {} s", deadline.as_secs()))),
            },
        };
        let value = match answered {
            Ok(Ok(value)) => value,
            Ok(Err(Failed::Refused(what, hint))) => {
                let failure = Failure::new(Exit::Host, format!("the {name} beside the engine cannot do its work"));
                let failure = failure.because(what);
                return Err(match hint {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                });
            }
            Ok(Err(Failed::Gone(why))) => return Err(gone(name, &why)),
            Err(_) => return Err(gone(name, "its connection is closed")),
        };
        serde_json::from_value(value).map_err(|error| gone(name, &format!("its answer is not understood: {error}")))
    }
}

/// Writes requests until nobody asks any more, and then ends the helper's input: that is what the session helper ends by.
async fn write(
    mut input: impl AsyncWrite + Unpin,
    mut lines: mpsc::UnboundedReceiver<String>,
    heartbeat: bool,
) -> io::Result<()> {
    let mut beats = tokio::time::interval(HEARTBEAT);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let line = tokio::select! {
            biased;
            line = lines.recv() => match line {
                Some(line) => line,
                None => {
                    let _ = input.shutdown().await;
                    return Ok(());
                }
            },
            _ = beats.tick(), if heartbeat => beat(),
        };
        input.write_all(line.as_bytes()).await?;
        input.flush().await?;
    }
}

fn beat() -> String {
    let request = Request { id: HEARTBEAT_ID, op: SessionOp::Heartbeat };
    serde_json::to_string(&request).unwrap_or_default() + "\n"
}

/// Reads answers until the connection ends; why it has.
async fn read<E>(
    mut output: impl Stream<Item = std::result::Result<LogOutput, E>> + Unpin,
    pending: &Mutex<Pending>,
    heartbeat: bool,
) -> String {
    let mut buffer = Vec::new();
    let mut complaints = String::new();
    loop {
        let chunk = if heartbeat {
            match timeout(SILENCE, output.next()).await {
                Ok(chunk) => chunk,
                Err(_) => return format!("it has been silent for {} s", SILENCE.as_secs()),
            }
        } else {
            output.next().await
        };
        let Some(Ok(chunk)) = chunk else { return complaints.trim().to_owned() };
        if let LogOutput::StdErr { message } = &chunk {
            complaints.push_str(&String::from_utf8_lossy(message));
            continue;
        }
        buffer.extend_from_slice(chunk.as_ref());
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            deliver(&line, pending);
        }
    }
}

/// Nobody will answer any more.
fn end(pending: &Mutex<Pending>, why: &str) {
    let before = std::mem::replace(&mut *lock(pending), Pending::Ended(why.to_owned()));
    if let Pending::Waiting(waiting) = before {
        for (_, waiting) in waiting {
            let _ = waiting.send(Err(Failed::Gone(why.to_owned())));
        }
    }
}

/// Gives an answer to who waits for it. A line that cannot be read is the rest of one that was written to somebody who was attached
/// before; should it be an answer to us, its deadline tells.
fn deliver(line: &[u8], pending: &Mutex<Pending>) {
    let Ok(line) = serde_json::from_slice::<Line>(line) else {
        return;
    };
    let Some(id) = line.id else { return };
    let answer = match (line.ok, line.error) {
        (Some(value), _) => Ok(value),
        (None, Some(error)) => Err(Failed::Refused(error.what, error.hint)),
        // Progress: whoever waits goes on waiting.
        (None, None) => return,
    };
    if let Pending::Waiting(waiting) = &mut *lock(pending)
        && let Some(waiting) = waiting.remove(&id)
    {
        let _ = waiting.send(answer);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gone(name: &str, why: &str) -> Failure {
    Failure::new(Exit::Engine, format!("the {name} beside the engine cannot do its work")).because(why)
}

#[cfg(test)]
#[path = "helper_tests.rs"]
mod tests;
