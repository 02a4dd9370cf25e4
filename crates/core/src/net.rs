//! Words of networking that every other module uses: protocols, IP versions, subnets.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A transport protocol that a container can publish a port for and that the switch can lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// Whether an address lies in a network, given as its first address and the length of its prefix.
pub fn contains((network, prefix): (IpAddr, u8), address: IpAddr) -> bool {
    let (network, address, length) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => (u32::from(network).into(), u32::from(address).into(), 32),
        (IpAddr::V6(network), IpAddr::V6(address)) => (u128::from(network), u128::from(address), 128),
        _ => return false,
    };
    let rest = u32::from(length - prefix.min(length));
    let beginning = |number: u128| number.checked_shr(rest).unwrap_or(0);
    beginning(network) == beginning(address)
}

impl fmt::Display for IpVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IpVersion::V4 => "ip",
            IpVersion::V6 => "ip6",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_lies_in_a_network_by_its_beginning() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(contains((address("172.18.0.0"), 16), address("172.18.255.1")));
        assert!(!contains((address("172.18.0.0"), 16), address("172.19.0.1")));
        assert!(contains((address("0.0.0.0"), 0), address("1.2.3.4")));
        assert!(contains((address("fd00::"), 64), address("fd00::1")));
        assert!(!contains((address("fd00::"), 64), address("172.18.0.1")));
    }
}
