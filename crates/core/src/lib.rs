//! The decisions of handover: pure, synchronous functions of plain data.
//!
//! Nothing in here knows an engine, a clock, a file or a socket; a test checks the crate's dependencies.

pub mod compose_json;
pub mod config_hash;
pub mod cutover;
pub mod drain;
pub mod gate;
pub mod images;
pub mod leads;
pub mod nearest;
pub mod observation;
pub mod peer_switch;
pub mod plan;
pub mod preflight;
pub mod project;
pub mod rolling;
pub mod router;
pub mod settings;
pub mod standin;
pub mod switch;
pub mod tenants;
pub mod update_config;
pub mod wire;
