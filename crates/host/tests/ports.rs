//! The guard and its rules, in a real kernel. Needs root.

#[allow(dead_code)] // other tests use the rest
mod support;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nlink::netlink::nftables::{Chain, Family};
use nlink::netlink::{Connection, Nftables};
use serde_json::{Value, json};
use support::{Helper, Namespace, Outcome, ask};

/// 8000 is led to 9000; over loopback, where the engine's userland proxy would listen.
fn table(project: &str) -> Value {
    json!({"project": project, "bridges": ["br-none"], "userland_proxy": true, "leads": [{
        "protocol": "tcp", "host_ip": null, "published": 8000, "container_ip": "192.0.2.9", "container_port": 80,
        "ephemeral_v4": 9000, "ephemeral_v6": 9000,
    }]})
}

fn guard(namespace: &Namespace, file: &str) -> Outcome<Helper> {
    let file = file.to_owned();
    namespace.inside(move || Helper::start(&["guard", &file]))
}

fn old_and_new() -> Outcome<Namespace> {
    let namespace = Namespace::new()?;
    namespace.serve("[::]:8000", "old")?;
    namespace.serve("[::]:9000", "new")?;
    Ok(namespace)
}

fn who(namespace: &Namespace, address: &str) -> Outcome<String> {
    ask(&mut namespace.connect(address)?)
}

fn rules_file() -> Outcome<(tempfile::TempDir, String)> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("rules.json").display().to_string();
    Ok((directory, file))
}

#[test]
fn new_connections_move_with_the_table_and_back() -> Outcome {
    let (_directory, file) = rules_file()?;
    let namespace = old_and_new()?;
    let mut guard = guard(&namespace, &file)?;
    for address in ["127.0.0.1:8000", "[::1]:8000"] {
        assert_eq!(who(&namespace, address)?, "old");
    }
    guard.ask(json!({"load": {"table": table("shop")}}))?;
    for address in ["127.0.0.1:8000", "127.0.0.7:8000", "[::1]:8000"] {
        assert_eq!(who(&namespace, address)?, "new", "{address}");
    }
    assert_eq!(guard.ask(json!("counters"))?, json!({"loaded": true, "connections": [3]}));
    guard.ask(json!("release"))?;
    assert_eq!(who(&namespace, "127.0.0.1:8000")?, "old");
    assert_eq!(guard.ask(json!("unload"))?, json!({"was_loaded": true}));
    assert!(guard.child.wait()?.success());
    assert!(!std::path::Path::new(&file).exists());
    for address in ["127.0.0.1:8000", "[::1]:8000"] {
        assert_eq!(who(&namespace, address)?, "old");
    }
    Ok(())
}

#[test]
fn connections_under_way_stay_where_they_are() -> Outcome {
    let (_directory, file) = rules_file()?;
    let namespace = old_and_new()?;
    let mut guard = guard(&namespace, &file)?;
    // Before anything asks for connection tracking: to it, the next packet will look like the first.
    let mut before: Vec<_> =
        ["127.0.0.1:8000", "[::1]:8000"].iter().map(|to| namespace.connect(to)).collect::<Outcome<_>>()?;
    guard.ask(json!({"load": {"table": table("shop")}}))?;
    let mut led: Vec<_> =
        ["127.0.0.1:8000", "[::1]:8000"].iter().map(|to| namespace.connect(to)).collect::<Outcome<_>>()?;
    for round in 0..2 {
        for stream in &mut before {
            let name = ask(stream).map_err(|error| format!("before, {round}, {stream:?}: {error}"))?;
            assert_eq!(name, "old", "round {round}");
        }
        for stream in &mut led {
            let name = ask(stream).map_err(|error| format!("led, {round}, {stream:?}: {error}"))?;
            assert_eq!(name, "new", "round {round}");
        }
        guard.ask(json!("release"))?;
    }
    Ok(())
}

#[test]
fn loading_and_releasing_fails_no_new_connection() -> Outcome {
    let (_directory, file) = rules_file()?;
    let namespace = old_and_new()?;
    let mut guard = guard(&namespace, &file)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Outcome {
        let clients: Vec<_> = ["127.0.0.1:8000", "[::1]:8000"]
            .map(|address| {
                let (namespace, done) = (&namespace, &done);
                scope.spawn(move || -> Outcome<u32> {
                    let mut answered = 0;
                    while !done.load(Ordering::Relaxed) && answered < 20_000 {
                        let name = who(namespace, address)?;
                        assert!(name == "old" || name == "new", "{name}");
                        answered += 1;
                    }
                    Ok(answered)
                })
            })
            .into_iter()
            .collect();
        let switched = (0..100).try_for_each(|_| -> Outcome {
            guard.ask(json!({"load": {"table": table("shop")}}))?;
            guard.ask(json!("release")).map(drop)
        });
        done.store(true, Ordering::Relaxed);
        switched?;
        for client in clients {
            let answered = client.join().map_err(|_| "a client panicked")??;
            assert!(answered > 10, "only {answered}");
        }
        Ok(())
    })
}

#[test]
fn a_killed_guard_leaves_the_rules_and_the_next_one_holds_them() -> Outcome {
    let (_directory, file) = rules_file()?;
    let namespace = old_and_new()?;
    let mut first = guard(&namespace, &file)?;
    first.ask(json!({"load": {"table": table("shop")}}))?;
    first.child.kill()?;
    first.child.wait()?;
    assert_eq!(who(&namespace, "127.0.0.1:8000")?, "new");

    let mut second = guard(&namespace, &file)?;
    assert_eq!(second.ask(json!("counters"))?, json!({"loaded": true, "connections": [0]}));
    assert_eq!(who(&namespace, "127.0.0.1:8000")?, "new");

    // Told to stop: the rules go, the file stays.
    let terminated = Command::new("kill").args(["-TERM", &second.child.id().to_string()]).status()?;
    assert!(terminated.success() && second.child.wait()?.success());
    assert_eq!(who(&namespace, "127.0.0.1:8000")?, "old");
    let mut third = guard(&namespace, &file)?;
    third.ask(json!("hello"))?;
    assert_eq!(who(&namespace, "127.0.0.1:8000")?, "new");
    Ok(())
}

#[test]
fn a_guard_without_a_table_ends_with_its_input() -> Outcome {
    let (_directory, file) = rules_file()?;
    let namespace = Namespace::new()?;
    let mut guard = guard(&namespace, &file)?;
    guard.close_input();
    assert!(guard.child.wait()?.success());
    Ok(())
}

#[test]
fn a_table_of_somebody_else_is_left_alone() -> Outcome {
    let (_directory, file) = rules_file()?;
    let namespace = old_and_new()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let connection = namespace.inside(|| {
        let _inside = runtime.enter();
        Ok(Connection::<Nftables>::new()?)
    })?;
    runtime.block_on(async {
        let transaction = connection.transaction().add_table("handover-shop", Family::Inet);
        transaction.add_chain(Chain::new("handover-shop", "mine")?.family(Family::Inet)).commit(&connection).await
    })?;
    let mut guard = guard(&namespace, &file)?;
    let refused = guard.ask(json!({"load": {"table": table("shop")}})).err().map(|error| error.to_string());
    assert!(refused.as_ref().is_some_and(|text| text.contains("is not handover's")), "{refused:?}");
    assert!(!std::path::Path::new(&file).exists());
    let chains = runtime.block_on(connection.list_chains_in("handover-shop", Family::Inet))?;
    assert_eq!(chains.len(), 1);
    Ok(())
}
