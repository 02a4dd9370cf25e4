//! The engine under test, and the image that all test services run.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Runs `docker`. Panics, with what it said, when it fails.
#[track_caller]
pub(crate) fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().expect("docker is not installed");
    assert!(output.status.success(), "docker {}:\n{}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The lines that `docker` prints; none when it fails (clean-up, races with containers that go away).
pub(crate) fn docker_lines(args: &[&str]) -> Vec<String> {
    let output = Command::new("docker").args(args).stderr(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// `docker inspect` of one thing.
#[track_caller]
pub(crate) fn inspect(name: &str) -> Value {
    let list: Value = serde_json::from_str(&docker(&["inspect", name])).expect("docker inspect prints JSON");
    list[0].clone()
}

/// What says nothing of a failure: one line a container at each look, and one a request.
const TRAEFIK_SAYS_OFTEN: [&str; 3] =
    ["Filtering disabled container", "Container pruned by constraint", "Service selected by"];

/// Prints what the engine and the containers say of a project, for a test that has failed: it may not fail so a second time.
pub(crate) fn tell_what_happened(project: &str, since: SystemTime) {
    let label = format!("label=com.docker.compose.project={project}");
    for id in docker_lines(&["ps", "-aq", "--filter", &label]) {
        let said = Command::new("docker").args(["logs", "--timestamps", "--tail", "1000", &id]).output();
        let said = said.map(|said| [said.stdout, said.stderr].concat()).unwrap_or_default();
        let health = docker_lines(&["inspect", "--format", "{{.Name}} {{json .State.Health}}", &id]).concat();
        eprintln!("--- {health}");
        let said = String::from_utf8_lossy(&said);
        said.lines()
            .filter(|line| !TRAEFIK_SAYS_OFTEN.iter().any(|often| line.contains(often)))
            .for_each(|line| eprintln!("{line}"));
    }
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
    let shown = "{{.TimeNano}} {{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}";
    eprintln!("--- events of {project}");
    for line in docker_lines(&["events", "--since", &since, "--until", "0s", "--filter", &label, "--format", shown]) {
        eprintln!("{line}");
    }
}

/// Panics, and says what to do, when no engine answers: a test is never skipped in silence.
pub(crate) fn require_engine() {
    static CHECKED: OnceLock<Result<(), String>> = OnceLock::new();
    let checked = CHECKED.get_or_init(|| {
        let version = Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output();
        match version {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    });
    if let Err(why) = checked {
        panic!(
            "these tests need a Docker engine, and none answers: {}\nrun them as\n  scripts/engines up 28 && \
             scripts/engines enter 28 -- cargo test -p handover --features engine-tests --test engine",
            why.trim()
        );
    }
}

/// Name of the test service's image on this engine (built when the first test asks): the lab's own binary `FROM scratch`;
/// it serves HTTP at port 80 in version `$VERSION`. `<name>-code-v1` and `-v2` carry `/code/version` in an anonymous volume.
pub(crate) fn lab_image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let binary = std::fs::read(lab_binary()).expect("the lab's binary was just built");
        let hash: String = Sha256::digest(&binary).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let name = format!("handover-tests/lab:{hash}");
        import(&name, &[("handover-lab", &binary)], &[]);
        for version in ["v1", "v2", "v3"] {
            let files: [(&str, &[u8]); 2] = [("handover-lab", &binary), ("code/version", version.as_bytes())];
            import(&format!("{name}-code-{version}"), &files, &["VOLUME /code"]);
        }
        name
    })
}

/// The lab's binary, built as `handover` was: there is no `CARGO_BIN_EXE_` for a dependency's.
pub(crate) fn lab_binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let built = BINARY.get_or_init(|| {
        let handover = PathBuf::from(env!("CARGO_BIN_EXE_handover"));
        let profile = handover.parent().expect("…/TARGET/PROFILE/handover");
        let target = profile.parent().and_then(std::path::Path::parent).expect("DIRECTORY/TARGET/PROFILE/handover");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        cargo.args(["build", "--quiet", "--workspace", "--bin", "handover-lab", "--target-dir"]).arg(target);
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let output = cargo.output().expect("cargo runs these tests");
        assert!(output.status.success(), "cargo build:\n{}", String::from_utf8_lossy(&output.stderr));
        profile.join("handover-lab")
    });
    built.clone()
}

fn import(name: &str, files: &[(&str, &[u8])], changes: &[&str]) {
    if !docker_lines(&["images", "--quiet", name]).is_empty() {
        return;
    }
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, path, *content).expect("writes to memory");
    }
    let tar = tar.into_inner().expect("writes to memory");
    let mut command = Command::new("docker");
    command.arg("import");
    let common = ["ENTRYPOINT [\"/handover-lab\"]", "CMD [\"serve\"]", "ENV LAB_HTTP=0.0.0.0:80", "EXPOSE 80"];
    for change in common.iter().chain(changes) {
        command.args(["--change", change]);
    }
    let child = command.args(["-", name]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("docker is not installed");
    let written = child.stdin.take().expect("a pipe").write_all(&tar);
    let output = child.wait_with_output().expect("a child");
    assert!(
        written.is_ok() && output.status.success(),
        "docker import {name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
