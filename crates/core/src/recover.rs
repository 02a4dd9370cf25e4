//! What an earlier run left, and what becomes of it: one ordered list.
//!
//! What is redirected is known from the kernel alone. A guard may be gone, paused or between two starts while its rules go on leading
//! every client to the stand-in; taken for "nothing is redirected", the stand-in would be removed under them.

use crate::compose::project::Project;
use crate::observation::Observation;

/// What the host's kernel and our guard say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redirected {
    /// Whether the project's table is there, redirecting or not.
    pub loaded: bool,
    /// Whether it redirects published ports.
    pub redirects: bool,
}

/// One thing to put right, in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Pairs of an old and a new container of which one has to go.
    HalfReplaced,
    /// The stand-in serves: its deploy is finished, so that the real containers serve again.
    Finish {
        /// Its members that the project still has. Never empty.
        members: Vec<String>,
    },
    /// Nothing serves where redirects lead, or nothing is redirected: redirects, guard and stand-in go, and what is in flight ends first.
    Remove,
    /// Containers that hold names for a run that is gone: by now the real ones have them.
    NameHolders,
}

/// What an earlier run left, first things first; nothing if all is in order.
pub fn leftovers(project: &Project, observed: &Observation, redirected: Redirected) -> Vec<Recovery> {
    let mut all = Vec::new();
    if !observed.half_replaced.is_empty() {
        all.push(Recovery::HalfReplaced);
    }
    let is_there = observed.guard.is_some() || !observed.standin.is_empty() || redirected.loaded;
    let serves = redirected.redirects && observed.standin.iter().any(|container| container.running);
    let members = members(project, observed);
    match is_there {
        true if serves && !members.is_empty() => all.push(Recovery::Finish { members }),
        true => all.push(Recovery::Remove),
        false => {}
    }
    if !observed.name_holders.is_empty() {
        all.push(Recovery::NameHolders);
    }
    all
}

/// Whether the engine alone shows that there is something; the kernel may hold more.
pub fn is_visible(observed: &Observation) -> bool {
    observed.guard.is_some()
        || !observed.standin.is_empty()
        || !observed.half_replaced.is_empty()
        || !observed.name_holders.is_empty()
}

/// The stand-in's members that the project has. One that has been renamed since is none: Compose would say that there is no such
/// service, in this run and in every one after it.
fn members(project: &Project, observed: &Observation) -> Vec<String> {
    let names = observed.standin.iter().filter_map(|container| container.service.strip_prefix("standin-"));
    let mut members: Vec<String> =
        names.filter(|name| project.services.contains_key(*name)).map(str::to_owned).collect();
    members.sort();
    members.dedup();
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Container;

    fn project(services: &[&str]) -> Project {
        let services: Vec<String> = services.iter().map(|name| format!("\"{name}\":{{\"image\":\"i\"}}")).collect();
        let config = format!("{{\"name\":\"shop\",\"services\":{{{}}}}}", services.join(","));
        Project::parse(&config, "", '-').expect("a project")
    }

    fn standin(service: &str, running: bool) -> Container {
        Container { service: format!("standin-{service}"), running, ..Container::default() }
    }

    const LEADS: Redirected = Redirected { loaded: true, redirects: true };
    const LEADS_NOWHERE: Redirected = Redirected { loaded: true, redirects: false };

    #[test]
    fn nothing_is_left_of_a_run_that_came_to_its_end() {
        assert_eq!(leftovers(&project(&["web"]), &Observation::default(), Redirected::default()), []);
    }

    #[test]
    fn a_stand_in_that_is_redirected_to_serves_whether_there_is_a_guard_or_not() {
        let finish = [Recovery::Finish { members: vec!["web".to_owned()] }];
        let mut observed = Observation { standin: vec![standin("web", true)], ..Observation::default() };
        assert_eq!(leftovers(&project(&["web"]), &observed, LEADS), finish);
        observed.guard = Some(Container::default());
        assert_eq!(leftovers(&project(&["web"]), &observed, LEADS), finish);
    }

    #[test]
    fn a_stand_in_that_nothing_is_redirected_to_goes() {
        let observed = Observation { standin: vec![standin("web", true)], ..Observation::default() };
        for redirected in [Redirected::default(), LEADS_NOWHERE] {
            assert_eq!(leftovers(&project(&["web"]), &observed, redirected), [Recovery::Remove]);
        }
    }

    #[test]
    fn redirects_to_a_stand_in_that_does_not_run_or_is_gone_are_taken_out() {
        let stopped = Observation { standin: vec![standin("web", false)], ..Observation::default() };
        assert_eq!(leftovers(&project(&["web"]), &stopped, LEADS), [Recovery::Remove]);
        assert_eq!(leftovers(&project(&["web"]), &Observation::default(), LEADS), [Recovery::Remove]);
        assert_eq!(leftovers(&project(&["web"]), &Observation::default(), LEADS_NOWHERE), [Recovery::Remove]);
    }

    #[test]
    fn members_that_the_project_no_longer_has_are_not_asked_of_compose() {
        let both = vec![standin("web", true), standin("gone", true)];
        let observed = Observation { standin: both, ..Observation::default() };
        let finish = [Recovery::Finish { members: vec!["web".to_owned()] }];
        assert_eq!(leftovers(&project(&["web", "db"]), &observed, LEADS), finish);
        assert_eq!(leftovers(&project(&["web2"]), &observed, LEADS), [Recovery::Remove]);
    }

    #[test]
    fn names_that_nobody_needs_any_more_are_let_go() {
        let observed = Observation { name_holders: vec![Container::default()], ..Observation::default() };
        assert!(is_visible(&observed));
        assert_eq!(leftovers(&project(&["web"]), &observed, Redirected::default()), [Recovery::NameHolders]);
    }

    #[test]
    fn half_replaced_pairs_come_first() {
        let half_replaced = vec![Container::default()];
        let observed = Observation { half_replaced, standin: vec![standin("web", true)], ..Observation::default() };
        let all = leftovers(&project(&["web"]), &observed, LEADS);
        assert_eq!(all, [Recovery::HalfReplaced, Recovery::Finish { members: vec!["web".to_owned()] }]);
    }
}
