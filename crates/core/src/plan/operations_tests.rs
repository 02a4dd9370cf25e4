use crate::observation::Observation;
use crate::plan::fixtures::{STACK, checked_plan, everything, new_image, parse, settled};
use crate::plan::{Plan, Request};

fn printed(plan: &Plan) -> Vec<String> {
    plan.operations().iter().map(ToString::to_string).collect()
}

#[test]
fn all_that_a_deploy_does_is_printed_in_order() {
    let (project, observed, request) = everything();
    let plan = checked_plan(&project, &observed, &request);
    assert_eq!(plan.refusals, []);
    let code = "0d".repeat(32);
    assert_eq!(
        printed(&plan),
        [
            "create what the stand-in uses: store",
            "bring up a second copy, the stand-in: web, php, code",
            "gate: wait until the stand-in is ready",
            "redirect to the stand-in: ports 80 (web), 127.0.0.1:53/udp (web)",
            "redirect shop-worker-1 to the stand-in, where they call code, php, web",
            "drain the old containers: code, php, web",
            "stop the old containers: web; then php; then code",
            "make anonymous volumes anew from the images: code",
            "roll app (2 containers, 1 at a time): a new container starts, is ready and has the traffic before its old one ends",
            "Compose recreates code, php, web; creates store; removes shop-old-1",
            "gate: wait until app, code, php, store, web are ready",
            "tell nginx (service web, upstream php) where php is",
            "give back shop-worker-1 to the real containers",
            "give back to the real containers: ports 80 (web), 127.0.0.1:53/udp (web)",
            "drain the stand-in",
            "remove the stand-in: web, php, code",
            &format!("remove old code that nothing mounts any more: {code}"),
        ]
    );
}

#[test]
fn a_first_deploy_is_two_operations() {
    let plan = checked_plan(&parse(STACK), &Observation::default(), &Request::default());
    assert_eq!(
        printed(&plan),
        [
            "Compose creates applications, nginx, php-fpm, redis, websocket",
            "gate: wait until applications, nginx, php-fpm, redis, websocket are ready"
        ]
    );
}

#[test]
fn where_nothing_is_to_be_done_and_where_the_plan_is_refused_there_are_none() {
    let project = parse(STACK);
    let mut observed = settled(&project);
    assert_eq!(printed(&checked_plan(&project, &observed, &Request::default())), Vec::<String>::new());
    new_image(&mut observed, "redis:1");
    let refused = checked_plan(&project, &observed, &Request::default());
    assert_eq!(refused.refusals.len(), 1);
    assert_eq!(printed(&refused), Vec::<String>::new());
}
