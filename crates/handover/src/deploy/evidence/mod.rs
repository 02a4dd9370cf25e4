//! A look: a container of ours that can do nothing but look at the processes on the engine's host, for a plan that nothing else is done
//! for. It is no lock.

pub(crate) mod callers;
pub(crate) mod storage;

use std::time::Duration;

use crate::engine::{Engine, Role};
use crate::helper::Helper;

/// What is seen is worth less than the plan: nobody waits for it longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs something with a look, and leaves nothing of it; none where it cannot be started or takes too long.
pub(crate) async fn with_look<T>(engine: &Engine, project: &str, work: impl AsyncFnOnce(&Helper) -> T) -> Option<T> {
    let image = engine.helper_image().await.ok()?;
    let id = engine.create_ours(Role::Look, project, &image, "a look").await.ok()??;
    let helper = Helper::new("look", engine.start_ours(&id).await.ok()?);
    let done = tokio::time::timeout(PATIENCE, work(&helper)).await;
    let removed = engine.wait_removed(&id);
    drop(helper);
    removed.await;
    done.ok()
}
