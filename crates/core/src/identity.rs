//! Which containers are handover's own. What only looks like one is never believed and never touched.
//!
//! Labels alone say nothing: an image may carry them, and whoever runs it need not know. Neither does a project's name: somebody's
//! own project may be called `<project>-standin`.

use std::collections::HashMap;

use crate::observation::{LABEL_PROJECT, LABEL_ROLE, LABEL_STANDIN_FOR};
use crate::plan::standin;

/// Repository of the image that our containers run from; its tag says which build.
pub const IMAGE_REPOSITORY: &str = "handover";

/// Helpers that have one name a project.
pub const NAMED_ROLES: [&str; 3] = ["guard", "session", "keeper"];

/// Role of a helper that holds the names of a service while its real containers are away: one a service.
pub const NAME_HOLDER: &str = "name";

/// What the engine lists of a container, as far as it tells whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Name without the leading slash.
    pub name: &'a str,
    /// The image as it was named at its creation, or an id where that name is another's by now.
    pub image: &'a str,
    /// Entrypoint and command, as one line.
    pub command: &'a str,
    /// All of its labels.
    pub labels: &'a HashMap<String, String>,
}

/// Whose a container is, seen from one project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// One of our helpers for the project, in this role.
    Helper(String),
    /// Of the project's stand-in.
    StandIn,
    /// Has a name that we need for the project, and is not ours.
    InTheWay,
    /// Anything else.
    Other,
}

/// Name of the container of a helper of which a project has one.
pub fn helper_name(project: &str, role: &str) -> String {
    format!("handover-{project}-{role}")
}

/// Whose this container is.
pub fn identity(project: &str, seen: &Seen<'_>) -> Identity {
    let label = |key: &str| seen.labels.get(key).map(String::as_str);
    if label("com.docker.compose.project") == Some(standin::project_name(project).as_str()) {
        return if label(LABEL_STANDIN_FOR) == Some(project) { Identity::StandIn } else { Identity::InTheWay };
    }
    let named = NAMED_ROLES.into_iter().find(|role| seen.name == helper_name(project, role));
    let role = label(LABEL_ROLE).filter(|_| label(LABEL_PROJECT) == Some(project) && runs_this_program(seen));
    match (named, role) {
        (Some(named), Some(role)) if named == role => Identity::Helper(role.to_owned()),
        (Some(_), _) => Identity::InTheWay,
        (None, Some(NAME_HOLDER)) if seen.name.starts_with(&helper_name(project, NAME_HOLDER)) => {
            Identity::Helper(NAME_HOLDER.to_owned())
        }
        _ => Identity::Other,
    }
}

/// Whether it runs a build of this program from our image. The image of another build may have lost its name.
fn runs_this_program(seen: &Seen<'_>) -> bool {
    let ours = |image: &str| match image.split_once(':') {
        Some((IMAGE_REPOSITORY, tag)) => tag.len() == 12 && tag.chars().all(|one| matches!(one, '0'..='9' | 'a'..='f')),
        Some(("sha256", _)) => true,
        // An id without its prefix, as engines shorten it.
        None => image.len() >= 12 && image.chars().all(|one| one.is_ascii_hexdigit()),
        Some(_) => false,
    };
    seen.command.starts_with("/handover ") && ours(seen.image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(all: &[(&str, &str)]) -> HashMap<String, String> {
        all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[track_caller]
    fn check(name: &str, image: &str, command: &str, all: &[(&str, &str)], expected: &Identity) {
        let labels = labels(all);
        assert_eq!(identity("shop", &Seen { name, image, command, labels: &labels }), *expected);
    }

    const GUARD: [(&str, &str); 2] = [(LABEL_PROJECT, "shop"), (LABEL_ROLE, "guard")];

    #[test]
    fn a_helper_has_its_name_its_labels_and_our_program() {
        let guard = Identity::Helper("guard".to_owned());
        check("handover-shop-guard", "handover:0123456789ab", "/handover guard", &GUARD, &guard);
        // The next build has taken the tag over, or removed it.
        check("handover-shop-guard", "sha256:77af4d6b9913", "/handover guard", &GUARD, &guard);
    }

    #[test]
    fn who_holds_the_names_of_a_service_is_a_helper_of_its_project_alone() {
        let holder = [(LABEL_PROJECT, "shop"), (LABEL_ROLE, NAME_HOLDER)];
        let helper = Identity::Helper(NAME_HOLDER.to_owned());
        check("handover-shop-name-api", "handover:0123456789ab", "/handover session", &holder, &helper);
        check("handover-shop-name-api", "busybox", "sleep", &holder, &Identity::Other);
        check("somebodys", "handover:0123456789ab", "/handover session", &holder, &Identity::Other);
    }

    #[test]
    fn labels_that_come_with_an_image_make_no_helper() {
        check("worker", "evil:1", "/handover guard", &GUARD, &Identity::Other);
        check("shop-app-1", "handover:0123456789ab", "/handover guard", &GUARD, &Identity::Other);
    }

    #[test]
    fn what_only_has_a_name_that_we_need_is_in_the_way() {
        check("handover-shop-guard", "busybox", "sh", &[], &Identity::InTheWay);
        check("handover-shop-guard", "busybox", "/handover guard", &GUARD, &Identity::InTheWay);
        check("handover-shop-session", "handover:0123456789ab", "/handover guard", &GUARD, &Identity::InTheWay);
        check("handover-other-guard", "busybox", "sh", &[], &Identity::Other);
    }

    #[test]
    fn somebodys_own_project_that_is_called_like_the_stand_in_is_in_the_way() {
        let theirs = [("com.docker.compose.project", "shop-standin")];
        check("shop-standin-web-1", "web:1", "run", &theirs, &Identity::InTheWay);
        let ours = [("com.docker.compose.project", "shop-standin"), (LABEL_STANDIN_FOR, "shop")];
        check("shop-standin-standin-web-1", "web:1", "run", &ours, &Identity::StandIn);
        let of_another = [("com.docker.compose.project", "shop-standin"), (LABEL_STANDIN_FOR, "shoe")];
        check("shop-standin-standin-web-1", "web:1", "run", &of_another, &Identity::InTheWay);
    }
}
