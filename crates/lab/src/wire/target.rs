//! Where traffic goes: a host (a name, an IPv4 or an IPv6 address), a port, and perhaps a path.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use tokio::net::TcpStream;

use super::Failure;

/// A host and port to connect to, and the path that was written behind it, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path with its query, when the text had one.
    pub path: Option<String>,
}

/// A text that is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no target: write HOST:PORT, [IPV6]:PORT or http://HOST[:PORT]/PATH")]
pub struct TargetError {
    text: String,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || TargetError { text: text.to_owned() };
        let (default_port, rest) = match text.split_once("://") {
            Some(("http" | "ws", rest)) => (Some(80), rest),
            Some(("tcp" | "udp" | "redis", rest)) => (None, rest),
            Some(_) => return Err(wrong()),
            None => (None, text),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => (&rest[..at], Some(rest[at..].to_owned())),
            None => (rest, None),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(inner) => {
                let (host, after) = inner.split_once(']').ok_or_else(wrong)?;
                (host, after.strip_prefix(':'))
            }
            None => match authority.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => return Err(wrong()),
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| wrong())?,
            None => default_port.ok_or_else(wrong)?,
        };
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port, path })
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port(), path: None }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.authority())
    }
}

impl Target {
    /// `host:port` as it stands in a Host header: IPv6 in brackets.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Looks the name up, now.
    ///
    /// # Errors
    /// `resolve error` when the name has no address.
    pub async fn resolve(&self) -> Result<SocketAddr, Failure> {
        tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .map_err(|error| Failure::from_io("resolve", &error))?
            .next()
            .ok_or_else(|| Failure::new("resolve error", format!("{} has no address", self.host)))
    }

    /// Opens a TCP connection (names are looked up each time, all addresses are tried in order), without Nagle's delay.
    ///
    /// # Errors
    /// `connect …` or `resolve …`.
    pub async fn connect(&self) -> Result<TcpStream, Failure> {
        let stream = match self.host.parse() {
            Ok(address) => TcpStream::connect(SocketAddr::new(address, self.port)).await,
            Err(_) => TcpStream::connect((self.host.as_str(), self.port)).await,
        }
        .map_err(|error| Failure::from_io("connect", &error))?;
        stream.set_nodelay(true).map_err(|error| Failure::from_io("connect", &error))?;
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, host: &str, port: u16, path: Option<&str>) {
        let target: Target = text.parse().expect("a target");
        assert_eq!((target.host.as_str(), target.port, target.path.as_deref()), (host, port, path));
    }

    #[test]
    fn targets_are_read_with_and_without_scheme_and_path() {
        check("127.0.0.1:80", "127.0.0.1", 80, None);
        check("http://web", "web", 80, None);
        check("http://[::1]:8080/a?b=c:d", "::1", 8080, Some("/a?b=c:d"));
        check("[fe80::1]:53", "fe80::1", 53, None);
        check("redis://cache:6379", "cache", 6379, None);
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in ["", "web", ":80", "::1:80", "https://web", "web:http", "[::1"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn ipv6_gets_its_brackets_back() {
        let target: Target = "[::1]:80".parse().expect("a target");
        assert_eq!(target.authority(), "[::1]:80");
    }
}
