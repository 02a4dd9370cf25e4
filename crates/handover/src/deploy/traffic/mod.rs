//! Where traffic is sent while containers are replaced: by the kernel's rules and by routers. Both roads use it.

pub(crate) mod internal_clients;
pub(crate) mod kept;
pub(crate) mod proxy_clients;
pub(crate) mod quiet;
pub(crate) mod redirects;
pub(crate) mod routers;
