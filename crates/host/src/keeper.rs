//! The keeper: leads that outlive their deploy, for peers that go on calling an address that is gone.
//!
//! Its container has what a session's has, and an open standard input that outlives whoever attaches. It takes the session's
//! requests about peers and nothing else. It ends when the processes of all peers that it was given have ended (whoever starts
//! anew resolves names anew), or with SIGTERM; the leads go with it.

use std::path::PathBuf;
use std::process::ExitCode;

use futures_util::future::join_all;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::channel::{self, Output, hello};
use crate::error::HostError;
use crate::peers::{Peers, until_process_ends};
use crate::protocol::{Failure, Request, Role, SessionOp};

/// Runs until no peer is left or a signal comes, both of which are success. Needs a tokio runtime with I/O and time.
pub async fn run() -> ExitCode {
    let (output, writer) = match Output::open() {
        Ok(both) => both,
        Err(_) => return ExitCode::FAILURE,
    };
    output.hello(Role::Keeper);
    match serve(&output).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(None, error.failure());
            drop(output);
            writer.finish();
            ExitCode::FAILURE
        }
    }
}

async fn serve(output: &Output) -> Result<(), HostError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(HostError::kernel("watching for SIGTERM"))?;
    let mut lines = channel::input_lines()?;
    let peers = Peers::new("keeper");
    let mut gone: Option<JoinHandle<()>> = None;
    loop {
        let line = tokio::select! {
            _ = terminate.recv() => return Ok(()),
            () = ended(&mut gone) => return Ok(()),
            line = lines.recv() => line,
        };
        let Some(line) = line else { return Ok(()) };
        match serde_json::from_str::<Request<SessionOp>>(&line) {
            Ok(Request { id, op: SessionOp::Hello }) => output.ok(id, &hello(Role::Keeper)),
            Ok(Request { id, op: SessionOp::Peers { tables } }) => {
                let sandboxes: Vec<PathBuf> = tables.iter().map(|table| table.sandbox.clone()).collect();
                output.ok(id, &peers.load(tables).await);
                gone = Some(tokio::spawn(async move {
                    join_all(sandboxes.into_iter().map(until_process_ends)).await;
                }));
            }
            Ok(Request { id, op: SessionOp::PeerCounters { sandboxes } }) => {
                output.ok(id, &peers.count(sandboxes).await);
            }
            Ok(Request { id, .. }) => output.error(Some(id), refused("a keeper only keeps leads".to_owned())),
            Err(error) => output.error(None, refused(format!("not a request to a keeper: {error}"))),
        }
    }
}

/// Never, while nothing is kept.
async fn ended(gone: &mut Option<JoinHandle<()>>) {
    match gone {
        Some(gone) => drop(gone.await),
        None => std::future::pending().await,
    }
}

fn refused(what: String) -> Failure {
    Failure { what, hint: None, cancelled: false }
}
