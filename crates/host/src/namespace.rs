//! Work inside a container's network namespace, on a thread of its own: a namespace belongs to a thread.

use std::path::PathBuf;

use nlink::netlink::namespace::enter_path;
use tokio::sync::oneshot;

use crate::error::HostError;

/// Runs `work` on a new thread, inside the namespace at `path` (`NetworkSettings.SandboxKey`), or in ours.
///
/// The work goes on if the returned future is dropped. Needs SYS_ADMIN.
pub(crate) async fn run_in<T: Send + 'static>(
    name: &'static str,
    path: Option<PathBuf>,
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    let (send, receive) = oneshot::channel();
    let body = move || {
        // Whoever asked may have gone meanwhile; then nobody wants the answer.
        let _ = send.send(inside(path, work));
    };
    std::thread::Builder::new().name(name.into()).spawn(body).map_err(HostError::kernel(format!("starting {name}")))?;
    receive.await.unwrap_or(Err(HostError::Worker(name)))
}

fn inside<T>(path: Option<PathBuf>, work: impl FnOnce() -> Result<T, HostError>) -> Result<T, HostError> {
    let Some(path) = path else { return work() };
    let _inside = enter_path(&path).map_err(|source| HostError::Namespace { path, source })?;
    work()
}
