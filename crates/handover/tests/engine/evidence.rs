//! What is open and locked below a service's mounts is told where the user is asked what two copies may do with them.

use crate::bad_input::refused;
use crate::harness::net::engine_over_tcp;
use crate::harness::{Stack, docker_lines, wait_until};

/// One service of each kind; those without ports are fronted by the first. The store runs as a user of its own, as databases do.
const STORES: &str = r#"
services:
  locker:
    image: handover-lab/debian:12
    environment: { VERSION: "${VERSION}" }
    command:
      - python3
      - -c
      - |
        import fcntl, http.server
        file = open("/data/shop.db", "w")
        fcntl.lockf(file, fcntl.LOCK_EX)
        http.server.test(http.server.SimpleHTTPRequestHandler, protocol="HTTP/1.1", port=80)
    ports: ["${PORT}:80"]
    volumes: ["locked:/data"]
  writer:
    image: handover-lab/debian:12
    environment: { VERSION: "${VERSION}" }
    command: ["sh", "-c", "exec 3>'/data/the log'; sleep infinity & wait"]
    volumes: ["written:/data"]
  quiet:
    image: handover-lab/debian:12
    environment: { VERSION: "${VERSION}" }
    command: ["sh", "-c", "echo x >/data/upload; exec sleep infinity"]
    volumes: ["./uploads:/data"]
  store:
    image: handover-lab/debian:12
    environment: { VERSION: "${VERSION}" }
    command:
      - sh
      - -c
      - chown redis /data && exec setpriv --reuid redis --regid redis --clear-groups redis-server --dir /data --appendonly yes
    volumes: ["stored:/data"]
  code:
    image: ${LAB}-code-v1
    environment: { VERSION: "${VERSION}" }
volumes: { locked: , written: , stored: }
"#;

#[test]
fn what_is_open_and_locked_is_told_with_the_question() {
    let mut stack = Stack::new("evidence");
    stack.compose_file(STORES);
    std::fs::create_dir(stack.path().join("uploads")).expect("the stack's directory can be written to");
    stack.start();
    let says = |service: &str, command: &[&str], word: &str| {
        let id = stack.container_id(service);
        docker_lines(&[&["exec", &id], command].concat()).iter().any(|line| line.contains(word))
    };
    wait_until("the store has opened its file", || says("store", &["redis-cli", "ping"], "PONG"));
    wait_until("the writer has opened its file", || says("writer", &["ls", "/data"], "the log"));
    stack.set("VERSION", "v2");

    let finished = refused(&stack, &[], 6, &[]);
    eprintln!("refused with evidence after {:?}", finished.took);
    let told = |service: &str| {
        let start = finished.stderr.find(&format!("error: service {service}")).unwrap_or_else(|| panic!("{finished}"));
        let text = &finished.stderr[start..];
        text["error: ".len()..].find("error: ").map_or(text, |end| &text[.."error: ".len() + end]).to_owned()
    };
    for (service, seen, first) in [
        ("locker", "seen now: python3 holds a lock on /data/shop.db\n", "own"),
        // The shell and its child have inherited it.
        ("writer", "sh holds /data/the log open for writing", "own"),
        ("quiet", "seen now: nothing below /data is open for writing\n", "share"),
        ("store", "redis-server holds /data/appendonlydir/appendonly.aof.1.incr.aof open for writing", "own"),
        ("code", "seen now: nothing below /code has changed since it was made from the image\n", "renew"),
    ] {
        let told = told(service);
        assert!(told.contains(seen), "it does not say {seen:?}\n{told}");
        let answer = told.lines().find(|line| line.contains("{ volumes: ")).unwrap_or_default();
        assert!(
            answer.contains(&format!("{service}: {{ volumes: {first} }}")),
            "{first} is not the first answer\n{told}"
        );
    }

    // A look needs no lock, and a remote engine looks by itself.
    let lock = format!("handover-{}-session", stack.name);
    docker_lines(&["create", "--name", &lock, "handover-lab/debian:12"]);
    stack.set("DOCKER_HOST", &format!("tcp://{}", engine_over_tcp()));
    stack.plan().expect_code(6).expect_says("python3 holds a lock on /data/shop.db");
    docker_lines(&["rm", &lock]);
    stack.assert_nothing_left();
}
