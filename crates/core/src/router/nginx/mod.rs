//! nginx: the server lines of one `upstream` block. Everything else in the file stays as it is, byte by byte, and so do the
//! parameters of the lines.

pub mod process;
mod read;
#[cfg(test)]
mod tests;

use super::lines::{Wanted, rendered};
use super::{CallBy, Member, Names, RouterError};
use read::{Upstream, upstreams};

/// Whose server lines are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Name of the `upstream` block.
    pub upstream: &'a str,
    /// Only lines with this port; `None` is any.
    pub port: Option<u16>,
    /// What the service's containers are called.
    pub names: &'a Names,
}

/// What nginx calls where a server line says no port.
const DEFAULT_PORT: &str = "80";

/// Whether the text has the block; one that cannot be read has none.
pub fn has_upstream(text: &str, name: &str) -> bool {
    upstreams(text).is_ok_and(|found| found.iter().any(|upstream| upstream.name == name))
}

/// The text with these containers in the block, in place of those that it names now.
///
/// By name, a line that names the whole service stays as it is; otherwise there is one line a container, each where it was
/// and as it was. A container that has none yet gets one with the parameters of another.
pub fn render(text: &str, block: &Block<'_>, members: &[Member], by: CallBy) -> Result<String, RouterError> {
    let upstream = find(text, block.upstream)?;
    let wanted = Wanted { port: block.port, default_port: DEFAULT_PORT, names: block.names, before: None };
    rendered(text, &upstream.servers, &wanted, members, by).ok_or_else(|| nobody(text, &upstream, block, members))
}

fn find(text: &str, name: &str) -> Result<Upstream, RouterError> {
    let mut all = upstreams(text)?;
    let known: Vec<String> = all.iter().map(|upstream| upstream.name.clone()).collect();
    all.retain(|upstream| upstream.name == name);
    match (all.pop(), all.pop()) {
        (Some(upstream), None) => Ok(upstream),
        (Some(_), Some(_)) => Err(RouterError::new(
            format!("it has more than one upstream {name}"),
            "give the service's one a name or a file of its own",
        )),
        (None, _) => {
            Err(RouterError::missing(format!("it has no upstream {name}"), name, known.iter().map(String::as_str)))
        }
    }
}

fn nobody(text: &str, upstream: &Upstream, block: &Block<'_>, members: &[Member]) -> RouterError {
    let lines: Vec<&str> = upstream.servers.iter().map(|server| &text[server.address.clone()]).collect();
    let port = block.port.map(|port| format!(":{port}")).unwrap_or_default();
    let what = match lines.as_slice() {
        [] => format!("upstream {} has no server line", block.upstream),
        lines => format!("no server of upstream {} is the service's: {}", block.upstream, lines.join(", ")),
    };
    let name = members.first().map(|member| &member.name).or(block.names.of_all.first());
    RouterError::new(what, format!("write `server {}{port};` there", name.map(String::as_str).unwrap_or_default()))
}
