use super::*;

const PATIENCE: Patience = Patience {
    quiet: Duration::from_millis(30),
    opaque: Duration::from_millis(2000),
    unheard: Duration::from_millis(1000),
};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn quiet_look() -> Look {
    Look {
        phase: Phase::Open,
        unread: 0,
        unsent: 0,
        unacknowledged: 0,
        near: false,
        received: 500,
        acknowledged: 900,
        since_sent: ms(5000),
        since_received: ms(5000),
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What was heard of a conversation: speaker, payload, milliseconds.
fn heard(conversation: &[(Speaker, &[u8], u64)]) -> Heard {
    let mut heard = Heard::default();
    let (mut client, mut server) = (1000_u32, u32::MAX - 10);
    for (speaker, payload, at) in conversation {
        let sequence = match speaker {
            Speaker::Client => &mut client,
            Speaker::Server => &mut server,
        };
        heard.segment(*speaker, *sequence, payload.len() as u32, payload, ms(*at));
        *sequence = sequence.wrapping_add(payload.len() as u32);
    }
    heard
}

#[test]
fn an_answered_connection_is_idle_after_its_quiet_and_not_before() {
    let heard = heard(&[(Speaker::Client, REQUEST, 0), (Speaker::Server, ANSWER, 100)]);
    assert_eq!(judge(&heard, &quiet_look(), ms(110), &PATIENCE), Verdict::NotYet { again_in: ms(20) });
    assert_eq!(judge(&heard, &quiet_look(), ms(130), &PATIENCE), Verdict::Idle);
}

#[test]
fn a_request_under_way_is_never_idle() {
    let heard = heard(&[(Speaker::Client, REQUEST, 0), (Speaker::Server, ANSWER, 1), (Speaker::Client, REQUEST, 2)]);
    assert_eq!(judge(&heard, &quiet_look(), ms(9000), &PATIENCE), Verdict::Busy(Activity::RequestUnderWay));
}

#[test]
fn an_answer_that_pauses_in_the_middle_is_under_way() {
    let half = &ANSWER[..ANSWER.len() - 1];
    let heard = heard(&[(Speaker::Client, REQUEST, 0), (Speaker::Server, half, 1)]);
    assert_eq!(judge(&heard, &quiet_look(), ms(9000), &PATIENCE), Verdict::Busy(Activity::AnswerUnderWay));
}

#[test]
fn a_repeated_segment_does_not_count_as_a_new_request() {
    let mut heard = heard(&[(Speaker::Client, REQUEST, 0), (Speaker::Server, ANSWER, 1)]);
    heard.segment(Speaker::Client, 1000, REQUEST.len() as u32, REQUEST, ms(2));
    assert_eq!(judge(&heard, &quiet_look(), ms(100), &PATIENCE), Verdict::Idle);
}

#[test]
fn what_is_unread_unsent_or_being_closed_is_not_idle() {
    let heard = heard(&[(Speaker::Client, REQUEST, 0), (Speaker::Server, ANSWER, 1)]);
    let judge = |look| judge(&heard, &look, ms(9000), &PATIENCE);
    assert_eq!(judge(Look { unread: 1, ..quiet_look() }), Verdict::Busy(Activity::Unread));
    assert_eq!(judge(Look { unsent: 1, ..quiet_look() }), Verdict::Busy(Activity::Unsent));
    assert_eq!(judge(Look { unacknowledged: 1, ..quiet_look() }), Verdict::Busy(Activity::Unsent));
    assert_eq!(judge(Look { unacknowledged: 1, near: true, ..quiet_look() }), Verdict::Idle);
    assert_eq!(judge(Look { phase: Phase::Closing, ..quiet_look() }), Verdict::Busy(Activity::Closing));
    assert_eq!(judge(Look { phase: Phase::Opening, ..quiet_look() }), Verdict::Busy(Activity::Opening));
}

#[test]
fn only_the_server_speaking_is_a_stream_unless_its_answer_ended() {
    let events = heard(&[(Speaker::Server, b"data: 1\n\n", 0), (Speaker::Server, b"data: 2\n\n", 50)]);
    assert_eq!(judge(&events, &quiet_look(), ms(9000), &PATIENCE), Verdict::Busy(Activity::Stream));
    let late_answer = heard(&[(Speaker::Server, ANSWER, 50)]);
    assert_eq!(judge(&late_answer, &quiet_look(), ms(100), &PATIENCE), Verdict::Idle);
}

#[test]
fn an_event_stream_seen_from_its_beginning_is_not_idle_between_events() {
    let begin =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n9\r\ndata: 1\n\n\r\n";
    let heard = heard(&[(Speaker::Client, REQUEST, 0), (Speaker::Server, begin, 1)]);
    assert_eq!(judge(&heard, &quiet_look(), ms(9000), &PATIENCE), Verdict::Busy(Activity::AnswerUnderWay));
}

#[test]
fn a_silent_websocket_is_a_stream_whoever_spoke_last() {
    let upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    let server_last = heard(&[(Speaker::Client, REQUEST, 0), (Speaker::Server, upgrade, 1)]);
    assert_eq!(judge(&server_last, &quiet_look(), ms(9000), &PATIENCE), Verdict::Busy(Activity::Stream));
    let client_last =
        heard(&[(Speaker::Client, REQUEST, 0), (Speaker::Server, upgrade, 1), (Speaker::Client, b"\x81\x80", 2)]);
    assert_eq!(judge(&client_last, &quiet_look(), ms(9000), &PATIENCE), Verdict::Busy(Activity::Stream));
}

#[test]
fn what_cannot_be_read_needs_more_patience() {
    let heard = heard(&[(Speaker::Client, b"\x17\x03\x03", 0), (Speaker::Server, b"\x17\x03\x03", 10)]);
    assert_eq!(judge(&heard, &quiet_look(), ms(1010), &PATIENCE), Verdict::NotYet { again_in: ms(1000) });
    assert_eq!(judge(&heard, &quiet_look(), ms(2010), &PATIENCE), Verdict::Idle);
}

#[test]
fn unheard_connections_are_judged_by_the_kernels_times() {
    let nothing = Heard::default();
    let judge = |look| judge(&nothing, &look, ms(0), &PATIENCE);
    let look = |since_sent, since_received| Look { since_sent, since_received, ..quiet_look() };
    assert_eq!(judge(look(ms(5000), ms(5000))), Verdict::Idle);
    assert_eq!(judge(look(ms(5000), ms(5400))), Verdict::Idle);
    assert_eq!(judge(look(ms(400), ms(800))), Verdict::NotYet { again_in: ms(600) });
    // Request and answer within one tick: which came last cannot be told.
    assert_eq!(judge(look(ms(400), ms(400))), Verdict::NotYet { again_in: ms(2600) });
    // The first request of a connection, sent as soon as it was open.
    let unanswered = Look { acknowledged: 1, ..quiet_look() };
    assert_eq!(judge(unanswered), Verdict::Busy(Activity::RequestUnderWay));
    // Received 400 ms after the last answer: a long poll, say.
    assert_eq!(judge(look(ms(5400), ms(5000))), Verdict::Busy(Activity::RequestUnderWay));
    // Opened in advance, never used.
    assert_eq!(judge(Look { received: 0, since_sent: ms(90_000), ..quiet_look() }), Verdict::Idle);
}

#[test]
fn missed_segments_are_noticed_by_bytes_and_by_time() {
    let mut heard = heard(&[(Speaker::Client, REQUEST, 0), (Speaker::Server, ANSWER, 1)]);
    assert!(heard.agrees(&quiet_look(), ms(100)));
    assert!(!heard.agrees(&Look { received: 501, ..quiet_look() }, ms(110)));
    assert!(!heard.agrees(&Look { since_received: ms(10), ..quiet_look() }, ms(110)));
    heard.forget();
    assert!(!heard.anything());
}

#[test]
fn sequence_numbers_wrap() {
    let mut direction = Direction::default();
    assert_eq!(direction.advance(u32::MAX - 4, 10), 10);
    assert_eq!(direction.advance(u32::MAX - 4, 10), 0);
    assert_eq!(direction.advance(0, 10), 5);
}

#[test]
fn a_gap_between_segments_makes_all_that_was_heard_worthless() {
    let mut heard = Heard::default();
    heard.segment(Speaker::Client, 1000, 10, b"GET / HTTP", Duration::ZERO);
    heard.segment(Speaker::Client, 5000, 10, b"anything..", Duration::from_millis(1));
    let mut anew = Heard::default();
    anew.segment(Speaker::Client, 5000, 10, b"anything..", Duration::from_millis(1));
    assert_eq!(format!("{heard:?}"), format!("{anew:?}"));
}

#[test]
fn an_http2_connection_is_idle_between_its_streams_whoever_spoke_last() {
    const REQUEST: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x01\x01\x05\x00\x00\x00\x01x";
    const SETTINGS: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    const ANSWER: &[u8] = b"\x00\x00\x01\x01\x05\x00\x00\x00\x01x";
    let asked = [(Speaker::Client, REQUEST, 0), (Speaker::Server, SETTINGS, 1)];
    let verdict = |heard: &Heard| judge(heard, &quiet_look(), ms(3000), &PATIENCE);
    assert_eq!(verdict(&heard(&asked)), Verdict::Busy(Activity::RequestUnderWay));
    let answered = [asked[0], asked[1], (Speaker::Server, ANSWER, 100), (Speaker::Client, SETTINGS, 101)];
    let answered = heard(&answered);
    assert_eq!(verdict(&answered), Verdict::Idle);
    assert_eq!(answered.pause(ms(3000)), Some(ms(2899)));
    assert!(answered.goaway(ms(3000)).is_some_and(|frame| frame[3] == 7 && frame[12] == 1));
}
