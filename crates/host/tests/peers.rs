//! The switch inside peers' network namespaces, in a real kernel. Needs root.

#[allow(dead_code)] // other tests use the rest
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use support::{Helper, Namespace, Outcome, Server, ask};

const OLD: [&str; 2] = ["10.99.0.2", "fd00:99::2"];
const NEW: [&str; 2] = ["10.99.0.3", "fd00:99::3"];
const THIRD: [&str; 2] = ["10.99.0.4", "fd00:99::4"];
const PEER: [&str; 2] = ["10.99.0.10", "fd00:99::10"];

/// A peer and, beyond a link, the containers that it calls.
struct Network {
    peer: Namespace,
    containers: Namespace,
}

impl Network {
    fn new() -> Outcome<Self> {
        let network = Network { peer: Namespace::new()?, containers: Namespace::new()? };
        let to_peer = network.peer.path();
        ip(&network.containers, &["link", "add", "peer", "type", "veth", "peer", "eth0", "netns", &name(&to_peer)])?;
        for address in OLD.iter().chain(&NEW).chain(&THIRD) {
            give_address(&network.containers, "peer", address)?;
        }
        for address in PEER {
            give_address(&network.peer, "eth0", address)?;
        }
        ip(&network.containers, &["link", "set", "peer", "up"])?;
        ip(&network.peer, &["link", "set", "eth0", "up"])?;
        for (addresses, name) in [(OLD, "old"), (NEW, "new"), (THIRD, "third")] {
            for address in addresses {
                network.containers.serve(&at(address), name)?;
            }
        }
        Ok(network)
    }

    fn table(&self, leads: Value) -> Value {
        json!({"sandbox": self.peer.path(), "leads": leads})
    }

    fn who(&self, address: &str) -> Outcome<String> {
        ask(&mut self.peer.connect(&at(address))?)
    }
}

fn name(path: &std::path::Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn at(address: &str) -> String {
    if address.contains(':') { format!("[{address}]:80") } else { format!("{address}:80") }
}

fn ip(namespace: &Namespace, arguments: &[&str]) -> Outcome {
    let done = namespace.inside(|| Ok(Command::new("ip").args(arguments).status()?))?;
    done.success().then_some(()).ok_or_else(|| format!("ip {arguments:?}").into())
}

fn give_address(namespace: &Namespace, link: &str, address: &str) -> Outcome {
    if address.contains(':') {
        ip(namespace, &["address", "add", &format!("{address}/64"), "dev", link, "nodad"])
    } else {
        ip(namespace, &["address", "add", &format!("{address}/24"), "dev", link])
    }
}

fn tables_in(namespace: &Namespace) -> Outcome<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    namespace.inside(|| {
        runtime.block_on(async {
            let connection = nlink::netlink::Connection::<nlink::netlink::Nftables>::new()?;
            Ok(connection.list_tables().await?.into_iter().map(|table| table.name).collect())
        })
    })
}

fn old_to_new() -> Value {
    json!([{"from": OLD[0], "to": NEW[0]}, {"from": OLD[1], "to": NEW[1]}])
}

/// Loads one table, which must work.
fn load(session: &mut Helper, table: Value) -> Outcome<Value> {
    let mut answer = session.ask(json!({"peers": {"tables": [table]}}))?;
    let loaded = answer["peers"][0].take();
    assert_eq!(loaded["state"], json!("loaded"), "{loaded}");
    Ok(loaded)
}

/// `(from, to, led, connections, open)` of the only namespace.
fn counted(session: &mut Helper) -> Outcome<Vec<Value>> {
    let answer = session.ask(json!({"peer_counters": {"sandboxes": []}}))?;
    assert_eq!(answer["peers"].as_array().map(Vec::len), Some(1), "{answer}");
    let leads = answer["peers"][0]["leads"].as_array().cloned().unwrap_or_default();
    Ok(leads.iter().map(|one| json!([one["from"], one["to"], one["led"], one["connections"], one["open"]])).collect())
}

#[test]
fn new_connections_are_led_and_counted_and_those_under_way_stay() -> Outcome {
    let network = Network::new()?;
    let mut session = Helper::start(&["session"])?;
    // Before anything asks for connection tracking: to it, the next packet will look like the first.
    let mut before: Vec<_> = OLD.iter().map(|to| network.peer.connect(&at(to))).collect::<Outcome<_>>()?;
    load(&mut session, network.table(old_to_new()))?;
    let mut led: Vec<_> = OLD.iter().map(|to| network.peer.connect(&at(to))).collect::<Outcome<_>>()?;
    for (stream, expected) in before.iter_mut().map(|one| (one, "old")).chain(led.iter_mut().map(|one| (one, "new"))) {
        assert_eq!(ask(stream)?, expected, "{stream:?}");
    }
    assert_eq!(network.who(NEW[0])?, "new");
    assert_eq!(network.who(THIRD[1])?, "third");
    assert_eq!(counted(&mut session)?, [json!([OLD[0], NEW[0], true, 1, 2]), json!([OLD[1], NEW[1], true, 1, 2])]);
    // Only the one connection to the new one that nobody has led there.
    let answer = session.ask(json!({"peer_counters": {"sandboxes": []}}))?;
    let straight = |lead: usize| answer["peers"][0]["leads"][lead]["straight"].clone();
    assert_eq!((straight(0), straight(1)), (json!(1), json!(0)), "{answer}");
    // A counter goes on when its address is led to once more.
    load(&mut session, network.table(old_to_new()))?;
    assert_eq!(network.who(NEW[0])?, "new");
    let answer = session.ask(json!({"peer_counters": {"sandboxes": []}}))?;
    assert_eq!(answer["peers"][0]["leads"][0]["straight"], json!(2), "{answer}");
    Ok(())
}

#[test]
fn whoever_calls_again_from_the_same_port_after_a_drain_is_led_anew() -> Outcome {
    let network = Network::new()?;
    let (old, new) = (format!("{}:81", OLD[0]), format!("{}:81", NEW[0]));
    network.containers.serve(&old, "old")?;
    // Whose connections can be ended as it would end them.
    let _server = Server::start(&network.containers, &new, "new")?;
    let mut session = Helper::start(&["session"])?;
    load(&mut session, network.table(old_to_new()))?;
    let call = |from: SocketAddr| {
        network.peer.inside(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())?;
            socket.connect(&old.parse::<SocketAddr>()?.into())?;
            Ok(TcpStream::from(socket))
        })
    };
    let mut led = call(format!("{}:0", PEER[0]).parse()?)?;
    let own = led.local_addr()?;
    assert_eq!(ask(&mut led)?, "new 0");
    let drained = json!({"sandbox": network.containers.path(), "ports": [81], "deadline_ms": 20_000, "unheard_ms": 50});
    let report = session.ask(json!({"drain": drained}))?;
    assert_eq!((&report["closed_idle"], &report["left"]), (&json!(1), &json!([])), "{report}");
    // An end, and no reset: after that the next connection from this port would go where this one went.
    assert_eq!(led.read(&mut [0; 1])?, 0);
    drop(led);
    load(&mut session, json!({"sandbox": network.peer.path(), "leads": [], "keep": true}))?;
    assert_eq!(ask(&mut call(own)?)?, "old");
    Ok(())
}

#[test]
fn a_replaced_table_goes_on_counting_what_it_goes_on_leading() -> Outcome {
    let network = Network::new()?;
    let mut session = Helper::start(&["session"])?;
    load(&mut session, network.table(json!([{"from": NEW[0], "to": OLD[0]}, {"from": THIRD[0], "to": OLD[0]}])))?;
    assert_eq!((network.who(NEW[0])?, network.who(THIRD[0])?), ("old".into(), "old".into()));
    load(&mut session, network.table(json!([{"from": OLD[0], "to": NEW[0]}])))?;
    assert_eq!((network.who(OLD[0])?, network.who(THIRD[0])?), ("new".into(), "third".into()));
    load(&mut session, network.table(json!([{"from": THIRD[0], "to": OLD[0]}])))?;
    assert_eq!(network.who(THIRD[0])?, "old");
    let counted: Vec<Value> = counted(&mut session)?.iter().map(|one| json!([one[0], one[2], one[3]])).collect();
    assert_eq!(counted, [json!([OLD[0], false, 1]), json!([NEW[0], false, 1]), json!([THIRD[0], true, 2])]);
    Ok(())
}

#[test]
fn replacing_fails_no_new_connection_and_leads_none_astray() -> Outcome {
    let network = Network::new()?;
    let mut session = Helper::start(&["session"])?;
    // The third address is always led, whatever else the table says.
    let with_third = |mut leads: Value| {
        if let Some(leads) = leads.as_array_mut() {
            leads.extend([json!({"from": THIRD[0], "to": NEW[0]}), json!({"from": THIRD[1], "to": NEW[1]})]);
        }
        network.table(leads)
    };
    load(&mut session, with_third(json!([])))?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Outcome {
        let addresses = [(OLD[0], true), (OLD[1], true), (THIRD[0], false), (THIRD[1], false)];
        let clients = addresses.map(|(address, old_too)| {
            let (network, done) = (&network, &done);
            scope.spawn(move || -> Outcome<u32> {
                let mut answered = 0;
                while !done.load(Ordering::Relaxed) && answered < 20_000 {
                    let name = network.who(address)?;
                    assert!(name == "new" || (old_too && name == "old"), "{address}: {name}");
                    answered += 1;
                }
                Ok(answered)
            })
        });
        let switched = (0..100).try_for_each(|_| -> Outcome {
            load(&mut session, with_third(old_to_new()))?;
            load(&mut session, with_third(json!([]))).map(drop)
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
fn nothing_is_left_of_a_session_that_is_killed() -> Outcome {
    let network = Network::new()?;
    let mut session = Helper::start(&["session"])?;
    load(&mut session, network.table(old_to_new()))?;
    assert_eq!(network.who(OLD[1])?, "new");
    assert_eq!(tables_in(&network.peer)?, [format!("handover_peers-{}", session.child.id())]);
    session.child.kill()?;
    session.child.wait()?;
    assert_eq!(tables_in(&network.peer)?, Vec::<String>::new());
    assert_eq!((network.who(OLD[0])?, network.who(OLD[1])?), ("old".into(), "old".into()));
    Ok(())
}

#[test]
fn connections_that_were_led_go_on_in_a_released_table() -> Outcome {
    let network = Network::new()?;
    let mut session = Helper::start(&["session"])?;
    load(&mut session, network.table(old_to_new()))?;
    let mut led: Vec<_> = OLD.iter().map(|to| network.peer.connect(&at(to))).collect::<Outcome<_>>()?;
    load(&mut session, json!({"sandbox": network.peer.path(), "leads": [], "keep": true}))?;
    for stream in &mut led {
        assert_eq!(ask(stream)?, "new", "{stream:?}");
    }
    assert_eq!((network.who(OLD[0])?, network.who(OLD[1])?), ("old".into(), "old".into()));
    let open = |session: &mut Helper| -> Outcome<Vec<Value>> {
        Ok(counted(session)?.iter().map(|one| json!([one[2], one[4]])).collect())
    };
    assert_eq!(open(&mut session)?, [json!([false, 1]), json!([false, 1])]);
    let removed = session.ask(json!({"peers": {"tables": [network.table(json!([]))]}}))?;
    assert_eq!(removed["peers"][0]["state"], json!("unloaded"), "{removed}");
    assert_eq!(tables_in(&network.peer)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn two_sessions_lead_in_one_namespace_without_disturbing_each_other() -> Outcome {
    let network = Network::new()?;
    let (mut first, mut second) = (Helper::start(&["session"])?, Helper::start(&["session"])?);
    load(&mut first, network.table(json!([{"from": OLD[0], "to": NEW[0]}])))?;
    load(&mut second, network.table(json!([{"from": OLD[1], "to": NEW[1]}])))?;
    assert_eq!((network.who(OLD[0])?, network.who(OLD[1])?), ("new".into(), "new".into()));
    first.close_input();
    first.child.wait()?;
    assert_eq!((network.who(OLD[0])?, network.who(OLD[1])?), ("old".into(), "new".into()));
    Ok(())
}

#[test]
fn a_held_address_answers_once_it_is_let_go() -> Outcome {
    let network = Network::new()?;
    let mut session = Helper::start(&["session"])?;
    let mut before = network.peer.connect(&at(NEW[0]))?;
    load(&mut session, json!({"sandbox": network.peer.path(), "leads": [], "held": NEW}))?;
    assert_eq!(ask(&mut before)?, "new");
    assert_eq!(network.who(OLD[0])?, "old");
    let waiting = NEW.map(|address| -> Outcome<Socket> {
        let address: SocketAddr = at(address).parse()?;
        let socket = network.peer.inside(|| Ok(Socket::new(Domain::for_address(address), Type::STREAM, None)?))?;
        socket.set_nonblocking(true)?;
        // The first packet has been sent, and dropped, when this returns.
        let begun = socket.connect(&address.into());
        assert_eq!(begun.err().and_then(|error| error.raw_os_error()), Some(libc::EINPROGRESS));
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.set_write_timeout(Some(Duration::from_secs(5)))?;
        Ok(socket)
    });
    // What is sent again meets the lead.
    let leads = json!([{"from": NEW[0], "to": OLD[0]}, {"from": NEW[1], "to": OLD[1]}]);
    load(&mut session, network.table(leads))?;
    for socket in waiting {
        assert_eq!(ask(&mut socket?.into())?, "old");
    }
    Ok(())
}

#[test]
fn udp_flows_under_way_move_only_when_asked_to() -> Outcome {
    let network = Network::new()?;
    for (addresses, name) in [(OLD, "old"), (NEW, "new")] {
        for address in addresses {
            let server = network.containers.inside(|| Ok(UdpSocket::bind(at(address))?))?;
            std::thread::spawn(move || {
                let mut question = [0; 64];
                while let Ok((_, from)) = server.recv_from(&mut question) {
                    let _ = server.send_to(name.as_bytes(), from);
                }
            });
        }
    }
    let mut session = Helper::start(&["session"])?;
    // Connection tracking is at work, as it is in a container with the engine's resolver.
    load(&mut session, json!({"sandbox": network.peer.path(), "leads": [], "keep": true}))?;
    let flows: Vec<UdpSocket> = OLD
        .iter()
        .map(|address| {
            network.peer.inside(|| {
                let flow = UdpSocket::bind(if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" })?;
                flow.connect(at(address))?;
                flow.set_read_timeout(Some(Duration::from_secs(5)))?;
                Ok(flow)
            })
        })
        .collect::<Outcome<_>>()?;
    let who = |flow: &UdpSocket| -> Outcome<String> {
        flow.send(b"?")?;
        let mut answer = [0; 64];
        let length = flow.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    let expect = |expected: &str| -> Outcome {
        for flow in &flows {
            assert_eq!(who(flow)?, expected);
        }
        Ok(())
    };
    expect("old")?;
    load(&mut session, network.table(old_to_new()))?;
    expect("old")?;
    let mut table = network.table(old_to_new());
    table["move_udp"] = json!(true);
    let loaded = load(&mut session, table)?;
    assert_eq!(loaded["udp_flows_moved"], json!(2));
    expect("new")
}

/// A flow that begins between the loading of a table and the moving of flows waits for its answer from where it was led.
#[test]
fn a_udp_flow_that_is_led_already_gets_its_answer_while_others_are_moved() -> Outcome {
    let network = Network::new()?;
    let servers = NEW.map(|address| network.containers.inside(|| Ok(UdpSocket::bind(at(address))?)));
    let mut session = Helper::start(&["session"])?;
    load(&mut session, network.table(old_to_new()))?;
    let mut table = network.table(old_to_new());
    table["move_udp"] = json!(true);
    for (server, address) in servers.into_iter().zip(OLD) {
        let (server, mut bytes) = (server?, [0; 64]);
        let flow = network.peer.inside(|| {
            let flow = UdpSocket::bind(if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" })?;
            flow.connect(at(address))?;
            flow.set_read_timeout(Some(Duration::from_secs(5)))?;
            flow.send(b"?")?;
            Ok(flow)
        })?;
        let (_, from) = server.recv_from(&mut bytes)?;
        assert_eq!(load(&mut session, table.clone())?["udp_flows_moved"], json!(0));
        server.send_to(b"new", from)?;
        assert_eq!(flow.recv(&mut bytes)?, 3);
    }
    Ok(())
}

#[test]
fn a_container_that_calls_itself_reaches_itself() -> Outcome {
    let network = Network::new()?;
    let mut session = Helper::start(&["session"])?;
    for address in PEER {
        network.peer.serve(&at(address), "peer")?;
    }
    // The peer is the new container, and not ready: the others are kept away from it.
    load(&mut session, network.table(json!([{"from": PEER[0], "to": OLD[0]}, {"from": PEER[1], "to": OLD[1]}])))?;
    assert_eq!((network.who(PEER[0])?, network.who(PEER[1])?), ("peer".into(), "peer".into()));
    // Now it is, and takes over from the old one, also for itself.
    load(&mut session, network.table(json!([{"from": OLD[0], "to": PEER[0]}, {"from": OLD[1], "to": PEER[1]}])))?;
    assert_eq!((network.who(OLD[0])?, network.who(OLD[1])?), ("peer".into(), "peer".into()));
    Ok(())
}

#[test]
fn a_table_that_contradicts_itself_is_refused_and_changes_nothing() -> Outcome {
    let network = Network::new()?;
    let mut session = Helper::start(&["session"])?;
    load(&mut session, network.table(old_to_new()))?;
    let leads = json!([{"from": OLD[0], "to": NEW[0]}, {"from": NEW[0], "to": OLD[0]}]);
    let refused = session.ask(json!({"peers": {"tables": [network.table(leads)]}}))?;
    let why = refused["peers"][0]["state"]["failed"]["what"].as_str().unwrap_or_default();
    assert!(why.contains("10.99.0.3 is led on to 10.99.0.2"), "{refused}");
    assert_eq!((network.who(OLD[0])?, network.who(NEW[0])?), ("new".into(), "new".into()));
    Ok(())
}

#[test]
fn containers_that_share_a_namespace_share_the_table() -> Outcome {
    let network = Network::new()?;
    let other = Process::start(&network.peer)?;
    let mut session = Helper::start(&["session"])?;
    let table = |leads: Value| json!([network.table(old_to_new()), {"sandbox": other.path(), "leads": leads}]);
    let same = session.ask(json!({"peers": {"tables": table(old_to_new())}}))?;
    assert_eq!((&same["peers"][0]["state"], &same["peers"][1]["state"]), (&json!("loaded"), &json!("loaded")));
    assert_eq!(network.who(OLD[0])?, "new");
    assert_eq!(counted(&mut session)?.len(), 2);
    let another = session.ask(json!({"peers": {"tables": table(json!([{"from": THIRD[0], "to": NEW[0]}]))}}))?;
    assert!(another.to_string().contains("another table is wanted for it"), "{another}");
    Ok(())
}

/// A process that does nothing, inside a namespace; killed when dropped.
struct Process(Child);

impl Process {
    fn start(namespace: &Namespace) -> Outcome<Self> {
        namespace.inside(|| Ok(Process(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?)))
    }

    /// In a network namespace that goes with it.
    fn alone() -> Outcome<Self> {
        let mut command = Command::new("unshare");
        command
            .args(["--net", "sh", "-c", "echo in; exec cat >/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut String::new())?;
        Ok(Process(child))
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_namespace_goes_with_its_container_although_a_table_was_in_it() -> Outcome {
    let network = Network::new()?;
    let vanishing = Process::alone()?;
    ip(
        &network.containers,
        &["link", "add", "mark", "type", "veth", "peer", "eth0", "netns", &vanishing.0.id().to_string()],
    )?;
    let mut session = Helper::start(&["session"])?;
    let tables = json!([{"sandbox": vanishing.path(), "leads": old_to_new()}, network.table(old_to_new())]);
    let both = session.ask(json!({"peers": {"tables": &tables}}))?;
    assert_eq!((&both["peers"][0]["state"], &both["peers"][1]["state"]), (&json!("loaded"), &json!("loaded")));

    drop(vanishing);
    // The interface at this end of the link goes when the namespace does.
    let began = Instant::now();
    while ip(&network.containers, &["link", "show", "mark"]).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(20), "the namespace is still there");
    }

    let after = session.ask(json!({"peers": {"tables": &tables}}))?;
    assert_eq!((&after["peers"][0]["state"], &after["peers"][1]["state"]), (&json!("gone"), &json!("loaded")));
    let counted = session.ask(json!({"peer_counters": {"sandboxes": [tables[0]["sandbox"], network.peer.path()]}}))?;
    assert_eq!((&counted["peers"][0]["state"], &counted["peers"][1]["state"]), (&json!("gone"), &json!("loaded")));
    assert_eq!(network.who(OLD[0])?, "new");
    Ok(())
}

#[test]
fn callers_are_counted_by_address() -> Outcome {
    let network = Network::new()?;
    let mut session = Helper::start(&["session"])?;
    let main = Process::start(&network.containers)?;
    let mut open: Vec<_> =
        [OLD[0], NEW[0], OLD[1]].iter().map(|to| network.peer.connect(&at(to))).collect::<Outcome<_>>()?;
    for stream in &mut open {
        ask(stream)?;
    }
    for ports in [json!([80]), json!([])] {
        let found = session.ask(json!({"callers": {"sandbox": main.path(), "ports": ports}}))?;
        let expected = json!([{"address": PEER[0], "connections": 2}, {"address": PEER[1], "connections": 1}]);
        assert_eq!(found["callers"], expected);
    }
    let none = session.ask(json!({"callers": {"sandbox": main.path(), "ports": [81]}}))?;
    assert_eq!(none["callers"], json!([]));
    open[0].write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    Ok(())
}

/// Away from the new container, for so many seconds, also when nobody is left; without any: nothing of the kind.
fn outlasting(table: Value, redirects: Value, seconds: u64) -> Value {
    let mut table = table;
    table["outlasting"] = json!({"project": "shop", "redirects": redirects, "seconds": seconds});
    table
}

#[test]
fn what_is_not_gated_gets_no_client_although_everybody_is_gone_until_its_time_is_over() -> Outcome {
    const TIME: Duration = Duration::from_secs(3);
    let network = Network::new()?;
    let new_to_old = json!([{"from": NEW[0], "to": OLD[0]}, {"from": NEW[1], "to": OLD[1]}]);
    let mut session = Helper::start(&["session"])?;
    let wanted = outlasting(network.table(new_to_old.clone()), new_to_old, TIME.as_secs());
    load(&mut session, wanted)?;
    let began = Instant::now();
    session.child.kill()?;
    // Its own table goes with it; what remains redirects, and says when it ends.
    while tables_in(&network.peer)? != ["handover_outlasting-shop"] {
        assert!(began.elapsed() < TIME, "{:?}", tables_in(&network.peer)?);
    }
    for to in NEW {
        assert_eq!(network.who(to)?, "old");
    }
    while network.who(NEW[0])? != "new" || network.who(NEW[1])? != "new" {
        assert!(began.elapsed() < 3 * TIME, "it goes on after its time");
    }
    assert!(began.elapsed() >= TIME - Duration::from_secs(1), "it ended after {:?}", began.elapsed());
    Ok(())
}

#[test]
fn the_next_session_takes_out_what_outlasted_an_earlier_one() -> Outcome {
    let network = Network::new()?;
    let new_to_old = json!([{"from": NEW[0], "to": OLD[0]}]);
    let mut session = Helper::start(&["session"])?;
    load(&mut session, outlasting(network.table(new_to_old.clone()), new_to_old, 600))?;
    session.child.kill()?;
    let mut next = Helper::start(&["session"])?;
    let mut kept = outlasting(network.table(json!([])), json!([]), 600);
    kept["keep"] = json!(true);
    load(&mut next, kept.clone())?;
    assert!(!tables_in(&network.peer)?.contains(&"handover_outlasting-shop".to_owned()));
    assert_eq!(network.who(NEW[0])?, "new");
    // The same once more changes nothing.
    load(&mut next, kept)?;
    Ok(())
}
