//! The keeper: leads that outlive their deploy, for peers that go on calling an address that is gone.
//!
//! Its container has what a session's has, and an open standard input that outlives whoever attaches. It takes the session's
//! requests about peers and nothing else. It ends when the processes of all peers that it was given have ended (whoever starts
//! anew resolves names anew), or with SIGTERM; the leads go with it.
//!
//! A lead ends before that when somebody gets the address that is gone, or somebody else the one that it leads to; for the host
//! itself, which never ends, also with the network that the address was on.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::ExitCode;

use futures_util::future::join_all;
use handover_core::net::contains;
use handover_core::redirect::owners::{Tenants, still_right};
use handover_core::redirect::peers::PeerTable;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::channel::{self, Output, hello};
use crate::error::HostError;
use crate::neighbours::Neighbours;
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
    let mut neighbours = Neighbours::watch().await?;
    let mut kept = Kept::default();
    let mut gone = JoinSet::new();
    loop {
        let line = tokio::select! {
            // What has changed counts for the answer.
            biased;
            _ = terminate.recv() => return Ok(()),
            Some(Ok(())) = gone.join_next() => return Ok(()),
            () = neighbours.changed(), if kept.leads() => {
                if kept.give_up(&peers, &neighbours).await {
                    gone = kept.gone();
                }
                continue;
            }
            line = lines.recv() => line,
        };
        let Some(line) = line else { return Ok(()) };
        match serde_json::from_str::<Request<SessionOp>>(&line) {
            Ok(Request { id, op: SessionOp::Hello }) => output.ok(id, &hello(Role::Keeper)),
            Ok(Request { id, op: SessionOp::Peers { tables } }) => {
                output.ok(id, &peers.load(tables.clone()).await);
                kept = Kept::from_now_on(tables, &neighbours).await;
                gone = kept.gone();
            }
            Ok(Request { id, op: SessionOp::PeerCounters { sandboxes } }) => {
                output.ok(id, &peers.count(sandboxes).await);
            }
            Ok(Request { id, .. }) => output.error(Some(id), refused("a keeper only keeps leads".to_owned())),
            Err(error) => output.error(None, refused(format!("not a request to a keeper: {error}"))),
        }
    }
}

/// What is kept.
#[derive(Default)]
struct Kept {
    tables: Vec<PeerTable>,
    /// Who lived where when that began.
    tenants: Tenants,
}

impl Kept {
    async fn from_now_on(tables: Vec<PeerTable>, neighbours: &Neighbours) -> Self {
        let mut kept = Kept { tables, tenants: Tenants::new() };
        kept.tenants = neighbours.tenants(&kept.addresses()).await;
        kept
    }

    fn leads(&self) -> bool {
        self.tables.iter().any(|table| !table.leads.is_empty())
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.tables.iter().flat_map(|table| &table.leads).flat_map(|lead| [lead.from, lead.to]).collect()
    }

    /// Ends the leads that are not right any more; whether there were any.
    async fn give_up(&mut self, peers: &Peers, neighbours: &Neighbours) -> bool {
        let now = neighbours.tenants(&self.addresses()).await;
        // Unknown networks end nothing.
        let networks = neighbours.networks().await.ok();
        let is_there =
            |address| networks.as_ref().is_none_or(|all| all.iter().any(|network| contains(*network, address)));
        let mut changed = Vec::new();
        for table in &mut self.tables {
            let mut leads = still_right(&table.leads, &self.tenants, &now);
            if table.sandbox.as_os_str().is_empty() {
                leads.retain(|lead| is_there(lead.from));
            }
            if leads != table.leads {
                // What was led to where it is goes on being translated.
                *table = PeerTable { leads, ..table.released() };
                changed.push(table.clone());
            }
        }
        let any = !changed.is_empty();
        peers.load(changed).await;
        any
    }

    /// Ends when nobody is left to lead for: each peer has ended, and for the host itself nothing is led any more.
    fn gone(&self) -> JoinSet<()> {
        let over = |table: &&PeerTable| table.sandbox.as_os_str().is_empty() && table.leads.is_empty();
        let left = self.tables.iter().filter(|table| !over(table));
        let sandboxes: Vec<_> = left.map(|table| table.sandbox.clone()).collect();
        let mut gone = JoinSet::new();
        gone.spawn(async move {
            join_all(sandboxes.into_iter().map(until_process_ends)).await;
        });
        gone
    }
}

fn refused(what: String) -> Failure {
    Failure { what, hint: None, cancelled: false }
}
