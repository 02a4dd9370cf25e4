//! Evidence: where a service is refused for want of a word on its storage, what is open and locked there is told with it.
//!
//! A plan is made without anything of ours running beside the engine. Only where there is such a refusal, and nothing else will be
//! done, a container of ours that can do nothing but look is started for it. Where it cannot look, the refusal stands alone.

use futures_util::future::join_all;
use handover_core::compose::project::Project;
use handover_core::observation::Observation;
use handover_core::plan::Plan;
use handover_core::plan::doubling::{paths_asked_about, with_evidence};
use handover_core::plan::evidence::{FileSeen, Held, MountSeen};
use handover_host::protocol::{Hold, MountInUse, MountsInUse, SessionOp};

use crate::deploy::evidence::with_look;
use crate::engine::Engine;
use crate::failure::Result;
use crate::helper::Helper;

/// Adds what can be seen now to the plan's refusals for want of a word.
pub(crate) async fn add(plan: &mut Plan, project: &Project, observed: &Observation, engine: &Engine) {
    let asked: Vec<(usize, Vec<String>)> = plan
        .refusals
        .iter()
        .map(|refusal| paths_asked_about(refusal, project, observed))
        .enumerate()
        .filter(|(_, paths)| !paths.is_empty())
        .collect();
    if asked.is_empty() {
        return;
    }
    let refusals = &plan.refusals;
    let seen = with_look(engine, &project.name, async |helper| {
        join_all(asked.into_iter().map(|(index, paths)| async move {
            let service = refusals[index].service.clone().unwrap_or_default();
            (index, look(engine, helper, observed, &service, paths).await.unwrap_or_default())
        }))
        .await
    });
    for (index, seen) in seen.await.unwrap_or_default() {
        plan.refusals[index] = with_evidence(&plan.refusals[index], project, observed, &seen);
    }
}

/// Looks below these paths in all running containers of a service.
async fn look(
    engine: &Engine,
    helper: &Helper,
    observed: &Observation,
    service: &str,
    targets: Vec<String>,
) -> Result<Vec<MountSeen>> {
    let mut seen: Vec<MountSeen> = Vec::new();
    for container in observed.of_service(service).filter(|container| container.running) {
        let Some(found) = engine.inspect(&container.id).await?.filter(|found| !found.sandbox.is_empty()) else {
            continue;
        };
        let op = SessionOp::OpenFiles { sandbox: found.sandbox.into(), targets: targets.clone() };
        let answer: MountsInUse = helper.ask(op).await?;
        for mount in answer.mounts {
            merge(&mut seen, mount);
        }
    }
    Ok(seen)
}

/// Replicas have the same paths; what any of them holds is told once a replica.
fn merge(seen: &mut Vec<MountSeen>, mount: MountInUse) {
    let files = mount.files.into_iter().map(|file| FileSeen {
        file: file.file,
        process: file.process,
        processes: file.processes,
        held: match file.hold {
            Hold::Locked => Held::Locked,
            Hold::Open => Held::Open,
            Hold::Mapped => Held::Mapped,
        },
    });
    match seen.iter_mut().find(|known| known.target == mount.target) {
        Some(known) => {
            known.files.extend(files);
            known.files.sort_by_key(|file| file.held);
            known.in_use += mount.in_use;
            known.never_written &= mount.never_written;
        }
        None => seen.push(MountSeen {
            target: mount.target,
            files: files.collect(),
            in_use: mount.in_use,
            never_written: mount.never_written,
        }),
    }
}
