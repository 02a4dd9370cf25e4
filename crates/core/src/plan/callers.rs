//! Who calls a service right now, in words.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::observation::Observation;

/// Callers that are named; of the others only the number is told.
const NAMED: usize = 3;

/// Who has connections to a service's containers, those with most first; `None` if nobody has. `callers`: the other ends'
/// addresses, and how many connections each has.
pub fn called_by(callers: impl IntoIterator<Item = (IpAddr, usize)>, observed: &Observation) -> Option<String> {
    let mut connections: BTreeMap<String, usize> = BTreeMap::new();
    // Over loopback a container calls itself: its health check, say.
    for (address, count) in callers.into_iter().filter(|(address, _)| !address.to_canonical().is_loopback()) {
        *connections.entry(name_of(address.to_canonical(), observed)).or_default() += count;
    }
    let mut told: Vec<(String, usize)> = connections.into_iter().collect();
    told.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let more = told.len().saturating_sub(NAMED);
    let mut words: Vec<String> = told
        .into_iter()
        .take(NAMED)
        .map(|(name, count)| format!("{name} ({count} connection{})", if count == 1 { "" } else { "s" }))
        .collect();
    words.extend((more > 0).then(|| format!("{more} more")));
    (!words.is_empty()).then(|| format!("called now by {}", words.join(", ")))
}

fn name_of(address: IpAddr, observed: &Observation) -> String {
    let all = observed.containers.iter().chain(&observed.standin).chain(&observed.foreign);
    let ends = all.flat_map(|container| container.networks.values().map(move |endpoint| (container, endpoint)));
    for (container, endpoint) in ends {
        let own = [endpoint.address.map(IpAddr::from), endpoint.address_v6.map(IpAddr::from)];
        if own.contains(&Some(address)) {
            return container.name.clone();
        }
        if endpoint.gateway.map(IpAddr::from) == Some(address) {
            return "the host".to_owned();
        }
    }
    address.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Container, Endpoint};

    fn observed() -> Observation {
        let endpoint =
            Endpoint { address: "172.18.0.5".parse().ok(), gateway: "172.18.0.1".parse().ok(), ..Endpoint::default() };
        let networks = [("edge".to_owned(), endpoint)].into();
        let traefik = Container { name: "edge-traefik-1".to_owned(), networks, ..Container::default() };
        Observation { foreign: vec![traefik], ..Observation::default() }
    }

    #[track_caller]
    fn told(callers: &[(&str, usize)]) -> Option<String> {
        called_by(callers.iter().map(|(address, count)| (address.parse().unwrap(), *count)), &observed())
    }

    #[test]
    fn containers_and_the_host_are_named_and_others_by_their_address() {
        let all = [("172.18.0.1", 1), ("::ffff:172.18.0.5", 3), ("192.0.2.7", 2), ("127.0.0.1", 9)];
        let words = "called now by edge-traefik-1 (3 connections), 192.0.2.7 (2 connections), the host (1 connection)";
        assert_eq!(told(&all).as_deref(), Some(words));
    }

    #[test]
    fn of_many_the_first_are_named() {
        let all = [("192.0.2.1", 4), ("192.0.2.2", 3), ("192.0.2.3", 2), ("192.0.2.4", 1)];
        assert!(told(&all).is_some_and(|words| words.ends_with("192.0.2.3 (2 connections), 1 more")));
    }

    #[test]
    fn nobody_is_nothing() {
        assert_eq!(told(&[("127.0.0.1", 1)]), None);
    }
}
