//! Services that are rolled in the user's own nginx, which is told where they are. When it reloads it closes the idle connections of
//! its own clients; they are taken over before.

use std::os::unix::fs::MetadataExt;

use handover_lab::load::Kind;

use crate::harness::proxies::{HEALTHCHECK, app, with_images};
use crate::harness::{Finished, SOON, Stack, assert_few_retries, docker, docker_lines, finish, wait_until};
use crate::rolling::{requests, rolled};

const NGINX: &str = r#"
services:
  nginx:
    image: handover-lab/nginx:1.22
    # Until the application is there. With depends_on, Compose 2.26 recreates nginx together with it.
    restart: on-failure
    ports: ["${PORT}:80"]
    volumes:
      - ./nginx.conf:/etc/nginx/nginx.conf:ro
      - ./upstream.conf:/etc/nginx/upstream.conf
"#;

const CONFIGURATION: &str = r"
events {}
http {
    include /etc/nginx/upstream.conf;
    server {
        listen 80;
        location / { proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ''; }
    }
}
";

/// The settings, with more keys of the router.
fn router(keys: &str) -> String {
    format!(
        "\nx-handover:\n  services:\n    app:\n      strategy: rolling\n      router: {{ nginx: {{ service: nginx, upstream: backend{keys} }} }}\n"
    )
}

const FILE: &str = ", file: /etc/nginx/upstream.conf";

fn upstream(stack: &Stack) -> String {
    format!(
        "# The application.\nupstream backend {{\n    server {}-app-1:80 max_fails=0; # the only one\n    keepalive 8;\n}}\n",
        stack.name
    )
}

/// A stack that runs, with the service behind nginx.
fn behind_nginx(name: &str, app: &str, settings: &str) -> Stack {
    let stack = with_images(name, &["handover-lab/nginx:1.22"]);
    stack.write("nginx.conf", CONFIGURATION);
    stack.write("upstream.conf", &upstream(&stack));
    stack.compose_file(&format!("{NGINX}{app}{settings}"));
    stack.start();
    stack
}

/// The upstream's file as it is on the host: its inode, owner, mode and text.
fn file(stack: &Stack) -> (u64, u32, u32, String) {
    let path = stack.path().join("upstream.conf");
    let about = std::fs::metadata(&path).expect("the file is there");
    (about.ino(), about.uid(), about.mode(), std::fs::read_to_string(path).expect("it can be read"))
}

/// Names of the application's containers.
pub(crate) fn applications(stack: &Stack) -> Vec<String> {
    stack.container_ids().into_keys().filter(|name| name.contains("-app-")).collect()
}

/// How often a router has confirmed.
pub(crate) fn told(finished: &Finished) -> usize {
    finished.events().iter().filter(|event| event["event"] == "router-told").count()
}

#[test]
fn nobody_notices_and_nginx_and_its_file_stay_as_they_were() {
    let mut stack = behind_nginx("router", &app(&[("LAB_BOOT_MS", "500")], &[]), &router(FILE));
    let (nginx, before) = (stack.container_id("nginx"), file(&stack));
    let streams = requests(&stack);
    let (report, finished) = stack.hand_over(streams, &[]);
    assert_few_retries(&report);
    let reason = rolled(&finished);
    assert!(reason.contains("router nginx (service nginx, upstream backend)"), "{reason}\n{finished}");
    assert_eq!(told(&finished), 1, "{finished}");
    assert_eq!(finished.event("proof")["cut"], serde_json::json!([]), "{finished}");
    assert_eq!(stack.container_id("nginx"), nginx, "nginx was recreated");
    assert_eq!(file(&stack), before, "{finished}");
    // It is right after a restart, too.
    docker(&["restart", "--time", "5", &nginx]);
    stack.wait_http(stack.port);
}

#[test]
fn twenty_rolls_in_a_row_leave_names_numbers_files_and_volumes_as_they_were() {
    let volumes = "    volumes: [/anonymous, data:/data]\n";
    let settings = router("").replace("    app:\n", "    app:\n      volumes: share\n");
    let app = format!("{}\nvolumes: {{ data: }}\n", app(&[], &[volumes]));
    let mut stack = behind_nginx("router-twenty", &app, &settings);
    let (nginx, before, names) = (stack.container_id("nginx"), file(&stack), stack.container_ids());
    let mounted = |stack: &Stack| crate::harness::inspect(&stack.container_id("app"))["Mounts"].clone();
    let sorted = |mounts: serde_json::Value| {
        let mut all: Vec<String> = mounts.as_array().into_iter().flatten().map(|one| one["Name"].to_string()).collect();
        all.sort();
        all
    };
    let volumes = sorted(mounted(&stack));
    let load = stack.load([stack.stream(Kind::Keepalive, 30.0), stack.stream(Kind::Slow, 5.0)]);
    for number in 2..=21 {
        stack.set("VERSION", &format!("v{number}"));
        let finished = stack.up(&["--output", "json"]).expect_success();
        assert_eq!(told(&finished), 1, "{finished}");
    }
    assert_few_retries(&finish(load, "v21"));
    assert_eq!(stack.container_id("nginx"), nginx, "nginx was recreated");
    assert_eq!(file(&stack), before);
    let keys = |ids: &std::collections::BTreeMap<String, String>| ids.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&stack.container_ids()), keys(&names));
    assert_eq!(sorted(mounted(&stack)), volumes);
    let all = docker_lines(&["volume", "ls", "-q"]);
    assert_eq!(all.iter().filter(|name| volumes.iter().any(|one| one.contains(*name))).count(), 2);
    stack.assert_done();
}

#[test]
fn replicas_have_a_line_each_and_more_and_fewer_of_them_too() {
    let replicas = |count: u32| {
        let deploy = format!("    deploy: {{ replicas: {count}, update_config: {{ parallelism: 1 }} }}\n");
        format!("{NGINX}{}{}", app(&[], &[HEALTHCHECK, &deploy]), router(FILE))
    };
    let mut stack = with_images("router-replicas", &["handover-lab/nginx:1.22"]);
    let lines = |names: &[String]| {
        let all: String = names.iter().map(|name| format!("    server {name}:80 max_fails=0 weight=2;\n")).collect();
        format!("upstream backend {{\n{all}    keepalive 8;\n}}\n")
    };
    stack.write("nginx.conf", CONFIGURATION);
    let two = [1, 2].map(|number| format!("{}-app-{number}", stack.name));
    stack.write("upstream.conf", &lines(&two));
    stack.compose_file(&replicas(2));
    stack.start();
    let load = stack.load(requests(&stack));
    for (version, count) in [("v2", 2), ("v3", 3), ("v4", 2)] {
        stack.set("VERSION", version);
        stack.compose_file(&replicas(count));
        let finished = stack.up(&["--output", "json"]).expect_success();
        // Which of them stay when there are to be fewer is Compose's choice.
        let names = applications(&stack);
        assert_eq!(names.len(), count as usize, "{finished}");
        assert_eq!(file(&stack).3, lines(&names), "{finished}");
        stack.assert_nothing_left();
    }
    assert_few_retries(&finish(load, "v4"));
    stack.assert_done();
}

/// A deploy of v2 is refused before anything is started; says this.
#[track_caller]
fn refused(stack: &mut Stack, says: &[&str]) {
    let (untouched, before) = (stack.untouched(), file(stack));
    stack.set("VERSION", "v2");
    let mut finished = stack.up(&[]).expect_code(7);
    for text in says {
        finished = finished.expect_says(text);
    }
    untouched();
    assert_eq!(file(stack), before, "{finished}");
    stack.assert_nothing_left();
}

#[test]
fn a_router_that_does_not_know_the_service_is_refused_before_anything_is_started() {
    let service = app(&[], &[]);
    let mut stack = behind_nginx("router-bad", &service, &router(FILE));
    let settings = |stack: &Stack, keys: &str| stack.compose_file(&format!("{NGINX}{service}{}", router(keys)));
    settings(&stack, ", file: /etc/nginx/upstreams.conf");
    refused(&mut stack, &["/etc/nginx/upstreams.conf is not there", "did you mean `/etc/nginx/upstream.conf`?"]);
    stack.compose_file(&format!("{NGINX}{service}{}", router(FILE).replace("upstream: backend", "upstream: backends")));
    refused(&mut stack, &["it has no upstream backends", "did you mean `backend`?"]);
    stack.compose_file(&format!("{NGINX}{service}{}", router("").replace("upstream: backend", "upstream: api")));
    refused(&mut stack, &["has no upstream api", "none of the files that it reads has it"]);
    settings(&stack, ", file: /etc/nginx/nginx.conf");
    refused(&mut stack, &["it has no upstream backend", "there is none at all in it"]);
    settings(&stack, &format!("{FILE}, port: 8080"));
    refused(&mut stack, &["no server of upstream backend is the service's", "app-1:8080;` there"]);
    settings(&stack, FILE);
    stack.write("nginx.conf", "events {}\nhttp { nonsense; }\n");
    refused(&mut stack, &["nginx -t fails", "unknown directive \"nonsense\""]);
    stack.write("nginx.conf", CONFIGURATION);
    docker(&["stop", "--time", "2", &stack.container_id("nginx")]);
    stack.set("VERSION", "v2");
    let finished = stack.up(&[]).expect_code(7).expect_says("router service nginx does not run");
    assert_eq!(file(&stack).3, upstream(&stack), "{finished}");
    stack.assert_nothing_left();
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_anything_is_started() {
    let stack = with_images("router-ro", &["handover-lab/nginx:1.22"]);
    stack.write("nginx.conf", CONFIGURATION);
    stack.write("upstream.conf", &upstream(&stack));
    let mounted = NGINX.replace("upstream.conf\n", "upstream.conf:ro\n");
    stack.compose_file(&format!("{mounted}{}{}", app(&[], &[]), router(FILE)));
    stack.start();
    let mut stack = stack;
    refused(&mut stack, &["cannot be written", "mount it without `:ro`"]);
}

/// The old version serves on, nobody notices, and all is as it was.
#[track_caller]
fn taken_back(stack: &mut Stack, args: &[&str], while_it_rolls: impl FnOnce(&Stack), says: &[&str]) {
    let (nginx, app, before) = (stack.container_id("nginx"), stack.container_id("app"), file(stack));
    let load = stack.load(requests(stack));
    stack.set("VERSION", "v2");
    let mut up = stack.spawn_up(args);
    up.wait_step("roll");
    while_it_rolls(stack);
    let mut finished = up.finish();
    load.mark("after");
    let more = load.progress().total.ok + 50;
    let goes_on = load.wait_for(SOON, |progress| progress.total.ok > more);
    let report = load.stop();
    assert!(goes_on, "{}\n{finished}", report.table());
    assert_few_retries(&report);
    assert_ne!(finished.code, Some(0), "{finished}");
    for text in says {
        finished = finished.expect_says(text);
    }
    assert_eq!((stack.container_id("nginx"), stack.container_id("app")), (nginx, app), "{finished}");
    assert_eq!(file(stack), before, "{finished}");
    stack.assert_nothing_left();
}

#[test]
fn a_configuration_that_breaks_under_way_leaves_the_old_container_serving() {
    let mut stack = behind_nginx("router-breaks", &app(&[("LAB_BOOT_MS", "4000")], &[]), &router(FILE));
    let breaks = |stack: &Stack| stack.write("nginx.conf", &format!("{CONFIGURATION}nonsense;\n"));
    taken_back(&mut stack, &[], breaks, &["nginx -t fails", "unknown directive \"nonsense\""]);
    stack.write("nginx.conf", CONFIGURATION);
    let (report, _) = stack.hand_over(requests(&stack), &[]);
    assert_few_retries(&report);
}

#[test]
fn a_version_that_turns_bad_after_nginx_was_told_is_taken_back_there_too() {
    let watched = "    deploy: { update_config: { monitor: 20s } }\n";
    let service = |environment: &[(&str, &str)]| app(environment, &[HEALTHCHECK, watched]);
    let mut stack = behind_nginx("router-turns", &service(&[]), &router(FILE));
    stack.compose_file(&format!("{NGINX}{}{}", service(&[("LAB_UNHEALTHY_AFTER_MS", "4000")]), router(FILE)));
    taken_back(&mut stack, &[], |_| {}, &["unhealthy", "router-told"]);
    let nginx = stack.container_id("nginx");
    let processes = || docker_lines(&["top", &nginx, "-o", "args"]);
    wait_until("no old worker is left", || !processes().iter().any(|line| line.contains("shutting down")));
}

#[test]
fn the_plan_shows_what_nginx_is_told() {
    let mut stack = behind_nginx("router-plan", &app(&[], &[]), &router(&format!("{FILE}, port: 80")));
    stack.set("VERSION", "v2");
    let line = format!("server {}-app-1:80", stack.name);
    stack.plan().expect_success().expect_says("in upstream backend of /etc/nginx/upstream.conf").expect_says(&line);
}
