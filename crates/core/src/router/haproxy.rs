//! HAProxy: the servers of one `backend`, as its runtime API shows and changes them, and as its configuration names them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use super::lines::{Server, Wanted, rendered};
use super::{CallBy, Member, Names, RouterError};

/// A server as HAProxy runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// Where it sends to; none while its name does not resolve.
    pub address: Option<IpAddr>,
    /// The port there.
    pub port: u16,
    /// Whether it was put out of use by an administrator: it gets nothing new.
    pub out_of_use: bool,
}

/// A socket of the runtime API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its path.
    pub path: String,
    /// Whether servers may be changed through it.
    pub admin: bool,
}

/// Whether the text has the section.
pub fn has_backend(text: &str, name: &str) -> bool {
    sections(text).iter().any(|section| section.name == name)
}

/// The sockets of the runtime API that the configuration opens in the file system.
pub fn sockets(text: &str) -> Vec<Socket> {
    let mut found = Vec::new();
    for (_, line) in lines_of(text) {
        let words: Vec<&str> = words(text, &line).into_iter().map(|word| &text[word]).collect();
        if let ["stats", "socket", path, rest @ ..] = words.as_slice() {
            let path = path.strip_prefix("unix@").unwrap_or(path);
            let admin = rest.windows(2).any(|pair| pair == ["level", "admin"]);
            found.extend(path.starts_with('/').then(|| Socket { path: path.to_owned(), admin }));
        }
    }
    found
}

/// The files out of the command line of a running HAProxy.
pub fn files(title: &str) -> Vec<String> {
    let words: Vec<&str> = title.split(' ').collect();
    let named = words.windows(2).filter(|pair| pair[0] == "-f").map(|pair| pair[1].to_owned());
    named.filter(|file| file.starts_with('/')).collect()
}

/// The text with the section naming these containers. A line that names the whole service stays; otherwise there is one line a
/// container.
pub fn render(
    text: &str,
    backend: &str,
    port: Option<u16>,
    names: &Names,
    members: &[Member],
) -> Result<String, RouterError> {
    let mut all = sections(text);
    let known: Vec<String> = all.iter().map(|section| section.name.clone()).collect();
    all.retain(|section| section.name == backend);
    let Some(section) = all.pop() else {
        let known = known.iter().map(String::as_str);
        return Err(RouterError::missing(format!("it has no backend {backend}"), backend, known));
    };
    let before = |member: &Member| format!("server {} ", member.name);
    let wanted = Wanted { port, default_port: "", names, before: Some(before) };
    rendered(text, &section.servers, &wanted, members, CallBy::Name).ok_or_else(|| {
        let lines: Vec<&str> = section.servers.iter().map(|server| &text[server.address.clone()]).collect();
        let name = members.first().map(|member| member.name.clone()).or(names.of_all.first().cloned());
        let name = name.unwrap_or_default();
        RouterError::new(
            format!("no server of backend {backend} is the service's: {}", lines.join(", ")),
            format!("write `server {name} {name}:{}` there", port.map_or("<port>".to_owned(), |port| port.to_string())),
        )
    })
}

/// The servers of a backend out of the answer to `show servers state`.
pub fn running(answer: &str, backend: &str) -> Result<Vec<Running>, RouterError> {
    let mut columns: BTreeMap<&str, usize> = BTreeMap::new();
    let mut found = Vec::new();
    for line in answer.lines() {
        if let Some(names) = line.strip_prefix("# ") {
            columns = names.split_whitespace().enumerate().map(|(at, name)| (name, at)).collect();
            continue;
        }
        let fields: Vec<&str> = line.split_whitespace().collect();
        let field = |name: &str| columns.get(name).and_then(|at| fields.get(*at)).copied();
        if field("be_name") != Some(backend) {
            continue;
        }
        let (Some(name), Some(address)) = (field("srv_name"), field("srv_addr")) else { continue };
        let state: u32 = field("srv_admin_state").and_then(|text| text.parse().ok()).unwrap_or(0);
        found.push(Running {
            name: name.to_owned(),
            address: address.parse().ok(),
            port: field("srv_port").and_then(|text| text.parse().ok()).unwrap_or(0),
            // Forced maintenance and forced drain.
            out_of_use: state & (0x01 | 0x08) != 0,
        });
    }
    if found.is_empty() {
        let said = answer.trim();
        let hint = if said.is_empty() { "it said nothing".to_owned() } else { format!("it said: {said}") };
        return Err(RouterError::new(format!("HAProxy runs no backend {backend}"), hint));
    }
    Ok(found)
}

/// What is said so that a backend sends to just these containers; nothing if it does. `known`: whose an address is or was. `each`:
/// every container is to have a server of its own; otherwise one for the whole service is enough.
pub fn commands(
    running: &[Running],
    backend: &str,
    port: Option<u16>,
    known: &BTreeMap<IpAddr, String>,
    members: &[Member],
    each: bool,
) -> Vec<String> {
    let ours: Vec<(&Running, &String)> = ours(running, port, known);
    let mut commands = Vec::new();
    for (server, name) in &ours {
        let place = format!("{backend}/{}", server.name);
        match members.iter().find(|member| member.name == **name) {
            Some(member) => {
                if server.address != Some(member.address) {
                    commands.push(format!("set server {place} addr {} port {}", member.address, server.port));
                }
                if server.out_of_use {
                    commands.push(format!("set server {place} state ready"));
                }
            }
            None if !server.out_of_use => commands.push(format!("set server {place} state drain")),
            None => {}
        }
    }
    let Some((pattern, _)) = ours.first().filter(|_| each) else { return commands };
    for member in members.iter().filter(|member| !ours.iter().any(|(_, name)| **name == member.name)) {
        let place = format!("{backend}/{}", member.name);
        // One of an earlier deploy may have stayed, out of use.
        if running.iter().any(|server| server.name == member.name) {
            commands.push(format!("set server {place} addr {} port {}", member.address, pattern.port));
        } else {
            commands.push(format!("add server {place} {}:{}", spelled(member.address), pattern.port));
        }
        commands.push(format!("set server {place} state ready"));
    }
    commands
}

/// Whether the backend sends to these containers (to all of them if `each`) and to no other of the service.
pub fn sends_to(
    running: &[Running],
    port: Option<u16>,
    known: &BTreeMap<IpAddr, String>,
    members: &[Member],
    each: bool,
) -> bool {
    let used: Vec<IpAddr> = ours(running, port, known)
        .iter()
        .filter(|(one, _)| !one.out_of_use)
        .filter_map(|(one, _)| one.address)
        .collect();
    let wanted = |address: &IpAddr| members.iter().any(|member| member.address == *address);
    used.iter().all(wanted) && (!each || members.iter().all(|member| used.contains(&member.address)))
}

/// Servers whose address is or was that of one of the service's containers, with its name.
fn ours<'a>(
    running: &'a [Running],
    port: Option<u16>,
    known: &'a BTreeMap<IpAddr, String>,
) -> Vec<(&'a Running, &'a String)> {
    let servers = running.iter().filter(|server| port.is_none_or(|port| port == server.port));
    servers.filter_map(|server| Some((server, known.get(&server.address?)?))).collect()
}

fn spelled(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// A `backend` or `listen` section.
struct Section {
    name: String,
    servers: Vec<Server>,
}

const KEYWORDS: [&str; 13] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "resolvers",
    "mailers",
    "userlist",
    "program",
    "cache",
    "ring",
    "http-errors",
];

fn sections(text: &str) -> Vec<Section> {
    let mut found: Vec<Section> = Vec::new();
    let mut inside = false;
    for (whole, line) in lines_of(text) {
        let spans = words(text, &line);
        let words: Vec<&str> = spans.iter().map(|span| &text[span.clone()]).collect();
        match words.as_slice() {
            [section @ ("backend" | "listen"), name, ..] => {
                inside = !section.is_empty();
                found.push(Section { name: (*name).to_owned(), servers: Vec::new() });
            }
            [keyword, ..] if KEYWORDS.contains(keyword) => inside = false,
            ["server", _, _, ..] if inside => {
                let (Some(section), [first, _, address, .., last] | [first, _, address @ last]) =
                    (found.last_mut(), spans.as_slice())
                else {
                    continue;
                };
                let comment = Some(line.end..whole.end).filter(|comment| !text[comment.clone()].trim().is_empty());
                let server = Server { span: first.start..last.end, address: address.clone(), comment, mark: None };
                section.servers.push(server);
            }
            _ => {}
        }
    }
    found
}

/// Each line, whole and without its comment.
fn lines_of(text: &str) -> Vec<(Range<usize>, Range<usize>)> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.trim_end_matches('\n').len();
        let mut quote = None;
        let mut escaped = false;
        let comment = text[start..end].char_indices().find(|(_, one)| {
            match (quote, one) {
                _ if std::mem::take(&mut escaped) => {}
                (_, '\\') => escaped = true,
                (None, '#') => return true,
                (None, '"' | '\'') => quote = Some(*one),
                (Some(open), one) if open == *one => quote = None,
                _ => {}
            }
            false
        });
        found.push((start..end, start..comment.map_or(end, |(offset, _)| start + offset)));
        start += line.len();
    }
    found
}

fn words(text: &str, line: &Range<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut begun = None;
    for (offset, one) in text[line.clone()].char_indices() {
        let at = line.start + offset;
        if one.is_whitespace() {
            found.extend(begun.take().map(|start| start..at));
        } else {
            begun.get_or_insert(at);
        }
    }
    found.extend(begun.map(|start| start..line.end));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r"
global
    stats socket /run/haproxy.sock mode 600 level admin  # for us
    stats socket ipv4@127.0.0.1:9999 level admin
    stats socket unix@/run/other.sock level user
frontend web
    bind :80
    use_backend api if { path '/a # b' }
    default_backend app
backend api
    server app-1 shop-app-1:8080
backend app
    balance roundrobin
    server one shop-app-1:80 check weight 10 # the first
    server legacy 10.0.0.1:80 backup
listen stats
    bind :8404
";

    fn names() -> Names {
        Names {
            of_all: vec!["app".into()],
            of_one: ["shop-app-1".to_owned(), "shop-app-2".to_owned()].into(),
            ..Names::default()
        }
    }

    fn member(number: u8, last: u8) -> Member {
        Member { name: format!("shop-app-{number}"), address: [172, 18, 0, last].into() }
    }

    #[test]
    fn a_file_that_names_its_containers_stays_and_more_of_them_get_lines() {
        let told = |members: &[Member]| render(FILE, "app", Some(80), &names(), members);
        assert_eq!(told(&[member(1, 7)]).unwrap(), FILE);
        let two = FILE.replace(" # the first\n", " # the first\n    server shop-app-2 shop-app-2:80 check weight 10\n");
        assert_eq!(told(&[member(1, 7), member(2, 8)]).unwrap(), two);
        assert_eq!(render(&two, "app", Some(80), &names(), &[member(1, 7)]).unwrap(), FILE);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = render(FILE, "apps", None, &names(), &[]).unwrap_err();
        assert_eq!((error.what.as_str(), error.hint.as_str()), ("it has no backend apps", "did you mean `app`?"));
        let error = render(FILE, "app", Some(81), &names(), &[member(1, 7)]).unwrap_err();
        assert_eq!(error.what, "no server of backend app is the service's: shop-app-1:80, 10.0.0.1:80");
        assert_eq!(error.hint, "write `server shop-app-1 shop-app-1:81` there");
    }

    #[test]
    fn sockets_and_files_are_found() {
        let socket = |path: &str, admin| Socket { path: path.to_owned(), admin };
        assert_eq!(sockets(FILE), [socket("/run/haproxy.sock", true), socket("/run/other.sock", false)]);
        assert_eq!(files("haproxy -W -db -f /etc/a.cfg -f /etc/b.cfg"), ["/etc/a.cfg", "/etc/b.cfg"]);
    }

    const STATE: &str = "1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord
4 app 1 one 172.18.0.3 2 0 10 10 9 6 3 4 6 0 0 0 shop-app-1 80 -
4 app 2 legacy 10.0.0.1 2 0 1 1 9 1 0 0 0 0 0 0 - 80 -
5 api 1 app-1 172.18.0.3 2 0 1 1 9 1 0 0 0 0 0 0 - 8080 -
";

    #[test]
    fn only_servers_with_addresses_of_the_service_are_changed() {
        let servers = running(STATE, "app").unwrap();
        let known = [([172, 18, 0, 3].into(), "shop-app-1".to_owned())].into();
        let told = |members: &[Member]| commands(&servers, "app", None, &known, members, true);
        assert_eq!(told(&[member(1, 3)]), Vec::<String>::new());
        assert!(sends_to(&servers, None, &known, &[member(1, 3)], true));
        assert_eq!(told(&[member(1, 7)]), ["set server app/one addr 172.18.0.7 port 80"]);
        assert!(!sends_to(&servers, None, &known, &[member(1, 7)], true));
        assert_eq!(
            told(&[member(1, 3), member(2, 8)]),
            ["add server app/shop-app-2 172.18.0.8:80", "set server app/shop-app-2 state ready"]
        );
        let whole = [member(1, 3), member(2, 8)];
        assert_eq!(commands(&servers, "app", None, &known, &whole, false), Vec::<String>::new());
        assert!(sends_to(&servers, None, &known, &whole, false));
        assert_eq!(told(&[]), ["set server app/one state drain"]);
        assert_eq!(running(STATE, "web").unwrap_err().what, "HAProxy runs no backend web");
    }

    #[test]
    fn a_server_that_was_put_out_of_use_comes_back() {
        let servers = running(&STATE.replace("172.18.0.3 2 0 10", "172.18.0.3 2 8 10"), "app").unwrap();
        let known = [([172, 18, 0, 3].into(), "shop-app-1".to_owned())].into();
        assert!(!sends_to(&servers, None, &known, &[member(1, 3)], true));
        let told = commands(&servers, "app", None, &known, &[member(1, 3)], true);
        assert_eq!(told, ["set server app/one state ready"]);
        let stayed = running(&STATE.replace("legacy 10.0.0.1", "shop-app-2 172.18.0.9"), "app").unwrap();
        assert_eq!(
            commands(&stayed, "app", None, &known, &[member(1, 3), member(2, 8)], true)[0],
            "set server app/shop-app-2 addr 172.18.0.8 port 80"
        );
    }
}
