//! The jobs of `ci/gitlab/`: what GitLab's own schema says of them, and what they do, run by a local runner (gitlabci-local).
//! `scripts/setup gitlab` installs both, and the SSH server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use handover_lab::load::{Kind, StreamSpec};

use crate::harness::{
    Finished, Running, Stack, assert_few_retries, docker, docker_lines, finish, get, net, wait_until,
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The project of the jobs: the version is the commit.
const SHOP: &str = r#"
services:
  web:
    image: ${LAB}
    environment:
      VERSION: ${TAG}
    ports:
      - "${PORT}:80"
"#;

/// A pipeline that extends one hidden job for another kind of runner.
const INCLUDE: &str = "include:\n  - local: ci/gitlab/deploy.yml\n";

/// A program that `scripts/setup gitlab` has put below `target/tools`. Panics, and says so, where it has not.
#[track_caller]
fn tool(path: &str) -> PathBuf {
    let tool = Path::new(ROOT).join("target/tools").join(path);
    assert!(tool.exists(), "{} is not there: run scripts/setup gitlab", tool.display());
    tool
}

/// What a job found and did.
struct Job {
    finished: Finished,
    report: String,
}

/// The stack's directory with a repository `shop` in it: the compose file, the shipped jobs, a pipeline.
fn repository(name: &str, pipeline: &str) -> Stack {
    let mut stack = Stack::new(name);
    let shop = stack.path().join("shop");
    fs::create_dir_all(shop.join("ci/gitlab")).expect("the stack's own directory");
    fs::copy(format!("{ROOT}/ci/gitlab/deploy.yml"), shop.join("ci/gitlab/deploy.yml")).expect("the shipped file");
    stack.write("shop/compose.yaml", SHOP);
    stack.write("shop/.gitlab-ci.yml", pipeline);
    let program = Path::new(env!("CARGO_BIN_EXE_handover")).parent().expect("it is in a directory");
    let path = std::env::var("PATH").unwrap_or_default();
    stack.set("PATH", &format!("{}:{path}", program.display()));
    // Where the local runner keeps its settings.
    stack.set("HOME", &stack.path().display().to_string());
    stack
}

fn example() -> String {
    fs::read_to_string(format!("{ROOT}/ci/gitlab/example.gitlab-ci.yml")).expect("the shipped file")
}

/// The local runner, with what GitLab tells every job.
fn runner(stack: &Stack, job: &str, commit: &str, more: &[&str]) -> Command {
    let mut command = stack.command(&tool("gitlab/bin/gitlabci-local").display().to_string());
    command.current_dir(stack.path().join("shop"));
    command.args(["--no-color", "--no-regex", "-c", ".gitlab-ci.yml"]);
    for variable in ["GITLAB_CI=true", "CI_COMMIT_REF_SLUG=fix-login", &format!("CI_COMMIT_SHORT_SHA={commit}")] {
        command.args(["-e", variable]);
    }
    command.args(more).arg(job);
    command
}

/// Runs a job as a shell runner on the host does.
#[track_caller]
fn run(stack: &Stack, job: &str, commit: &str, more: &[&str]) -> Job {
    ran(stack, runner(stack, job, commit, &[&["--host"], more].concat()))
}

#[track_caller]
fn ran(stack: &Stack, command: Command) -> Job {
    let artifact = stack.path().join("shop/handover-report.txt");
    // A job that makes none must not show that of the job before.
    let _ = fs::remove_file(&artifact);
    let finished = Running::start(command).finish();
    Job { finished, report: fs::read_to_string(artifact).unwrap_or_default() }
}

/// The shell script that the local runner makes of a job, to be run without it.
#[track_caller]
fn script(stack: &Stack, job: &str) -> Command {
    let mut show = runner(stack, job, "unused", &["--host", "--scripts"]);
    let output = show.output().expect("the local runner starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, text) = text.split_once("#!/bin/sh").unwrap_or_else(|| panic!("no script:\n{text}"));
    stack.write("job.sh", text);
    let mut command = stack.command("bash");
    command.arg(stack.path().join("job.sh"));
    command
}

/// Asserts that `docker compose up -d` in the repository, for this commit, has nothing to do and nothing is left.
#[track_caller]
fn assert_deployed(stack: &mut Stack, commit: &str) {
    let compose = stack.path().join("shop/compose.yaml").display().to_string();
    stack.set("COMPOSE_FILE", &compose);
    stack.set("TAG", commit);
    stack.assert_done();
    let answer = get(&format!("127.0.0.1:{}", stack.port), "/").expect("it answers");
    assert!(answer.contains(commit), "{answer}");
}

fn streams(stack: &Stack) -> [StreamSpec; 3] {
    [
        stack.stream(Kind::New, 40.0),
        stack.stream(Kind::Keepalive, 40.0),
        StreamSpec { body_ms: Some(200), ..stack.stream(Kind::Post, 10.0) },
    ]
}

/// Deploys v1 and, under load, v2, by a job; no request may fail.
#[track_caller]
fn deploys_under_load(stack: &mut Stack, mut job: impl FnMut(&Stack, &str) -> Job) -> Job {
    job(stack, "v1").finished.expect_success();
    stack.wait_http(stack.port);
    let load = stack.load(streams(stack));
    let mut job = job(stack, "v2");
    job.finished = job.finished.expect_success();
    assert_few_retries(&finish(load, "v2"));
    assert_deployed(stack, "v2");
    job
}

#[track_caller]
fn check_schema(files: &[String]) -> Finished {
    let mut command = Command::new(tool("gitlab/bin/check-jsonschema"));
    command.args(["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"]).args(files);
    Running::start(command).finish()
}

#[test]
fn the_files_are_what_gitlabs_schema_asks_for() {
    let files = ["deploy.yml", "example.gitlab-ci.yml"].map(|file| format!("{ROOT}/ci/gitlab/{file}"));
    check_schema(&files).expect_success();
    let directory = tempfile::tempdir().expect("a directory");
    let wrong = directory.path().join("wrong.yml");
    fs::write(&wrong, example().replace("environment:", "enviroment:")).expect("our own file");
    check_schema(&[wrong.display().to_string()]).expect_code(1).expect_says("enviroment");
}

#[test]
fn the_deploy_job_replaces_a_stack_under_load_and_rollback_brings_it_back() {
    let mut stack = repository("gitlab", &example());
    let Job { finished, report } = deploys_under_load(&mut stack, |stack, commit| run(stack, "deploy", commit, &[]));
    let log = &finished.stdout;
    for part in ["stand-in", "drain", "settle", "gate-real", "clean-up"] {
        assert_eq!(log.matches(&format!("_{part}[collapsed=true]\r\x1b[0K")).count(), 1, "{part}\n{finished}");
        assert_eq!(log.matches(&format!("_{part}\r\x1b[0K")).count(), 1, "{part}\n{finished}");
    }
    let mut open = false;
    for line in log.lines() {
        open = (open || line.contains("section_start:")) && !line.contains("section_end:");
        let for_all = ["plan for", "the new version is live", "live after", "has nothing to do"];
        assert!(!open || !for_all.iter().any(|text| line.contains(text)), "{line:?} is folded away\n{finished}");
    }
    assert!(report.contains("live after") && report.contains("is ready"), "{report}");
    assert!(!report.contains("section_") && !report.contains('\x1b'), "{report:?}");

    let refused = run(&stack, "rollback", "v2", &[]);
    refused.finished.expect_code(1).expect_says("start this job with the variable ROLLBACK_TAG");
    assert_deployed(&mut stack, "v2");
    let load = stack.load(streams(&stack));
    let back = run(&stack, "rollback", "v2", &["-e", "ROLLBACK_TAG=v1"]);
    back.finished.expect_success();
    assert_few_retries(&finish(load, "v1"));
    assert_deployed(&mut stack, "v1");
}

#[test]
fn a_version_that_fails_fails_the_job_with_handovers_own_exit_code_and_in_plain_sight() {
    let mut stack = repository("gitlab-bad", &example());
    run(&stack, "deploy", "v1", &[]).finished.expect_success();
    let load = stack.load(streams(&stack));
    stack.write(
        "shop/compose.yaml",
        &SHOP.replace("environment:\n", "environment:\n      LAB_NEVER_LISTEN: \"true\"\n"),
    );
    let flags = ["-e", "HANDOVER_ARGS=--gate-timeout 2s"];
    let job = run(&stack, "deploy", "v2", &flags);
    let finished = job.finished.expect_code(1);
    load.stop().assert_nothing_noticed();
    let (_, after) = finished.stdout.rsplit_once("section_end:").expect("a section");
    assert!(after.contains("back to the old version") && after.contains("error: "), "it is folded away\n{finished}");
    assert!(job.report.contains("error: "), "the report does not say why\n{}", job.report);
    // The local runner knows success and failure only; its script ends as GitLab's does.
    for (key, value) in [("TAG", "v2"), ("HANDOVER_ARGS", "--gate-timeout 2s")] {
        stack.set(key, value);
    }
    Running::start(script(&stack, "deploy")).finish().expect_code(1);
    stack.set("HANDOVER_ARGS", "nonsense");
    Running::start(script(&stack, "deploy")).finish().expect_code(3).expect_says("nonsense");
    stack.assert_nothing_left();
}

/// The review job of a project with a number of its own, and the stack as that job names it.
fn review(name: &str) -> (Stack, [String; 2]) {
    let mut stack = repository(name, &example());
    let id = stack.port.to_string();
    stack.name = format!("review-{id}-fix-login");
    (stack, ["-e".to_owned(), format!("CI_PROJECT_ID={id}")])
}

#[test]
fn a_review_app_goes_up_is_replaced_and_goes_down() {
    let (mut stack, id) = review("gitlab-review");
    let with_volume = format!(
        "{SHOP}    volumes: [data:/data]\nvolumes:\n  data:\nx-handover:\n  services:\n    web: {{ volumes: share }}\n"
    );
    stack.write("shop/compose.yaml", &with_volume);
    let id = id.each_ref().map(String::as_str);
    deploys_under_load(&mut stack, |stack, commit| run(stack, "review", commit, &id));
    // The job that takes it down has nothing checked out.
    fs::remove_file(stack.path().join("shop/compose.yaml")).expect("it was there");
    run(&stack, "review-stop", "v2", &id).finished.expect_success();
    assert_all_gone(&stack);
    run(&stack, "review-stop", "v2", &id).finished.expect_success();
}

#[test]
fn a_review_app_whose_deploy_was_killed_goes_down_with_all_that_was_left() {
    let (mut stack, id) = review("gitlab-review-kill");
    let id = id.each_ref().map(String::as_str);
    run(&stack, "review", "v1", &id).finished.expect_success();
    let load = stack.load([stack.stream(Kind::WebsocketLong, 10.0)]);
    stack.set("TAG", "v2");
    let mut killed = Group::start(script(&stack, "review"));
    killed.0.wait_line("the drain", |line| line.contains("drain the old containers"));
    killed.0.signal_group("KILL");
    drop(killed);
    assert!(!stack.tables().is_empty(), "the killed deploy left no rules: nothing is tested here");
    run(&stack, "review-stop", "v2", &id).finished.expect_success();
    drop(load.stop());
    assert_all_gone(&stack);
}

#[track_caller]
fn assert_all_gone(stack: &Stack) {
    wait_until("the lock is given back", || stack.helpers().is_empty());
    stack.assert_nothing_left();
    assert!(stack.container_ids().is_empty(), "{:?}", stack.container_ids());
    let filter = format!("label=com.docker.compose.project={}", stack.name);
    for kind in ["volume", "network"] {
        assert_eq!(docker_lines(&[kind, "ls", "--quiet", "--filter", &filter]), Vec::<String>::new(), "{kind}s");
    }
}

/// A job in a process group of its own, as a runner starts it. A runner that cancels it sends a signal to all of the group.
struct Group(Running);

impl Group {
    fn start(mut command: Command) -> Self {
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Self(Running::start(command))
    }
}

#[test]
fn a_job_cancelled_before_traffic_moves_has_changed_nothing() {
    let mut stack = repository("gitlab-cancel", &example());
    run(&stack, "deploy", "v1", &[]).finished.expect_success();
    let load = stack.load(streams(&stack));
    let untouched = stack.untouched();
    stack.write(
        "shop/compose.yaml",
        &SHOP.replace("environment:\n", "environment:\n      LAB_NEVER_LISTEN: \"true\"\n"),
    );
    stack.set("TAG", "v2");
    let mut job = Group::start(script(&stack, "deploy"));
    job.0.wait_line("the gate", |line| line.contains("gate the stand-in"));
    job.0.signal_group("TERM");
    wait_until("it has gone back", || stack.helpers().is_empty());
    untouched();
    stack.assert_nothing_left();
    load.stop().assert_nothing_noticed();
}

#[test]
fn a_job_cancelled_after_traffic_has_moved_deploys_to_the_end() {
    let mut stack = repository("gitlab-cancel-late", &example());
    run(&stack, "deploy", "v1", &[]).finished.expect_success();
    let load = stack.load([stack.stream(Kind::New, 40.0), stack.stream(Kind::Slow, 10.0)]);
    stack.set("TAG", "v2");
    let mut job = Group::start(script(&stack, "deploy"));
    job.0.wait_line("it is live", |line| line.contains("the new version is live"));
    job.0.signal_group("TERM");
    wait_until("it has gone on to its end", || stack.helpers().is_empty());
    assert_few_retries(&finish(load, "v2"));
    assert_deployed(&mut stack, "v2");
}

#[test]
fn a_docker_runner_with_the_engines_socket_deploys() {
    let job = "deploy:\n  extends: .handover-deploy\n";
    let mut stack =
        repository("gitlab-docker", &format!("{INCLUDE}\ndeploy:\n  extends: .handover-deploy\n  image: IMAGE\n"));
    let image = RunnerImage::build(&stack);
    stack.write("shop/.gitlab-ci.yml", &format!("{INCLUDE}\n{job}  image: {}\n", image.0));
    let socket = format!("unix://{}", net::engine_socket());
    let variables = [
        format!("DOCKER_HOST={socket}"),
        format!("COMPOSE_PROJECT_NAME={}", stack.name),
        format!("PORT={}", stack.port),
        format!("LAB={}", crate::harness::docker::lab_image()),
    ];
    stack.set("DOCKER_HOST", &socket);
    let more: Vec<&str> = ["--sockets", "--privileged=false"]
        .into_iter()
        .chain(variables.iter().flat_map(|variable| ["-e", variable]))
        .collect();
    let job = deploys_under_load(&mut stack, |stack, commit| ran(stack, runner(stack, "deploy", commit, &more)));
    assert!(job.report.contains("live after"), "{}", job.finished);
    assert!(job.finished.stdout.contains("section_end:"), "{}", job.finished);
}

/// An image with handover, docker and Compose on the PATH, as `docs/gitlab.md` says. Removed when dropped.
struct RunnerImage(String);

impl RunnerImage {
    #[track_caller]
    fn build(stack: &Stack) -> Self {
        let context = stack.path().join("image");
        fs::create_dir(&context).expect("the stack's own directory");
        let docker_program = Command::new("sh").args(["-c", "command -v docker"]).output().expect("a shell").stdout;
        let plugins = docker(&["info", "--format", "{{json .ClientInfo.Plugins}}"]);
        let plugins: serde_json::Value = serde_json::from_str(&plugins).expect("JSON");
        let mut compose = plugins.as_array().into_iter().flatten().filter(|plugin| plugin["Name"] == "compose");
        let compose =
            compose.next().and_then(|plugin| plugin["Path"].as_str()).expect("Compose is a plugin").to_owned();
        for (from, to) in [
            (env!("CARGO_BIN_EXE_handover"), "handover"),
            (String::from_utf8_lossy(&docker_program).trim(), "docker"),
            (&compose, "docker-compose"),
        ] {
            fs::copy(from, context.join(to)).unwrap_or_else(|error| panic!("{from}: {error}"));
        }
        stack.write(
            "image/Dockerfile",
            "FROM handover-lab/debian:12\nCOPY handover docker /usr/local/bin/\n\
             COPY docker-compose /usr/local/lib/docker/cli-plugins/\n",
        );
        let name = format!("handover-tests/{}", stack.name);
        let mut build = stack.command("docker");
        // The classic builder, which every engine has.
        build.env("DOCKER_BUILDKIT", "0").args(["build", "--quiet", "--tag", &name]).arg(&context);
        Running::start(build).finish().expect_success();
        Self(name)
    }
}

impl Drop for RunnerImage {
    fn drop(&mut self) {
        docker_lines(&["image", "rm", "--force", &self.0]);
    }
}

#[test]
fn a_runner_anywhere_deploys_over_ssh_with_a_key_that_reaches_the_engine_only() {
    let job = "deploy:\n  extends: [.handover-deploy, .handover-ssh]\n";
    let mut stack = repository("gitlab-ssh", &format!("{INCLUDE}\n{job}"));
    let server = SshServer::start(&stack);
    let variables = [
        format!("DOCKER_HOST=ssh://deployer@127.0.0.1:{}", server.port),
        format!("SSH_KEY={}", server.file("key")),
        format!("SSH_KNOWN_HOSTS={}", server.file("known_hosts")),
    ];
    let more: Vec<&str> = variables.iter().flat_map(|variable| ["-e", variable]).collect();
    let job = deploys_under_load(&mut stack, |stack, commit| run(stack, "deploy", commit, &more));
    assert!(job.report.contains("live after"), "{}", job.finished);
    let log = fs::read_to_string(server.file("log")).unwrap_or_default();
    assert!(log.contains("Accepted publickey for deployer"), "nobody came over ssh:\n{log}");
    // The key is good for nothing else.
    let port = server.port.to_string();
    let known = format!("UserKnownHostsFile={}", server.file("known_hosts"));
    let mut other = Command::new("ssh");
    other.args(["-i", &server.file("key"), "-o", &known, "-p", &port, "deployer@127.0.0.1", "echo", "a shell"]);
    assert!(!Running::start(other).finish().stdout.contains("a shell"));
}

/// An SSH server on loopback with a user `deployer`, whose key may talk to the engine and do nothing else.
struct SshServer {
    port: u16,
    directory: PathBuf,
    process: std::process::Child,
}

impl SshServer {
    #[track_caller]
    fn start(stack: &Stack) -> Self {
        let (port, directory) = (net::free_port(), stack.path().join("ssh"));
        fs::create_dir(&directory).expect("the stack's own directory");
        for readable in [stack.path(), &directory] {
            fs::set_permissions(readable, fs::Permissions::from_mode(0o755)).expect("our own directory");
        }
        let file = |name: &str| directory.join(name).display().to_string();
        for key in ["host_key", "key"] {
            let mut make = Command::new("ssh-keygen");
            make.args(["-q", "-t", "ed25519", "-N", "", "-f", &file(key)]);
            Running::start(make).finish().expect_success();
        }
        let read = |name: &str| fs::read_to_string(file(name)).expect("ssh-keygen wrote it");
        // What docs/gitlab.md says of the server's side; the engine is not at the place where docker looks for it.
        let engine = format!("DOCKER_HOST=unix://{} docker system dial-stdio", net::engine_socket());
        stack.write("ssh/authorized_keys", &format!("restrict,command=\"{engine}\" {}", read("key.pub")));
        stack.write("ssh/known_hosts", &format!("[127.0.0.1]:{port} {}", read("host_key.pub")));
        stack.write(
            "ssh/config",
            &format!(
                "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\nLogLevel VERBOSE\n",
                file("host_key"),
                file("authorized_keys"),
            ),
        );
        // The users are known to this server only, which sees a file of its own below /etc. A mount on the file itself would be gone
        // as soon as anybody on this machine adds a user.
        let group =
            std::os::unix::fs::MetadataExt::gid(&fs::metadata(net::engine_socket()).expect("the engine's socket"));
        let users = fs::read_to_string("/etc/passwd").expect("Linux");
        let users = users.lines().filter(|line| !line.starts_with("sshd:")).collect::<Vec<_>>().join("\n");
        let home = directory.display();
        fs::create_dir(directory.join("etc")).expect("our own directory");
        stack.write(
            "ssh/etc/passwd",
            &format!(
                "{users}\nsshd:x:64021:65534::/run/sshd:/usr/sbin/nologin\ndeployer:x:64022:{group}::{home}:/bin/sh\n"
            ),
        );
        let sshd = tool("sshd/usr/sbin/sshd").canonicalize().expect("it is there");
        let libraries = sshd.parent().and_then(Path::parent).expect("…/usr/sbin/sshd").join("lib");
        let machine = format!("{}-linux-gnu", std::env::consts::ARCH);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c"]);
        command.arg("mount -t overlay -o \"lowerdir=$1/etc:/etc\" overlay /etc && mkdir -p /run/sshd && exec \"$2\" -D -E \"$1/log\" -f \"$1/config\"");
        command.args(["sh", &directory.display().to_string(), &sshd.display().to_string()]);
        let process = command.env("LD_LIBRARY_PATH", libraries.join(machine)).spawn().expect("unshare starts");
        let server = Self { port, directory, process };
        wait_until("the SSH server listens", || {
            let log = fs::read_to_string(server.file("log")).unwrap_or_default();
            log.contains("Server listening")
        });
        server
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
