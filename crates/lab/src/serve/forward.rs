//! The service as a proxy: each request goes on to the service behind it, its answer comes back.
//!
//! With the client that most programs in Rust have (hyper-util's, which reqwest has inside): connections are kept and used again,
//! the name is looked up for each new one, and what a client cannot know to be safe to send again is not sent again.

use std::io;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Request, Response, Uri, Version};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::wire::{Failure, Target};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(10);
/// What is between two neighbours on the way, and not for whoever is behind them.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A pooled client of the service behind.
#[derive(Debug)]
pub(super) struct Forward {
    client: Client<HttpConnector, Incoming>,
    authority: Authority,
}

impl Forward {
    /// Connects later.
    ///
    /// # Errors
    /// When the target cannot stand in a URL.
    pub(super) fn new(target: &Target) -> io::Result<Self> {
        let authority = target.authority().parse().map_err(io::Error::other)?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), authority })
    }

    /// Sends the request on, and returns the answer as soon as its headers are there.
    ///
    /// # Errors
    /// `upstream …` when there is no answer.
    pub(super) async fn pass_on(&self, mut request: Request<Incoming>) -> Result<Response<Incoming>, Failure> {
        let path = request.uri().path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(self.authority.clone()).path_and_query(path).build();
        *request.uri_mut() = uri.map_err(|error| Failure::new("upstream request", error))?;
        *request.version_mut() = Version::HTTP_11;
        remove_hop_by_hop(request.headers_mut());
        let answered = tokio::time::timeout(TIMEOUT, self.client.request(request)).await;
        let mut response = answered
            .map_err(|_| Failure::new("upstream timeout", format!("no answer within {TIMEOUT:?}")))?
            .map_err(|error| Failure::new("upstream failed", with_causes(&error)))?;
        remove_hop_by_hop(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
