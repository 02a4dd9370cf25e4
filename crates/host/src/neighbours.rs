//! Who lives at the addresses of this host's networks: the containers whose network namespaces have a link into ours, by netlink.
//!
//! Sees them from the host's network and PID namespaces. Not those on a macvlan or an ipvlan, whose links have no end here.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use futures_util::{FutureExt, StreamExt};
use handover_core::redirect::owners::{Tenants, container_of};
use nlink::netlink::namespace::NetnsRef;
use nlink::netlink::{Connection, OwnedEventStream, Route, RtnetlinkGroup};
use procfs::process::{Process, all_processes};

use crate::error::HostError;

/// Our namespace and those beside it.
pub(crate) struct Neighbours {
    changes: OwnedEventStream<Route>,
    own: Connection<Route>,
}

impl Neighbours {
    /// Notices every change from here on.
    pub(crate) async fn watch() -> Result<Self, HostError> {
        let doing = || HostError::netlink("watching the host's links");
        let changes = Connection::<Route>::new().map_err(doing())?;
        changes
            .subscribe(&[RtnetlinkGroup::Link, RtnetlinkGroup::Ipv4Addr, RtnetlinkGroup::Ipv6Addr])
            .map_err(doing())?;
        let own = Connection::<Route>::new().map_err(doing())?;
        Ok(Neighbours { changes: changes.into_events().await, own })
    }

    /// Waits until a link or an address of ours has come, changed or gone since the last call: a container that starts has its
    /// addresses when its link comes up, before its program runs. May be given up.
    pub(crate) async fn changed(&mut self) {
        // An error says that changes were missed, which is one.
        if self.changes.next().await.is_none() {
            std::future::pending::<()>().await;
        }
        while let Some(Some(_)) = self.changes.next().now_or_never() {}
    }

    /// Which of these addresses somebody has, and who. Who comes or goes meanwhile may be missing.
    pub(crate) async fn tenants(&self, wanted: &BTreeSet<IpAddr>) -> Tenants {
        let mut tenants = Tenants::new();
        let mut namespaces: HashMap<u64, Vec<IpAddr>> = HashMap::new();
        for process in all_processes().into_iter().flatten().flatten() {
            let sandbox = PathBuf::from(format!("/proc/{}/ns/net", process.pid()));
            let Ok(number) = fs::metadata(&sandbox).map(|file| file.ino()) else { continue };
            let addresses = match namespaces.entry(number) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let mut addresses = self.addresses(&process, sandbox).await;
                    addresses.retain(|address| wanted.contains(address));
                    new.insert(addresses)
                }
            };
            if addresses.is_empty() {
                continue;
            }
            let groups = process.cgroups().map(|groups| groups.0).unwrap_or_default();
            let who = groups.first().map(|group| container_of(&group.pathname)).unwrap_or_default();
            for address in addresses {
                tenants.entry(*address).or_default().insert(who.to_owned());
            }
        }
        tenants
    }

    /// The addresses in a process' network namespace, if that has a link into ours.
    async fn addresses(&self, process: &Process, sandbox: PathBuf) -> Vec<IpAddr> {
        let Ok(pid) = u32::try_from(process.pid()) else { return Vec::new() };
        // The kernel numbers the namespaces at the other ends of our links; -1 says that this is none of them.
        let numbered = self.own.get_nsid_for_pid(pid).await;
        if !numbered.is_ok_and(|number| i32::try_from(number).is_ok()) {
            return Vec::new();
        }
        let Ok(inside) = Connection::<Route>::new_in(NetnsRef::Path(sandbox)) else { return Vec::new() };
        let addresses = inside.get_addresses().await.unwrap_or_default();
        addresses.iter().filter_map(|address| address.primary_address()).copied().collect()
    }

    /// Our own addresses, each with the length of its network's prefix.
    pub(crate) async fn networks(&self) -> Result<Vec<(IpAddr, u8)>, HostError> {
        let addresses = self.own.get_addresses().await.map_err(HostError::netlink("reading the host's addresses"))?;
        let network = |address: &nlink::netlink::messages::AddressMessage| {
            address.primary_address().map(|own| (*own, address.prefix_len()))
        };
        Ok(addresses.iter().filter_map(network).collect())
    }
}
