//! Leads that outlive their deploy, in a real kernel. Needs root.

#[allow(dead_code)] // other tests use the rest
mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::{Helper, Namespace, Outcome, Server};

const OLD: &str = "10.98.0.2";
const NEW: &str = "10.98.0.3";
const PEER: &str = "10.98.0.10";

/// A host with a bridge, containers on it, and a keeper.
struct Host {
    host: Namespace,
    keeper: Helper,
    containers: Vec<(Namespace, Server)>,
}

impl Host {
    fn new() -> Outcome<Self> {
        let host = Namespace::new()?;
        ip(&host, "link add bridge type bridge")?;
        ip(&host, "address add 10.98.0.1/24 dev bridge")?;
        ip(&host, "link set bridge up")?;
        let keeper = Helper::start_in(&host, &["keeper"])?;
        Ok(Host { host, keeper, containers: Vec::new() })
    }

    /// As an engine does it: an end of the link goes in, gets its address and comes up; then the program runs. The sandbox.
    fn container(&mut self, address: &str) -> Outcome<String> {
        let (namespace, number) = (Namespace::new()?, self.containers.len());
        let name = namespace.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // The namespace of a container belongs to a process before it has a link.
        let server = Server::start(&namespace, "127.0.0.1:80", "container")?;
        ip(&self.host, &format!("link add link{number} type veth peer eth0 netns {name}"))?;
        ip(&self.host, &format!("link set link{number} master bridge up"))?;
        ip(&namespace, &format!("address add {address}/24 dev eth0"))?;
        ip(&namespace, "link set eth0 up")?;
        let sandbox = server.sandbox();
        self.containers.push((namespace, server));
        Ok(sandbox)
    }

    fn keep(&mut self, sandbox: &str) -> Outcome {
        let tables = json!([{"sandbox": sandbox, "leads": [{"from": OLD, "to": NEW}]}]);
        let answer = self.keeper.ask(json!({"peers": {"tables": tables}}))?;
        assert_eq!(answer["peers"][0]["state"], json!("loaded"), "{answer}");
        assert_eq!(self.led()?, [true]);
        Ok(())
    }

    /// Whether each lead leads now.
    fn led(&mut self) -> Outcome<Vec<Value>> {
        let answer = self.keeper.ask(json!({"peer_counters": {"sandboxes": []}}))?;
        let leads = answer["peers"].as_array().into_iter().flatten().flat_map(|peer| peer["leads"].as_array());
        Ok(leads.flatten().map(|lead| lead["led"].clone()).collect())
    }

    /// Asks until it is so: the keeper hears of a change from the kernel, we from the keeper.
    fn until_nothing_is_led(&mut self) -> Outcome {
        while self.led()?.contains(&json!(true)) {}
        Ok(())
    }
}

fn ip(namespace: &Namespace, arguments: &str) -> Outcome {
    let done = namespace.inside(|| Ok(Command::new("ip").args(arguments.split(' ')).status()?))?;
    done.success().then_some(()).ok_or_else(|| format!("ip {arguments}").into())
}

#[test]
fn a_kept_lead_ends_when_another_container_gets_the_address() -> Outcome {
    let mut host = Host::new()?;
    host.container(NEW)?;
    let peer = host.container(PEER)?;
    host.keep(&peer)?;
    host.container("10.98.0.4")?;
    assert_eq!(host.led()?, [true], "somebody else's coming has ended it");
    host.container(OLD)?;
    host.until_nothing_is_led()?;
    // What was led before goes on being translated: the table stays for as long as the peer.
    let namespaces = &mut host.containers;
    drop(namespaces.remove(1));
    assert!(host.keeper.child.wait()?.success());
    Ok(())
}

#[test]
fn an_address_of_a_network_that_is_not_this_hosts_ends_no_lead() -> Outcome {
    let mut host = Host::new()?;
    let mut elsewhere = Host::new()?;
    host.container(NEW)?;
    let peer = host.container(PEER)?;
    host.keep(&peer)?;
    elsewhere.container(OLD)?;
    // Whatever the keeper makes of this change, it has looked at all there is.
    host.container("10.98.0.4")?;
    assert_eq!(host.led()?, [true]);
    Ok(())
}

#[test]
fn what_is_kept_for_the_host_itself_ends_with_its_network() -> Outcome {
    let mut host = Host::new()?;
    host.container(NEW)?;
    host.keep("")?;
    ip(&host.host, "link add other type bridge")?;
    ip(&host.host, "link delete other")?;
    assert_eq!(host.led()?, [true], "another network has ended it");
    ip(&host.host, "link delete bridge")?;
    assert!(host.keeper.child.wait()?.success());
    Ok(())
}
