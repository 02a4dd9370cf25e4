//! Whether an HTTP/1 answer that passes in the clear is complete.
//!
//! A reader of headers, not an HTTP implementation: it knows `Content-Length`, `chunked`, answers without a body and
//! `101`. Whatever it does not understand is [`Answer::Opaque`].

/// The end of a chunked body.
const LAST_CHUNK: &[u8; 5] = b"0\r\n\r\n";

/// What is known about the answer to the latest request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// Not HTTP/1 in the clear, or what was seen of it does not tell.
    #[default]
    Opaque,
    /// An HTTP/1 request was seen, its answer has not begun.
    Awaited {
        /// The request was a HEAD, so that its answer has no body whatever its headers say.
        head: bool,
    },
    /// It has begun and has not ended.
    Incomplete(Body),
    /// It has ended.
    Complete,
    /// The connection is no longer HTTP (`101 Switching Protocols`).
    Upgraded,
}

/// How the end of a body will be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes are to come.
    Bytes(u64),
    /// By an empty chunk; the last bytes seen are kept.
    Chunks([u8; 5]),
    /// By the end of the connection.
    UntilClose,
}

impl Answer {
    /// Whether the connection is no longer HTTP.
    pub fn is_upgraded(&self) -> bool {
        *self == Answer::Upgraded
    }

    /// The client sent payload; `seen` is its beginning.
    pub(super) fn request(&mut self, seen: &[u8]) {
        if self.is_upgraded() {
            return;
        }
        let method = seen.split(|byte| *byte == b' ').next().unwrap_or_default();
        const METHODS: [&[u8]; 8] = [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"];
        if METHODS.contains(&method) {
            *self = Answer::Awaited { head: method == b"HEAD" };
        } else if !matches!(self, Answer::Awaited { .. }) {
            // The rest of a request's body, or another protocol; its answer shows which.
            *self = Answer::Opaque;
        }
    }

    /// The server sent `length` bytes that begin with `seen`.
    pub(super) fn payload(&mut self, length: u32, seen: &[u8]) {
        let length = u64::from(length);
        *self = match std::mem::take(self) {
            Answer::Upgraded => Answer::Upgraded,
            Answer::Incomplete(body) => go_on(body, length, seen),
            Answer::Awaited { head } => begin(length, seen, head),
            Answer::Opaque | Answer::Complete => begin(length, seen, false),
        };
    }
}

fn begin(length: u64, seen: &[u8], head_request: bool) -> Answer {
    let Some(status) = status(seen) else {
        return Answer::Opaque;
    };
    if status == 101 {
        return Answer::Upgraded;
    }
    let Some(header_end) = find(seen, b"\r\n\r\n").map(|at| at + 4) else {
        return Answer::Opaque;
    };
    if (100..200).contains(&status) {
        // "100 Continue", "103 Early Hints": the answer proper follows, maybe in the same segment.
        return match length.saturating_sub(header_end as u64) {
            0 => Answer::Awaited { head: head_request },
            rest => begin(rest, seen.get(header_end..).unwrap_or_default(), head_request),
        };
    }
    if head_request || status == 204 || status == 304 {
        return Answer::Complete;
    }
    let headers = seen.get(..header_end).unwrap_or_default();
    let rest = length.saturating_sub(header_end as u64);
    let rest_seen = seen.get(header_end..).unwrap_or_default();
    if header(headers, b"transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case(b"chunked")) {
        return go_on(Body::Chunks([0; 5]), rest, rest_seen);
    }
    let announced = header(headers, b"content-length")
        .and_then(|value| std::str::from_utf8(value).ok())
        .and_then(|value| value.parse::<u64>().ok());
    match announced {
        Some(bytes) => go_on(Body::Bytes(bytes), rest, rest_seen),
        None => Answer::Incomplete(Body::UntilClose),
    }
}

fn go_on(body: Body, length: u64, seen: &[u8]) -> Answer {
    match body {
        Body::UntilClose => Answer::Incomplete(body),
        Body::Bytes(bytes) if length >= bytes => Answer::Complete,
        Body::Bytes(bytes) => Answer::Incomplete(Body::Bytes(bytes - length)),
        // The end of the segment was not captured, so its last chunk may have passed unseen.
        Body::Chunks(_) if (seen.len() as u64) < length => Answer::Opaque,
        Body::Chunks(before) => {
            let mut tail = [0; 5];
            let both: Vec<u8> = before.iter().chain(seen).copied().collect();
            tail.copy_from_slice(&both[both.len() - 5..]);
            if tail == *LAST_CHUNK { Answer::Complete } else { Answer::Incomplete(Body::Chunks(tail)) }
        }
    }
}

fn status(seen: &[u8]) -> Option<u16> {
    let rest = seen.strip_prefix(b"HTTP/1.1 ").or_else(|| seen.strip_prefix(b"HTTP/1.0 "))?;
    std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok()
}

fn header<'a>(headers: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    headers.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (key, value) = line.split_at(colon);
        key.eq_ignore_ascii_case(name).then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn after(segments: &[&[u8]]) -> Answer {
        let mut answer = Answer::default();
        for segment in segments {
            answer.payload(segment.len() as u32, segment);
        }
        answer
    }

    #[test]
    fn an_answer_with_a_length_is_complete_when_the_length_is_reached() {
        assert_eq!(after(&[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"]), Answer::Complete);
        assert_eq!(after(&[b"HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\n", b"hel", b"lo"]), Answer::Complete);
        assert!(matches!(after(&[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"]), Answer::Incomplete(_)));
        assert_eq!(after(&[b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]), Answer::Complete);
    }

    #[test]
    fn a_chunked_answer_ends_with_its_last_chunk_even_across_segments() {
        let begin: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
        assert!(matches!(after(&[begin]), Answer::Incomplete(_)));
        assert_eq!(after(&[begin, b"0\r\n\r\n"]), Answer::Complete);
        assert_eq!(after(&[begin, b"0\r", b"\n\r\n"]), Answer::Complete);
    }

    #[test]
    fn a_chunked_answer_whose_end_was_not_captured_is_opaque() {
        let mut answer = after(&[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]);
        answer.payload(60_000, b"ea60\r\n");
        assert_eq!(answer, Answer::Opaque);
    }

    #[test]
    fn answers_without_a_body_are_complete() {
        assert_eq!(after(&[b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"]), Answer::Complete);
        let mut answer = Answer::default();
        answer.request(b"HEAD / HTTP/1.1\r\n\r\n");
        answer.payload(100, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(answer, Answer::Complete);
    }

    #[test]
    fn continue_is_not_an_answer() {
        let go: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(after(&[go]), Answer::Awaited { head: false });
        assert_eq!(after(&[go, b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"]), Answer::Complete);
    }

    #[test]
    fn an_upgraded_connection_stays_upgraded() {
        let mut answer = after(&[b"HTTP/1.1 101 Switching Protocols\r\n\r\n"]);
        answer.request(b"GET / HTTP/1.1\r\n\r\n");
        assert!(answer.is_upgraded());
    }

    #[test]
    fn tls_is_opaque_and_a_body_without_length_lasts_until_close() {
        assert_eq!(after(&[b"\x17\x03\x03\x00\x20"]), Answer::Opaque);
        assert_eq!(after(&[b"HTTP/1.0 200 OK\r\n\r\nx"]), Answer::Incomplete(Body::UntilClose));
    }
}
