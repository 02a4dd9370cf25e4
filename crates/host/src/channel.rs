//! Standard input and output as lines.
//!
//! Each has a thread of its own: a read of standard input cannot be given up, and would keep a runtime from ending.

use std::io::{BufRead, Write};
use std::sync::mpsc as blocking;
use std::thread::JoinHandle;

use serde::Serialize;
use tokio::sync::mpsc;

use crate::error::HostError;
use crate::protocol::{Failure, Hello, Line, Role};

/// The lines of standard input; the channel closes at its end. Empty lines are left out.
pub(crate) fn input_lines() -> Result<mpsc::UnboundedReceiver<String>, HostError> {
    let (send, receive) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("input".into())
        .spawn(move || {
            let mut input = std::io::stdin().lock();
            let mut line = Vec::new();
            // Bytes, not text: what a dead writer left half-written need not be valid UTF-8.
            while matches!(input.read_until(b'\n', &mut line), Ok(length) if length > 0) {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                line.clear();
                if !text.is_empty() && send.send(text).is_err() {
                    break;
                }
            }
        })
        .map_err(HostError::kernel("starting the reader of standard input"))?;
    Ok(receive)
}

/// Standard output; may be cloned and used from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    lines: blocking::Sender<Line>,
}

/// The thread that writes; ends when the last [`Output`] is gone.
#[derive(Debug)]
pub(crate) struct Writer {
    thread: JoinHandle<()>,
}

impl Output {
    pub(crate) fn open() -> Result<(Output, Writer), HostError> {
        let (lines, receive) = blocking::channel::<Line>();
        let thread = std::thread::Builder::new()
            .name("output".into())
            .spawn(move || {
                for line in receive {
                    let Ok(mut text) = serde_json::to_vec(&line) else { continue };
                    text.push(b'\n');
                    let mut output = std::io::stdout().lock();
                    // Nobody reads any more: whoever cares notices by the end of standard input.
                    if output.write_all(&text).and_then(|()| output.flush()).is_err() {
                        break;
                    }
                }
            })
            .map_err(HostError::kernel("starting the writer of standard output"))?;
        Ok((Output { lines }, Writer { thread }))
    }

    fn send(&self, line: Line) {
        // The writer has ended, see above.
        let _ = self.lines.send(line);
    }

    pub(crate) fn hello(&self, role: Role) {
        self.send(Line { hello: Some(hello(role)), ..Line::default() });
    }

    pub(crate) fn ok(&self, id: u64, answer: &impl Serialize) {
        match serde_json::to_value(answer) {
            Ok(value) => self.send(Line { id: Some(id), ok: Some(value), ..Line::default() }),
            Err(error) => self.error(Some(id), Failure { what: error.to_string(), hint: None, cancelled: false }),
        }
    }

    pub(crate) fn error(&self, id: Option<u64>, failure: Failure) {
        self.send(Line { id, error: Some(failure), ..Line::default() });
    }

    pub(crate) fn progress(&self, id: u64, progress: &impl Serialize) {
        if let Ok(value) = serde_json::to_value(progress) {
            self.send(Line { id: Some(id), progress: Some(value), ..Line::default() });
        }
    }
}

impl Writer {
    /// Waits until everything is written. Every [`Output`] must be gone.
    pub(crate) fn finish(self) {
        // A panic in the writer has nothing to say that could still be said.
        let _ = self.thread.join();
    }
}

/// Who this process is.
pub(crate) fn hello(role: Role) -> Hello {
    Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        role,
        kernel: kernel_release(),
        arch: std::env::consts::ARCH.to_owned(),
    }
}

/// The kernel's release; empty if /proc does not say.
pub(crate) fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
