//! How far a deploy has come in its plan: which operations each step carries out. The plan gives the order; a run that takes its
//! steps in another is a fault.

use std::collections::VecDeque;

use handover_core::plan::operations::{Operation, Side};

use crate::event::Step;

/// The operations that are still ahead, first to last.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    ahead: VecDeque<Ahead>,
}

/// An operation that has not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// Its place in the plan, from 1.
    pub(crate) number: usize,
    /// Its name for programs.
    pub(crate) operation: &'static str,
    /// The step that carries it out.
    step: Step,
}

impl Progress {
    /// Nothing of these has begun.
    pub(crate) fn of(operations: &[Operation]) -> Self {
        let rolls = operations.iter().any(|operation| matches!(operation, Operation::Roll { .. }));
        let numbered = operations.iter().zip(1..);
        let ahead = numbered.map(|(operation, number)| Ahead {
            number,
            operation: operation.name(),
            step: step_of(operation, rolls),
        });
        Self { ahead: ahead.collect() }
    }

    /// A step begins: the operations that it carries out. None for a step that belongs to no operation.
    pub(crate) fn begin(&mut self, step: Step) -> Vec<Ahead> {
        if step == Step::Back {
            // The way back has steps of its own, which have the names of those that lie ahead.
            self.ahead.clear();
        }
        let count = self.ahead.iter().take_while(|ahead| ahead.step == step).count();
        debug_assert!(
            count > 0 || self.ahead.iter().all(|ahead| ahead.step != step),
            "{step:?} begins before {:?}",
            self.ahead.front()
        );
        self.ahead.drain(..count).collect()
    }

    /// What has not begun.
    pub(crate) fn ahead(&self) -> Vec<Ahead> {
        self.ahead.iter().copied().collect()
    }
}

/// The step that carries out an operation. `rolls`: the plan rolls services; all that Compose makes is made in that step then.
fn step_of(operation: &Operation, rolls: bool) -> Step {
    match operation {
        Operation::CreateFirst { .. } => Step::CreateFirst,
        Operation::BringUp { .. } => Step::StandIn,
        Operation::Gate { of: Side::StandIn, .. } => Step::Gate,
        Operation::Redirect { .. } | Operation::RedirectClients { .. } => Step::Cutover,
        Operation::Drain { of: Side::Real, .. } => Step::Drain,
        Operation::Stop { .. } => Step::Stop,
        Operation::Roll { .. } => Step::Roll,
        Operation::RenewVolumes { .. } | Operation::Converge { .. } => {
            if rolls {
                Step::Roll
            } else {
                Step::Settle
            }
        }
        Operation::Gate { of: Side::Real, .. } => Step::GateReal,
        Operation::TellRouter { .. } => Step::Routers,
        Operation::SwitchClientsBack { .. } => Step::ClientsBack,
        Operation::SwitchBack { .. } => Step::Cutback,
        Operation::Drain { of: Side::StandIn, .. } | Operation::Remove { .. } => Step::CleanUp,
        Operation::RemoveVolumes { .. } => Step::OldCode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// A plan in which everything is to be done.
    fn everything() -> Vec<Operation> {
        let (services, clients) = (|| names(&["web"]), || names(&["worker"]));
        vec![
            Operation::CreateFirst { resources: true, services: Vec::new() },
            Operation::BringUp { services: services() },
            Operation::Gate { of: Side::StandIn, services: services() },
            Operation::Redirect { ports: Vec::new() },
            Operation::RedirectClients { clients: clients(), services: services() },
            Operation::Drain { of: Side::Real, services: services() },
            Operation::Stop { tiers: vec![services()] },
            Operation::RenewVolumes { services: services() },
            Operation::Roll { service: "app".to_owned(), containers: 1, at_once: None, router: None },
            Operation::Converge { services: Vec::new(), remove: Vec::new() },
            Operation::Gate { of: Side::Real, services: services() },
            Operation::TellRouter { service: "web".to_owned(), router: "nginx".to_owned() },
            Operation::SwitchClientsBack { clients: clients() },
            Operation::SwitchBack { ports: Vec::new() },
            Operation::Drain { of: Side::StandIn, services: services() },
            Operation::Remove { services: services() },
            Operation::RemoveVolumes { volumes: Vec::new() },
        ]
    }

    /// The numbers that each of these steps begins, and what is ahead then.
    fn walk(operations: &[Operation], steps: &[Step]) -> (Vec<Vec<usize>>, usize) {
        let mut progress = Progress::of(operations);
        let begun = steps.iter().map(|step| progress.begin(*step).iter().map(|ahead| ahead.number).collect());
        (begun.collect(), progress.ahead().len())
    }

    #[test]
    fn each_step_carries_out_what_is_next_and_nothing_is_left() {
        let steps = [
            Step::Preflight,
            Step::CreateFirst,
            Step::StandIn,
            Step::Gate,
            Step::Cutover,
            Step::Drain,
            Step::Stop,
            Step::Roll,
            Step::GateReal,
            Step::Routers,
            Step::ClientsBack,
            Step::Cutback,
            Step::CleanUp,
            Step::Unused,
            Step::OldCode,
        ];
        let (begun, ahead) = walk(&everything(), &steps);
        assert_eq!(begun.concat(), (1..=17).collect::<Vec<_>>());
        assert_eq!(
            (begun[4].as_slice(), begun[7].as_slice(), begun[12].as_slice()),
            (&[4, 5][..], &[8, 9, 10][..], &[15, 16][..])
        );
        assert_eq!(ahead, 0);
    }

    #[test]
    fn what_compose_makes_is_settled_where_nothing_is_rolled() {
        let operations = [Operation::Converge { services: Vec::new(), remove: names(&["p-old-1"]) }];
        assert_eq!(walk(&operations, &[Step::Settle, Step::GateReal]), (vec![vec![1], vec![]], 0));
    }

    #[test]
    fn on_the_way_back_nothing_more_of_the_plan_is_carried_out() {
        let steps =
            [Step::CreateFirst, Step::StandIn, Step::Gate, Step::Cutover, Step::Back, Step::Cutback, Step::CleanUp];
        let (begun, ahead) = walk(&everything(), &steps);
        assert_eq!((begun.concat(), ahead), (vec![1, 2, 3, 4, 5], 0));
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic(expected = "Stop begins before")]
    fn a_step_that_comes_too_early_is_a_fault() {
        walk(&everything(), &[Step::CreateFirst, Step::StandIn, Step::Gate, Step::Stop]);
    }
}
