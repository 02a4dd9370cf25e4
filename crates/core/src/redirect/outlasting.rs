//! Redirects of clients that outlive whoever made them: a dead man's switch.
//!
//! The tables in clients' namespaces belong to the session helper and go with it. When everything of ours dies at once, two kinds of
//! redirects are still needed: those away from a rolled container that has not passed its gate, which would get every second
//! connection by name, and, once old containers are stopped, those to the stand-in. So beside each of them the kernel holds a second
//! one that belongs to nobody, in a table of its own, which ends by itself when its time is over.
//!
//! A redirect that nobody holds may outlive its addresses, for that long at most; the next run takes it out.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::net::IpVersion;
use crate::redirect::peers::AddressLead;
use crate::redirect::rules::{Action, ChainHook, Expiring, Match, Rule, RuleChain, RuleTable};

const CHAIN: &str = "lead_from_client";

/// The redirects of one namespace that nobody holds; without any there is to be no such table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlasting {
    /// Name of the Compose project; the table's name is made of it.
    pub project: String,
    /// What is redirected.
    pub redirects: Vec<AddressLead>,
    /// They end by themselves after this time.
    pub seconds: u64,
}

/// Name of the table. No table of ports and none of a session has such a name: those have a dash behind `handover`, and these the
/// number of a process at their end.
pub fn table_name(project: &str) -> String {
    format!("handover_outlasting-{project}")
}

/// The table that does it, for addresses that [`crate::redirect::peers::rules`] has accepted.
pub fn rules(outlasting: &Outlasting) -> RuleTable {
    let set = |index: usize| format!("outlasting-{index}");
    let time = Duration::from_secs(outlasting.seconds);
    let sets = outlasting.redirects.iter().enumerate();
    let sets = sets.map(|(index, redirect)| Expiring { name: set(index), address: redirect.from, after: time });
    let redirects = outlasting.redirects.iter().enumerate().flat_map(|(index, redirect)| {
        let version = match redirect.from {
            IpAddr::V4(_) => IpVersion::V4,
            IpAddr::V6(_) => IpVersion::V6,
        };
        [Match::Syn, Match::NotTcp].map(|kind| Rule {
            matches: vec![
                Match::Ip(version),
                Match::DestinationIn(version, set(index)),
                Match::NotLeavingBy("lo".to_owned()),
                kind,
            ],
            counter: None,
            action: Action::LeadToAddress(redirect.to),
        })
    });
    RuleTable {
        name: table_name(&outlasting.project),
        expiring: sets.collect(),
        counters: Vec::new(),
        chains: vec![RuleChain { name: CHAIN, hook: Some(ChainHook::NatOutputLast), rules: redirects.collect() }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_gated_is_redirected_for_as_long_as_its_gate_may_take() {
        let redirect = |from: &str, to: &str| AddressLead { from: from.parse().unwrap(), to: to.parse().unwrap() };
        let redirects = vec![redirect("172.18.0.3", "172.18.0.2"), redirect("fd00::3", "fd00::2")];
        let table = rules(&Outlasting { project: "shop".to_owned(), redirects, seconds: 120 });
        assert_eq!(
            table.to_string(),
            "table inet handover_outlasting-shop {
  set outlasting-0 { 172.18.0.3 expires after 120s }
  set outlasting-1 { fd00::3 expires after 120s }
  chain lead_from_client {
    type nat hook output priority -99
    ip daddr @outlasting-0 oifname != lo syn dnat to 172.18.0.2
    ip daddr @outlasting-0 oifname != lo meta l4proto != tcp dnat to 172.18.0.2
    ip6 daddr @outlasting-1 oifname != lo syn dnat to fd00::2
    ip6 daddr @outlasting-1 oifname != lo meta l4proto != tcp dnat to fd00::2
  }
}
"
        );
    }
}
