//! Ctrl-C and SIGTERM: a deploy that has not moved traffic yet goes back; one that has goes on to its end. Who asks a third time is
//! not kept waiting by either.

use std::convert::Infallible;
use std::process::exit;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::failure::Exit;

/// How often one has to ask for the program to end at once. What it leaves is as after a crash: the next run goes on from there.
const AT_ONCE: usize = 3;

/// Tells whether the user wants to stop.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    /// How often.
    asked: watch::Receiver<usize>,
}

impl Interrupt {
    /// Told by somebody else how often the user has asked; who drops the other end never asks again.
    pub(crate) fn of(asked: watch::Receiver<usize>) -> Self {
        Self { asked }
    }

    /// Listens for SIGINT and SIGTERM from now on.
    pub(crate) fn listen() -> Self {
        let (sender, asked) = watch::channel(0);
        tokio::spawn(async move {
            let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
                return;
            };
            // The channel stays open, and further signals do not end the process by themselves.
            for times in 1.. {
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                }
                if times >= AT_ONCE {
                    exit(Exit::Interrupted as i32);
                }
                let _ = sender.send(times);
            }
        });
        Self { asked }
    }

    /// Ends when the user has asked to stop; never, if he does not.
    pub(crate) async fn asked(&self) {
        let mut asked = self.asked.clone();
        if asked.wait_for(|asked| *asked > 0).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the user has asked to stop.
    pub(crate) fn is_asked(&self) -> bool {
        *self.asked.borrow() > 0
    }

    /// Says each time, for ever, what comes of it: `say` is given how often the user has asked.
    pub(crate) async fn explain(&self, say: impl Fn(usize)) -> Infallible {
        let mut asked = self.asked.clone();
        while asked.changed().await.is_ok() {
            say(*asked.borrow_and_update());
        }
        std::future::pending().await
    }
}
