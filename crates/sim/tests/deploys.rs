//! Deploys in the simulated world.

use std::collections::BTreeMap;

use handover_sim::process::{FAULTS, Fault, run};
use handover_sim::simulate;
use handover_sim::stacks::{STACKS, bounded};
use handover_sim::story::{Wrong, calls_of, tell};

#[test]
fn nobody_notices_a_deploy_and_a_second_run_finds_nothing_to_do() {
    for stack in STACKS {
        simulate(async move || {
            let (sim, _clients) = stack.running().await;
            let ended = run(&sim, &["up"], None).await;
            assert_eq!(ended.code, Some(0), "{stack:?}: {:#?}\n{:#?}", ended.told, ended.calls);
            assert_eq!(sim.world().violations, Vec::<String>::new(), "{stack:?}: {:#?}", ended.told);
            let again = bounded(&sim, &["up"]).await;
            assert!(again.had_nothing_to_do(), "{stack:?}: {:#?}", again.told);
            println!("{stack:?}: {} calls, {:?}", ended.calls.len(), sim.world().elapsed());
        });
    }
}

#[test]
fn whatever_goes_wrong_at_any_call_nobody_notices_and_the_next_run_finishes() {
    let mut wrong = Vec::new();
    let mut told = 0;
    for stack in STACKS {
        let calls = simulate(async move || calls_of(stack).await);
        for what in FAULTS {
            for at in 0..calls {
                told += 1;
                let fault = Fault { at, what };
                if let Ok(only) = std::env::var("ONLY") {
                    if format!("{stack:?} {at} {what:?}") != only {
                        continue;
                    }
                }
                if std::env::var("TRACE").is_ok() {
                    eprintln!("{stack:?} {fault:?}");
                }
                match std::panic::catch_unwind(|| simulate(async move || tell(stack, fault).await)) {
                    Ok(ended) => wrong.extend(ended.err()),
                    Err(panic) => {
                        let what = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                        wrong.push(Box::new(Wrong { stack, fault, what, told: String::new() }));
                    }
                }
            }
        }
    }
    let mut kinds = BTreeMap::new();
    for one in &wrong {
        let what = one.what.split(" ms: ").last().unwrap_or_default().to_owned();
        kinds
            .entry((format!("{:?}", one.fault.what), format!("{:?}", one.stack), what))
            .or_insert_with(Vec::new)
            .push(one.fault.at);
    }
    for (kind, at) in &kinds {
        println!("{kind:?}: {at:?}");
    }
    println!("{} of {told} stories", wrong.len());
    if let Ok(number) = std::env::var("STORY") {
        let one = &wrong[number.parse::<usize>().unwrap_or(0)];
        println!("{:?} {:?}: {}\n{}", one.stack, one.fault, one.what, one.told);
    }
    assert!(wrong.is_empty());
}
