//! Who lives at which address, and which leads that ends, of those that outlive their deploy.
//!
//! Engines give the address of a container that has gone to one of the next. Whoever opens a connection to it from then on means
//! that one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::redirect::peers::AddressLead;

/// Digits of a container's id.
const ID: usize = 64;

/// By address: the containers that have it ([`container_of`]). They are several where they share a network namespace.
pub type Tenants = BTreeMap<IpAddr, BTreeSet<String>>;

/// Those of the leads that still lead right: nobody lives at the old address, and nobody but those who lived at the new one `then`,
/// when the leads were made, lives there `now`. Nobody at the new one is right: its container may be starting anew.
pub fn still_right(leads: &[AddressLead], then: &Tenants, now: &Tenants) -> Vec<AddressLead> {
    let others = |address| match (then.get(address), now.get(address)) {
        (Some(then), Some(now)) => then.is_disjoint(now),
        // Who was not seen then (on a macvlan, say) is not known now.
        _ => false,
    };
    leads.iter().filter(|lead| !now.contains_key(&lead.from) && !others(&lead.to)).copied().collect()
}

/// The container's id in the name of a control group (`/docker/<id>`, `/../docker-<id>.scope`), or the whole name where there is none.
pub fn container_of(control_group: &str) -> &str {
    control_group
        .split(|one: char| !matches!(one, '0'..='9' | 'a'..='f'))
        .find(|part| part.len() == ID)
        .unwrap_or(control_group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants(all: &[(&str, &[&str])]) -> Tenants {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        all.iter().map(|(address, who)| (address.parse().expect("an address"), names(who))).collect()
    }

    fn leads(all: &[(&str, &str)]) -> Vec<AddressLead> {
        let address = |text: &str| text.parse().expect("an address");
        all.iter().map(|(from, to)| AddressLead { from: address(from), to: address(to) }).collect()
    }

    const LEADS: [(&str, &str); 2] = [("10.0.0.2", "10.0.0.3"), ("fd00::2", "fd00::3")];

    #[test]
    fn leads_stay_while_nobody_moves() {
        let then = tenants(&[("10.0.0.3", &["new"]), ("fd00::3", &["new"])]);
        assert_eq!(still_right(&leads(&LEADS), &then, &then), leads(&LEADS));
    }

    #[test]
    fn a_lead_ends_when_somebody_gets_the_old_address() {
        let then = tenants(&[("10.0.0.3", &["new"]), ("fd00::3", &["new"])]);
        let now = tenants(&[("10.0.0.2", &["stranger"]), ("10.0.0.3", &["new"]), ("fd00::3", &["new"])]);
        assert_eq!(still_right(&leads(&LEADS), &then, &now), leads(&LEADS[1..]));
    }

    #[test]
    fn a_lead_ends_when_somebody_else_gets_the_new_address() {
        let then = tenants(&[("10.0.0.3", &["new"]), ("fd00::3", &["new"])]);
        let now = tenants(&[("10.0.0.3", &["stranger"]), ("fd00::3", &["new"])]);
        assert_eq!(still_right(&leads(&LEADS), &then, &now), leads(&LEADS[1..]));
    }

    #[test]
    fn leads_outlive_a_restart_of_where_they_lead() {
        let then = tenants(&[("10.0.0.3", &["new", "beside"]), ("fd00::3", &["new"])]);
        assert_eq!(still_right(&leads(&LEADS), &then, &Tenants::new()), leads(&LEADS));
        let now = tenants(&[("10.0.0.3", &["new"]), ("fd00::3", &["new", "beside"])]);
        assert_eq!(still_right(&leads(&LEADS), &then, &now), leads(&LEADS));
    }

    #[test]
    fn who_was_not_seen_at_first_is_no_stranger() {
        let now = tenants(&[("10.0.0.3", &["new"])]);
        assert_eq!(still_right(&leads(&LEADS), &Tenants::new(), &now), leads(&LEADS));
    }

    #[test]
    fn a_container_is_known_by_the_id_in_its_control_group() {
        let id = "0123456789abcdef".repeat(4);
        for name in ["/docker/ID", "/../ID", "/system.slice/docker-ID.scope", "/../../docker-ID.scope/init.scope"] {
            assert_eq!(container_of(&name.replace("ID", &id)), id);
        }
        assert_eq!(container_of("/user.slice/session-3.scope"), "/user.slice/session-3.scope");
    }
}
