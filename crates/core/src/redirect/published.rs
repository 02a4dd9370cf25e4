//! From the stand-in's containers as they are to the leads that send traffic to them.

use std::net::{IpAddr, Ipv4Addr};

use crate::compose::project::Port;
use crate::net::Protocol;
use crate::redirect::ports::PortLead;

/// A stand-in container as the engine publishes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Name of the container, for errors.
    pub container: String,
    /// Its IPv4 addresses with the gateway of their network.
    pub addresses: Vec<(Ipv4Addr, Option<Ipv4Addr>)>,
    /// Its default gateway: the engine publishes ports through that network.
    pub default_gateway: Option<IpAddr>,
    /// Port inside, protocol, address on the host, ephemeral port on the host.
    pub bindings: Vec<(u16, Protocol, IpAddr, u16)>,
}

/// The lead for one fixed port.
pub fn lead(port: &Port, standin: &Published) -> Result<PortLead, String> {
    let container = &standin.container;
    let published = port.published.ok_or_else(|| format!("port {} has no fixed number", port.target))?;
    let through_gateway = standin
        .addresses
        .iter()
        .find(|(_, gateway)| gateway.is_some() && gateway.map(IpAddr::V4) == standin.default_gateway);
    let (container_ip, _) = through_gateway
        .or_else(|| standin.addresses.first())
        .ok_or_else(|| format!("{container} has no IPv4 address on a network"))?;
    let ephemeral = |ipv6: bool| {
        standin
            .bindings
            .iter()
            .find(|(target, protocol, address, _)| {
                *target == port.target && *protocol == port.protocol && address.is_ipv6() == ipv6
            })
            .map(|(.., ephemeral)| *ephemeral)
    };
    let (ephemeral_v4, ephemeral_v6) = (ephemeral(false), ephemeral(true));
    if ephemeral_v4.is_none() && ephemeral_v6.is_none() {
        return Err(format!("the engine does not publish port {} of {container}", port.target));
    }
    Ok(PortLead {
        protocol: port.protocol,
        host_ip: port.host_ip,
        published,
        container_ip: *container_ip,
        container_ipv6: None,
        container_port: port.target,
        ephemeral_v4,
        ephemeral_v6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standin() -> Published {
        Published {
            container: "web".into(),
            addresses: vec![
                ([10, 0, 0, 5].into(), Some([10, 0, 0, 1].into())),
                ([10, 1, 0, 5].into(), Some([10, 1, 0, 1].into())),
            ],
            default_gateway: Some([10, 1, 0, 1].into()),
            bindings: vec![
                (80, Protocol::Tcp, "0.0.0.0".parse().unwrap(), 32768),
                (80, Protocol::Tcp, "::".parse().unwrap(), 32769),
            ],
        }
    }

    fn port(target: u16) -> Port {
        Port { protocol: Protocol::Tcp, host_ip: None, published: Some(8080), target }
    }

    #[test]
    fn traffic_goes_through_the_network_of_the_default_gateway() {
        let lead = lead(&port(80), &standin()).unwrap();
        assert_eq!(lead.container_ip, Ipv4Addr::new(10, 1, 0, 5));
        assert_eq!((lead.ephemeral_v4, lead.ephemeral_v6), (Some(32768), Some(32769)));
        assert_eq!((lead.published, lead.container_port), (8080, 80));
    }

    #[test]
    fn a_port_that_the_engine_does_not_publish_is_an_error() {
        assert_eq!(lead(&port(81), &standin()).unwrap_err(), "the engine does not publish port 81 of web");
    }
}
