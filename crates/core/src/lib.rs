//! The decisions of handover: pure, synchronous functions of plain data.
//!
//! Nothing in here knows an engine, a clock, a file or a socket; a test checks the crate's dependencies.

pub mod compose;
pub mod drain;
pub mod gate;
pub mod identity;
pub mod net;
pub mod observation;
pub mod plan;
pub mod recover;
pub mod redirect;
pub mod replace;
pub mod rolling_update;
pub mod router;
pub mod settings;
