//! The proxy between a client and an engine that both speak raw HTTP.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use handover_core::compose::calls::{Ending, Wants};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::*;
use crate::machine::Machine;

const OLD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba98765400000000000000000000000000000000000000000000000000aa";
const NEW: &str = "aaaaaaaaaaaa00000000000000000000000000000000000000000000000000bb";
const EMPTY: &str = "HTTP/1.1 204 No Content\r\n\r\n";

struct Setup {
    proxy: EngineProxy,
    calls: mpsc::UnboundedReceiver<Call>,
    engine: UnixListener,
    directory: TempDir,
}

/// A proxy that holds `OLD` and `OTHER`, and the engine behind it.
fn setup() -> Setup {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("fake.sock");
    let engine = UnixListener::bind(&socket).unwrap();
    let held =
        Containers::holding([(OLD.to_owned(), "shop-web-1".to_owned()), (OTHER.to_owned(), "shop-web-2".to_owned())]);
    let machine = Arc::new(Machine::with_engine_at(&socket));
    let (proxy, calls) = EngineProxy::between(machine, held, crate::event::Events::new().0).unwrap();
    Setup { proxy, calls, engine, directory }
}

impl Setup {
    async fn client(&self) -> UnixStream {
        UnixStream::connect(self.proxy.host().strip_prefix("unix://").unwrap()).await.unwrap()
    }

    fn directory_of_the_way_in(&self) -> std::path::PathBuf {
        std::path::Path::new(self.proxy.host.strip_prefix("unix://").unwrap()).parent().unwrap().to_owned()
    }

    async fn client_that_says(&self, text: &str) -> UnixStream {
        let mut client = self.client().await;
        say(&mut client, text).await;
        client
    }

    async fn engine(&self) -> UnixStream {
        self.engine.accept().await.unwrap().0
    }

    async fn call(&mut self) -> Call {
        self.calls.recv().await.unwrap()
    }

    async fn held(&mut self) -> HeldCall {
        match self.call().await {
            Call::Held(call) => call,
            other => panic!("{other:?}"),
        }
    }

    /// Nothing has reached the engine so far: the first that it hears of is what is said now.
    async fn engine_has_heard_nothing(&self) {
        let _client = self.client_that_says("GET /probe HTTP/1.1\r\nHost: docker\r\n\r\n").await;
        let heard = head(&mut self.engine().await).await;
        assert!(heard.starts_with("GET /probe "), "{heard}");
    }
}

async fn say(stream: &mut UnixStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Reads up to and with an empty line.
async fn head(stream: &mut UnixStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(read).unwrap()
}

async fn hears(stream: &mut UnixStream, text: &str) {
    let mut read = vec![0; text.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&read), text);
}

/// Reads to the end.
async fn rest(stream: &mut UnixStream) -> String {
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await.unwrap();
    String::from_utf8(read).unwrap()
}

async fn is_cut(mut stream: UnixStream) {
    // Cut with something unread, it ends with an error.
    let mut left = Vec::new();
    let _ = stream.read_to_end(&mut left).await;
}

fn post(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\r\n")
}

fn sorted(head: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = head.lines().collect();
    lines.sort_unstable();
    lines
}

#[tokio::test]
async fn a_request_and_its_answer_pass_with_everything_in_them() {
    let setup = setup();
    let request = "GET /v1.51/images/none/json?a=%2F&b=%7B%22c%22%3A1%7D HTTP/1.1\r\nHost: api.moby.localhost\r\n\
                   User-Agent: compose/v2.40.3\r\nX-Registry-Auth: e30=\r\nX-Meta: one\r\nX-Meta: two\r\n\r\n";
    let answer = "HTTP/1.1 404 Nowhere\r\nApi-Version: 1.51\r\nContent-Type: application/json\r\nOstype: linux\r\n\
                  Docker-Experimental: false\r\nContent-Length: 16\r\n\r\n";
    let mut client = setup.client_that_says(request).await;
    let mut engine = setup.engine().await;
    assert_eq!(sorted(&head(&mut engine).await), sorted(request));
    say(&mut engine, answer).await;
    say(&mut engine, r#"{"message":"no"}"#).await;
    assert_eq!(sorted(&head(&mut client).await), sorted(answer));
    hears(&mut client, r#"{"message":"no"}"#).await;
}

#[tokio::test]
async fn bodies_in_pieces_pass_in_both_directions_before_they_end() {
    let setup = setup();
    let request = "POST /v1.51/images/load HTTP/1.1\r\nHost: docker\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = setup.client_that_says(request).await;
    let mut engine = setup.engine().await;
    assert_eq!(sorted(&head(&mut engine).await), sorted(request));
    say(&mut client, "5\r\nhello\r\n").await;
    hears(&mut engine, "5\r\nhello\r\n").await;
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    say(&mut engine, answer).await;
    assert_eq!(sorted(&head(&mut client).await), sorted(answer));
    say(&mut engine, "3\r\nyes\r\n").await;
    hears(&mut client, "3\r\nyes\r\n").await;
    say(&mut client, "2\r\nyo\r\n0\r\n\r\n").await;
    hears(&mut engine, "2\r\nyo\r\n0\r\n\r\n").await;
    say(&mut engine, "0\r\n\r\n").await;
    hears(&mut client, "0\r\n\r\n").await;
}

#[tokio::test]
async fn a_stream_without_an_end_ends_with_its_client() {
    let setup = setup();
    let mut client = setup.client_that_says("GET /v1.51/events HTTP/1.1\r\nHost: docker\r\n\r\n").await;
    let mut engine = setup.engine().await;
    head(&mut engine).await;
    say(&mut engine, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n").await;
    head(&mut client).await;
    hears(&mut client, "2\r\n{}\r\n").await;
    drop(client);
    assert_eq!(rest(&mut engine).await, "");
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_passes_whole() {
    let setup = setup();
    let mut client = setup.client_that_says("GET /logs HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n").await;
    let mut engine = setup.engine().await;
    head(&mut engine).await;
    say(&mut engine, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nline").await;
    drop(engine);
    head(&mut client).await;
    assert!(rest(&mut client).await.contains("line"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_complete() {
    let setup = setup();
    let mut client = setup.client_that_says("GET /export HTTP/1.1\r\nHost: docker\r\n\r\n").await;
    let mut engine = setup.engine().await;
    head(&mut engine).await;
    say(&mut engine, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    drop(engine);
    head(&mut client).await;
    assert_eq!(rest(&mut client).await, "4\r\nhalf\r\n");
}

#[tokio::test]
async fn an_upgraded_connection_passes_both_ways_and_each_way_ends_by_itself() {
    let setup = setup();
    let request = "POST /v1.51/exec/1/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
                   Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let mut client = setup.client_that_says(request).await;
    let mut engine = setup.engine().await;
    let heard = head(&mut engine).await;
    assert!(heard.contains("Connection: Upgrade\r\n") && heard.contains("Upgrade: tcp\r\n"), "{heard}");
    hears(&mut engine, "{}").await;
    let answer = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n\
                  Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    // The engine may speak in one breath with its answer.
    say(&mut engine, &format!("{answer}early")).await;
    assert_eq!(sorted(&head(&mut client).await), sorted(answer));
    hears(&mut client, "early").await;
    say(&mut client, "input").await;
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut engine).await, "input");
    say(&mut engine, "output").await;
    hears(&mut client, "output").await;
    drop(engine);
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn requests_of_one_client_go_over_one_connection_to_the_engine() {
    let setup = setup();
    let mut client = setup.client_that_says("HEAD /_ping HTTP/1.1\r\nHost: docker\r\n\r\n").await;
    let mut engine = setup.engine().await;
    for method in ["HEAD", "GET"] {
        let heard = head(&mut engine).await;
        assert!(heard.starts_with(&format!("{method} /_ping HTTP/1.1\r\n")), "{heard}");
        say(&mut engine, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await;
        assert!(head(&mut client).await.contains("Content-Length: 2\r\n"));
        say(&mut client, "GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n").await;
        if method == "GET" {
            say(&mut engine, "OK").await;
            hears(&mut client, "OK").await;
        }
    }
}

#[tokio::test]
async fn who_asks_before_sending_a_body_is_told_to_go_on() {
    let setup = setup();
    let request = "PUT /v1.51/containers/web/archive HTTP/1.1\r\nHost: docker\r\nExpect: 100-continue\r\n\
                   Content-Length: 4\r\n\r\n";
    let mut client = setup.client_that_says(request).await;
    let mut engine = setup.engine().await;
    assert_eq!(sorted(&head(&mut engine).await), sorted(request));
    assert!(head(&mut client).await.starts_with("HTTP/1.1 100 "));
    say(&mut client, "tar!").await;
    hears(&mut engine, "tar!").await;
    say(&mut engine, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert!(head(&mut client).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn after_the_engine_closed_an_idle_connection_the_next_request_goes_over_a_new_one() {
    let setup = setup();
    let mut client = setup.client_that_says(&post("/one")).await;
    let mut engine = setup.engine().await;
    head(&mut engine).await;
    say(&mut engine, EMPTY).await;
    head(&mut client).await;
    drop(engine);
    say(&mut client, &post("/two")).await;
    let mut engine = setup.engine().await;
    assert!(head(&mut engine).await.starts_with("POST /two "));
    say(&mut engine, EMPTY).await;
    assert!(head(&mut client).await.starts_with("HTTP/1.1 204 "));
}

#[tokio::test]
async fn a_request_that_the_engine_may_have_heard_is_never_sent_again() {
    let setup = setup();
    let mut client = setup.client_that_says(&post("/one")).await;
    let mut engine = setup.engine().await;
    head(&mut engine).await;
    say(&mut engine, EMPTY).await;
    head(&mut client).await;
    say(&mut client, &post("/two")).await;
    head(&mut engine).await;
    drop(engine);
    assert_eq!(rest(&mut client).await, "");
    setup.engine_has_heard_nothing().await;
}

#[tokio::test]
async fn an_engine_that_is_away_is_said_to_be() {
    let setup = setup();
    std::fs::remove_file(setup.directory.path().join("fake.sock")).unwrap();
    let mut client = setup.client_that_says("GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n").await;
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("the engine does not answer"), "{answer}");
}

#[tokio::test]
async fn an_upload_that_the_engine_does_not_read_waits_with_the_client() {
    const SIZE: usize = 64 << 20;
    let setup = setup();
    let request = format!("POST /v1.51/build HTTP/1.1\r\nHost: docker\r\nContent-Length: {SIZE}\r\n\r\n");
    let mut client = setup.client_that_says(&request).await;
    let mut engine = setup.engine().await;
    head(&mut engine).await;
    let sent = write_until_nothing_moves(&mut client, SIZE).await;
    assert!(sent < 4 << 20, "{sent} bytes were taken from the client");
    let rest = tokio::spawn(async move {
        client.write_all(&vec![b'x'; SIZE - sent]).await.unwrap();
        client
    });
    read_all(&mut engine, SIZE).await;
    say(&mut engine, EMPTY).await;
    assert!(head(&mut rest.await.unwrap()).await.starts_with("HTTP/1.1 204 "));
}

#[tokio::test]
async fn an_answer_that_the_client_does_not_read_waits_with_the_engine() {
    const SIZE: usize = 64 << 20;
    let setup = setup();
    let mut client = setup.client_that_says("GET /v1.51/images/get HTTP/1.1\r\nHost: docker\r\n\r\n").await;
    let mut engine = setup.engine().await;
    head(&mut engine).await;
    say(&mut engine, &format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")).await;
    let sent = write_until_nothing_moves(&mut engine, SIZE).await;
    assert!(sent < 4 << 20, "{sent} bytes were taken from the engine");
    head(&mut client).await;
    let rest = tokio::spawn(async move { engine.write_all(&vec![b'x'; SIZE - sent]).await.unwrap() });
    read_all(&mut client, SIZE).await;
    rest.await.unwrap();
}

/// How much the other side takes before everything stands still.
async fn write_until_nothing_moves(stream: &mut UnixStream, size: usize) -> usize {
    let piece = vec![b'x'; 64 << 10];
    let mut sent = 0;
    while sent < size {
        match timeout(Duration::from_secs(1), stream.write(&piece[..piece.len().min(size - sent)])).await {
            Ok(written) => sent += written.unwrap(),
            Err(_) => break,
        }
    }
    sent
}

async fn read_all(stream: &mut UnixStream, size: usize) {
    let mut piece = vec![0; 64 << 10];
    let mut read = 0;
    while read < size {
        let now = stream.read(&mut piece).await.unwrap();
        assert!(now > 0, "only {read} of {size} bytes came");
        read += now;
    }
}

#[tokio::test]
async fn a_new_container_is_told_of_before_the_client_hears_of_it() {
    let mut setup = setup();
    let name = format!("{}_shop-web-1", &OLD[..12]);
    let mut client = setup.client_that_says(&post(&format!("/v1.51/containers/create?name={name}"))).await;
    let mut engine = setup.engine().await;
    head(&mut engine).await;
    let body = format!(r#"{{"Id":"{NEW}","Warnings":[]}}"#);
    say(&mut engine, &format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    assert!(head(&mut client).await.starts_with("HTTP/1.1 201 "));
    match setup.calls.try_recv().unwrap() {
        Call::Created { name: told, id, replaces } => {
            assert_eq!((told.as_str(), id.as_str(), replaces.as_deref()), (name.as_str(), NEW, Some(OLD)));
        }
        other => panic!("{other:?}"),
    }
    hears(&mut client, &body).await;
}

#[tokio::test]
async fn a_rename_by_a_temporary_name_is_told_with_the_id() {
    let mut setup = setup();
    let mut client = setup.client_that_says(&post("/containers/create?name=0123456789ab_shop-web-1")).await;
    let mut engine = setup.engine().await;
    head(&mut engine).await;
    let body = format!(r#"{{"Id":"{NEW}"}}"#);
    say(&mut engine, &format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    head(&mut client).await;
    hears(&mut client, &body).await;
    say(&mut client, &post("/containers/0123456789ab_shop-web-1/rename?name=shop-web-1")).await;
    assert!(matches!(setup.call().await, Call::Created { .. }));
    setup.held().await.pass();
    head(&mut engine).await;
    say(&mut engine, EMPTY).await;
    head(&mut client).await;
    assert!(matches!(setup.call().await, Call::Renamed { id } if id == NEW));
}

#[tokio::test]
async fn what_the_engine_refuses_is_not_told_as_done() {
    let mut setup = setup();
    for path in ["/containers/create?name=shop-web-1", "/containers/new/start", "/containers/new/rename?name=a"] {
        let mut client = setup.client_that_says(&post(path)).await;
        let mut engine = setup.engine().await;
        head(&mut engine).await;
        say(&mut engine, "HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}").await;
        assert!(head(&mut client).await.starts_with("HTTP/1.1 409 "));
        hears(&mut client, "{}").await;
        assert!(setup.calls.try_recv().is_err(), "{path}");
    }
}

#[tokio::test]
async fn renames_are_told_once_they_are_done() {
    let mut setup = setup();
    let mut client = setup.client_that_says(&post(&format!("/containers/{NEW}/rename?name=shop-web-1"))).await;
    let mut engine = setup.engine().await;
    head(&mut engine).await;
    assert!(setup.calls.try_recv().is_err());
    say(&mut engine, EMPTY).await;
    head(&mut client).await;
    assert!(matches!(setup.call().await, Call::Renamed { id } if id == NEW));
}

#[tokio::test]
async fn what_was_made_under_way_waits_for_the_word_before_it_starts_or_is_renamed() {
    let mut setup = setup();
    let mut client = setup.client_that_says(&post("/containers/create?name=0123456789ab_shop-web-1")).await;
    let mut engine = setup.engine().await;
    head(&mut engine).await;
    let body = format!(r#"{{"Id":"{NEW}"}}"#);
    say(&mut engine, &format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    head(&mut client).await;
    hears(&mut client, &body).await;
    assert!(matches!(setup.call().await, Call::Created { .. }));

    say(&mut client, &post("/containers/0123456789ab_shop-web-1/rename?name=shop-web-1")).await;
    let held = setup.held().await;
    assert_eq!((held.wants, held.container.as_str()), (Wants::Rename, NEW));
    held.done();
    assert!(head(&mut client).await.starts_with("HTTP/1.1 204 "));
    say(&mut client, &post(&format!("/containers/{NEW}/start"))).await;
    let held = setup.held().await;
    assert_eq!((held.wants, held.container.as_str()), (Wants::Start, NEW));
    setup.engine_has_heard_nothing().await;
    held.pass();
    assert!(head(&mut engine).await.starts_with(&format!("POST /containers/{NEW}/start ")));
}

#[tokio::test]
async fn a_removal_that_is_only_said_to_be_done_hides_the_container() {
    let mut setup = setup();
    let mut client =
        setup.client_that_says(&format!("DELETE /containers/{OLD} HTTP/1.1\r\nHost: docker\r\n\r\n")).await;
    setup.held().await.done();
    assert!(head(&mut client).await.starts_with("HTTP/1.1 204 "));
    setup.engine_has_heard_nothing().await;

    say(&mut client, "GET /v1.51/containers/json?all=1 HTTP/1.1\r\nHost: docker\r\n\r\n").await;
    let mut engine = setup.engine().await;
    head(&mut engine).await;
    let list = format!(r#"[{{"Id":"{OLD}"}},{{"Id":"{OTHER}"}}]"#);
    say(&mut engine, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{list}", list.len())).await;
    assert!(head(&mut client).await.starts_with("HTTP/1.1 200 "));
    hears(&mut client, &format!(r#"[{{"Id":"{OTHER}"}}]"#)).await;

    say(&mut client, &post(&format!("/containers/{OLD}/start"))).await;
    assert!(head(&mut client).await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn a_stop_of_a_held_container_waits_for_the_word_and_then_passes() {
    let mut setup = setup();
    let mut client = setup.client_that_says(&post(&format!("/v1.51/containers/{OLD}/stop?t=3"))).await;
    let held = setup.held().await;
    assert_eq!((held.wants, held.container.as_str()), (Wants::End(Ending::Stop), OLD));
    setup.engine_has_heard_nothing().await;
    held.pass();
    let mut engine = setup.engine().await;
    assert!(head(&mut engine).await.starts_with(&format!("POST /v1.51/containers/{OLD}/stop?t=3 ")));
    say(&mut engine, EMPTY).await;
    assert!(head(&mut client).await.starts_with("HTTP/1.1 204 "));
}

#[tokio::test]
async fn a_refused_call_never_reaches_the_engine_and_the_client_is_told_why() {
    let mut setup = setup();
    let mut client = setup.client_that_says(&post("/containers/shop-web-1/kill")).await;
    let held = setup.held().await;
    assert_eq!((held.wants, held.container.as_str()), (Wants::End(Ending::Kill), OLD));
    held.refuse("not \"ready\"");
    let answer = head(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 409 ") && answer.contains("content-type: application/json"), "{answer}");
    hears(&mut client, r#"{"message":"not \"ready\""}"#).await;
    setup.engine_has_heard_nothing().await;
}

#[tokio::test]
async fn without_a_word_a_held_call_is_refused() {
    let mut setup = setup();
    let stop = post(&format!("/containers/{OLD}/stop"));
    let mut client = setup.client_that_says(&stop).await;
    drop(setup.held().await);
    assert!(head(&mut client).await.starts_with("HTTP/1.1 409 "));

    setup.calls.close();
    let mut client = setup.client_that_says(&stop).await;
    assert!(head(&mut client).await.starts_with("HTTP/1.1 409 "));
    setup.engine_has_heard_nothing().await;
}

#[tokio::test]
async fn held_calls_wait_side_by_side_and_go_on_in_any_order() {
    let mut setup = setup();
    let mut first = setup.client_that_says(&post(&format!("/containers/{OLD}/stop"))).await;
    let held_first = setup.held().await;
    let mut second = setup.client_that_says(&post(&format!("/containers/{OTHER}/stop"))).await;
    setup.held().await.refuse("not yet");
    assert!(head(&mut second).await.starts_with("HTTP/1.1 409 "));
    held_first.refuse("not yet");
    assert!(head(&mut first).await.starts_with("HTTP/1.1 409 "));
}

#[tokio::test]
async fn a_client_that_goes_while_its_call_is_held_takes_the_call_with_it() {
    let mut setup = setup();
    let client = setup.client_that_says(&post(&format!("/containers/{OLD}/stop"))).await;
    let mut held = setup.held().await;
    drop(client);
    held.abandoned().await;
    held.pass();
    setup.engine_has_heard_nothing().await;
}

#[tokio::test]
async fn containers_that_are_not_held_end_without_a_word() {
    let mut setup = setup();
    let _client = setup.client_that_says(&post(&format!("/containers/{NEW}/stop"))).await;
    assert!(head(&mut setup.engine().await).await.starts_with(&format!("POST /containers/{NEW}/stop ")));
    assert!(setup.calls.try_recv().is_err());
}

#[tokio::test]
async fn once_removed_a_container_is_held_no_longer_and_once_renamed_its_new_name_is() {
    let mut setup = setup();
    let mut client = setup.client_that_says(&post("/containers/shop-web-2/rename?name=aside")).await;
    let mut engine = setup.engine().await;
    head(&mut engine).await;
    say(&mut engine, EMPTY).await;
    head(&mut client).await;
    assert!(matches!(setup.call().await, Call::Renamed { .. }));

    say(&mut client, "DELETE /containers/aside HTTP/1.1\r\nHost: docker\r\n\r\n").await;
    let held = setup.held().await;
    assert_eq!(held.container, OTHER);
    held.pass();
    head(&mut engine).await;
    say(&mut engine, EMPTY).await;
    head(&mut client).await;

    say(&mut client, &format!("DELETE /containers/{OTHER} HTTP/1.1\r\nHost: docker\r\n\r\n")).await;
    assert!(head(&mut engine).await.starts_with("DELETE "));
}

#[tokio::test]
async fn the_end_of_the_proxy_cuts_what_is_under_way_and_passes_nothing_that_is_held() {
    let mut setup = setup();
    let stream = setup.client_that_says("GET /events HTTP/1.1\r\nHost: docker\r\n\r\n").await;
    let mut engine_of_stream = setup.engine().await;
    head(&mut engine_of_stream).await;
    let upgrade = "POST /session HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let mut tunnel = setup.client_that_says(upgrade).await;
    let mut engine_of_tunnel = setup.engine().await;
    head(&mut engine_of_tunnel).await;
    say(&mut engine_of_tunnel, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n").await;
    head(&mut tunnel).await;
    let stopping = setup.client_that_says(&post(&format!("/containers/{OLD}/stop"))).await;
    let mut held = setup.held().await;

    let Setup { proxy, engine, .. } = setup;
    drop(proxy);
    for cut in [stream, engine_of_stream, tunnel, engine_of_tunnel, stopping] {
        is_cut(cut).await;
    }
    held.abandoned().await;
    held.pass();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(engine.poll_accept(&mut context).is_pending());
}

#[tokio::test]
async fn nobody_else_may_enter_where_the_socket_is() {
    let setup = setup();
    let mode = std::fs::metadata(setup.directory_of_the_way_in()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
