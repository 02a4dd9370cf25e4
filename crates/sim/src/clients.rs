//! Clients: they call all the time, and whatever fails is written down.

use std::time::Duration;

use tokio::task::AbortHandle;

use crate::kernel::{SENT_AGAIN, Taken};
use crate::world::Sim;

/// How often each client calls.
const EVERY: Duration = Duration::from_millis(40);
/// How long an answer takes.
const ANSWER: Duration = Duration::from_millis(25);

/// A client; it ends when it is dropped.
#[derive(Debug)]
pub struct Client(AbortHandle);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Calls a published port from another machine.
pub fn of_port(sim: &Sim, port: u16) -> Client {
    let sim = sim.clone();
    let calling = tokio::spawn(async move {
        loop {
            call(&sim, &format!("port {port}"), |sim| sim.world().connect_from_outside(port)).await;
            tokio::time::sleep(EVERY).await;
        }
    });
    Client(calling.abort_handle())
}

/// Calls a service by its name, which it resolves each time, from inside a container.
pub fn of_name(sim: &Sim, caller: &str, network: &str, name: &str) -> Client {
    let (sim, caller, network, name) = (sim.clone(), caller.to_owned(), network.to_owned(), name.to_owned());
    let calling = tokio::spawn(async move {
        for turn in 0_usize.. {
            let by_name = |sim: &Sim| {
                let mut world = sim.world();
                let process = world.find(&caller).and_then(|one| one.process())?;
                let on_it = world.containers.values().filter_map(|one| one.attached.get(&network));
                let known = on_it.filter(|at| at.aliases.contains(&name)).filter_map(|at| at.address);
                let mut addresses: Vec<_> = known.collect();
                addresses.sort();
                // Of several the engine's resolver gives another first each time.
                let address = *addresses.get(turn % addresses.len().max(1))?;
                Some(world.connect_from_container(process, address, 80))
            };
            let taken = |sim: &Sim| by_name(sim).unwrap_or(Taken::Refused);
            call(&sim, &name, taken).await;
            tokio::time::sleep(EVERY).await;
        }
    });
    Client(calling.abort_handle())
}

async fn call(sim: &Sim, what: &str, connect: impl Fn(&Sim) -> Taken) {
    let began = tokio::time::Instant::now();
    loop {
        match connect(sim) {
            Taken::By { id, .. } => {
                let process = {
                    let mut world = sim.world();
                    let container = world.containers.get_mut(&id);
                    let process = container.and_then(|one| {
                        one.open += 1;
                        one.process()
                    });
                    world.has_changed();
                    process
                };
                tokio::time::sleep(ANSWER).await;
                let mut world = sim.world();
                // One that has ended has cut it, and has told of that.
                if let Some(container) = world.containers.get_mut(&id).filter(|one| one.process() == process) {
                    container.open = container.open.saturating_sub(1);
                    world.has_changed();
                }
                return;
            }
            Taken::TooEarly(name) => {
                return sim.world().violated(format!("{what}: {name} was called before it was ready"));
            }
            Taken::Refused => return sim.world().violated(format!("{what}: refused")),
            Taken::Dropped if began.elapsed() > Duration::from_secs(10) => {
                return sim.world().violated(format!("{what}: no answer for 10 s"));
            }
            Taken::Dropped => tokio::time::sleep(SENT_AGAIN).await,
        }
    }
}
