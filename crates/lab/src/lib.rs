//! The lab: a test service whose behaviour in a deploy can be chosen ([`serve`]), an open-loop load generator that
//! notices everything a client could notice ([`load`]), and the benchmark ([`bench`]). The demo, the tests and the
//! benchmark use them, as a binary (also in a container `FROM scratch`) or as a library.

pub mod bench;
pub mod load;
pub mod serve;
pub mod wire;
