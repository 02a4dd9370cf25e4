//! Forgetting UDP flows: connection tracking would lead a client to a container that is gone for as long as it goes on
//! sending.

use handover_core::redirect::peers::AddressLead;
use nlink::netlink::netfilter::{ConntrackFilter, IpProtocol};
use nlink::netlink::types::AddressFamily;
use nlink::netlink::{Connection, Netfilter};

use crate::error::HostError;
use crate::protocol::{Forgotten, UdpFlows};

const DOING: &str = "deleting UDP flows from connection tracking";

/// Deletes every flow that one of `flows` describes, of IPv4 and IPv6. May be repeated.
pub(crate) async fn forget(flows: Vec<UdpFlows>) -> Result<Forgotten, HostError> {
    let connection = open()?;
    let mut forgotten = 0;
    for one in flows {
        for filter in filters(&one)? {
            forgotten += connection.del_conntrack_matching(&filter).await.map_err(HostError::netlink(DOING))?;
        }
    }
    Ok(Forgotten { flows: forgotten })
}

/// Deletes every UDP flow that was begun to the `from` of one of `redirects` from the namespace of this thread, unless it goes
/// to their `to` already: the answer that such a client waits for would come from an address that it has not asked. May be repeated.
///
/// Takes some 20 ms for each IP version among them: the kernel keeps the flows of all namespaces in one place and
/// looks through it as a whole (262,144 buckets).
pub(crate) async fn forget_sent_to(redirects: &[AddressLead]) -> Result<usize, HostError> {
    let mut forgotten = 0;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        if !redirects.iter().any(|redirect| redirect.from.is_ipv4() == (family == AddressFamily::Inet)) {
            continue;
        }
        let connection = open()?;
        let udp = ConntrackFilter::new().proto(IpProtocol::Udp).family(family);
        for flow in connection.get_conntrack_matching(&udp).await.map_err(HostError::netlink(DOING))? {
            let goes_elsewhere =
                |one: &AddressLead| flow.orig.dst_ip == Some(one.from) && flow.reply.src_ip != Some(one.to);
            if !redirects.iter().any(goes_elsewhere) {
                continue;
            }
            match connection.del_conntrack_entry(&flow).await {
                Ok(()) => forgotten += 1,
                // It has ended meanwhile.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(HostError::netlink(DOING)(error)),
            }
        }
    }
    Ok(forgotten)
}

/// Whether connection tracking can be read.
pub(crate) async fn readable() -> Result<(), HostError> {
    // Nothing has protocol number 255, so nothing is sent.
    let nothing = ConntrackFilter::new().family(AddressFamily::Inet).proto(IpProtocol::Other(255));
    let read = open()?.get_conntrack_matching(&nothing).await;
    read.map(drop).map_err(HostError::netlink("reading connection tracking"))
}

fn open() -> Result<Connection<Netfilter>, HostError> {
    Connection::<Netfilter>::new().map_err(HostError::netlink("opening a netlink socket for connection tracking"))
}

fn filters(flows: &UdpFlows) -> Result<Vec<ConntrackFilter>, HostError> {
    if *flows == UdpFlows::default() {
        return Err(HostError::Request("forget_udp: an entry that gives nothing would forget every flow".into()));
    }
    let mut filter = ConntrackFilter::new().proto(IpProtocol::Udp);
    if let Some(port) = flows.published {
        filter = filter.orig_dst_port(port);
    }
    if let Some(port) = flows.answers_from_port {
        filter = filter.reply_src_port(port);
    }
    Ok(match flows.answers_from {
        Some(address) => vec![filter.reply_src(address)],
        None => vec![filter.clone().family(AddressFamily::Inet), filter.family(AddressFamily::Inet6)],
    })
}
