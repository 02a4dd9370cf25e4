//! One run of handover in the simulated world: its connections, its Compose, its death, and what goes wrong at its n-th call.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use handover::outside::{Callers, ComposeCall, ComposeEnd, Connection, Later, Outside, WayIn};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::compose;
use crate::engine_api::{Body, Call, answer, refused};
use crate::stacks::PROJECT;
use crate::world::{Container, Sim};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// `kill -9` of handover before the call has any effect.
    RunDiesBefore,
    /// The same once it has had it.
    RunDiesAfter,
    /// The engine fails the call.
    CallFails,
    /// The call is done, and its answer is lost.
    AnswerIsLost,
    /// The session helper is killed.
    SessionDies,
    /// The guard is killed; the engine starts it again.
    GuardDies,
    /// Somebody removes the guard by force.
    GuardIsRemoved,
    /// The user presses Ctrl-C.
    Interrupted,
    /// The container of the user's that was started last ends, and stays away.
    NewestEnds,
}

/// All of them.
pub const FAULTS: [What; 9] = [
    What::RunDiesBefore,
    What::RunDiesAfter,
    What::CallFails,
    What::AnswerIsLost,
    What::SessionDies,
    What::GuardDies,
    What::GuardIsRemoved,
    What::Interrupted,
    What::NewestEnds,
];

/// A fault at a call, which is counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// At which call to the engine.
    pub at: usize,
    /// What happens then.
    pub what: What,
}

/// How a run has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code; none where it was killed.
    pub code: Option<u8>,
    /// What it has told, as JSON lines.
    pub told: Vec<Value>,
    /// Its calls to the engine and those of its Compose, in order.
    pub calls: Vec<String>,
}

impl Ended {
    /// Whether it has found nothing to do.
    pub fn had_nothing_to_do(&self) -> bool {
        self.told.iter().any(|event| event["event"] == "nothing-to-do")
    }
}

/// The process.
#[derive(Clone)]
pub struct Process(Arc<Inner>);

struct Inner {
    sim: Sim,
    fault: Option<Fault>,
    calls: Mutex<Vec<String>>,
    killed: watch::Sender<bool>,
    asked: watch::Sender<usize>,
    connections: Mutex<Vec<AbortHandle>>,
    doors: Mutex<BTreeMap<String, mpsc::UnboundedSender<Connection>>>,
}

impl fmt::Debug for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a simulated process")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a command line of handover to its end, or until it is killed.
pub async fn run(sim: &Sim, words: &[&str], fault: Option<Fault>) -> Ended {
    let process = Process(Arc::new(Inner {
        sim: sim.clone(),
        fault,
        calls: Mutex::default(),
        killed: watch::Sender::new(false),
        asked: watch::Sender::new(0),
        connections: Mutex::default(),
        doors: Mutex::default(),
    }));
    let mut told = Vec::new();
    let args = std::iter::once("handover").chain(words.iter().copied()).map(Into::into);
    let outside = Arc::new(process.clone());
    let code = {
        let running = handover::execute(args, outside, process.0.asked.subscribe(), |event| told.push(event));
        tokio::select! {
            biased;
            () = process.is_killed() => None,
            code = running => Some(code),
        }
    };
    process.end();
    let calls = lock(&process.0.calls).clone();
    Ended { code, told, calls }
}

impl Process {
    pub(crate) fn sim(&self) -> &Sim {
        &self.0.sim
    }

    fn is_dead(&self) -> bool {
        *self.0.killed.borrow()
    }

    pub(crate) async fn is_killed(&self) {
        let mut killed = self.0.killed.subscribe();
        // The sender is ours.
        let _ = killed.wait_for(|killed| *killed).await;
    }

    /// All that it had open is closed, as the kernel does with a process that has ended.
    fn end(&self) {
        self.0.killed.send_replace(true);
        lock(&self.0.doors).clear();
        for connection in lock(&self.0.connections).drain(..) {
            connection.abort();
        }
    }

    /// A connection to the engine's API; `of_ours`: it ends with this process.
    pub(crate) fn connect(&self, of_ours: bool) -> Connection {
        let (near, far) = tokio::io::duplex(1 << 16);
        let process = self.clone();
        let serving = tokio::spawn(async move {
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(far), service_fn(|request| process.answer(request)))
                .with_upgrades()
                .await;
        });
        if of_ours {
            lock(&self.0.connections).push(serving.abort_handle());
        }
        Box::new(near)
    }

    /// A connection by a way in to this process.
    pub(crate) fn connect_to(&self, door: &str) -> Option<Connection> {
        let (near, far) = tokio::io::duplex(1 << 16);
        lock(&self.0.doors).get(door)?.send(Box::new(far)).ok()?;
        Some(Box::new(near))
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Result<Response<Body>> {
        let upgrade = request.headers().contains_key("upgrade").then(|| hyper::upgrade::on(&mut request));
        let call = Call::read(&mut request).await;
        let number = {
            let mut calls = lock(&self.0.calls);
            calls.push(call.words());
            calls.len() - 1
        };
        let what = self.0.fault.filter(|fault| fault.at == number).map(|fault| fault.what);
        match what {
            Some(What::RunDiesBefore) => {
                self.end();
                return Err(Error::from(ErrorKind::ConnectionReset));
            }
            Some(What::CallFails) => return Ok(refused((500, "the engine has lost its mind".to_owned()))),
            Some(What::SessionDies) => self.kill_ours("session", false),
            Some(What::GuardDies) => self.kill_ours("guard", false),
            Some(What::GuardIsRemoved) => self.kill_ours("guard", true),
            Some(What::Interrupted) => self.0.asked.send_modify(|times| *times += 1),
            Some(What::NewestEnds) => self.end_newest(),
            Some(What::RunDiesAfter | What::AnswerIsLost) | None => {}
        }
        let sim = self.0.sim.clone();
        // The engine finishes what it has begun, whoever asked for it.
        let answering: JoinHandle<_> = tokio::spawn(async move { answer(&sim, call, upgrade).await });
        let answer = answering.await.map_err(Error::other)?;
        match what {
            Some(What::RunDiesAfter) => {
                self.end();
                Err(Error::from(ErrorKind::ConnectionReset))
            }
            Some(What::AnswerIsLost) => Err(Error::from(ErrorKind::ConnectionReset)),
            _ => Ok(answer),
        }
    }

    fn kill_ours(&self, role: &str, remove: bool) {
        let sim = &self.0.sim;
        let found = {
            let world = sim.world();
            let of_role = |one: &&Container| one.label("handover.role") == role && one.runs();
            world.containers.values().find(of_role).and_then(|one| Some((one.id.clone(), one.process()?)))
        };
        match found {
            Some((id, _)) if remove => sim.remove_by_force(&id),
            Some((id, process)) => sim.end(&id, process, 137),
            None => {}
        }
    }

    fn end_newest(&self) {
        let sim = &self.0.sim;
        let found = {
            let world = sim.world();
            let projects = [PROJECT.to_owned(), format!("{PROJECT}-standin")];
            let is_theirs =
                |one: &&Container| projects.iter().any(|project| one.label("com.docker.compose.project") == project);
            let theirs = world.containers.values().filter(is_theirs);
            theirs.filter_map(|one| Some((one.process()?, one.id.clone()))).max()
        };
        if let Some((process, id)) = found {
            if let Some(container) = sim.world().containers.get_mut(&id) {
                container.restarts_itself = false;
            }
            sim.end(&id, process, 1);
        }
    }
}

impl Outside for Process {
    fn dial(&self) -> Later<'_, Result<Connection>> {
        let connection =
            if self.is_dead() { Err(Error::from(ErrorKind::ConnectionRefused)) } else { Ok(self.connect(true)) };
        Box::pin(std::future::ready(connection))
    }

    fn open_way_in(&self) -> Result<WayIn> {
        if self.is_dead() {
            return Err(Error::from(ErrorKind::ConnectionRefused));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut doors = lock(&self.0.doors);
        let host = format!("sim://{}", doors.len());
        doors.insert(host.clone(), sender);
        Ok(WayIn { host, callers: Box::new(Comers(tokio::sync::Mutex::new(receiver))) })
    }

    fn compose<'a>(
        &'a self,
        call: ComposeCall,
        tell: &'a mut (dyn FnMut(&str) + Send),
    ) -> Later<'a, Result<ComposeEnd>> {
        Box::pin(async move {
            let (say, mut lines) = mpsc::unbounded_channel();
            let mut running = Running { task: tokio::spawn(compose::run(self.clone(), call, say)), process: self };
            loop {
                tokio::select! {
                    biased;
                    Some(line) = lines.recv() => { let line: String = line; tell(&line) }
                    ended = &mut running.task => {
                        while let Ok(line) = lines.try_recv() {
                            tell(&line);
                        }
                        return ended.map_err(Error::other);
                    }
                }
            }
        })
    }

    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn host_and_process(&self) -> (String, u32) {
        ("simulated".to_owned(), 1)
    }

    fn own_program(&self) -> Result<Vec<u8>> {
        Ok(b"this very program".to_vec())
    }

    fn random(&self) -> u64 {
        self.0.sim.world().containers.len() as u64
    }
}

/// Compose at work. Given up, it is ended; killed with `kill -9`, handover ends nobody.
struct Running<'a> {
    task: JoinHandle<ComposeEnd>,
    process: &'a Process,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.process.is_dead() {
            self.task.abort();
        }
    }
}

/// Who comes by a way in.
struct Comers(tokio::sync::Mutex<mpsc::UnboundedReceiver<Connection>>);

impl Callers for Comers {
    fn accept(&self) -> Later<'_, Result<Connection>> {
        Box::pin(async {
            match self.0.lock().await.recv().await {
                Some(connection) => Ok(connection),
                // Nobody comes any more.
                None => std::future::pending().await,
            }
        })
    }
}

/// What a run takes at most in a world where nothing takes long.
pub const LONGEST_RUN: Duration = Duration::from_secs(600);
