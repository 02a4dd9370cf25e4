//! One connection to the engine, opened when it is needed and used again for the next request.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use crate::outside::Outside;

/// The way to the engine for one client connection.
pub(super) struct Upstream {
    outside: Arc<dyn Outside>,
    sender: Option<SendRequest<Incoming>>,
    /// Drives the connection. Dropped with this, whatever is under way.
    driver: JoinSet<()>,
}

/// Why a request got no answer.
pub(super) enum Lost {
    /// The engine cannot be reached; it has not heard of the request.
    Unreachable(String),
    /// The connection broke; nobody knows what the engine has done.
    Broken(hyper::Error),
}

impl Upstream {
    pub(super) fn new(outside: Arc<dyn Outside>) -> Self {
        Self { outside, sender: None, driver: JoinSet::new() }
    }

    /// Sends a request, once. Only one of which no byte was written, because the engine had closed the connection that it was to
    /// go on, is tried again.
    pub(super) async fn send(&mut self, mut request: Request<Incoming>) -> Result<Response<Incoming>, Lost> {
        loop {
            let mut used = self.sender.take();
            if let Some(sender) = &mut used
                && sender.ready().await.is_err()
            {
                used = None;
            }
            let was_used = used.is_some();
            let mut sender = match used {
                Some(sender) => sender,
                None => self.dial().await.map_err(Lost::Unreachable)?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.sender = Some(sender);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if was_used => request = unsent,
                    _ => return Err(Lost::Broken(error.into_error())),
                },
            }
        }
    }

    async fn dial(&mut self) -> Result<SendRequest<Incoming>, String> {
        let stream = self.outside.dial().await.map_err(|error| error.to_string())?;
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        self.driver.abort_all();
        self.driver.spawn(async move {
            // How it ended is heard by the request that was under way.
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }
}
