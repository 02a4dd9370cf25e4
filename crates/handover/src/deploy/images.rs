//! Images: what is missing or asked for is pulled and built through Compose, before anything is planned.

use std::collections::BTreeSet;

use handover_core::compose::project::Project;
use handover_core::compose::service_names::ServiceNames;
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
            if let Some(services) = names(&work.pull_always) {
                compose.pull(Some(Pull::Always.word()), &services, events).await?;
            }
            if let Some(services) = names(&work.pull_missing) {
                compose.pull(Some(Pull::Missing.word()), &services, events).await?;
            }
            if let Some(services) = names(&work.pull_by_policy) {
                compose.pull(None, &services, events).await?;
            }
            if let Some(services) = names(&work.build) {
                compose.build(&services, events).await?;
            }
            Ok(())
        })
        .await
}

fn names(services: &[String]) -> Option<ServiceNames> {
    ServiceNames::new(services.iter().cloned())
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
