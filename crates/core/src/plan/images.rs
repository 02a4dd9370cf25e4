//! Which images must be pulled or built before a deploy, by Compose's rules.

use std::collections::BTreeSet;

use crate::compose::project::Project;
use crate::observation::Observation;

/// What the command line says about pulling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullRule {
    /// As each service says.
    #[default]
    ByService,
    /// Always.
    Always,
    /// Only what is not here.
    Missing,
    /// Never.
    Never,
}

/// What Compose is asked to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageWork {
    /// Services to build.
    pub build: Vec<String>,
    /// Services to pull whatever is here.
    pub pull_always: Vec<String>,
    /// Services to pull because their image is not here.
    pub pull_missing: Vec<String>,
    /// Services whose own policy decides (`daily`, `weekly`, `every_…`).
    pub pull_by_policy: Vec<String>,
}

impl ImageWork {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Decides for the selected services.
pub fn image_work(
    project: &Project,
    observed: &Observation,
    selected: &BTreeSet<String>,
    pull: PullRule,
    build: bool,
) -> ImageWork {
    let mut work = ImageWork::default();
    for service in selected.iter().filter_map(|name| project.services.get(name)) {
        let missing = !observed.images.contains_key(&service.image);
        let policy = service.pull_policy.as_deref().unwrap_or("missing");
        if service.has_build {
            if build || missing || policy == "build" {
                work.build.push(service.name.clone());
            }
            continue;
        }
        let list = match (pull, policy) {
            (PullRule::Never, _) | (PullRule::ByService, "never") => None,
            (PullRule::Always, _) | (PullRule::ByService, "always") => Some(&mut work.pull_always),
            (PullRule::Missing, _) | (PullRule::ByService, "missing" | "if_not_present" | "build") => {
                missing.then_some(&mut work.pull_missing)
            }
            (PullRule::ByService, _) => Some(&mut work.pull_by_policy),
        };
        if let Some(list) = list {
            list.push(service.name.clone());
        }
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Image;

    fn work(pull: PullRule, build: bool) -> ImageWork {
        let project = Project::parse(
            r#"{"name":"p","services":{
                "here":{"image":"here"},"missing":{"image":"missing"},"built":{"build":{}},
                "always":{"image":"here","pull_policy":"always"},"never":{"image":"missing","pull_policy":"never"},
                "daily":{"image":"here","pull_policy":"daily"}}}"#,
            "",
            '-',
        )
        .unwrap();
        let mut observed = Observation::default();
        for image in ["here", "p-built"] {
            observed.images.insert(image.into(), Image::default());
        }
        image_work(&project, &observed, &project.services.keys().cloned().collect(), pull, build)
    }

    #[test]
    fn each_service_is_pulled_by_its_own_policy() {
        let expected = ImageWork {
            pull_always: vec!["always".into()],
            pull_missing: vec!["missing".into()],
            pull_by_policy: vec!["daily".into()],
            ..Default::default()
        };
        assert_eq!(work(PullRule::ByService, false), expected);
    }

    #[test]
    fn the_command_line_outweighs_the_service() {
        assert_eq!(work(PullRule::Always, false).pull_always.len(), 5);
        assert_eq!(work(PullRule::Missing, false).pull_missing, ["missing", "never"]);
        assert!(work(PullRule::Never, false).is_empty());
        assert_eq!(work(PullRule::Never, true).build, ["built"]);
    }
}
