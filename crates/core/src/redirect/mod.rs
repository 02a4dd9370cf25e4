//! Redirects: which traffic goes to another container than the one it was meant for, and the kernel's rules for that.

pub mod outlasting;
pub mod owners;
pub mod peers;
pub mod ports;
pub mod published;
pub mod rules;
pub mod table;
