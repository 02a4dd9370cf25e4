//! `handover-lab healthcheck`: a HEALTHCHECK for images that hold nothing else.

use std::process::ExitCode;
use std::time::Duration;

use handover_lab::wire::{Failure, RequestPlan, Target, exchange_once};

/// The arguments of the health check.
#[derive(Debug, clap::Args)]
pub(super) struct HealthcheckArguments {
    /// What to ask, for instance http://127.0.0.1:8080/healthz
    url: Target,
    /// Give up after this time
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    timeout_ms: u64,
}

/// Asks once.
pub(super) fn run(arguments: &HealthcheckArguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return super::complain(&error),
    };
    match runtime.block_on(ask(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => super::complain(&failure),
    }
}

async fn ask(arguments: &HealthcheckArguments) -> Result<(), Failure> {
    let path = arguments.url.path.as_deref().unwrap_or("/");
    let plan = RequestPlan::new(path, &arguments.url.authority(), None, false);
    let timeout = Duration::from_millis(arguments.timeout_ms);
    let (answer, _) = tokio::time::timeout(timeout, exchange_once(&arguments.url, &plan))
        .await
        .map_err(|_| Failure::new("timeout", format!("no complete answer within {timeout:?}")))??;
    match answer.head.status {
        200 => Ok(()),
        status => Err(Failure::new(format!("status {status}"), "200 was expected")),
    }
}
