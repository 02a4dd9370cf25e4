use super::*;
use crate::plan::fixtures::{checked_plan, everything};

type Mutate = fn(&mut Vec<Operation>);

/// Operations that are wrong in one way each, and the rule that finds it.
const MUTATIONS: [(&str, Mutate, Rule); 25] = [
    ("stop before redirect", |all| swap(all, "stop", "redirect"), Rule::RedirectedBeforeStop),
    ("no redirect", |all| drop_first(all, "redirect"), Rule::RedirectedBeforeStop),
    ("clients inside are forgotten", |all| drop_first(all, "redirect-clients"), Rule::RedirectedBeforeStop),
    (
        "one of two ports is forgotten",
        |all| ports(all, "redirect", |ports| drop(ports.pop())),
        Rule::RedirectedBeforeStop,
    ),
    ("no stop, so that Compose ends what serves", |all| drop_first(all, "stop"), Rule::RedirectedBeforeStop),
    ("no gate of the stand-in", |all| drop_first(all, "gate"), Rule::GatedBeforeRedirect),
    ("redirect before the gate", |all| swap(all, "gate", "redirect"), Rule::GatedBeforeRedirect),
    (
        "switch back before the real ones are ready",
        |all| swap(all, "converge", "switch-back"),
        Rule::GatedBeforeRedirect,
    ),
    ("the gate does not wait for all", |all| forget(all, "gate", "web"), Rule::GatedBeforeRedirect),
    ("the router is told too early", |all| swap(all, "converge", "tell-router"), Rule::GatedBeforeRedirect),
    ("a port is redirected twice", |all| repeat(all, "redirect"), Rule::RedirectedOnce),
    ("another port is redirected", |all| ports(all, "redirect", |ports| ports[0].1.target = 81), Rule::RedirectedOnce),
    ("a port is not given back", |all| ports(all, "switch-back", |ports| drop(ports.pop())), Rule::GivenBack),
    ("clients are not given back", |all| drop_first(all, "switch-clients-back"), Rule::GivenBack),
    ("the stand-in goes before traffic does", |all| swap(all, "switch-back", "remove"), Rule::GivenBack),
    ("the stand-in stays", |all| drop_first(all, "remove"), Rule::StandInRemoved),
    ("of the stand-in something stays", |all| forget(all, "remove", "php"), Rule::StandInRemoved),
    ("no drain of the old containers", |all| drop_first(all, "drain"), Rule::DrainedBeforeEnd),
    ("the stand-in is not drained", |all| drop_last(all, "drain"), Rule::DrainedBeforeEnd),
    ("what is used stops before its users", |all| reverse_tiers(all), Rule::UsersFirst),
    ("a service is rolled and recreated", |all| rename_rolled(all, "php"), Rule::OneStrategy),
    ("a service is left out", |all| drop_first(all, "roll"), Rule::AllThatIsNamed),
    ("a kept service is recreated", |all| converge(all, "worker"), Rule::OnlyWhatIsNamed),
    ("a volume with data is removed", remove_data, Rule::OnlyWhatIsNamed),
    ("a kept service gets new volumes", |all| renew(all, "worker"), Rule::OnlyWhatIsNamed),
];

fn at(all: &[Operation], name: &str) -> usize {
    all.iter().position(|operation| operation.name() == name).expect("the list has it")
}

fn swap(all: &mut [Operation], one: &str, other: &str) {
    all.swap(at(all, one), at(all, other));
}

fn drop_first(all: &mut Vec<Operation>, name: &str) {
    all.remove(at(all, name));
}

fn drop_last(all: &mut Vec<Operation>, name: &str) {
    let last = all.iter().rposition(|operation| operation.name() == name).expect("the list has it");
    all.remove(last);
}

fn repeat(all: &mut Vec<Operation>, name: &str) {
    let place = at(all, name);
    all.insert(place, all[place].clone());
}

fn ports(all: &mut [Operation], name: &str, mutate: impl FnOnce(&mut Vec<(String, Port)>)) {
    let place = at(all, name);
    let (Operation::Redirect { ports } | Operation::SwitchBack { ports }) = &mut all[place] else { panic!("{name}") };
    mutate(ports);
}

fn forget(all: &mut [Operation], name: &str, service: &str) {
    let place = at(all, name);
    let (Operation::Gate { services, .. } | Operation::Remove { services }) = &mut all[place] else { panic!("{name}") };
    services.retain(|one| one != service);
}

fn reverse_tiers(all: &mut [Operation]) {
    let place = at(all, "stop");
    let Operation::Stop { tiers } = &mut all[place] else { panic!("stop") };
    tiers.reverse();
}

fn rename_rolled(all: &mut [Operation], to: &str) {
    let place = at(all, "roll");
    let Operation::Roll { service, .. } = &mut all[place] else { panic!("roll") };
    *service = to.to_owned();
}

fn converge(all: &mut [Operation], more: &str) {
    let place = at(all, "converge");
    let Operation::Converge { services, .. } = &mut all[place] else { panic!("converge") };
    services.push((more.to_owned(), Action::Recreate));
}

fn renew(all: &mut [Operation], more: &str) {
    let place = at(all, "renew-volumes");
    let Operation::RenewVolumes { services } = &mut all[place] else { panic!("renew-volumes") };
    services.push(more.to_owned());
}

fn remove_data(all: &mut Vec<Operation>) {
    all.push(Operation::RemoveVolumes { volumes: vec!["shop_data".to_owned()] });
}

#[test]
fn each_mutation_of_a_list_is_found() {
    let (project, observed, request) = everything();
    let plan = checked_plan(&project, &observed, &request);
    for (what, mutate, rule) in MUTATIONS {
        let mut operations = plan.operations();
        mutate(&mut operations);
        let found = check(&plan, &operations, &project, &observed, &request);
        assert!(found.iter().any(|violation| violation.rule == rule), "{what}: {found:?}");
    }
}

/// Without a word from the user, the same plan would corrupt what two copies write.
#[test]
fn a_second_copy_of_what_keeps_state_is_found() {
    let (project, observed, request) = everything();
    let plan = checked_plan(&project, &observed, &request);
    let broken_by = |project: &Project, observed: &Observation| {
        let found = check(&plan, &plan.operations(), project, observed, &request);
        found.into_iter().map(|violation| (violation.rule, violation.what)).collect::<Vec<_>>()
    };
    let mut wordless = project.clone();
    wordless.settings.services.clear();
    let found = broken_by(&wordless, &observed);
    assert_eq!(found[0].0, Rule::SecondCopyNeedsConsent);
    assert_eq!(found[0].1, "code has a second copy, and nobody has said that two may write at /code");

    let mut stop_first = project.clone();
    stop_first.services.get_mut("app").unwrap().update.order = Some(Order::StopFirst);
    let found = broken_by(&stop_first, &observed);
    assert_eq!(found[0].1, "app has a second copy, and its order is stop-first");
}

/// Who restarts in place agreed to it.
#[test]
fn an_interruption_that_nobody_agreed_to_is_found() {
    let (mut project, observed, request) = everything();
    project.services.get_mut("app").unwrap().update.order = Some(Order::StopFirst);
    let agreed = Request { allow_interruption: true, ..request.clone() };
    let plan = checked_plan(&project, &observed, &agreed);
    assert_eq!(plan.refusals, []);
    let found = check(&plan, &plan.operations(), &project, &observed, &request);
    let what = found.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        what,
        ["Compose ends app, which is reached by a proxy that finds it (rule: nothing that clients reach is stopped \
          before its traffic goes elsewhere)"]
    );
}

#[test]
fn a_refused_plan_that_does_something_is_found() {
    let (project, observed, request) = everything();
    let mut plan = checked_plan(&project, &observed, &request);
    let operations = plan.operations();
    plan.refusals.push(crate::plan::Refusal {
        kind: crate::plan::RefusalKind::Host,
        service: None,
        what: String::new(),
        why: String::new(),
        hint: String::new(),
    });
    assert_eq!(plan.operations(), []);
    assert_eq!(check(&plan, &operations, &project, &observed, &request).len(), 1);
}

#[test]
fn a_plan_that_breaks_a_rule_is_refused_as_a_fault_of_ours() {
    let (project, observed, request) = everything();
    let mut plan = checked_plan(&project, &observed, &request);
    assert_eq!(refusals(&plan, &project, &observed, &request), []);
    plan.standin.as_mut().unwrap().ports.clear();
    let refusals = refusals(&plan, &project, &observed, &request);
    assert_eq!(refusals[0].kind, RefusalKind::Fault);
    assert_eq!(
        (refusals[0].what.as_str(), refusals[0].why.as_str()),
        (
            "handover's own plan breaks its rule that nothing that clients reach is stopped before its traffic goes elsewhere",
            "web is stopped while port 80 leads to it"
        )
    );
    assert!(refusals[0].hint.contains("nothing has moved"), "{}", refusals[0].hint);
}
