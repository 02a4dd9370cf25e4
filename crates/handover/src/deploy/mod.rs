//! A deploy. [`up`] reads like the runbook; each stage has a file of its own.

mod context;
mod drain;
mod evidence;
mod gate;
mod images;
mod load;
mod lock;
mod preflight;
mod recover;
mod rolling;
mod settle;
mod standin;
mod traffic;

use std::net::IpAddr;

use handover_core::compose::project::Project;
use handover_core::observation::Observation;
use handover_core::plan::check;
use handover_core::plan::preflight::project_refusals;
use handover_core::plan::{Plan, Request, StandInPlan, plan as make_plan, selected_services};
use handover_core::recover::is_visible;

use crate::cli::{PlanArgs, UpArgs};
use crate::compose::Compose;
use crate::engine::{Engine, Listing};
use crate::event::{Event, Events, Proof, Step};
use crate::failure::{Failure, Result};
use crate::helper::Helper;
use crate::interrupt::Interrupt;
use context::Deploy;
use evidence::callers;
use load::Loaded;
use lock::Taken;
use standin::HandOver;
use standin::bring_up::BringUp;

/// Failures of a deploy: what is refused is refused all at once.
type Outcome<T> = std::result::Result<T, Vec<Failure>>;

/// Makes a plan and changes nothing.
pub(crate) async fn show_plan(compose: Compose, args: &PlanArgs, events: &Events) -> Outcome<Plan> {
    let Loaded { project, engine, listing } = load::load(&compose, events).await.map_err(one)?;
    let observing = observe(&compose, &engine, &project, listing, args.remove_orphans);
    let (observed, version) = tokio::join!(observing, compose.version());
    version.map_err(one)?;
    let observed = observed?;
    let mut plan = planned(&engine, &project, &observed, &request(args)).await;
    if plan.refusals.is_empty() && !plan.rolling.is_empty() {
        let tell = async |helper: &Helper| callers::tell(&engine, helper, &mut plan, &observed).await;
        evidence::with_look(&engine, &project.name, tell).await;
    }
    Ok(plan)
}

/// `docker compose up -d`, and no client notices.
///
/// May be repeated at any time: it finishes what an earlier run left half-way, and does nothing where nothing is to be done.
/// Until cutover a failure leaves everything as it was; after it traffic flows through the stand-in until the real containers
/// are ready.
pub(crate) async fn up(compose: Compose, args: &UpArgs, events: &Events, interrupt: &Interrupt) -> Outcome<()> {
    let looked = tokio::select! {
        biased;
        looked = look_around(compose, args, events) => looked?,
        () = interrupt.asked() => return Err(one(lock::interrupted())),
    };
    let Some(looked) = looked else {
        events.emit(Event::NothingToDo);
        return Ok(());
    };
    let locking = begin(looked, args, events, interrupt);
    let Begun { compose, engine, project, image, taken, observed, standin } = locking.await.map_err(one)?;
    let waited = taken.waited;
    // Compose makes the stand-in's containers while the helper starts. What fails here is tried again later, and told then: the lock
    // is taken, and has to be given back.
    let standin = standin.filter(|_| !waited);
    let mut begun = standin.and_then(|standin| BringUp::begin(&compose, &engine, &standin, events).ok());
    let lock = match events.step(Step::Helpers, taken.start(&engine)).await {
        Ok(lock) => lock,
        Err(failure) => {
            give_up(begun, &engine).await;
            return Err(vec![failure]);
        }
    };
    let (session, args) = (lock.session.clone(), args.clone());
    let near = near(&observed);
    let deploy = Deploy { compose, engine, session, events: events.clone(), project, args, image, near };
    // The session is the lock, and redirects are its: without it another run may begin, and nothing more is done here.
    let outcome = tokio::select! {
        biased;
        outcome = deploy_locked(&deploy, observed, &mut begun, waited, interrupt) => outcome,
        why = deploy.session.ended() => Err(one(lock::lost(why))),
    };
    give_up(begun, &deploy.engine).await;
    let engine = deploy.engine.clone();
    drop(deploy);
    lock.release(&engine).await;
    let mut proof = outcome?;
    proof.done = events.elapsed();
    proof.own = events.own_time();
    events.emit(Event::Proof(Box::new(proof)));
    Ok(())
}

/// Puts right what an earlier run left, and deploys nothing. May be repeated.
pub(crate) async fn recover(compose: Compose, args: UpArgs, events: &Events, interrupt: &Interrupt) -> Outcome<()> {
    let loading = load::load(&compose, events);
    let Loaded { project, engine, listing } = events.step(Step::Load, loading).await.map_err(one)?;
    let looked = async {
        compose.version().await?;
        let image = engine.helper_image().await?;
        let locking = lock::take(&engine, &project.name, &image, args.lock_wait, events, interrupt);
        let taken = events.step(Step::Lock, locking).await?;
        let lock = events.step(Step::Helpers, taken.start(&engine)).await?;
        Ok::<_, Failure>((image, lock))
    };
    let (looked, observed) =
        tokio::join!(looked, observe(&compose, &engine, &project, listing, args.plan.remove_orphans));
    let (image, lock) = looked.map_err(one)?;
    let session = lock.session.clone();
    let near = observed.as_ref().map(near).unwrap_or_default();
    let deploy = Deploy { compose, engine, session, events: events.clone(), project, args, image, near };
    let outcome = tokio::select! {
        biased;
        outcome = async { deploy.recover(deploy.observe().await?, interrupt).await } => outcome,
        why = deploy.session.ended() => Err(one(lock::lost(why))),
    };
    let engine = deploy.engine.clone();
    drop(deploy);
    lock.release(&engine).await;
    let (_, anything) = outcome?;
    events.emit(Event::Note(
        if anything { "what an earlier run left has been put right" } else { "no earlier run has left anything" }
            .to_owned(),
    ));
    Ok(())
}

/// Networks that end on the engine's host.
fn near(observed: &Observation) -> Vec<(IpAddr, u8)> {
    let bridges = observed.networks.values().filter(|network| network.driver == "bridge");
    bridges.flat_map(|network| network.subnets.iter().copied()).collect()
}

/// What is known before the lock is taken.
struct Looked {
    compose: Compose,
    engine: Engine,
    project: Project,
    observed: Observation,
    /// The plan as it looks now.
    plan: Plan,
    /// Whether Compose has been asked for its version.
    knows_version: bool,
}

/// What is known when the lock is taken and nothing has been started yet.
struct Begun {
    compose: Compose,
    engine: Engine,
    project: Project,
    image: String,
    taken: Taken,
    observed: Observation,
    /// The stand-in of the plan as it looks now, if nothing has to be done before it is brought up.
    standin: Option<StandInPlan>,
}

/// Takes away a stand-in that was begun and not needed.
async fn give_up(begun: Option<BringUp>, engine: &Engine) {
    if let Some(bring_up) = begun {
        let _ = bring_up.give_up(engine).await;
    }
}

/// Everything before the lock is taken; `None` if there is nothing to do. May be given up at any time.
async fn look_around(compose: Compose, args: &UpArgs, events: &Events) -> Outcome<Option<Looked>> {
    let loading = load::load(&compose, events);
    let Loaded { project, engine, listing } = events.step(Step::Load, loading).await.map_err(one)?;
    let request = request(&args.plan);
    let selected = selected_services(&project, &request.services).map_err(|refusal| vec![Failure::from(&refusal)])?;

    let observing = observe(&compose, &engine, &project, listing, request.remove_orphans);
    let mut observed = events.step(Step::Observe, observing).await?;
    let work = images::work(&project, &observed, &selected, args);
    if !work.is_empty() {
        let (version, made) = tokio::join!(compose.version(), images::make_available(&compose, &work, events));
        version.and(made).map_err(one)?;
        observed = observe_again(&compose, &engine, &project, request.remove_orphans).await?;
    }
    images::refuse_missing(&project, &observed, &selected).map_err(one)?;
    let plan = not_refused(planned(&engine, &project, &observed, &request).await)?;
    if plan.is_empty() && !observed.deploying && !is_visible(&observed) {
        return Ok(None);
    }
    Ok(Some(Looked { compose, engine, project, observed, plan, knows_version: !work.is_empty() }))
}

/// Takes the lock. A failure gives it back.
async fn begin(looked: Looked, args: &UpArgs, events: &Events, interrupt: &Interrupt) -> Result<Begun> {
    let Looked { compose, engine, project, observed, plan, knows_version } = looked;
    let locking = async {
        let image = engine.helper_image().await?;
        let taken = lock::take(&engine, &project.name, &image, args.lock_wait, events, interrupt).await?;
        Ok::<_, Failure>((image, taken))
    };
    // Where nothing had to be pulled, Compose has not been asked for its version yet; nothing has moved, so that this is soon enough.
    let asking = async { if knows_version { Ok(()) } else { compose.version().await.map(drop) } };
    let (version, locked) = tokio::join!(asking, events.step(Step::Lock, locking));
    let (image, taken) = locked?;
    let interrupted = if interrupt.is_asked() { Err(lock::interrupted()) } else { Ok(()) };
    if let Err(failure) = version.and(interrupted) {
        taken.give_back(&engine).await;
        return Err(failure);
    }
    let settled = !observed.deploying && !is_visible(&observed);
    let nothing_first = settled && !plan.create_resources && plan.create_first.is_empty();
    let standin = plan.standin.filter(|_| nothing_first);
    Ok(Begun { compose, engine, project, image, taken, observed, standin })
}

/// The part of a deploy that only one at a time may do.
async fn deploy_locked(
    deploy: &Deploy,
    mut observed: Observation,
    begun: &mut Option<BringUp>,
    waited: bool,
    interrupt: &Interrupt,
) -> Outcome<Proof> {
    let events = &deploy.events;
    let request = &request(&deploy.args.plan);
    if waited || observed.deploying || is_visible(&observed) {
        observed = deploy.observe().await?;
    }
    let (observed, _) = deploy.recover(observed, interrupt).await?;
    let mut plan = not_refused(planned(&deploy.engine, &deploy.project, &observed, request).await)?;
    callers::tell(&deploy.engine, &deploy.session, &mut plan, &observed).await;
    events.planned(&plan);
    let checking = async {
        let host = preflight::check(&deploy.engine, &deploy.project, &plan, &observed, &deploy.session).await?;
        traffic::routers::Routers::open(deploy, &plan, &observed).await?;
        Ok::<_, Vec<Failure>>(host)
    };
    let host = events.step(Step::Preflight, checking).await?;
    if plan.standin.is_some() && !host.input_dropped_by.is_empty() {
        events.emit(Event::Note(format!(
            "a firewall drops by default what comes in to the host ({}): clients over IPv6 and containers that call the host's \
             address reach the stand-in by an ephemeral port, and may wait until the deploy is done",
            host.input_dropped_by.join(", ")
        )));
    }
    let mut proof = match &plan.standin {
        _ if plan.is_empty() => Proof::default(),
        Some(standin) => {
            let plan = &plan;
            let road = HandOver { deploy, plan, standin, observed: &observed, host: &host, interrupt };
            road.run(begun).await.map_err(one)?
        }
        None => deploy.settle_without_standin(&plan, &observed, interrupt).await.map_err(one)?,
    };
    events.all_is_done();
    let settled = deploy.observe().await?;
    let again = Request { force_recreate: false, ..request.clone() };
    proof.differs = differences(&make_plan(&deploy.project, &settled, &again));
    Ok(proof)
}

/// The plan, with all that is known about it before the host is asked.
async fn planned(engine: &Engine, project: &Project, observed: &Observation, request: &Request) -> Plan {
    let mut plan = make_plan(project, observed, request);
    evidence::storage::add(&mut plan, project, observed, engine).await;
    plan.refusals.extend(project_refusals(project, &plan, observed));
    plan.refusals.extend(check::refusals(&plan, project, observed, request));
    plan
}

fn not_refused(plan: Plan) -> Outcome<Plan> {
    if plan.refusals.is_empty() { Ok(plan) } else { Err(Failure::refused(&plan.refusals)) }
}

fn request(args: &PlanArgs) -> Request {
    Request {
        services: args.services.clone(),
        force_recreate: args.force_recreate,
        remove_orphans: args.remove_orphans,
        allow_interruption: args.allow_interruption,
    }
}

/// What is there, of what the engine has listed. Where orphans are to be removed, containers of services that a profile hides are not among them, as
/// for Compose.
async fn observe(
    compose: &Compose,
    engine: &Engine,
    project: &Project,
    listing: Listing,
    orphans: bool,
) -> Outcome<Observation> {
    let mut observed = engine.observe(project, listing).await.map_err(one)?;
    if orphans && observed.orphans(project).next().is_some() {
        let hidden = compose.all_services().await.map_err(one)?;
        observed.containers.retain(|container| {
            project.services.contains_key(&container.service) || !hidden.contains(&container.service)
        });
    }
    Ok(observed)
}

async fn observe_again(compose: &Compose, engine: &Engine, project: &Project, orphans: bool) -> Outcome<Observation> {
    let listing = engine.list().await.map_err(one)?;
    observe(compose, engine, project, listing, orphans).await
}

/// What Compose would still change; nothing, after a deploy that went well.
fn differences(plan: &Plan) -> Vec<String> {
    plan.services
        .iter()
        .filter(|planned| planned.action != handover_core::plan::Action::Keep)
        .map(|planned| format!("{}: {}", planned.service, planned.reason))
        .collect()
}

fn one(failure: Failure) -> Vec<Failure> {
    vec![failure]
}
