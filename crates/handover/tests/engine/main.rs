//! Tests on a real engine, under load. They fail where there is none. See the `harness` module.
//!
//! `scripts/engines enter 28 -- cargo test -p handover --features engine-tests --test engine`
#![allow(clippy::print_stderr, reason = "tests tell what they leave out")]

mod harness;

mod bad_input;
mod code;
mod crash;
mod evidence;
mod faults_compose;
mod faults_session;
mod faults_ungated;
mod first;
mod gates;
mod gitlab;
mod http;
mod inside;
mod lacking;
mod leftovers;
mod lock;
mod many;
mod ports;
mod proxy;
mod reference;
mod remote;
mod rolling;
mod rolling_addresses;
mod rolling_back;
mod rolling_failures;
mod rolling_hooks;
mod rolling_names;
mod rolling_replicas;
mod rolling_streams;
mod router_caddy;
mod router_haproxy;
mod router_nginx;
mod router_nginx_kinds;
mod streams;
mod tls;
mod udp;
