//! The head of an HTTP/1 request, changed so that its connection ends with the answer.

/// What the first bytes on a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The beginning of a head; more is to come.
    Partial,
    /// A whole head and whatever follows it, with `Connection: close`. What asks for another protocol is left as it was.
    Whole(Vec<u8>),
    /// No HTTP/1 request.
    Other,
}

/// Longer than any method that is in use.
const LONGEST_METHOD: usize = 32;

/// Asks the server to close its connection after the answer: `seen` is what a client has sent so far.
///
/// Exactly one header is replaced or added; everything else stays as it is, byte for byte.
pub fn with_close(seen: &[u8]) -> Request {
    match seen.iter().position(|byte| *byte == b' ') {
        Some(at) if at > 0 && is_token(&seen[..at]) => {}
        None if is_token(seen) && seen.len() <= LONGEST_METHOD => return Request::Partial,
        _ => return Request::Other,
    }
    let Some(first_line) = line(seen, 0) else { return Request::Partial };
    let protocol = first_line.content.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    if !protocol.starts_with(b"HTTP/1.") {
        return Request::Other;
    }
    let mut next = first_line.end;
    let mut fields = Vec::new();
    loop {
        let Some(field) = line(seen, next) else { return Request::Partial };
        if field.content.is_empty() {
            break;
        }
        fields.push((next, field.end, field.content));
        next = field.end;
    }
    let connection: Vec<_> = fields.iter().filter(|(.., field)| is_connection(field)).collect();
    let options = connection.iter().flat_map(|(.., field)| field[CONNECTION.len()..].split(|byte| *byte == b','));
    let options: Vec<&[u8]> = options.map(<[u8]>::trim_ascii).filter(|option| !option.is_empty()).collect();
    if options.iter().any(|option| option.eq_ignore_ascii_case(b"upgrade")) {
        return Request::Whole(seen.to_vec());
    }
    let mut close = b"Connection: close".to_vec();
    let ours = |option: &[u8]| option.eq_ignore_ascii_case(b"close") || option.eq_ignore_ascii_case(b"keep-alive");
    for option in options.into_iter().filter(|option| !ours(option)) {
        close.extend_from_slice(b", ");
        close.extend_from_slice(option);
    }
    close.extend_from_slice(b"\r\n");
    let mut request = Vec::with_capacity(seen.len() + close.len());
    // In place of the first of them, or behind all others.
    let place = connection.first().map_or(next, |(from, ..)| *from);
    request.extend_from_slice(&seen[..first_line.end]);
    for (from, to, field) in &fields {
        if *from == place {
            request.extend_from_slice(&close);
        }
        if !is_connection(field) {
            request.extend_from_slice(&seen[*from..*to]);
        }
    }
    if place == next {
        request.extend_from_slice(&close);
    }
    request.extend_from_slice(&seen[next..]);
    Request::Whole(request)
}

const CONNECTION: &[u8] = b"connection:";

fn is_connection(field: &[u8]) -> bool {
    field.get(..CONNECTION.len()).is_some_and(|name| name.eq_ignore_ascii_case(CONNECTION))
}

struct Line<'a> {
    /// Without what ends it.
    content: &'a [u8],
    /// Where the next begins.
    end: usize,
}

fn line(seen: &[u8], from: usize) -> Option<Line<'_>> {
    let rest = seen.get(from..)?;
    let length = rest.iter().position(|byte| *byte == b'\n')?;
    let content = &rest[..length];
    Some(Line { content: content.strip_suffix(b"\r").unwrap_or(content), end: from + length + 1 })
}

fn is_token(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn becomes(request: &str, expected: &str) {
        assert_eq!(with_close(request.as_bytes()), Request::Whole(expected.as_bytes().to_vec()));
    }

    #[test]
    fn a_request_without_the_header_gets_it_behind_the_others() {
        becomes(
            "POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            "POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
        );
        becomes("GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
        becomes("BREW / HTTP/1.1\nHost: a\n\n", "BREW / HTTP/1.1\nHost: a\nConnection: close\r\n\n");
    }

    #[test]
    fn the_header_is_replaced_where_it_stands_and_names_of_others_stay_in_it() {
        becomes(
            "GET / HTTP/1.1\r\nconnection: keep-alive\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: close\r\nHost: a\r\n\r\n",
        );
        becomes(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: TE,Keep-Alive\r\nTE: trailers\r\nConnection:close\r\n\r\nrest",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, TE\r\nTE: trailers\r\n\r\nrest",
        );
    }

    #[test]
    fn what_asks_for_another_protocol_is_left_as_it_is() {
        let upgrade = "GET / HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
        becomes(upgrade, upgrade);
    }

    #[test]
    fn a_head_that_has_not_ended_is_waited_for() {
        let request = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
        for length in 0..request.len() {
            assert_eq!(with_close(&request[..length]), Request::Partial, "{length}");
        }
    }

    #[test]
    fn what_is_no_http_1_is_told_apart() {
        for other in [
            b"\x16\x03\x01\x02\x00".as_slice(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b" GET",
            b"*1\r\n$4\r\nPING\r\n",
            b"GET /\r\n",
            &[b'A'; 40],
        ] {
            assert_eq!(with_close(other), Request::Other, "{other:?}");
        }
    }
}
