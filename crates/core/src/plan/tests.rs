use super::fixtures::{STACK, carries, checked_plan as plan, hashed_with_dependencies, new_image, parse, settled};
use super::*;

fn actions(plan: &Plan) -> Vec<(&str, Action)> {
    plan.services.iter().map(|planned| (planned.service.as_str(), planned.action)).collect()
}

#[test]
fn what_runs_as_wanted_is_kept() {
    let project = parse(STACK);
    let plan = plan(&project, &settled(&project), &Request::default());
    assert!(plan.is_empty(), "{:?}", plan.services);
    assert_eq!(plan.refusals, []);
    assert_eq!(plan.standin, None);
}

#[test]
fn new_code_gives_a_stand_in_for_all_that_serves_it_and_leaves_the_stores_alone() {
    let project = parse(STACK);
    let mut observed = settled(&project);
    carries(&mut observed, "apps:1", "/code");
    for image in ["apps:1", "php:1", "ws:1"] {
        new_image(&mut observed, image);
    }
    let plan = plan(&project, &observed, &Request::default());
    assert_eq!(plan.refusals, []);
    assert_eq!(
        actions(&plan),
        [
            ("applications", Action::StandIn),
            ("nginx", Action::StandIn),
            ("php-fpm", Action::StandIn),
            ("redis", Action::Keep),
            ("websocket", Action::StandIn)
        ]
    );
    let standin = plan.standin.expect("a stand-in");
    assert_eq!(standin.tiers, [vec!["nginx", "websocket"], vec!["php-fpm"], vec!["applications"]]);
    assert_eq!(standin.ports.len(), 3);
    assert_eq!(plan.renew, [Renewal { service: "applications".into(), volumes: vec![] }]);
}

#[test]
fn an_image_that_declares_a_volume_is_not_doubled_without_a_word() {
    let project = parse(&STACK.replace(r#""volumes":"renew""#, r#""fronts":[]"#));
    let mut observed = settled(&project);
    carries(&mut observed, "apps:1", "/code");
    new_image(&mut observed, "apps:1");
    let refusals = plan(&project, &observed, &Request::default()).refusals;
    assert_eq!(refusals.len(), 1);
    assert_eq!(refusals[0].service.as_deref(), Some("applications"));
    assert!(refusals[0].hint.contains("applications: { volumes: renew }"), "{}", refusals[0].hint);
}

#[test]
fn a_store_that_changes_is_refused_until_the_user_says_share_or_own() {
    let project = parse(STACK);
    let mut observed = settled(&project);
    new_image(&mut observed, "redis:1");
    let refused = plan(&project, &observed, &Request::default());
    assert_eq!(refused.refusals[0].service.as_deref(), Some("redis"));
    assert!(refused.refusals[0].why.contains("volume data at /data"));

    let own = STACK.replace(r#""x-handover":{"services":{"#, r#""x-handover":{"services":{"redis":{"volumes":"own"},"#);
    let project = parse(&own);
    let still_refused = plan(&project, &observed, &Request::default());
    assert_eq!(still_refused.refusals[0].what, "its restart would interrupt whoever uses it");
    let allowed = plan(&project, &observed, &Request { allow_interruption: true, ..Default::default() });
    assert_eq!(allowed.refusals, []);
    assert_eq!(actions(&allowed)[3], ("redis", Action::InPlace));
    assert_eq!(allowed.standin, None, "what only uses the store is left alone");

    let share = own.replace("own", "share");
    let project = parse(&share);
    let shared = plan(&project, &observed, &Request::default());
    assert_eq!(shared.refusals, []);
    assert!(shared.standin.unwrap().document["services"].get("standin-redis").is_some());
}

#[test]
fn what_was_seen_is_told_with_the_refusal_and_the_likelier_answer_first() {
    use crate::plan::doubling::{paths_asked_about, with_evidence};
    use crate::plan::evidence::MountSeen;

    let project = parse(&STACK.replace("redis:1", "shop:1"));
    let mut observed = settled(&project);
    new_image(&mut observed, "shop:1");
    let refusal = &plan(&project, &observed, &Request::default()).refusals[0];
    assert_eq!(paths_asked_about(refusal, &project, &observed), ["/data"]);
    let other = Refusal { what: "its restart would interrupt whoever uses it".into(), ..refusal.clone() };
    assert_eq!(paths_asked_about(&other, &project, &observed), Vec::<String>::new());

    let first = |refusal: &Refusal| refusal.hint.find("own").unwrap() < refusal.hint.find("share").unwrap();
    assert!(!first(refusal), "{}", refusal.hint);
    let held = MountSeen { target: "/data".into(), in_use: 2, ..Default::default() };
    let told = with_evidence(refusal, &project, &observed, &[held]);
    assert!(first(&told), "{}", told.hint);
    assert!(told.why.ends_with("may corrupt that\nseen now: 2 more below /data"), "{}", told.why);
    assert_eq!(with_evidence(refusal, &project, &observed, &[]), *refusal);
}

#[test]
fn the_first_deploy_is_composes_own() {
    let project = parse(STACK);
    let plan = plan(&project, &Observation { architecture: "amd64".into(), ..Default::default() }, &Request::default());
    assert!(plan.services.iter().all(|planned| planned.action == Action::Create));
    assert_eq!(plan.standin, None);
    assert_eq!(plan.refusals, []);
}

const BEHIND_CADDY: &str = r#"{"name":"p","services":{
  "caddy":{"image":"caddy","networks":{"default":null},"ports":[{"target":80,"published":"8080"}]},
  "app":{"image":"app","networks":{"default":null}},
  "other":{"image":"other","networks":{"back":null}}},
  "networks":{"default":{"name":"p_default"},"back":{"name":"p_back"}}}"#;

#[test]
fn a_service_that_a_router_finds_by_name_is_taken_to_be_fronted_and_the_plan_says_so() {
    let project = parse(BEHIND_CADDY);
    let mut observed = settled(&project);
    new_image(&mut observed, "app");
    let plan = plan(&project, &observed, &Request::default());
    assert_eq!(actions(&plan), [("app", Action::StandIn), ("caddy", Action::StandIn), ("other", Action::Keep)]);
    assert_eq!(plan.services[1].reason, "unchanged, but it passes requests to app");
    assert!(plan.notes[0].contains("taken to be fronted by caddy"), "{:?}", plan.notes);
}

#[test]
fn a_worker_on_another_network_is_left_to_compose() {
    let project = parse(BEHIND_CADDY);
    let mut observed = settled(&project);
    new_image(&mut observed, "other");
    let plan = plan(&project, &observed, &Request::default());
    assert_eq!(actions(&plan)[2], ("other", Action::Recreate));
    assert_eq!(plan.standin, None);
}

#[test]
fn an_announced_service_never_gets_a_stand_in() {
    let project =
        parse(&BEHIND_CADDY.replace(r#""image":"app""#, r#""image":"app","labels":{"traefik.enable":"true"}"#));
    let mut observed = settled(&project);
    new_image(&mut observed, "app");
    let plan = plan(&project, &observed, &Request::default());
    assert_eq!(actions(&plan)[0], ("app", Action::Rolling));
    assert_eq!(plan.standin, None);
}

#[test]
fn host_network_and_stop_first_are_restarted_in_place_with_consent() {
    for field in [r#""network_mode":"host""#, r#""deploy":{"update_config":{"order":"stop-first"}}"#] {
        let json = format!(
            r#"{{"name":"p","services":{{"web":{{"image":"w",{field},"ports":[{{"target":80,"published":"80"}}]}}}}}}"#
        );
        let project = parse(&json);
        let mut observed = settled(&project);
        new_image(&mut observed, "w");
        let plan = plan(&project, &observed, &Request::default());
        assert_eq!(actions(&plan), [("web", Action::InPlace)], "{field}");
        assert_eq!(plan.refusals.len(), 1, "{field}");
    }
}

#[test]
fn an_unknown_service_is_answered_with_the_nearest() {
    let project = parse(STACK);
    let request = Request { services: vec!["ngnix".into()], ..Default::default() };
    let plan = plan(&project, &settled(&project), &request);
    assert_eq!(plan.refusals[0].kind, RefusalKind::Project);
    assert_eq!(plan.refusals[0].hint, "did you mean `nginx`?");
}

#[test]
fn only_the_services_asked_for_and_what_they_depend_on_are_planned() {
    let project = parse(STACK);
    let request = Request { services: vec!["websocket".into()], ..Default::default() };
    let plan = plan(&project, &settled(&project), &request);
    assert_eq!(actions(&plan), [("redis", Action::Keep), ("websocket", Action::Keep)]);
}

#[test]
fn a_new_store_that_the_stand_in_uses_is_made_first() {
    let project = parse(STACK);
    let mut observed = settled(&project);
    observed.containers.retain(|container| container.service != "redis");
    new_image(&mut observed, "ws:1");
    let plan = plan(&project, &observed, &Request::default());
    assert_eq!(plan.refusals, []);
    assert_eq!(plan.create_first, ["redis"]);
    assert!(plan.standin.unwrap().document["services"].get("standin-redis").is_none());
}

#[test]
fn what_was_not_asked_for_is_not_made_first_either() {
    let json = r#"{"name":"p","services":{
      "web":{"image":"web:1","networks":{"default":null},"ports":[{"target":80,"published":"80"}]},
      "app":{"image":"app:1","networks":{"default":null}}},
      "networks":{"default":{"name":"d"}},"x-handover":{"services":{"web":{"fronts":["app"]}}}}"#;
    let project = parse(json);
    let mut observed = settled(&project);
    observed.containers.retain(|container| container.service == "web");
    new_image(&mut observed, "web:1");
    let request = Request { services: vec!["web".into()], ..Request::default() };
    let plan = plan(&project, &observed, &request);
    assert_eq!(actions(&plan), [("web", Action::StandIn)]);
    assert_eq!(plan.create_first, Vec::<String>::new());
}

#[test]
fn anonymous_volumes_are_renewed_all_together_or_none() {
    let words = r#""applications":{"volumes":{"/code":"renew","/uploads":"share"}}"#;
    let project = parse(&STACK.replace(r#""applications":{"volumes":"renew"}"#, words));
    let mut observed = settled(&project);
    carries(&mut observed, "apps:1", "/code");
    new_image(&mut observed, "apps:1");
    assert_eq!(plan(&project, &observed, &Request::default()).refusals, []);
    carries(&mut observed, "apps:1", "/uploads");
    let refusals = plan(&project, &observed, &Request::default()).refusals;
    assert_eq!((refusals.len(), refusals[0].kind), (1, RefusalKind::Consent));
    assert!(refusals[0].why.ends_with("what is kept at /uploads would be lost"), "{}", refusals[0].why);
}

#[test]
fn a_changed_network_is_refused_before_anything_moves() {
    let project = parse(STACK);
    let mut observed = settled(&project);
    observed.networks.get_mut("docker_default").unwrap().config_hash = Some("another".into());
    new_image(&mut observed, "ws:1");
    let plan = plan(&project, &observed, &Request::default());
    assert!(plan.refusals[0].what.contains("docker_default"), "{:?}", plan.refusals);
}

#[test]
fn orphans_are_named_only_when_asked_for() {
    let project = parse(STACK);
    let mut observed = settled(&project);
    observed.containers.push(Container { name: "docker-old-1".into(), service: "old".into(), ..Default::default() });
    assert!(plan(&project, &observed, &Request::default()).is_empty());
    let removing = plan(&project, &observed, &Request { remove_orphans: true, ..Default::default() });
    assert_eq!(removing.remove_orphans, ["docker-old-1"]);
    assert!(!removing.is_empty());
}

#[test]
fn what_compose_restarts_together_with_a_changed_service_is_in_the_plan() {
    let project = parse(
        r#"{"name":"p","services":{
          "app":{"image":"app","networks":{"back":null}},
          "worker":{"image":"worker","networks":{"back":null},"links":["app"],
            "depends_on":{"app":{"condition":"service_started","restart":true,"required":true}}}},
          "networks":{"back":{"name":"p_back"}}}"#,
    );
    let mut observed = settled(&project);
    new_image(&mut observed, "app");
    let plan = plan(&project, &observed, &Request::default());
    assert_eq!(actions(&plan), [("app", Action::Recreate), ("worker", Action::Recreate)]);
    assert!(plan.services[1].reason.starts_with("Compose restarts it together with app"));
}

#[test]
fn containers_that_compose_would_recreate_unasked_are_found() {
    let project = parse(STACK);
    let mut observed = settled(&project);
    new_image(&mut observed, "ws:1");
    let plan = plan(&project, &observed, &Request::default());
    let recreated = ["docker-websocket-1".to_owned(), "docker-redis-1".to_owned(), "docker-new-1".to_owned()];
    assert_eq!(plan.not_named(&recreated, &observed), ["docker-redis-1"]);
}

/// An app that Traefik finds by label, what the app uses, and a worker; Traefik itself is in the same project.
const ANNOUNCED: &str = r#"{"name":"shop","services":{
  "app":{"image":"app:1","labels":{"traefik.enable":"true"},"networks":{"default":null},
     "depends_on":{"api":{"condition":"service_started"}}},
  "api":{"image":"api:1","expose":["80"],"networks":{"default":null}},
  "worker":{"image":"worker:1","networks":{"default":null}},
  "proxy":{"image":"traefik:3","networks":{"default":null},"ports":[{"target":80,"published":"80"}],
     "volumes":[{"type":"bind","source":"/var/run/docker.sock","target":"/var/run/docker.sock","read_only":true}]}},
 "networks":{"default":{"name":"shop_default"}}}"#;

fn action_of(plan: &Plan, service: &str) -> Action {
    plan.services.iter().find(|planned| planned.service == service).unwrap().action
}

#[test]
fn what_a_proxy_finds_is_rolled_with_what_it_uses_and_the_proxy_is_left_alone() {
    let project = parse(ANNOUNCED);
    let mut observed = settled(&project);
    ["app:1", "api:1", "worker:1"].iter().for_each(|image| new_image(&mut observed, image));
    let plan = plan(&project, &observed, &Request::default());
    assert_eq!(plan.refusals, []);
    assert_eq!(
        actions(&plan),
        [("api", Action::Rolling), ("app", Action::Rolling), ("proxy", Action::Keep), ("worker", Action::Recreate)]
    );
    assert_eq!(plan.standin, None);
    assert!(plan.services[1].reason.contains("label traefik.enable"), "{}", plan.services[1].reason);
    assert!(plan.services[0].reason.contains("app passes requests to it"), "{}", plan.services[0].reason);
}

#[test]
fn a_container_of_another_project_on_its_network_is_evidence_that_it_is_used() {
    let project = parse(
        r#"{"name":"p","services":{"web":{"image":"w:1","networks":{"edge":null}}},
        "networks":{"edge":{"name":"edge","external":true}}}"#,
    );
    let mut observed = settled(&project);
    new_image(&mut observed, "w:1");
    assert_eq!(action_of(&plan(&project, &observed, &Request::default()), "web"), Action::Recreate);
    let networks = [("edge".to_owned(), crate::observation::Endpoint::default())].into();
    observed.foreign.push(Container { name: "caddy".into(), running: true, networks, ..Default::default() });
    let plan = plan(&project, &observed, &Request::default());
    assert_eq!(action_of(&plan, "web"), Action::Rolling);
    assert!(plan.services[0].reason.contains("container caddy shares network edge"), "{}", plan.services[0].reason);
}

#[test]
fn what_cannot_run_twice_is_not_rolled_without_consent() {
    let plan = announced_and_changed(r#""deploy":{"update_config":{"order":"stop-first"}}"#);
    assert_eq!(action_of(&plan, "web"), Action::InPlace);
    assert_eq!(plan.refusals[0].kind, RefusalKind::Consent);
    assert!(plan.services[0].reason.contains("stop-first"), "{}", plan.services[0].reason);
}

#[test]
fn what_compose_does_only_when_it_starts_a_container_itself_is_left_to_it() {
    for (more, starts) in [
        (r#""post_start":[{"command":["x"]}]"#, Some(ComposeStarts::Hooks)),
        (r#""post_start":[]"#, None),
        (r#""configs":[{"source":"inline","target":"/c"}]"#, Some(ComposeStarts::Files)),
        (r#""configs":[{"source":"file","target":"/c"}]"#, None),
        (r#""secrets":[{"source":"variable","target":"/s"}]"#, Some(ComposeStarts::Files)),
        (r#""use_api_socket":true"#, Some(ComposeStarts::Files)),
    ] {
        let plan = announced_and_changed(more);
        assert_eq!(action_of(&plan, "web"), Action::Rolling, "{more}");
        assert_eq!(plan.rolling[0].compose_starts, starts, "{more}");
    }
}

/// The plan for a service that Traefik finds, has these keys, too, and has a new image.
fn announced_and_changed(more: &str) -> Plan {
    let json = format!(
        r#"{{"name":"p","services":{{"web":{{"image":"w:1","labels":{{"traefik.enable":"true"}},"networks":{{"default":null}},{more}}}}},
        "networks":{{"default":{{"name":"d"}}}},"configs":{{"inline":{{"content":"x"}},"file":{{"file":"/x"}}}},
        "secrets":{{"variable":{{"environment":"X"}}}}}}"#
    );
    let project = parse(&json);
    let mut observed = settled(&project);
    new_image(&mut observed, "w:1");
    plan(&project, &observed, &Request::default())
}

#[test]
fn fewer_containers_of_what_cannot_be_rolled_need_consent() {
    let json = r#"{"name":"p","services":{"web":{"image":"w:1","scale":2,"labels":{"traefik.enable":"true"},
        "networks":{"default":null},"deploy":{"update_config":{"order":"stop-first"}}}},"networks":{"default":{"name":"d"}}}"#;
    let observed = settled(&parse(json));
    let project = parse(&json.replace(r#""scale":2"#, r#""scale":1"#));
    let refused = plan(&project, &observed, &Request::default());
    assert_eq!(action_of(&refused, "web"), Action::InPlace);
    assert_eq!(refused.refusals[0].kind, RefusalKind::Consent);
    assert!(refused.services[0].reason.starts_with("there are 2 containers, and 1 is wanted; "), "{refused:?}");

    let project = parse(&json.replace(r#""scale":2"#, r#""scale":3"#));
    let more = plan(&project, &observed, &Request::default());
    assert_eq!((action_of(&more, "web"), more.refusals.len()), (Action::Scale, 0));
}

#[test]
fn another_number_of_containers_is_told_in_whole_words() {
    assert_eq!(number_reason(1, 3), "there is 1 container, and 3 are wanted");
    assert_eq!(number_reason(3, 1), "there are 3 containers, and 1 is wanted");
}

#[test]
fn fixed_ports_cannot_be_rolled_and_the_way_out_is_named() {
    let project = parse(
        r#"{"name":"p","services":{"web":{"image":"w:1","networks":{"default":null},"ports":[{"target":80,"published":"80"}]}},
        "networks":{"default":{"name":"d"}},"x-handover":{"services":{"web":{"strategy":"rolling"}}}}"#,
    );
    let mut observed = settled(&project);
    new_image(&mut observed, "w:1");
    let plan = plan(&project, &observed, &Request::default());
    assert!(plan.refusals.iter().any(|refusal| refusal.hint.contains("stand-in")), "{:?}", plan.refusals);
}

#[test]
fn whoever_shares_a_network_with_a_member_may_call_it_and_databases_do_not() {
    let project = parse(
        r#"{"name":"p","services":{
          "web":{"image":"web:1","networks":{"default":{"aliases":["www"]}},"ports":[{"target":80,"published":"80"}],
            "depends_on":{"db":{"condition":"service_started"}}},
          "worker":{"image":"worker:1","networks":{"default":null}},
          "db":{"image":"redis:7","networks":{"default":null}},
          "far":{"image":"far:1","networks":{"back":null}}},
          "networks":{"default":{"name":"p_default"},"back":{"name":"p_back"}}}"#,
    );
    let mut observed = settled(&project);
    new_image(&mut observed, "web:1");
    let inside = plan(&project, &observed, &Request::default()).standin.unwrap().inside.unwrap();
    assert_eq!(inside.peers, ["p-worker-1"]);
    let names = ["p-web-1", "p_web_1", "web", "www"].map(str::to_owned).to_vec();
    let networks = vec!["p_default".to_owned()];
    assert_eq!(inside.members, [CalledMember { service: "web".into(), networks, names }]);

    observed.containers.retain(|container| container.service != "worker");
    assert_eq!(plan(&project, &observed, &Request::default()).standin.unwrap().inside, None);
}

#[test]
fn what_sounds_like_a_database_and_depends_on_a_member_calls_it() {
    let project = parse(
        r#"{"name":"p","services":{
          "web":{"image":"web:1","networks":{"default":null},"ports":[{"target":80,"published":"80"}]},
          "consumer":{"image":"rabbitmq-consumer:1","networks":{"default":null},
            "depends_on":{"web":{"condition":"service_started"}}}},
          "networks":{"default":{"name":"p_default"}}}"#,
    );
    let mut observed = settled(&project);
    new_image(&mut observed, "web:1");
    let inside = plan(&project, &observed, &Request::default()).standin.unwrap().inside.unwrap();
    assert_eq!(inside.peers, ["p-consumer-1"]);
}

#[test]
fn old_code_that_only_recreated_users_mount_is_removed_with_them() {
    let project = parse(STACK);
    let (old, now) = ("0d".repeat(32), "a1".repeat(32));
    let mut observed = settled(&project);
    carries(&mut observed, "apps:1", "/code");
    for name in ["applications", "nginx"] {
        let container = observed.containers.iter_mut().find(|container| container.service == name).unwrap();
        let volume = if name == "nginx" { &old } else { &now };
        let mount = |kind: &str, volume: &str, target: &str| crate::observation::ContainerMount {
            kind: kind.into(),
            volume: volume.into(),
            target: target.into(),
        };
        container.mounts = vec![mount("volume", volume, "/code"), mount("volume", "data", "/data")];
    }
    new_image(&mut observed, "nginx:1");
    let plan = plan(&project, &observed, &Request::default());
    assert_eq!(plan.inherited_code, [old].into());
    assert_eq!(plan.renew, []);
}

#[test]
fn a_volume_with_a_name_is_never_removed_where_new_code_takes_its_place() {
    // The older file kept data in a named volume where the image of the newer one brings code.
    let project = parse(STACK);
    let mut observed = settled(&project);
    carries(&mut observed, "apps:1", "/code");
    for name in ["applications", "nginx"] {
        let container = observed.containers.iter_mut().find(|container| container.service == name).unwrap();
        container.mounts = vec![crate::observation::ContainerMount {
            kind: "volume".into(),
            volume: "docker_uploads".into(),
            target: "/code".into(),
        }];
    }
    for image in ["apps:1", "nginx:1"] {
        new_image(&mut observed, image);
    }
    let plan = plan(&project, &observed, &Request::default());
    assert_eq!(plan.renew, [Renewal { service: "applications".into(), volumes: vec![] }]);
    assert_eq!(plan.inherited_code, BTreeSet::new());
}

#[test]
fn a_compose_that_recreates_dependents_takes_the_proxy_of_a_rolled_service_into_a_stand_in() {
    let mut project = parse(&routed());
    let mut observed = settled(&project);
    new_image(&mut observed, "php:1");
    hashed_with_dependencies(&mut project, &mut observed);
    assert!(project.hashes.recreates_dependents());
    let plan = plan(&project, &observed, &Request::default());
    let nginx = plan.services.iter().find(|planned| planned.service == "nginx").unwrap();
    assert_eq!((nginx.action, nginx.reason.as_str()), (Action::StandIn, "Compose recreates it together with php-fpm"));
    assert_eq!(plan.rolling, []);
}

/// Like [`STACK`], but nginx mounts nothing of php-fpm's, and is its router.
fn routed() -> String {
    let router = r#"{"services":{"php-fpm":{"router":{"nginx":{"service":"nginx","upstream":"backend","port":9000}}},"#;
    STACK
        .replace(r#","volumes_from":["php-fpm"]"#, "")
        .replace(r#"{"services":{"applications":{"v"#, &format!(r#"{router}"applications":{{"v"#))
}

#[test]
fn a_service_with_a_router_is_rolled_and_its_proxy_left_alone() {
    let project = parse(&routed());
    let mut observed = settled(&project);
    new_image(&mut observed, "php:1");
    let plan = plan(&project, &observed, &Request::default());
    assert_eq!(plan.refusals, []);
    let php = plan.services.iter().find(|planned| planned.service == "php-fpm").unwrap();
    assert_eq!(php.action, Action::Rolling);
    assert!(php.reason.ends_with("; router nginx (service nginx, upstream backend)"), "{}", php.reason);
    assert!(plan.services.iter().all(|planned| planned.service == "php-fpm" || planned.action == Action::Keep));
    let router = plan.rolling[0].router.as_ref().unwrap();
    assert_eq!(router.names.of_all, ["php-fpm"]);
    assert!(
        router.sends.contains(&"    server docker-php-fpm-1:9000 <parameters as now>;".to_owned()),
        "{:?}",
        router.sends
    );
}

#[test]
fn new_code_under_a_rolled_service_does_not_reach_its_proxy_either() {
    let project = parse(&routed());
    let mut observed = settled(&project);
    carries(&mut observed, "apps:1", "/code");
    new_image(&mut observed, "apps:1");
    let plan = plan(&project, &observed, &Request::default());
    assert_eq!(plan.refusals, []);
    assert_eq!(plan.standin, None);
    assert_eq!(actions(&plan)[2], ("php-fpm", Action::Rolling));
    assert_eq!(actions(&plan)[1], ("nginx", Action::Keep));
}

#[test]
fn a_router_that_is_replaced_itself_takes_the_service_into_its_stand_in() {
    let project = parse(&routed());
    let mut observed = settled(&project);
    new_image(&mut observed, "php:1");
    new_image(&mut observed, "nginx:1");
    let plan = plan(&project, &observed, &Request::default());
    assert_eq!(plan.refusals, []);
    assert_eq!(plan.rolling, []);
    assert_eq!(plan.told_afterwards[0].0, "php-fpm");
    assert_eq!(plan.standin.as_ref().unwrap().tiers, [vec!["nginx"], vec!["php-fpm"]]);
    let php = plan.services.iter().find(|planned| planned.service == "php-fpm").unwrap();
    assert!(php.reason.ends_with("; nginx is replaced in this deploy, too, so both move as one"), "{}", php.reason);
}
