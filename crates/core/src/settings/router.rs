//! The setting `router` of a service.

use std::fmt;

use serde_json::Value;

use crate::settings::{SettingsError, mapping, unknown, wrong};

/// The router of a service: exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouterSettings {
    /// nginx.
    Nginx(NginxRouter),
    /// HAProxy.
    Haproxy(HaproxyRouter),
    /// Caddy.
    Caddy(CaddyRouter),
}

/// `nginx: { service, upstream, file, port }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NginxRouter {
    /// Service that runs nginx.
    pub service: String,
    /// Name of the `upstream` block.
    pub upstream: String,
    /// File in nginx's container that holds the block; looked for with `nginx -T` where it is not given.
    pub file: Option<String>,
    /// Only server lines with this port are the service's; all are where it is not given.
    pub port: Option<u16>,
}

/// `haproxy: { service, backend, socket, file, port }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaproxyRouter {
    /// Service that runs HAProxy.
    pub service: String,
    /// Name of the `backend` or `listen` section.
    pub backend: String,
    /// Its runtime API's socket inside its container; that of the configuration where it is not given.
    pub socket: Option<String>,
    /// File in its container that holds the section; looked for among those that it was started with where it is not given.
    pub file: Option<String>,
    /// Only servers with this port are the service's; all are where it is not given.
    pub port: Option<u16>,
}

/// `caddy: { service, admin, id, port }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaddyRouter {
    /// Service that runs Caddy.
    pub service: String,
    /// Address of its admin API inside its container, as its configuration says it; Caddy's own usual one where it is not given.
    pub admin: String,
    /// Only the upstreams of the handler with this `@id`.
    pub id: Option<String>,
    /// Only upstreams with this port are the service's; all are where it is not given.
    pub port: Option<u16>,
}

/// Where Caddy's admin API is unless its configuration says otherwise.
const CADDY_ADMIN: &str = "localhost:2019";

const KINDS: [&str; 3] = ["caddy", "haproxy", "nginx"];

impl RouterSettings {
    /// Reads the setting of a service; `services` are the names that exist.
    pub fn parse(place: &str, value: &Value, services: &[String]) -> Result<Self, SettingsError> {
        let kinds = mapping(place, value)?;
        let mut kinds = kinds.iter();
        let (Some((kind, value)), None) = (kinds.next(), kinds.next()) else {
            return Err(wrong(
                place,
                "does not name exactly one proxy",
                &format!("write one of: {}", KINDS.join(", ")),
            ));
        };
        let mut keys =
            Keys { place: format!("{place}.{kind}"), map: mapping(&format!("{place}.{kind}"), value)?.clone() };
        match kind.as_str() {
            "nginx" => {
                let router = NginxRouter {
                    service: keys.service(services)?,
                    upstream: keys.required("upstream", "the name of its upstream block")?,
                    file: keys.path("file")?,
                    port: keys.port("port")?,
                };
                keys.done(&["service", "upstream", "file", "port"])?;
                Ok(Self::Nginx(router))
            }
            "haproxy" => {
                let router = HaproxyRouter {
                    service: keys.service(services)?,
                    backend: keys.required("backend", "the name of its backend section")?,
                    socket: keys.path("socket")?,
                    file: keys.path("file")?,
                    port: keys.port("port")?,
                };
                keys.done(&["service", "backend", "socket", "file", "port"])?;
                Ok(Self::Haproxy(router))
            }
            "caddy" => {
                let router = CaddyRouter {
                    service: keys.service(services)?,
                    admin: keys.text("admin")?.unwrap_or_else(|| CADDY_ADMIN.to_owned()),
                    id: keys.text("id")?,
                    port: keys.port("port")?,
                };
                keys.done(&["service", "admin", "id", "port"])?;
                Ok(Self::Caddy(router))
            }
            _ => Err(unknown(place, "router", kind, KINDS)),
        }
    }

    /// What it is told when the service's containers are these, in words.
    pub fn sends(&self, containers: &[String]) -> Vec<String> {
        match self {
            Self::Nginx(nginx) => {
                let file = nginx.file.as_deref().unwrap_or("the file that holds it");
                let port = nginx.port.map_or_else(|| ":<as now>".to_owned(), |port| format!(":{port}"));
                let mut lines = vec![format!("in upstream {} of {file}:", nginx.upstream)];
                lines.extend(containers.iter().map(|name| format!("    server {name}{port} <parameters as now>;")));
                lines.push("nginx -t, nginx -s reload; confirmed by its new workers".to_owned());
                lines
            }
            Self::Caddy(caddy) => vec![
                format!(
                    "PATCH http://{}/config/…/upstreams, if they do not name {} already",
                    caddy.admin,
                    containers.join(", ")
                ),
                "GET of the same; confirmed by what it says".to_owned(),
            ],
            Self::Haproxy(haproxy) => {
                let backend = &haproxy.backend;
                let set = |name: &String| format!("set server {backend}/<of {name}> addr <of the new container>");
                let mut lines: Vec<String> = containers.iter().map(set).collect();
                lines.push("show servers state; confirmed by the addresses in it".to_owned());
                lines
            }
        }
    }

    /// The service that runs the proxy.
    pub fn service(&self) -> &str {
        match self {
            Self::Nginx(nginx) => &nginx.service,
            Self::Haproxy(haproxy) => &haproxy.service,
            Self::Caddy(caddy) => &caddy.service,
        }
    }
}

impl fmt::Display for RouterSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nginx(nginx) => write!(out, "nginx (service {}, upstream {})", nginx.service, nginx.upstream),
            Self::Haproxy(haproxy) => write!(out, "haproxy (service {}, backend {})", haproxy.service, haproxy.backend),
            Self::Caddy(caddy) => write!(out, "caddy (service {}, admin API at {})", caddy.service, caddy.admin),
        }
    }
}

/// The keys of one router; each is taken once.
struct Keys {
    place: String,
    map: serde_json::Map<String, Value>,
}

impl Keys {
    fn take(&mut self, key: &str) -> Option<(String, Value)> {
        self.map.shift_remove(key).map(|value| (format!("{}.{key}", self.place), value))
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, SettingsError> {
        let Some((place, value)) = self.take(key) else { return Ok(None) };
        match value.as_str() {
            Some(text) if !text.is_empty() => Ok(Some(text.to_owned())),
            _ => Err(wrong(&place, "is not a text", "write a name")),
        }
    }

    fn required(&mut self, key: &str, what: &str) -> Result<String, SettingsError> {
        let near = self.map.keys().find(|found| crate::settings::nearest::nearest(found, [key]).is_some()).cloned();
        match (self.text(key)?, near) {
            (Some(text), _) => Ok(text),
            (None, Some(near)) => Err(unknown(&self.place, "key", &near, [key])),
            (None, None) => Err(wrong(&self.place, &format!("`{key}` is missing"), &format!("add `{key}:`, {what}"))),
        }
    }

    fn service(&mut self, services: &[String]) -> Result<String, SettingsError> {
        let name = self.required("service", "the service that runs the proxy")?;
        if services.contains(&name) {
            return Ok(name);
        }
        let place = format!("{}.service", self.place);
        Err(unknown(&place, "service", &name, services.iter().map(String::as_str)))
    }

    fn path(&mut self, key: &str) -> Result<Option<String>, SettingsError> {
        let path = self.text(key)?;
        if path.as_ref().is_some_and(|path| !path.starts_with('/')) {
            let place = format!("{}.{key}", self.place);
            return Err(wrong(
                &place,
                "is not an absolute path",
                "write the path inside the proxy's container, from / on",
            ));
        }
        Ok(path)
    }

    fn port(&mut self, key: &str) -> Result<Option<u16>, SettingsError> {
        let Some((place, value)) = self.take(key) else { return Ok(None) };
        // A number with an exponent or a fraction is none either.
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match text.parse() {
            Ok(port) if port > 0 => Ok(Some(port)),
            _ => Err(wrong(&place, &format!("{value} is not a port"), "write a number from 1 to 65535")),
        }
    }

    fn done(self, known: &[&str]) -> Result<(), SettingsError> {
        match self.map.keys().next() {
            Some(key) => Err(unknown(&self.place, "key", key, known.iter().copied())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<RouterSettings, SettingsError> {
        RouterSettings::parse("router", &value, &["nginx".to_owned(), "php-fpm".to_owned()])
    }

    #[test]
    fn a_router_is_read_whole() {
        let router =
            json!({"nginx": {"service": "nginx", "upstream": "backend", "file": "/etc/nginx/u.conf", "port": 9000}});
        let Ok(RouterSettings::Nginx(nginx)) = parse(router) else { panic!("not nginx") };
        assert_eq!((nginx.service.as_str(), nginx.upstream.as_str()), ("nginx", "backend"));
        assert_eq!((nginx.file.as_deref(), nginx.port), (Some("/etc/nginx/u.conf"), Some(9000)));
    }

    #[track_caller]
    fn refused(value: Value, expected: &str, hint: &str) {
        let error = parse(value).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.hint.as_str()), (expected, hint));
    }

    #[test]
    fn what_is_mistyped_or_missing_is_named_with_the_way_out() {
        let one_of = "write one of: caddy, haproxy, nginx";
        refused(json!({}), "router: does not name exactly one proxy", one_of);
        refused(json!({"ngnix": {}}), "router: there is no router `ngnix`", "did you mean `nginx`?");
        let nginx = |keys: Value| json!({ "nginx": keys });
        refused(
            nginx(json!({"service": "ngins", "upstream": "b"})),
            "router.nginx.service: there is no service `ngins`",
            "did you mean `nginx`?",
        );
        refused(
            nginx(json!({"service": "nginx"})),
            "router.nginx: `upstream` is missing",
            "add `upstream:`, the name of its upstream block",
        );
        refused(
            nginx(json!({"service": "nginx", "upstraem": "b"})),
            "router.nginx: there is no key `upstraem`",
            "did you mean `upstream`?",
        );
        refused(
            nginx(json!({"service": "nginx", "upstream": "b", "fil": "/x"})),
            "router.nginx: there is no key `fil`",
            "did you mean `file`?",
        );
        refused(
            nginx(json!({"service": "nginx", "upstream": "b", "file": "x.conf"})),
            "router.nginx.file: is not an absolute path",
            "write the path inside the proxy's container, from / on",
        );
        refused(
            nginx(json!({"service": "nginx", "upstream": "b", "port": 70000})),
            "router.nginx.port: 70000 is not a port",
            "write a number from 1 to 65535",
        );
    }
}
