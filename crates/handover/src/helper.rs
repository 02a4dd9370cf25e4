//! Talking to our own containers: JSON lines over an attached connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bollard::container::{AttachContainerResults, LogOutput};
use futures_util::StreamExt;
use handover_host::protocol::{Line, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};

use crate::failure::{Exit, Failure, Result};

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<std::result::Result<serde_json::Value, String>>>>>;

/// A connection to the guard or to the session helper. Requests may run side by side.
#[derive(Clone, Debug)]
pub(crate) struct Helper {
    name: &'static str,
    lines: mpsc::UnboundedSender<String>,
    pending: Pending,
    next: Arc<AtomicU64>,
}

/// A request under way.
pub(crate) struct UnderWay {
    pub(crate) id: u64,
    answer: oneshot::Receiver<std::result::Result<serde_json::Value, String>>,
    name: &'static str,
}

impl Helper {
    /// Takes over an attached connection.
    pub(crate) fn new(name: &'static str, attached: AttachContainerResults) -> Self {
        let AttachContainerResults { mut output, mut input } = attached;
        let (lines, mut to_write) = mpsc::unbounded_channel::<String>();
        let pending: Pending = Arc::default();
        tokio::spawn(async move {
            while let Some(line) = to_write.recv().await {
                let written = input.write_all(line.as_bytes()).await.is_ok() && input.flush().await.is_ok();
                if !written {
                    break;
                }
            }
            // Nobody asks any more: the end of its input is what the session helper ends by.
            let _ = input.shutdown().await;
        });
        let answers = pending.clone();
        tokio::spawn(async move {
            let mut buffer = Vec::new();
            let mut complaints = String::new();
            while let Some(Ok(chunk)) = output.next().await {
                if let LogOutput::StdErr { message } = &chunk {
                    complaints.push_str(&String::from_utf8_lossy(message));
                    continue;
                }
                buffer.extend_from_slice(chunk.as_ref());
                while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    deliver(&line, &answers);
                }
            }
            // The connection is gone: nobody will answer any more.
            let gone = format!("the {name} ended: {}", complaints.trim());
            for (_, waiting) in lock(&answers).drain() {
                let _ = waiting.send(Err(gone.clone()));
            }
        });
        // Ends what an earlier writer may have left half-written.
        let _ = lines.send("\n".to_owned());
        Self { name, lines, pending, next: Arc::new(AtomicU64::new(1)) }
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask<Op: Serialize, Answer: DeserializeOwned>(&self, op: Op) -> Result<Answer> {
        self.begin(op)?.answer().await
    }

    /// Asks; the answer can be awaited later.
    pub(crate) fn begin<Op: Serialize>(&self, op: Op) -> Result<UnderWay> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        lock(&self.pending).insert(id, sender);
        let line = serde_json::to_string(&Request { id, op })
            .map_err(|error| Failure::new(Exit::Engine, "a request cannot be written").because(error))?;
        if self.lines.send(line + "\n").is_err() {
            return Err(gone(self.name, "its connection is closed"));
        }
        Ok(UnderWay { id, answer, name: self.name })
    }
}

impl UnderWay {
    /// Waits for the answer.
    pub(crate) async fn answer<Answer: DeserializeOwned>(self) -> Result<Answer> {
        let value = match self.answer.await {
            Ok(Ok(value)) => value,
            Ok(Err(why)) => return Err(gone(self.name, &why)),
            Err(_) => return Err(gone(self.name, "its connection is closed")),
        };
        serde_json::from_value(value)
            .map_err(|error| gone(self.name, &format!("its answer is not understood: {error}")))
    }
}

fn deliver(line: &[u8], pending: &Pending) {
    let Ok(line) = serde_json::from_slice::<Line>(line) else {
        return;
    };
    let Some(id) = line.id else { return };
    let answer = match (line.ok, line.error) {
        (Some(value), _) => Ok(value),
        (None, Some(error)) => Err(match error.hint {
            Some(hint) => format!("{} ({hint})", error.what),
            None => error.what,
        }),
        // Progress: whoever waits goes on waiting.
        (None, None) => return,
    };
    if let Some(waiting) = lock(pending).remove(&id) {
        let _ = waiting.send(answer);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gone(name: &str, why: &str) -> Failure {
    Failure::new(Exit::Engine, format!("the {name} beside the engine cannot do its work")).because(why)
}
