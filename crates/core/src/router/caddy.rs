//! Caddy: the upstreams of its `reverse_proxy` handlers, in the JSON that its admin API shows and takes.
//!
//! Caddy resolves a name for each connection, so names are right at every instant; what changes is which names there are.

use serde_json::Value;

use super::lines::{Whose, host_and_port, whose};
use super::{Member, Names, RouterError};

/// The upstreams of one handler that sends to the service.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstreams {
    /// Path of the list below `/config` of the admin API.
    pub path: String,
    /// The list.
    pub list: Vec<Value>,
}

/// Whose upstreams are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Only in the handler with this `@id`.
    pub id: Option<&'a str>,
    /// Only upstreams with this port.
    pub port: Option<u16>,
    /// What the service's containers are called.
    pub names: &'a Names,
}

/// All handlers in a configuration that send to the service.
pub fn find(config: &Value, wanted: &Wanted<'_>, members: &[Member]) -> Result<Vec<Upstreams>, RouterError> {
    let mut all = Vec::new();
    collect(config, "", wanted.id.is_none(), wanted.id, &mut all);
    let dialled: Vec<&str> = all.iter().flat_map(|found| &found.list).filter_map(dial).collect();
    let hint = match dialled.as_slice() {
        [] => "it has no reverse_proxy with upstreams".to_owned(),
        dialled => format!("it sends to {}", dialled.join(", ")),
    };
    let ours = |found: &Upstreams| found.list.iter().any(|upstream| of(upstream, wanted, members).is_some());
    let found: Vec<Upstreams> = all.iter().filter(|found| ours(found)).cloned().collect();
    if found.is_empty() {
        let place = wanted.id.map(|id| format!(" with @id {id}")).unwrap_or_default();
        return Err(RouterError::new(format!("no reverse_proxy{place} sends to the service"), hint));
    }
    Ok(found)
}

/// The list with these containers. An upstream that names the whole service stays; otherwise there is one for each container.
pub fn rendered(list: &[Value], wanted: &Wanted<'_>, members: &[Member]) -> Vec<Value> {
    let whose_of = |upstream: &Value| of(upstream, wanted, members);
    if list.iter().any(|upstream| whose_of(upstream) == Some(Whose::All)) {
        return list.to_vec();
    }
    let mut new: Vec<Value> = Vec::new();
    let mut last = 0;
    let mut pattern = None;
    let has = |member: &Member| list.iter().any(|one| whose_of(one) == Some(Whose::One(member.name.clone())));
    let mut without = members.iter().filter(|member| !has(member));
    for upstream in list {
        let Some(whose) = whose_of(upstream) else {
            new.push(upstream.clone());
            continue;
        };
        pattern = pattern.or(Some(upstream));
        let member = members.iter().find(|member| whose == Whose::One(member.name.clone()));
        new.extend(member.or_else(|| without.next()).map(|member| to(upstream, member)));
        last = new.len();
    }
    if let Some(pattern) = pattern {
        let more: Vec<Value> = without.map(|member| to(pattern, member)).collect();
        new.splice(last..last, more);
    }
    new
}

fn collect(value: &Value, path: &str, inside: bool, id: Option<&str>, found: &mut Vec<Upstreams>) {
    match value {
        Value::Object(map) => {
            let inside = inside || map.get("@id").and_then(Value::as_str).is_some_and(|own| Some(own) == id);
            if let Some(Value::Array(list)) = map.get("upstreams").filter(|_| inside) {
                found.push(Upstreams { path: format!("{path}/upstreams"), list: list.clone() });
            }
            map.iter().for_each(|(key, value)| collect(value, &format!("{path}/{}", escaped(key)), inside, id, found));
        }
        Value::Array(list) => {
            let each = list.iter().enumerate();
            each.for_each(|(at, value)| collect(value, &format!("{path}/{at}"), inside, id, found));
        }
        _ => {}
    }
}

fn escaped(key: &str) -> String {
    key.replace('%', "%25").replace('/', "%2F").replace(' ', "%20").replace('?', "%3F").replace('#', "%23")
}

fn dial(upstream: &Value) -> Option<&str> {
    upstream.get("dial")?.as_str()
}

/// Host and port of an upstream over TCP.
fn place(upstream: &Value) -> Option<(&str, Option<&str>)> {
    let dial = dial(upstream)?;
    let address = dial.strip_prefix("tcp/").unwrap_or(dial);
    if address.contains('/') { None } else { host_and_port(address) }
}

fn of(upstream: &Value, wanted: &Wanted<'_>, members: &[Member]) -> Option<Whose> {
    let (host, port) = place(upstream)?;
    if wanted.port.is_some_and(|wanted| port != Some(&wanted.to_string())) {
        return None;
    }
    whose(host, None, wanted.names, members)
}

fn to(upstream: &Value, member: &Member) -> Value {
    let mut new = upstream.clone();
    let port = place(upstream).and_then(|(_, port)| port).map(|port| format!(":{port}")).unwrap_or_default();
    if dial(upstream).is_some() {
        new["dial"] = Value::String(format!("{}{port}", member.name));
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names() -> Names {
        let of_one = ["shop-app-1", "shop-app-2"].map(str::to_owned).into();
        Names { of_all: vec!["app".into()], of_one, at: [([172, 18, 0, 3].into(), "shop-app-1".to_owned())].into() }
    }

    fn member(number: u8) -> Member {
        Member { name: format!("shop-app-{number}"), address: [172, 18, 0, 10 + number].into() }
    }

    fn config(dials: &[&str]) -> Value {
        let upstreams: Vec<Value> = dials.iter().map(|dial| json!({"dial": dial, "max_requests": 9})).collect();
        let proxy = json!({"@id": "shop", "handler": "reverse_proxy", "upstreams": upstreams});
        let other = json!({"handler": "reverse_proxy", "upstreams": [{"dial": "legacy:80"}]});
        let routes = json!([{"handle": [{"handler": "subroute", "routes": [{"handle": [other, proxy]}]}]}]);
        json!({"apps": {"http": {"servers": {"srv0": {"routes": routes}}}}})
    }

    #[track_caller]
    fn check(dials: &[&str], members: &[Member], expected: &[&str]) {
        let (config, names) = (config(dials), names());
        let wanted = Wanted { id: None, port: None, names: &names };
        let found = find(&config, &wanted, members).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "/apps/http/servers/srv0/routes/0/handle/0/routes/0/handle/1/upstreams");
        let list = rendered(&found[0].list, &wanted, members);
        assert_eq!(list.iter().filter_map(dial).collect::<Vec<_>>(), expected);
        assert!(list.iter().all(|one| one["max_requests"] == 9), "{list:?}");
    }

    #[test]
    fn what_names_the_service_stays_and_otherwise_each_container_has_its_own() {
        check(&["app:80"], &[member(1), member(2)], &["app:80"]);
        check(&["shop-app-1:80"], &[member(1)], &["shop-app-1:80"]);
        check(&["shop-app-1:80", "cdn:80"], &[member(1), member(2)], &["shop-app-1:80", "shop-app-2:80", "cdn:80"]);
        check(&["shop-app-1:80", "shop-app-2:80"], &[member(1)], &["shop-app-1:80"]);
        check(&["172.18.0.3:80"], &[member(1)], &["shop-app-1:80"]);
        check(&["tcp/app:80", "unix//run/app"], &[member(1)], &["tcp/app:80", "unix//run/app"]);
    }

    #[test]
    fn a_handler_can_be_chosen_by_its_id() {
        let (config, names) = (config(&["app:80"]), names());
        let wanted = |id| Wanted { id: Some(id), port: None, names: &names };
        assert_eq!(find(&config, &wanted("shop"), &[]).unwrap().len(), 1);
        let error = find(&config, &wanted("shops"), &[]).unwrap_err();
        assert_eq!(error.what, "no reverse_proxy with @id shops sends to the service");
    }

    #[test]
    fn a_configuration_without_the_service_says_where_it_sends_to() {
        let (config, names) = (config(&["api:80"]), names());
        let error = find(&config, &Wanted { id: None, port: None, names: &names }, &[]).unwrap_err();
        assert_eq!(error.hint, "it sends to legacy:80, api:80");
    }
}
