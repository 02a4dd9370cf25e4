//! What is known of Compose: the project that it resolves, the hashes and names that it gives, the calls that it makes.

pub mod calls;
pub mod config_hash;
pub mod dry_run;
pub mod json;
pub mod project;
pub mod service_names;
pub mod update_config;
