//! Reading a configuration file of nginx as far as its `upstream` blocks.

use std::ops::Range;

use crate::router::lines::{Server, unquoted};
use crate::router::{MARK, RouterError};

/// An `upstream` block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Upstream {
    /// Its name.
    pub(super) name: String,
    /// Its server lines in order.
    pub(super) servers: Vec<Server>,
}

/// All `upstream` blocks of a file, wherever they stand.
pub(super) fn upstreams(text: &str) -> Result<Vec<Upstream>, RouterError> {
    let mut found = Vec::new();
    // Names of the blocks that are open; for an `upstream` itself.
    let mut open: Vec<Option<Upstream>> = Vec::new();
    let mut words: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while let Some(token) = next_token(text, at)? {
        at = token.span.end;
        match token.kind {
            Kind::Comment => note_comment(text, &mut open, &token.span),
            Kind::Word => words.push(token.span),
            Kind::Semicolon => {
                if let (Some(Some(upstream)), [first, address, ..]) = (open.last_mut(), words.as_slice())
                    && unquoted(&text[first.clone()]) == "server"
                {
                    let (span, address) = (first.start..token.span.end, address.clone());
                    upstream.servers.push(Server { span, address, comment: None, mark: None });
                }
                words.clear();
            }
            Kind::Open => {
                let name = words.first().map(|word| unquoted(&text[word.clone()])).unwrap_or_default();
                if name.ends_with("_by_lua_block") {
                    at = behind_block(text, token.span.end)?;
                } else {
                    let upstream = match words.as_slice() {
                        [_, own] if name == "upstream" => {
                            Some(Upstream { name: unquoted(&text[own.clone()]).to_owned(), servers: Vec::new() })
                        }
                        _ => None,
                    };
                    open.push(upstream);
                }
                words.clear();
            }
            Kind::Close => {
                words.clear();
                match open.pop() {
                    Some(upstream) => found.extend(upstream),
                    None => return Err(unreadable("it closes a block that it does not open")),
                }
            }
        }
    }
    if open.is_empty() { Ok(found) } else { Err(unreadable("a block is not closed")) }
}

fn note_comment(text: &str, open: &mut [Option<Upstream>], span: &Range<usize>) {
    let Some(Some(upstream)) = open.last_mut() else { return };
    let Some(server) = upstream.servers.last_mut() else { return };
    if text[server.span.end..span.start].contains(|other: char| other == '\n' || !other.is_whitespace()) {
        return;
    }
    let mark = text[span.clone()].trim_start_matches('#').trim().strip_prefix(MARK);
    server.mark = mark.map(|name| name.trim().to_owned());
    server.comment = Some(span.clone());
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    Open,
    Close,
    Semicolon,
    Comment,
}

struct Token {
    kind: Kind,
    span: Range<usize>,
}

/// The next token from `from` on, in nginx's own rules: a comment begins where a word could, a quoted word ends with its
/// quote, and `${name}` is part of a word.
fn next_token(text: &str, from: usize) -> Result<Option<Token>, RouterError> {
    let Some((start, first)) = text[from..].char_indices().find(|(_, one)| !one.is_whitespace()) else {
        return Ok(None);
    };
    let start = from + start;
    let token = |kind, end| Ok(Some(Token { kind, span: start..end }));
    match first {
        '{' => return token(Kind::Open, start + 1),
        '}' => return token(Kind::Close, start + 1),
        ';' => return token(Kind::Semicolon, start + 1),
        '#' => {
            let end = text[start..].find('\n').map_or(text.len(), |length| start + length);
            return token(Kind::Comment, end);
        }
        _ => {}
    }
    let quote = Some(first).filter(|first| matches!(first, '"' | '\''));
    let mut before = None;
    let mut escaped = false;
    for (offset, one) in text[start..].char_indices().skip(usize::from(quote.is_some())) {
        let end = start + offset;
        let last = before.replace(one);
        if std::mem::take(&mut escaped) {
            continue;
        }
        match (quote, one) {
            (_, '\\') => escaped = true,
            (Some(quote), one) if one == quote => return token(Kind::Word, end + one.len_utf8()),
            (None, '{') if last == Some('$') => {}
            (None, one) if one.is_whitespace() || matches!(one, ';' | '{') => return token(Kind::Word, end),
            _ => {}
        }
    }
    if quote.is_some() { Err(unreadable("a quoted text has no end")) } else { token(Kind::Word, text.len()) }
}

/// Behind the brace that closes a block of code, which has rules of its own.
fn behind_block(text: &str, from: usize) -> Result<usize, RouterError> {
    let mut depth = 1;
    for (offset, one) in text[from..].char_indices() {
        depth += i32::from(one == '{') - i32::from(one == '}');
        if depth == 0 {
            return Ok(from + offset + 1);
        }
    }
    Err(unreadable("a block of code is not closed"))
}

fn unreadable(why: &str) -> RouterError {
    RouterError::new(format!("its text is not understood: {why}"), "look at it with `nginx -t`")
}
