//! The service behind the service.

use std::time::Duration;

use crate::wire::{Answer, Failure, Pool, RequestPlan, Target, exchange_pooled};

const KEPT_CONNECTIONS: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(5);

/// A pooled client of the backend.
#[derive(Debug)]
pub(super) struct Backend {
    pool: Pool,
    request: RequestPlan,
}

impl Backend {
    /// Connects later, to the upstream, with the path and the Host header of the target as it was named.
    pub(super) fn new(upstream: Target, named: &Target) -> Self {
        let path = named.path.as_deref().unwrap_or("/");
        let request = RequestPlan::new(path, &named.authority(), None, true);
        Self { pool: Pool::new(upstream, KEPT_CONNECTIONS), request }
    }

    /// Asks; a status other than 2xx is a failure.
    pub(super) async fn ask(&self) -> Result<Answer, Failure> {
        let answer = tokio::time::timeout(TIMEOUT, exchange_pooled(&self.pool, &self.request))
            .await
            .map_err(|_| Failure::new("timeout", format!("no answer within {TIMEOUT:?}")))??;
        match answer.head.status {
            200..=299 => Ok(answer),
            status => Err(Failure::new(format!("status {status}"), String::from_utf8_lossy(&answer.beginning).trim())),
        }
    }
}
