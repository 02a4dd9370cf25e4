//! A helper on the other end of a pipe, under a paused clock.

use std::time::Duration;

use bollard::container::LogOutput;
use futures_util::{Stream, stream};
use handover_host::protocol::{GuardOp, HEARTBEAT, SILENCE, SessionOp};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::{Helper, PROMPT};

/// The far end.
struct Far {
    lines: Lines<BufReader<ReadHalf<DuplexStream>>>,
    output: WriteHalf<DuplexStream>,
}

impl Far {
    /// The next request that is no heartbeat.
    async fn request(&mut self) -> Value {
        loop {
            let line = self.lines.next_line().await.expect("a line").expect("not the end");
            let request = serde_json::from_str::<Value>(&line).unwrap_or_default();
            if request["id"].as_u64().is_some_and(|id| id > 0) {
                return request;
            }
        }
    }

    async fn say(&mut self, line: &str) {
        self.output.write_all(line.as_bytes()).await.expect("written");
    }
}

fn chunks(output: ReadHalf<DuplexStream>) -> impl Stream<Item = Result<LogOutput, ()>> + Unpin {
    let lines = BufReader::new(output);
    Box::pin(stream::unfold(lines, |mut lines| async {
        let mut line = String::new();
        match lines.read_line(&mut line).await {
            Ok(1..) => Some((Ok(LogOutput::StdOut { message: line.into() }), lines)),
            _ => None,
        }
    }))
}

fn connected(heartbeat: bool) -> (Helper, Far) {
    let (near, far) = tokio::io::duplex(4096);
    let (output, input) = tokio::io::split(near);
    let (requests, answers) = tokio::io::split(far);
    let helper = Helper::over("helper", chunks(output), input, heartbeat);
    (helper, Far { lines: BufReader::new(requests).lines(), output: answers })
}

#[tokio::test(start_paused = true)]
async fn an_answer_comes_to_whoever_asked_in_whatever_order() {
    let (helper, mut far) = connected(false);
    let [first, second] = [(); 2].map(|()| helper.begin(GuardOp::Counters).unwrap());
    let (one, two) = (far.request().await["id"].clone(), far.request().await["id"].clone());
    far.say(&format!("not JSON\n{}\n", json!({"id": two, "ok": 2}))).await;
    far.say(&format!("{}\n", json!({"id": one, "ok": 1}))).await;
    assert_eq!(first.answer::<u64>().await.unwrap(), 1);
    assert_eq!(second.answer::<u64>().await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_keeps_its_hint() {
    let (helper, mut far) = connected(false);
    let asked = helper.begin(GuardOp::Counters).unwrap();
    let id = far.request().await["id"].clone();
    far.say(&format!("{}\n", json!({"id": id, "error": {"what": "not permitted", "hint": "be root"}}))).await;
    let failure = asked.answer::<u64>().await.unwrap_err();
    assert_eq!((failure.why.as_deref(), failure.hint.as_deref()), (Some("not permitted"), Some("be root")));
}

#[tokio::test(start_paused = true)]
async fn a_request_to_a_helper_that_is_gone_ends_whether_it_was_made_before_or_after() {
    let (helper, far) = connected(false);
    let before = helper.begin(SessionOp::Accepts { targets: Vec::new() }).unwrap();
    drop(far);
    assert!(before.answer::<Value>().await.is_err());
    helper.ended().await;
    assert!(helper.ask::<_, Value>(GuardOp::Counters).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_not_waited_for_longer_than_the_deadline() {
    let (helper, _far) = connected(false);
    let began = Instant::now();
    let failure = helper.ask::<_, Value>(GuardOp::Counters).await.unwrap_err();
    assert_eq!(began.elapsed(), PROMPT);
    assert_eq!(failure.why.as_deref(), Some("it has not answered for 30 s"));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_containers_has_no_deadline_of_its_own() {
    let (helper, mut far) = connected(false);
    let asked = helper.begin(SessionOp::Accepts { targets: Vec::new() }).unwrap();
    let id = far.request().await["id"].clone();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    far.say(&format!("{}\n", json!({"id": id, "ok": 1}))).await;
    assert_eq!(asked.answer::<u64>().await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_answers_its_heartbeat_lives_and_one_that_is_silent_has_ended() {
    let (helper, mut far) = connected(true);
    let began = Instant::now();
    let answering = async {
        while began.elapsed() < 10 * SILENCE {
            let line = far.lines.next_line().await.expect("a line").expect("not the end");
            if line.contains("heartbeat") {
                far.say("{\"id\":0,\"ok\":{}}\n").await;
            }
        }
    };
    tokio::select! {
        () = answering => {}
        why = helper.ended() => panic!("{why}"),
    }
    let silent = Instant::now();
    let why = helper.ended().await;
    assert_eq!(why, format!("the helper ended: it has been silent for {} s", SILENCE.as_secs()));
    assert!(silent.elapsed() <= SILENCE + HEARTBEAT);
}

#[tokio::test(start_paused = true)]
async fn its_input_ends_when_nobody_asks_any_more() {
    let (helper, mut far) = connected(true);
    drop(helper);
    while far.lines.next_line().await.expect("a line").is_some() {}
}
