//! Whether streams are open on an HTTP/2 connection that passes in the clear (h2c, gRPC), by the headers of its frames (RFC 9113,
//! section 4.1).
//!
//! A reader of frame headers, not an HTTP/2 implementation. Listening may begin in the middle of a connection: its segments begin
//! with frames then, if nothing is under way. Streams that were open before show when something passes on them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Speaker;

/// What a client says first on a connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER: usize = 9;
/// Longer frames are allowed to who asks for them; who does is not followed.
const LONGEST: usize = 1 << 14;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// For so long a connection is followed that was not heard from its beginning, before its streams count as known.
const KNOWN_AFTER: Duration = Duration::from_secs(1);

/// The streams of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Streams {
    /// Where the next frame of the client's begins; none while that is not known.
    client: Option<Next>,
    /// The same of the server's.
    server: Option<Next>,
    /// By stream: whether the client and whether the server has ended it.
    open: BTreeMap<u32, (bool, bool)>,
    /// The highest one that the client has opened.
    last: u32,
    /// Since when all that passed was followed.
    since: Option<Duration>,
    /// It was heard from its beginning.
    whole: bool,
}

/// Where a frame begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    /// After so many bytes.
    After(u64),
    /// These are the first bytes of its header.
    Begun(Vec<u8>),
}

impl Streams {
    /// Takes note of `length` new bytes that begin with `seen`.
    pub(super) fn payload(&mut self, speaker: Speaker, length: u32, seen: &[u8], at: Duration) {
        let (mut left, mut seen) = (u64::from(length), seen);
        if speaker == Speaker::Client && seen.starts_with(PREFACE) {
            *self = Streams { whole: true, since: Some(at), ..Streams::default() };
            self.client = Some(Next::After(PREFACE.len() as u64));
            self.server = Some(Next::After(0));
        }
        if self.next(speaker).is_none() {
            if !plausible(seen) {
                return;
            }
            *self.next(speaker) = Some(Next::After(0));
            if self.client.is_some() && self.server.is_some() {
                self.since = Some(at);
            }
        }
        loop {
            match self.next(speaker).take() {
                None => return,
                Some(Next::After(skip)) if skip >= left => {
                    *self.next(speaker) = Some(Next::After(skip - left));
                    return;
                }
                Some(Next::After(skip)) => {
                    left -= skip;
                    seen = usize::try_from(skip).ok().and_then(|skip| seen.get(skip..)).unwrap_or_default();
                    *self.next(speaker) = Some(Next::Begun(Vec::new()));
                }
                Some(Next::Begun(mut header)) => {
                    let wanted = HEADER - header.len();
                    let here = wanted.min(usize::try_from(left).unwrap_or(wanted));
                    let Some(part) = seen.get(..here) else { return self.lose() };
                    header.extend_from_slice(part);
                    seen = &seen[here..];
                    left -= here as u64;
                    if header.len() < HEADER {
                        *self.next(speaker) = Some(Next::Begun(header));
                        return;
                    }
                    if !plausible(&header) {
                        return self.lose();
                    }
                    *self.next(speaker) = Some(Next::After(length_of(&header) as u64));
                    self.note(speaker, &header);
                }
            }
        }
    }

    /// Whether no stream is open; false while that is not known.
    pub(super) fn idle(&self, now: Duration) -> bool {
        self.known(now) && self.nothing_open()
    }

    /// Whether streams are known to be open.
    pub(super) fn busy(&self) -> bool {
        self.since.is_some() && self.last > 0 && !self.nothing_open()
    }

    /// What tells the client that it may open no more streams, and that those it has opened meanwhile were not looked at: a
    /// client may send those again on another connection, whatever they were (RFC 9113, section 6.8).
    pub(super) fn goaway(&self) -> [u8; 17] {
        let mut frame = [0; 17];
        frame[2] = 8;
        frame[3] = GOAWAY;
        frame[9..13].copy_from_slice(&self.last.to_be_bytes());
        frame
    }

    /// Whether it is HTTP/2 for certain, and its streams are known.
    fn known(&self, now: Duration) -> bool {
        let followed = |since: Duration| self.whole || now.saturating_sub(since) >= KNOWN_AFTER;
        self.last > 0 && self.since.is_some_and(followed)
    }

    /// A stream ends with the last byte of the frame that says so.
    fn nothing_open(&self) -> bool {
        let between_frames = Some(Next::After(0));
        self.open.is_empty() && self.client == between_frames && self.server == between_frames
    }

    fn next(&mut self, speaker: Speaker) -> &mut Option<Next> {
        match speaker {
            Speaker::Client => &mut self.client,
            Speaker::Server => &mut self.server,
        }
    }

    /// Where frames begin is not known any more, so what they say is not known either.
    fn lose(&mut self) {
        *self = Streams { last: self.last, ..Streams::default() };
    }

    fn note(&mut self, speaker: Speaker, header: &[u8]) {
        let (kind, flags) = (header[3], header[4]);
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        // Those that servers open are even, and nobody uses them any more.
        if stream.is_multiple_of(2) {
            return;
        }
        if speaker == Speaker::Client {
            self.last = self.last.max(stream);
        }
        match kind {
            RST_STREAM => {
                self.open.remove(&stream);
            }
            DATA | HEADERS => {
                let (client, server) = self.open.entry(stream).or_default();
                let ends = flags & END_STREAM != 0;
                *client |= ends && speaker == Speaker::Client;
                *server |= ends && speaker == Speaker::Server;
                // Of what was opened before it was listened to, the client's end may have passed before, too.
                if (*client || !self.whole) && *server {
                    self.open.remove(&stream);
                }
            }
            _ => {}
        }
    }
}

/// Whether these bytes may begin with the header of a frame.
fn plausible(seen: &[u8]) -> bool {
    let Some(header) = seen.get(..HEADER) else { return false };
    let (kind, flags, reserved) = (header[3], header[4], header[5] >> 7);
    let on_stream = header[5..HEADER].iter().any(|byte| *byte != 0);
    let fits = match kind {
        DATA => flags & !0x09 == 0 && on_stream,
        HEADERS => flags & !0x2d == 0 && on_stream,
        2 | RST_STREAM => flags == 0 && on_stream,
        4 | 6 => flags & !0x01 == 0 && !on_stream,
        5 => flags & !0x0c == 0 && on_stream,
        GOAWAY => flags == 0 && !on_stream,
        8 => flags == 0,
        CONTINUATION => flags & !0x04 == 0 && on_stream,
        _ => false,
    };
    length_of(header) <= LONGEST && reserved == 0 && fits
}

fn length_of(header: &[u8]) -> usize {
    usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(10);
    const LATER: Duration = Duration::from_secs(2);

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn says(streams: &mut Streams, speaker: Speaker, bytes: &[u8]) {
        streams.payload(speaker, bytes.len() as u32, bytes, SOON);
    }

    fn from_the_beginning() -> Streams {
        let mut streams = Streams::default();
        let hello = [PREFACE, &frame(4, 0, 0, &[0; 6])].concat();
        says(&mut streams, Speaker::Client, &hello);
        says(&mut streams, Speaker::Server, &frame(4, 0, 0, &[]));
        streams
    }

    #[test]
    fn a_connection_is_idle_when_the_answers_of_all_streams_have_ended() {
        let mut streams = from_the_beginning();
        assert!(!streams.idle(SOON), "nobody has asked for anything yet");
        says(&mut streams, Speaker::Client, &frame(HEADERS, 0x05, 1, b"get"));
        says(&mut streams, Speaker::Client, &frame(HEADERS, 0x04, 3, b"post"));
        assert!(streams.busy() && !streams.idle(SOON));
        says(&mut streams, Speaker::Server, &[frame(HEADERS, 4, 1, b"200"), frame(DATA, 1, 1, b"body")].concat());
        assert!(streams.busy());
        says(&mut streams, Speaker::Server, &frame(HEADERS, 5, 3, b"204"));
        assert!(streams.busy(), "its request is still being sent");
        says(&mut streams, Speaker::Client, &frame(DATA, 1, 3, b"rest"));
        assert!(streams.idle(SOON));
        assert_eq!(streams.goaway()[9..13], [0, 0, 0, 3]);
    }

    #[test]
    fn a_stream_that_is_reset_is_over() {
        let mut streams = from_the_beginning();
        says(&mut streams, Speaker::Client, &frame(HEADERS, 0x05, 1, b"get"));
        says(&mut streams, Speaker::Client, &frame(RST_STREAM, 0, 1, &[0; 4]));
        assert!(streams.idle(SOON));
    }

    #[test]
    fn frames_are_followed_over_segments_that_cut_them_anywhere() {
        let all = [
            frame(HEADERS, 4, 1, b"200"),
            frame(DATA, 0, 1, &[7; 9000]),
            frame(DATA, 0, 1, &[]),
            frame(DATA, 1, 1, &[7; 300]),
        ]
        .concat();
        for cut in [1, 8, 9, 10, 100, 4000] {
            let mut streams = from_the_beginning();
            says(&mut streams, Speaker::Client, &frame(HEADERS, 0x05, 1, b"get"));
            for piece in all.chunks(cut) {
                assert!(streams.busy());
                says(&mut streams, Speaker::Server, piece);
            }
            assert!(streams.idle(SOON), "cut every {cut}");
        }
    }

    #[test]
    fn what_is_longer_than_what_was_captured_is_not_known_any_more_until_it_is_followed_anew() {
        let mut streams = from_the_beginning();
        says(&mut streams, Speaker::Client, &frame(HEADERS, 0x05, 1, b"get"));
        let answer =
            [frame(HEADERS, 4, 1, b"200"), frame(DATA, 0, 1, &[7; 9000]), frame(DATA, 1, 1, &[7; 9000])].concat();
        streams.payload(Speaker::Server, answer.len() as u32, &answer[..4096], SOON);
        assert!(!streams.idle(SOON) && !streams.busy());
        says(&mut streams, Speaker::Client, &frame(HEADERS, 0x05, 3, b"get"));
        says(&mut streams, Speaker::Server, &frame(HEADERS, 5, 3, b"204"));
        assert!(!streams.idle(SOON) && streams.idle(LATER));
    }

    #[test]
    fn in_the_middle_of_a_connection_older_streams_show_when_something_passes_on_them() {
        let mut streams = Streams::default();
        says(&mut streams, Speaker::Client, &frame(HEADERS, 0x05, 9, b"get"));
        says(&mut streams, Speaker::Server, &frame(HEADERS, 5, 9, b"204"));
        assert!(!streams.idle(SOON) && streams.idle(LATER));
        says(&mut streams, Speaker::Server, &frame(DATA, 0, 3, b"event"));
        assert!(!streams.idle(LATER));
        says(&mut streams, Speaker::Server, &frame(HEADERS, 5, 3, b"the end"));
        assert!(streams.idle(LATER));
    }

    #[test]
    fn other_protocols_are_not_taken_for_it() {
        for other in [
            &b"\x17\x03\x03\x00\x20some TLS record"[..],
            b"*1\r\n$4\r\nPING\r\n",
            b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x05\x00\x00\x03SELECT 1",
        ] {
            let mut streams = Streams::default();
            says(&mut streams, Speaker::Client, other);
            says(&mut streams, Speaker::Server, other);
            assert_eq!(streams, Streams::default());
        }
    }
}
