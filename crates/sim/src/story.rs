//! One story: a deploy in which one thing goes wrong, then another run, then one more. What must hold at every instant of it, and what
//! must be there at the end.

use std::fmt::Write as _;
use std::time::Duration;

use crate::process::{Ended, Fault, What, run};
use crate::stacks::{PROJECT, Stack, bounded};
use crate::world::{Container, Sim};

/// How long clients go on calling before somebody runs handover again.
const IN_BETWEEN: Duration = Duration::from_secs(2);

/// What is told of a story that did not end well.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// Which story.
    pub stack: Stack,
    /// With which Compose.
    pub compose: &'static str,
    /// What went wrong by itself.
    pub fault: Fault,
    /// What must not be.
    pub what: String,
    /// How it came.
    pub told: String,
    /// Whether it is known that this story ends so ([`is_known`]).
    pub is_known: bool,
}

/// What nobody has mended yet. First: the session dies in the very moment in which an old container that has drained is stopped, and
/// a client that resolves the name just then reaches it once more. Second: while a container is being started, names resolve to it already, and its address is known only when the
/// engine has answered once more; until then the session alone keeps clients from it. Should the session die within these calls
/// (some 100 ms on a real engine), clients meet a container that is not ready, or, by a name that is held, one that listens at nothing.
fn is_known(fault: Fault, calls: &[String]) -> bool {
    let takes_the_session = matches!(fault.what, What::RunDiesBefore | What::RunDiesAfter | What::SessionDies);
    let before = calls.iter().take(fault.at + 1).rev().take(4);
    let is_stop = calls.get(fault.at).is_some_and(|call| call.ends_with("/stop"));
    (fault.what == What::SessionDies && is_stop)
        || takes_the_session && before.into_iter().any(|call| call.ends_with("/start"))
}

/// Whether clients may notice what happens: a container that ends takes what it serves with it.
fn may_be_noticed(what: What) -> bool {
    what == What::NewestEnds
}

/// The number of calls of a deploy in which nothing goes wrong: a fault may come at each of them.
pub async fn calls_of(stack: Stack, compose: &'static str) -> usize {
    let (sim, _clients) = stack.running(compose).await;
    run(&sim, &["up"], None).await.calls.len()
}

/// Tells the story; `Err` if it does not end well.
pub async fn tell(stack: Stack, compose: &'static str, fault: Fault) -> Result<(), Box<Wrong>> {
    let (sim, clients) = stack.running(compose).await;
    let first = match tokio::time::timeout(crate::process::LONGEST_RUN, run(&sim, &["up"], Some(fault))).await {
        Ok(ended) => ended,
        Err(_) => Ended { code: None, told: Vec::new(), calls: vec!["has not ended".to_owned()] },
    };
    tokio::time::sleep(IN_BETWEEN).await;
    if may_be_noticed(fault.what) {
        sim.world().violations.clear();
    }
    let wrong = |sim: &Sim, what: String, later: &[&Ended]| {
        let is_known = is_known(fault, &first.calls);
        Box::new(Wrong { stack, compose, fault, what, told: told(sim, fault, &first, later), is_known })
    };
    if let Some(violation) = violation(&sim) {
        return Err(wrong(&sim, format!("the run itself, {violation}"), &[]));
    }
    let second = bounded(&sim, &["up"]).await;
    if second.code != Some(0) {
        return Err(wrong(&sim, format!("the next run ended with {:?}", second.code), &[&second]));
    }
    if may_be_noticed(fault.what) {
        sim.world().violations.clear();
    }
    let third = bounded(&sim, &["up"]).await;
    tokio::time::sleep(IN_BETWEEN).await;
    if let Some(violation) = violation(&sim) {
        return Err(wrong(&sim, format!("the next run, {violation}"), &[&second, &third]));
    }
    if !third.had_nothing_to_do() {
        return Err(wrong(&sim, "a run after a good one found something to do".to_owned(), &[&second, &third]));
    }
    if let Some(left) = left(&sim) {
        return Err(wrong(&sim, left, &[&second, &third]));
    }
    drop(clients);
    Ok(())
}

fn violation(sim: &Sim) -> Option<String> {
    sim.world().violations.first().cloned()
}

/// What should not be there any more.
fn left(sim: &Sim) -> Option<String> {
    let world = sim.world();
    let ours = |one: &&Container| matches!(one.label("handover.role"), "guard" | "session" | "name" | "look");
    if let Some(helper) = world.containers.values().find(ours) {
        return Some(format!("{} is left", helper.name));
    }
    let standin = format!("{PROJECT}-standin");
    if let Some(one) = world.containers.values().find(|one| one.label("com.docker.compose.project") == standin) {
        return Some(format!("{} is left", one.name));
    }
    if let Some(((process, _), (outlasting, _))) = world.outlasting.iter().next() {
        return Some(format!("redirects of process {process} that nobody holds are left: {:?}", outlasting.redirects));
    }
    if !world.port_tables.is_empty() {
        return Some("a table of published ports is left".to_owned());
    }
    let theirs = world.containers.values().filter(|one| one.label("com.docker.compose.project") == PROJECT);
    for one in theirs {
        let wanted = format!(
            "{PROJECT}-{}-{}",
            one.label("com.docker.compose.service"),
            one.label("com.docker.compose.container-number")
        );
        if one.name != wanted || !one.runs() || !one.image.ends_with(":v2") {
            return Some(format!("{} of {} is {} at the end", one.name, one.image, one.state_word()));
        }
    }
    None
}

fn told(sim: &Sim, fault: Fault, first: &Ended, later: &[&Ended]) -> String {
    let mut text = String::new();
    let from = fault.at.saturating_sub(4);
    let _ = writeln!(text, "  the run ended with {:?}; its calls around the fault:", first.code);
    for (number, call) in first.calls.iter().enumerate().skip(from).take(12) {
        let mark = if number == fault.at { format!(" <- {:?}", fault.what) } else { String::new() };
        let _ = writeln!(text, "    {number} {call}{mark}");
    }
    for run in std::iter::once(&first).chain(later) {
        let _ = writeln!(text, "  a run, which ended with {:?}, told:", run.code);
        for event in &run.told {
            match event["event"].as_str() {
                Some("step-began") => drop(writeln!(text, "    {} {}", event["at_s"], event["step"])),
                Some("step-ended" | "operation" | "plan" | "compose") => {}
                _ => drop(writeln!(text, "    {event}")),
            }
        }
    }
    let world = sim.world();
    let _ = writeln!(text, "  what is there:");
    for one in world.containers.values() {
        let addresses: Vec<_> = one.attached.values().filter_map(|at| at.address).collect();
        let _ = writeln!(text, "    {} ({}) {} {addresses:?}", one.name, one.image, one.state_word());
    }
    for table in world.port_tables.values() {
        let _ = writeln!(
            text,
            "    redirected: {:?}",
            table.leads.iter().map(|one| (one.published, one.container_ip)).collect::<Vec<_>>()
        );
    }
    for violation in world.violations.iter().take(6) {
        let _ = writeln!(text, "  {violation}");
    }
    text
}
