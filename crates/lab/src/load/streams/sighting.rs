//! Who answered: read from headers, or from `version=…` and `instance=…` in the text.

use super::super::record::Sighting;
use crate::wire::ResponseHead;

/// From an answer's headers and the beginning of its body.
pub(super) fn of_response(head: &ResponseHead, body: &[u8]) -> Sighting {
    let from_text = of_text(body);
    let header = |name: &str| head.header(name).map(str::to_owned);
    Sighting {
        version: header("x-version").or(from_text.version),
        backend_version: header("x-backend-version").or(from_text.backend_version),
        instance: header("x-instance").or(from_text.instance),
    }
}

/// From a text.
pub(super) fn of_text(text: &[u8]) -> Sighting {
    let text = String::from_utf8_lossy(text);
    Sighting {
        version: value(&text, "version="),
        backend_version: value(&text, "backend_version="),
        instance: value(&text, "instance="),
    }
}

fn value(text: &str, name: &str) -> Option<String> {
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let (at, _) = text.match_indices(name).find(|(at, _)| *at == 0 || !is_name_byte(text.as_bytes()[at - 1]))?;
    let rest = &text[at + name.len()..];
    let is_end = |letter: char| letter.is_whitespace() || letter.is_control() || "\"'<>,;&".contains(letter);
    let value = &rest[..rest.find(is_end).unwrap_or(rest.len())];
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_a_text_and_not_confused() {
        let seen = of_text(b"<p>backend_version=v1, version=v2</p> instance=");
        assert_eq!(seen.version.as_deref(), Some("v2"));
        assert_eq!(seen.backend_version.as_deref(), Some("v1"));
        assert_eq!(seen.instance, None);
        assert_eq!(of_text(b"conversion=3"), Sighting::default());
    }
}
