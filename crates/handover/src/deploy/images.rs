//! Images: what is missing or asked for is pulled and built through Compose, before anything is planned.

use std::collections::BTreeSet;

use handover_core::compose::project::Project;
use handover_core::observation::Observation;
use handover_core::plan::images::{ImageWork, PullRule, image_work};

use crate::cli::{Pull, UpArgs};
use crate::compose::Compose;
use crate::event::{Events, Step};
use crate::failure::{Exit, Failure, Result};

/// What has to be pulled and built.
pub(crate) fn work(project: &Project, observed: &Observation, selected: &BTreeSet<String>, args: &UpArgs) -> ImageWork {
    let rule = match args.pull {
        None => PullRule::ByService,
        Some(Pull::Always) => PullRule::Always,
        Some(Pull::Missing) => PullRule::Missing,
        Some(Pull::Never) => PullRule::Never,
    };
    image_work(project, observed, selected, rule, args.build)
}

/// Pulls and builds.
pub(crate) async fn make_available(compose: &Compose, work: &ImageWork, events: &Events) -> Result<()> {
    events
        .step(Step::Images, async {
            if !work.pull_always.is_empty() {
                compose.pull(Some(Pull::Always.word()), &work.pull_always, events).await?;
            }
            if !work.pull_missing.is_empty() {
                compose.pull(Some(Pull::Missing.word()), &work.pull_missing, events).await?;
            }
            if !work.pull_by_policy.is_empty() {
                compose.pull(None, &work.pull_by_policy, events).await?;
            }
            if !work.build.is_empty() {
                compose.build(&work.build, events).await?;
            }
            Ok(())
        })
        .await
}

/// Refuses services whose image is still not here: Compose is told not to pull once containers move.
pub(crate) fn refuse_missing(project: &Project, observed: &Observation, selected: &BTreeSet<String>) -> Result<()> {
    let services = selected.iter().filter_map(|name| project.services.get(name));
    let missing: Vec<&str> = services
        .filter(|service| !observed.images.contains_key(&service.image))
        .map(|service| service.image.as_str())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Image, format!("image {} is not here", missing.join(", ")))
        .because("pulling it is not allowed, by --pull never or by its pull_policy")
        .hint("pull or build it, or deploy with --pull missing"))
}
