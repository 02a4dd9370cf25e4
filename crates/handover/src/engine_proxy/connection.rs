//! One connection of Compose's.

use std::sync::{Arc, Mutex, PoisonError};

use handover_core::compose::calls::{self, Ending, Wants, WireCall};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;

use super::held::Word;
use super::upstream::{Lost, Upstream};
use super::{Call, HeldCall, Shared};
use crate::outside::Connection;

/// What is passed on as it comes, or said by us.
type Body = Either<Incoming, Full<Bytes>>;

struct Conversation {
    shared: Arc<Shared>,
    upstream: tokio::sync::Mutex<Upstream>,
    /// Both ends, once the connection is no longer HTTP.
    upgrade: Mutex<Option<(OnUpgrade, OnUpgrade)>>,
}

/// Serves a client until it goes, the engine breaks off, or this is dropped.
pub(super) async fn serve(stream: Connection, shared: Arc<Shared>) {
    let conversation = Conversation {
        upstream: tokio::sync::Mutex::new(Upstream::new(shared.outside.clone())),
        upgrade: Mutex::new(None),
        shared,
    };
    // An exchange that broke is a connection that breaks: that is what the client hears.
    let _ = http1::Builder::new()
        .preserve_header_case(true)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service_fn(|request| conversation.answer(request)))
        .with_upgrades()
        .await;
    let upgrade = conversation.upgrade.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((client, engine)) = upgrade
        && let (Ok(client), Ok(engine)) = tokio::join!(client, engine)
    {
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(engine)).await;
    }
}

impl Conversation {
    async fn answer(&self, mut request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
        let call = calls::recognise(request.method().as_str(), request.uri().path(), request.uri().query());
        let ended = match self.hold(call.as_ref()).await {
            Held::Pass(ended) => ended,
            Held::Answer(answer) => return Ok(answer),
        };
        let client = hyper::upgrade::on(&mut request);
        let mut response = match self.upstream.lock().await.send(request).await {
            Ok(response) => response,
            Err(Lost::Unreachable(why)) => {
                return Ok(said(StatusCode::BAD_GATEWAY, &format!("the engine does not answer: {why}")));
            }
            Err(Lost::Broken(error)) => return Err(error),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let engine = hyper::upgrade::on(&mut response);
            *self.upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some((client, engine));
        }
        if let Some(id) = ended
            && (response.status().is_success() || response.status() == StatusCode::NOT_FOUND)
        {
            self.shared.containers().removed(&id);
        }
        match call {
            Some(WireCall::List) if self.shared.containers().hide_any() => self.leave_out_hidden(response).await,
            Some(call) => self.tell(call, response).await,
            None => Ok(response.map(Either::Left)),
        }
    }

    /// Waits for the deploy's word where a call is about a container that is held or was made under way.
    async fn hold(&self, call: Option<&WireCall>) -> Held {
        let named = match call {
            Some(
                WireCall::End { container, .. } | WireCall::Start { container } | WireCall::Rename { container, .. },
            ) => container.as_str(),
            _ => "",
        };
        if self.shared.containers().is_hidden(named) {
            return Held::Answer(said(StatusCode::NOT_FOUND, &format!("No such container: {named}")));
        }
        let Some((wants, id)) = self.wanted(call) else {
            return Held::Pass(None);
        };
        let removes = wants == Wants::End(Ending::Remove);
        let (call, waiting) = HeldCall::new(wants, id.clone());
        self.shared.tell(Call::Held(call));
        match waiting.word().await {
            Word::Pass => Held::Pass(removes.then_some(id)),
            Word::Done => {
                if removes {
                    self.shared.containers().hide(&id);
                }
                let mut done = Response::new(Either::Right(Full::default()));
                *done.status_mut() = StatusCode::NO_CONTENT;
                Held::Answer(done)
            }
            Word::Refuse(why) => Held::Answer(said(StatusCode::CONFLICT, &why)),
        }
    }

    fn wanted(&self, call: Option<&WireCall>) -> Option<(Wants, String)> {
        let containers = self.shared.containers();
        let (wants, id) = match call? {
            WireCall::End { ending, container } => (Wants::End(*ending), containers.held(container)),
            WireCall::Start { container } => (Wants::Start, containers.made_here(container)),
            WireCall::Rename { container, .. } => (Wants::Rename, containers.made_here(container)),
            WireCall::Create { .. } | WireCall::List => return None,
        };
        Some((wants, id?.to_owned()))
    }

    /// Leaves out of a list of containers what Compose takes for removed.
    async fn leave_out_hidden(&self, response: Response<Incoming>) -> Result<Response<Body>, hyper::Error> {
        let (mut head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        let left = self.shared.containers().without_hidden(&body);
        if left.is_some() {
            head.headers.remove(CONTENT_LENGTH);
            head.headers.remove(TRANSFER_ENCODING);
        }
        let body = left.map_or(body, Bytes::from);
        Ok(Response::from_parts(head, Either::Right(Full::new(body))))
    }

    /// Tells the deploy what the engine has done, before Compose hears of it.
    async fn tell(&self, call: WireCall, response: Response<Incoming>) -> Result<Response<Body>, hyper::Error> {
        let done = response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED;
        match call {
            WireCall::Create { name } if done => {
                let (head, body) = response.into_parts();
                let body = body.collect().await?.to_bytes();
                if let Ok(Made { id }) = serde_json::from_slice(&body) {
                    let mut containers = self.shared.containers();
                    containers.made(&id, &name);
                    let replaces = containers.replaced_by(&name).map(str::to_owned);
                    self.shared.tell(Call::Created { name, id, replaces });
                }
                return Ok(Response::from_parts(head, Either::Right(Full::new(body))));
            }
            WireCall::Rename { container, name } if done => {
                let mut containers = self.shared.containers();
                let id = containers.id(&container).map_or(container.clone(), str::to_owned);
                containers.renamed(&id, &name);
                self.shared.tell(Call::Renamed { id });
            }
            _ => {}
        }
        Ok(response.map(Either::Left))
    }
}

/// What becomes of a request.
enum Held {
    /// It goes to the engine. With the id of the held container that it removes.
    Pass(Option<String>),
    /// It goes no further.
    Answer(Response<Body>),
}

/// What the engine says of a container that it has made.
#[derive(Deserialize)]
struct Made {
    #[serde(rename = "Id")]
    id: String,
}

/// An answer in the words of the engine's API.
fn said(status: StatusCode, message: &str) -> Response<Body> {
    let text = serde_json::json!({ "message": message }).to_string();
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
