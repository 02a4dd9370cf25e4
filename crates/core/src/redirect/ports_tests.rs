use super::*;

fn lead(protocol: Protocol, published: u16) -> PortLead {
    PortLead {
        protocol,
        host_ip: None,
        published,
        container_ip: Ipv4Addr::new(172, 18, 0, 9),
        container_ipv6: None,
        container_port: 80,
        ephemeral_v4: Some(49153),
        ephemeral_v6: Some(49154),
    }
}

fn table(leads: Vec<PortLead>) -> PortTable {
    PortTable { project: "shop".into(), leads, bridges: vec!["docker0".into(), "br-1".into()], userland_proxy: true }
}

#[track_caller]
fn check(table: &PortTable, expected: &str) {
    let strip = |text: &str| text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n");
    assert_eq!(strip(&rules(table).to_string()), strip(expected), "\n{}", rules(table));
}

#[test]
fn a_port_on_every_address_is_led_wherever_it_is_called_from() {
    check(
        &table(vec![lead(Protocol::Tcp, 443)]),
        "table inet handover-shop {
           counter lead-0
           chain lead_from_containers {
             ip daddr != 127.0.0.0/8 tcp dport 443 syn fib daddr type local counter lead-0 dnat ip to :49153
             ip6 daddr != ::1/128 tcp dport 443 syn fib daddr type local counter lead-0 dnat ip6 to :49154
           }
           chain lead_arriving {
             type nat hook prerouting priority -101
             iifname docker0 goto lead_from_containers
             iifname br-1 goto lead_from_containers
             ip daddr != 127.0.0.0/8 tcp dport 443 syn fib daddr type local counter lead-0 dnat to 172.18.0.9:80
             ip6 daddr != ::1/128 tcp dport 443 syn fib daddr type local counter lead-0 dnat ip6 to :49154
           }
           chain lead_from_host {
             type nat hook output priority -101
             ip daddr 127.0.0.0/8 tcp dport 443 syn fib daddr type local counter lead-0 dnat ip to :49153
             ip daddr != 127.0.0.0/8 tcp dport 443 syn fib daddr type local counter lead-0 dnat to 172.18.0.9:80
             ip6 tcp dport 443 syn fib daddr type local counter lead-0 dnat ip6 to :49154
           }
           chain direct_hits {
             type filter hook prerouting priority -150
             ct state established,related accept
             iifname lo accept
             iifname docker0 accept
             iifname br-1 accept
             ip tcp dport 49153 fib daddr type local drop
             ip6 tcp dport 49154 fib daddr type local drop
           }
         }",
    );
}

#[test]
fn a_udp_port_needs_no_syn() {
    let rendered = rules(&table(vec![lead(Protocol::Udp, 443)])).to_string();
    assert!(rendered.contains("udp dport 443 fib daddr type local counter lead-0 dnat to 172.18.0.9:80"), "{rendered}");
    assert!(!rendered.contains("syn"), "{rendered}");
}

#[test]
fn a_port_on_one_address_is_led_at_this_address_only() {
    let mut one = lead(Protocol::Tcp, 8080);
    one.host_ip = Some("192.0.2.2".parse().expect("an address"));
    one.ephemeral_v6 = None;
    check(
        &PortTable { bridges: Vec::new(), ..table(vec![one]) },
        "table inet handover-shop {
           counter lead-0
           chain lead_arriving {
             type nat hook prerouting priority -101
             ip daddr 192.0.2.2/32 tcp dport 8080 syn fib daddr type local counter lead-0 dnat to 172.18.0.9:80
           }
           chain lead_from_host {
             type nat hook output priority -101
             ip daddr 192.0.2.2/32 tcp dport 8080 syn fib daddr type local counter lead-0 dnat to 172.18.0.9:80
           }
           chain direct_hits {
             type filter hook prerouting priority -150
             ct state established,related accept
             iifname lo accept
             ip daddr 192.0.2.2/32 tcp dport 49153 fib daddr type local drop
           }
         }",
    );
}

#[test]
fn a_port_on_loopback_goes_to_the_proxy_and_is_led_nowhere_else() {
    let mut one = lead(Protocol::Tcp, 8080);
    one.host_ip = Some("127.0.0.1".parse().expect("an address"));
    let rendered = rules(&table(vec![one])).to_string();
    assert!(
        rendered
            .contains("ip daddr 127.0.0.1/32 tcp dport 8080 syn fib daddr type local counter lead-0 dnat ip to :49153"),
        "{rendered}"
    );
    assert!(!rendered.contains("172.18.0.9"), "{rendered}");
}

#[test]
fn every_ipv4_address_does_not_mean_ipv6() {
    let mut one = lead(Protocol::Tcp, 8080);
    one.host_ip = Some("0.0.0.0".parse().expect("an address"));
    let rendered = rules(&table(vec![one])).to_string();
    assert!(rendered.contains("dnat to 172.18.0.9:80"), "{rendered}");
    assert!(!rendered.contains("ip6"), "{rendered}");
}

#[test]
fn without_a_userland_proxy_everything_goes_straight_to_the_container() {
    let mut one = lead(Protocol::Tcp, 443);
    one.container_ipv6 = Some("fd00:1::9".parse().expect("an address"));
    check(
        &PortTable { userland_proxy: false, ..table(vec![one]) },
        "table inet handover-shop {
           counter lead-0
           chain lead_arriving {
             type nat hook prerouting priority -101
             ip daddr != 127.0.0.0/8 tcp dport 443 syn fib daddr type local counter lead-0 dnat to 172.18.0.9:80
             ip6 daddr != ::1/128 tcp dport 443 syn fib daddr type local counter lead-0 dnat to [fd00:1::9]:80
           }
           chain lead_from_host {
             type nat hook output priority -101
             ip tcp dport 443 syn fib daddr type local counter lead-0 dnat to 172.18.0.9:80
             ip6 daddr != ::1/128 tcp dport 443 syn fib daddr type local counter lead-0 dnat to [fd00:1::9]:80
           }
           chain direct_hits {
             type filter hook prerouting priority -150
             ct state established,related accept
             iifname lo accept
             iifname docker0 accept
             iifname br-1 accept
             ip tcp dport 49153 fib daddr type local drop
             ip6 tcp dport 49154 fib daddr type local drop
           }
         }",
    );
}

#[test]
fn a_released_table_keeps_connections_tracked_and_leads_nothing() {
    check(
        &table(vec![lead(Protocol::Tcp, 443)]).released(),
        "table inet handover-shop {
           chain lead_arriving {
             type nat hook prerouting priority -101
           }
           chain lead_from_host {
             type nat hook output priority -101
           }
           chain direct_hits {
             type filter hook prerouting priority -150
             ct state established,related accept
           }
         }",
    );
}

#[test]
fn every_chain_is_known_as_ours_and_comes_before_what_goes_to_it() {
    let table = rules(&table(vec![lead(Protocol::Tcp, 443), lead(Protocol::Udp, 53)]));
    let mut known: Vec<&str> = Vec::new();
    for chain in &table.chains {
        assert!(CHAINS.contains(&chain.name));
        for rule in &chain.rules {
            if let Action::Goto(target) = rule.action {
                assert!(known.contains(&target));
            }
        }
        known.push(chain.name);
    }
    assert_eq!(table.counters, ["lead-0", "lead-1"]);
}

#[test]
fn table_names_are_valid_and_never_too_long() {
    assert_eq!(table_name("my_shop-2"), "handover-my_shop-2");
    let long = table_name(&"a".repeat(300));
    assert!(long.len() <= 255);
    assert_ne!(long, table_name(&"a".repeat(301)));
}

#[test]
fn a_table_survives_being_written_and_read() {
    let before = table(vec![lead(Protocol::Tcp, 443)]);
    let text = serde_json::to_string(&before).expect("serializable");
    assert_eq!(serde_json::from_str::<PortTable>(&text).expect("readable"), before);
}
