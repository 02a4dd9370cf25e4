//! Server lines of a configuration file: which are a service's, and how they are changed with everything else left as it is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use super::{CallBy, MARK, Member, Names};

/// One server line of a proxy's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// From its first letter to behind its last.
    pub(super) span: Range<usize>,
    /// Its address, as written.
    pub(super) address: Range<usize>,
    /// The comment behind it on the same line.
    pub(super) comment: Option<Range<usize>>,
    /// The container that it names by an address, if an earlier run has written it.
    pub(super) mark: Option<String>,
}

/// Whose server lines are looked for, and how those are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Only lines with this port; `None` is any.
    pub(super) port: Option<u16>,
    /// The port of a line that says none.
    pub(super) default_port: &'a str,
    /// What the service's containers are called.
    pub(super) names: &'a Names,
    /// What stands before the address in a new line; what stands there in its pattern if `None`.
    pub(super) before: Option<fn(&Member) -> String>,
}

/// The text with these containers in place of those that the lines name now; `None` if no line is the service's.
pub(super) fn rendered(
    text: &str,
    servers: &[Server],
    wanted: &Wanted<'_>,
    members: &[Member],
    by: CallBy,
) -> Option<String> {
    let mut by_port: BTreeMap<&str, Vec<Line<'_>>> = BTreeMap::new();
    for server in servers {
        if let Some(line) = Line::of(text, server, wanted, members) {
            by_port.entry(line.port).or_default().push(line);
        }
    }
    if by_port.is_empty() {
        return None;
    }
    let mut edits = Edits { text, before: wanted.before, edits: Vec::new() };
    for lines in by_port.into_values() {
        if lines.iter().any(|line| line.whose == Whose::All) {
            whole_service(&lines, members, by, &mut edits);
        } else {
            one_each(&lines, members, by, &mut edits);
        }
    }
    Some(edits.applied())
}

/// A word without its quotes.
pub(super) fn unquoted(word: &str) -> &str {
    let inner = |quote: char| word.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(word)
}

/// A server line that is the service's.
struct Line<'a> {
    server: &'a Server,
    whose: Whose,
    port: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// All containers of the service.
    All,
    /// By the name of a container, which need not be there any more.
    One(String),
}

impl<'a> Line<'a> {
    fn of(text: &'a str, server: &'a Server, wanted: &Wanted<'_>, members: &[Member]) -> Option<Self> {
        let (host, port) = host_and_port(unquoted(&text[server.address.clone()]))?;
        if wanted.port.is_some_and(|number| port.unwrap_or(wanted.default_port) != number.to_string()) {
            return None;
        }
        Some(Self {
            server,
            whose: whose(host, server.mark.as_deref(), wanted.names, members)?,
            port: port.unwrap_or(""),
        })
    }
}

/// Whose a line with this host is, if it is the service's.
pub(super) fn whose(host: &str, mark: Option<&str>, names: &Names, members: &[Member]) -> Option<Whose> {
    if let Some(marked) = mark {
        return Some(Whose::One(marked.to_owned()));
    }
    if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        let member = members.iter().find(|member| member.address == address).map(|member| &member.name);
        return member.or_else(|| names.at.get(&address)).cloned().map(Whose::One);
    }
    if members.iter().any(|member| member.name == host) || names.of_one.contains(host) {
        return Some(Whose::One(host.to_owned()));
    }
    names.of_all.iter().any(|name| name == host).then_some(Whose::All)
}

/// Host and port of a server's address; `None` for a socket in the file system.
pub(super) fn host_and_port(address: &str) -> Option<(&str, Option<&str>)> {
    if address.starts_with("unix:") {
        return None;
    }
    match address.rfind(':') {
        Some(colon) if !address[colon..].contains(']') => Some((&address[..colon], Some(&address[colon + 1..]))),
        _ => Some((address, None)),
    }
}

/// One line of these names the whole service, and all of the group follow it.
fn whole_service(lines: &[Line<'_>], members: &[Member], by: CallBy, edits: &mut Edits<'_>) {
    if by == CallBy::Name {
        return;
    }
    let Some(first) = lines.iter().find(|line| line.whose == Whose::All) else { return };
    for line in lines.iter().filter(|line| line.server.span != first.server.span) {
        edits.remove(line.server);
    }
    let mut members = members.iter();
    match members.next() {
        Some(member) => edits.name(first, member, by),
        None => edits.remove(first.server),
    }
    for member in members {
        edits.add(first, first, member, by);
    }
}

/// One line a container: those that are there where they are, the others behind the last.
fn one_each(lines: &[Line<'_>], members: &[Member], by: CallBy, edits: &mut Edits<'_>) {
    let of = |line: &Line<'_>| members.iter().find(|member| line.whose == Whose::One(member.name.clone()));
    let has_line = |member: &Member| lines.iter().any(|line| line.whose == Whose::One(member.name.clone()));
    let mut without = members.iter().filter(|member| !has_line(member));
    for line in lines {
        match of(line).or_else(|| without.next()) {
            Some(member) => edits.name(line, member, by),
            None => edits.remove(line.server),
        }
    }
    let serves = |line: &&Line<'_>| !edits.has_parameter(line, "backup") && !edits.has_parameter(line, "down");
    let (Some(pattern), Some(last)) = (lines.iter().find(serves).or(lines.first()), lines.last()) else { return };
    for member in without {
        edits.add(last, pattern, member, by);
    }
}

/// Changes to a text, by places in the text as it was.
struct Edits<'a> {
    text: &'a str,
    before: Option<fn(&Member) -> String>,
    edits: Vec<(Range<usize>, String)>,
}

impl Edits<'_> {
    /// A line is a container's from now on.
    fn name(&mut self, line: &Line<'_>, member: &Member, by: CallBy) {
        let server = line.server;
        let address = called(member, line.port, by);
        if unquoted(&self.text[server.address.clone()]) != address {
            self.edits.push((server.address.clone(), address));
        }
        match (by, &server.mark) {
            (CallBy::Name, Some(_)) => self.drop_comment(server),
            (CallBy::Name, None) => {}
            (CallBy::Address, _) => {
                self.drop_mark(server);
                let mark = self.mark(server, member);
                self.edits.push((server.span.end..server.span.end, mark));
            }
        }
    }

    /// A container has a line of its own from now on, behind another and with the parameters of a third.
    fn add(&mut self, behind: &Line<'_>, pattern: &Line<'_>, member: &Member, by: CallBy) {
        let parameters = &self.text[pattern.server.address.end..pattern.server.span.end];
        let start = behind.server.span.start;
        let line_start = self.text[..start].rfind('\n').map_or(0, |end| end + 1);
        let indent = Some(&self.text[line_start..start]).filter(|before| before.trim().is_empty()).unwrap_or(" ");
        let own = || self.text[pattern.server.span.start..pattern.server.address.start].to_owned();
        let before = self.before.map_or_else(own, |before| before(member));
        let mut line = format!("\n{indent}{before}{}{parameters}", called(member, pattern.port, by));
        let end = behind.server.comment.as_ref().map_or(behind.server.span.end, |comment| comment.end);
        if by == CallBy::Address {
            line.push_str(&self.mark(behind.server, member));
        }
        self.edits.push((end..end, line));
    }

    fn remove(&mut self, server: &Server) {
        let end = server.comment.as_ref().map_or(server.span.end, |comment| comment.end);
        let line_start = self.text[..server.span.start].rfind('\n').map_or(0, |end| end + 1);
        let alone = self.text[line_start..server.span.start].trim().is_empty();
        match self.text[end..].chars().next() {
            Some('\n') if alone => self.edits.push((line_start..end + 1, String::new())),
            _ => self.edits.push((server.span.start..end, String::new())),
        }
    }

    /// The comment behind an address that tells whose it is. What follows on the same line goes to the next.
    fn mark(&self, server: &Server, member: &Member) -> String {
        let rest = &self.text[server.span.end..];
        let ends = rest[..rest.find(['\n', '#']).unwrap_or(rest.len())].trim().is_empty();
        format!(" # {MARK} {}{}", member.name, if ends { "" } else { "\n" })
    }

    fn drop_mark(&mut self, server: &Server) {
        if server.mark.is_some() {
            self.drop_comment(server);
        }
    }

    fn drop_comment(&mut self, server: &Server) {
        if let Some(comment) = &server.comment {
            self.edits.push((server.span.end..comment.end, String::new()));
        }
    }

    fn has_parameter(&self, line: &Line<'_>, name: &str) -> bool {
        let server = line.server;
        self.text[server.address.end..server.span.end]
            .split(|one: char| one.is_whitespace() || one == ';')
            .any(|word| word == name)
    }

    fn applied(mut self) -> String {
        // Stable: what is added at one place comes in the order in which it was added.
        self.edits.sort_by_key(|(place, _)| (place.start, place.end));
        let (mut new, mut at) = (String::with_capacity(self.text.len()), 0);
        for (place, with) in self.edits {
            new.push_str(&self.text[at..place.start.max(at)]);
            new.push_str(&with);
            at = place.end.max(at);
        }
        new.push_str(&self.text[at..]);
        new
    }
}

fn called(member: &Member, port: &str, by: CallBy) -> String {
    let host = match (by, member.address) {
        (CallBy::Name, _) => member.name.clone(),
        (CallBy::Address, IpAddr::V6(address)) => format!("[{address}]"),
        (CallBy::Address, IpAddr::V4(address)) => address.to_string(),
    };
    if port.is_empty() { host } else { format!("{host}:{port}") }
}
