//! What Compose says to the engine while it recreates a container, and which running container a call means.
//!
//! **Measured** with Compose 2.26.1 and 2.40.3, for all replicas side by side: create `<first 12 of the old id>_<final name>`,
//! stop the old one by its full id, remove it, rename the new one (2.26 by its id, 2.40 by its temporary name), and, when all are through, start those that do not run yet.
//! From source: Compose 5 removes with force, so a remove can be the first that an old container hears of it. Before it starts what
//! does not run, Compose lists the project's containers once more.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::compose::project::Project;
use crate::observation::Container;

/// Fewest digits of an id that are taken for one. The engine prints that many, and nobody names a container so.
const SHORT_ID: usize = 12;

/// Digits of the old container's id before the final name, in the temporary names that Compose gives while it recreates.
const PREFIX: usize = 12;

/// The final name and the beginning of the old container's id in a temporary name (`<first 12 of the old id>_<final name>`).
pub fn temporary_name(name: &str) -> Option<(&str, &str)> {
    let (prefix, final_name) = name.split_once('_')?;
    let is_id = prefix.len() == PREFIX && prefix.chars().all(|digit| matches!(digit, '0'..='9' | 'a'..='f'));
    (is_id && !final_name.is_empty()).then_some((prefix, final_name))
}

/// Whether a container has the temporary name of one that replaces another, or is kept aside. A name of its own may look like that:
/// a project may be called by a commit, and names may be joined by `_`.
pub fn is_half_replaced(project: &Project, container: &Container) -> bool {
    let own = |separator: char| {
        format!("{}{separator}{}{separator}{}", container.project, container.service, container.number)
    };
    let chosen = project.services.get(&container.service).and_then(|service| service.container_name.as_ref());
    let has_own_name = ['-', '_'].map(own).contains(&container.name) || chosen == Some(&container.name);
    !has_own_name && temporary_name(&container.name).is_some()
}

/// The name that a container has while it is kept until it is known whether it is needed again: as Compose names the one that
/// replaces another, but after the one that has replaced it. So what is left of a run that ended is a half-replaced pair, too, and
/// [`mend`] says the same of it: while the new one runs, the kept one is removed.
pub fn name_aside(replaced_by: &str, final_name: &str) -> String {
    format!("{}_{final_name}", replaced_by.get(..PREFIX).unwrap_or(replaced_by))
}

/// A call that matters to a deploy. Containers are as the call names them: by id, by the beginning of an id, or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireCall {
    /// A container is made.
    Create {
        /// The name asked for.
        name: String,
    },
    /// A container is started.
    Start {
        /// Which.
        container: String,
    },
    /// A container is stopped, killed or removed.
    End {
        /// How.
        ending: Ending,
        /// Which.
        container: String,
    },
    /// A container gets another name.
    Rename {
        /// Which.
        container: String,
        /// The new name.
        name: String,
    },
    /// Containers are listed.
    List,
}

/// How a call ends a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its own signal, and SIGKILL after the grace period.
    Stop,
    /// A signal, which may well not be SIGKILL.
    Kill,
    /// Gone, with force even while it runs.
    Remove,
}

/// What Compose wants of a container whose call waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// One of the user's is to end.
    End(Ending),
    /// One that was made under way is to start.
    Start,
    /// One that was made under way is to get another name.
    Rename,
}

/// The call that a request is, where it matters. `path` is as in the request line without the query, with or without `/v1.NN`;
/// `query` without its question mark.
pub fn recognise(method: &str, path: &str, query: Option<&str>) -> Option<WireCall> {
    let mut segments: Vec<String> = path.split('/').filter(|segment| !segment.is_empty()).map(decoded).collect();
    if segments.first().is_some_and(|first| is_version(first)) {
        segments.remove(0);
    }
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let end = |ending, container: &str| Some(WireCall::End { ending, container: unrooted(container) });
    match (method, segments.as_slice()) {
        ("GET", ["containers", "json"]) => Some(WireCall::List),
        ("POST", ["containers", "create"]) => Some(WireCall::Create { name: parameter(query?, "name")? }),
        ("POST", ["containers", container, "start"]) => Some(WireCall::Start { container: unrooted(container) }),
        ("POST", ["containers", container, "stop"]) => end(Ending::Stop, container),
        ("POST", ["containers", container, "kill"]) => end(Ending::Kill, container),
        ("DELETE", ["containers", container]) => end(Ending::Remove, container),
        ("POST", ["containers", container, "rename"]) => {
            Some(WireCall::Rename { container: unrooted(container), name: parameter(query?, "name")? })
        }
        _ => None,
    }
}

fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|number| {
        number.starts_with(|first: char| first.is_ascii_digit())
            && number.chars().all(|digit| digit.is_ascii_digit() || digit == '.')
    })
}

/// The engine takes `/name` for `name`.
fn unrooted(name: &str) -> String {
    name.trim_start_matches('/').to_owned()
}

/// A parameter of a query that is there and not empty; of several the first, as the engine reads it.
fn parameter(query: &str, key: &str) -> Option<String> {
    let (_, value) = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(found, _)| decoded(&found.replace('+', " ")) == key)?;
    let value = unrooted(&decoded(&value.replace('+', " ")));
    (!value.is_empty()).then_some(value)
}

/// Text without its percent-encoding. What is not well encoded stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = match rest {
            [b'%', high, low, ..] => hex(*high).zip(hex(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// The containers that a deploy knows by name: those that it *holds*, which nobody ends without its word, and those that
/// Compose has made under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Containers {
    /// Names by id.
    names: BTreeMap<String, String>,
    /// Ids.
    held: BTreeSet<String>,
    /// Ids of those that are there, and that Compose takes for removed.
    hidden: BTreeSet<String>,
}

impl Containers {
    /// Holds running containers, by their full id, with the name that each has now.
    pub fn holding(names: impl IntoIterator<Item = (String, String)>) -> Self {
        let names: BTreeMap<String, String> = names.into_iter().map(|(id, name)| (id, unrooted(&name))).collect();
        Self { held: names.keys().cloned().collect(), names, hidden: BTreeSet::new() }
    }

    /// Full id of the container that a call means: by its id, its name, or the beginning of its id (12 digits and more) where
    /// no other begins so. The engine looks in this order, too. `None` for one that is not known here.
    ///
    /// **Measured**: Compose 2.26.1 renames a new container by its id, 2.40.3 by its temporary name.
    pub fn id(&self, container: &str) -> Option<&str> {
        if let Some((id, _)) = self.names.get_key_value(container) {
            return Some(id);
        }
        if let Some((id, _)) = self.names.iter().find(|(_, name)| *name == container) {
            return Some(id);
        }
        if container.len() < SHORT_ID {
            return None;
        }
        let mut begin_so = self.names.keys().filter(|id| id.starts_with(container));
        begin_so.next().filter(|_| begin_so.next().is_none()).map(String::as_str)
    }

    /// Full id of the held container that a call means.
    pub fn held(&self, container: &str) -> Option<&str> {
        self.id(container).filter(|id| self.held.contains(*id))
    }

    /// Full id of the container that a call means and that was made under way.
    pub fn made_here(&self, container: &str) -> Option<&str> {
        self.id(container).filter(|id| !self.held.contains(*id))
    }

    /// Full id of the held container that Compose means to replace by one that it makes under this name: its temporary names
    /// are `<first 12 of the old id>_<final name>`.
    pub fn replaced_by(&self, name: &str) -> Option<&str> {
        let (short, _) = name.split_once('_')?;
        if short.len() == SHORT_ID { self.held(short) } else { None }
    }

    /// A container is there from now on. It is not held.
    pub fn made(&mut self, id: &str, name: &str) {
        self.names.insert(id.to_owned(), unrooted(name));
    }

    /// A container has another name from now on. Says nothing of one that is not known here.
    pub fn renamed(&mut self, id: &str, name: &str) {
        if let Some(known) = self.names.get_mut(id) {
            *known = unrooted(name);
        }
    }

    /// A container is gone, and its name may be another's from now on. May be repeated.
    pub fn removed(&mut self, id: &str) {
        self.names.remove(id);
        self.held.remove(id);
    }

    /// A container is as good as gone: it stays, and is no longer told of. May be repeated.
    pub fn hide(&mut self, id: &str) {
        self.removed(id);
        self.hidden.insert(id.to_owned());
    }

    /// Whether any container is hidden.
    pub fn hide_any(&self) -> bool {
        !self.hidden.is_empty()
    }

    /// Whether a call means a hidden container, by its id or the beginning of it.
    pub fn is_hidden(&self, container: &str) -> bool {
        container.len() >= SHORT_ID && self.hidden.iter().any(|id| id.starts_with(container))
    }

    /// The engine's list of containers without those that are hidden; `None` if it is no such list.
    pub fn without_hidden(&self, list: &[u8]) -> Option<Vec<u8>> {
        let mut entries: Vec<Value> = serde_json::from_slice(list).ok()?;
        let hidden = |entry: &Value| entry.get("Id").and_then(Value::as_str).is_some_and(|id| self.hidden.contains(id));
        entries.retain(|entry| !hidden(entry));
        serde_json::to_vec(&entries).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const TWIN: &str = "0123456789ab000000000000000000000000000000000000000000000000ffff";
    const OTHER: &str = "fedcba98765400000000000000000000000000000000000000000000000000aa";
    const NEW: &str = "aaaaaaaaaaaa00000000000000000000000000000000000000000000000000bb";

    fn held() -> Containers {
        Containers::holding([(OLD.to_owned(), "/shop-web-1".to_owned()), (OTHER.to_owned(), "shop-web-2".to_owned())])
    }

    fn end(ending: Ending, container: &str) -> Option<WireCall> {
        Some(WireCall::End { ending, container: container.to_owned() })
    }

    #[test]
    fn the_calls_of_a_recreation_are_recognised_with_and_without_a_version() {
        for version in ["", "/v1.41", "/v1.51", "/v2"] {
            let call = |method, path: &str, query| recognise(method, &format!("{version}{path}"), query);
            assert_eq!(
                call("POST", "/containers/create", Some("name=0123456789ab_shop-web-1&platform=")),
                Some(WireCall::Create { name: "0123456789ab_shop-web-1".into() })
            );
            assert_eq!(call("POST", "/containers/web/stop", None), end(Ending::Stop, "web"));
            assert_eq!(call("POST", "/containers/web/stop", Some("t=3")), end(Ending::Stop, "web"));
            assert_eq!(call("POST", "/containers/web/kill", Some("signal=KILL")), end(Ending::Kill, "web"));
            assert_eq!(call("DELETE", "/containers/web", Some("force=1&v=1")), end(Ending::Remove, "web"));
            assert_eq!(
                call("POST", "/containers/web/rename", Some("name=shop-web-1")),
                Some(WireCall::Rename { container: "web".into(), name: "shop-web-1".into() })
            );
            assert_eq!(call("POST", "/containers/web/start", None), Some(WireCall::Start { container: "web".into() }));
        }
    }

    #[test]
    fn a_list_of_containers_is_recognised_and_no_other_list() {
        assert_eq!(recognise("GET", "/v1.51/containers/json", Some("all=1")), Some(WireCall::List));
        assert_eq!(recognise("GET", "/v1.51/images/json", None), None);
    }

    #[test]
    fn everything_else_passes_unseen() {
        for (method, path) in [
            ("GET", "/_ping"),
            ("HEAD", "/_ping"),
            ("GET", "/v1.51/containers/web/json"),
            ("POST", "/v1.51/containers/web/wait"),
            ("POST", "/v1.51/containers/web/attach"),
            ("POST", "/v1.51/containers/prune"),
            ("GET", "/v1.51/containers/web/stop"),
            ("DELETE", "/v1.51/containers"),
            ("DELETE", "/v1.51/networks/web"),
            ("POST", "/v1.51/networks/web/connect"),
            ("POST", "/v1.51/images/create"),
            ("POST", "/volumes/web/stop"),
            ("POST", "/v/containers/web/stop"),
            ("POST", "/"),
            ("POST", ""),
        ] {
            assert_eq!(recognise(method, path, Some("name=web")), None, "{method} {path}");
        }
    }

    #[test]
    fn a_container_without_a_name_is_nobody_that_a_deploy_waits_for() {
        assert_eq!(recognise("POST", "/containers/create", None), None);
        assert_eq!(recognise("POST", "/containers/create", Some("name=")), None);
        assert_eq!(recognise("POST", "/containers/create", Some("platform=linux")), None);
    }

    #[test]
    fn encoded_names_and_odd_slashes_hide_nothing() {
        assert_eq!(recognise("POST", "//v1.51//containers/shop%2Dweb-1/stop/", None), end(Ending::Stop, "shop-web-1"));
        assert_eq!(recognise("DELETE", "/containers/%2fshop-web-1", None), end(Ending::Remove, "shop-web-1"));
        assert_eq!(recognise("DELETE", "/containers/50%", None), end(Ending::Remove, "50%"));
        assert_eq!(recognise("DELETE", "/containers/%zz%4", None), end(Ending::Remove, "%zz%4"));
        assert_eq!(
            recognise("POST", "/containers/create", Some("platform=a%26b&n%61me=a%5Fb")),
            Some(WireCall::Create { name: "a_b".into() })
        );
    }

    #[test]
    fn a_held_container_is_meant_by_id_by_name_and_by_the_beginning_of_its_id() {
        let held = held();
        for container in [OLD, "shop-web-1", &OLD[..12], &OLD[..40]] {
            assert_eq!(held.held(container), Some(OLD), "{container}");
        }
        for container in ["", "shop-web", "shop-web-3", &OLD[..11], "0123456789ac", "shop-web-11"] {
            assert_eq!(held.held(container), None, "{container}");
        }
    }

    #[test]
    fn a_beginning_that_two_held_ids_share_means_neither() {
        let held = Containers::holding([(OLD.to_owned(), "a".to_owned()), (TWIN.to_owned(), "b".to_owned())]);
        assert_eq!(held.held(&OLD[..12]), None);
        assert_eq!(held.held(&OLD[..13]), Some(OLD));
    }

    #[test]
    fn a_temporary_name_tells_whom_the_new_container_replaces() {
        let held = held();
        assert_eq!(held.replaced_by("0123456789ab_shop-web-1"), Some(OLD));
        assert_eq!(held.replaced_by("fedcba987654_shop_web_2"), Some(OTHER));
        for name in ["shop-web-1", "shop_web_1", "0123456789ac_shop-web-1", "0123456789ab"] {
            assert_eq!(held.replaced_by(name), None, "{name}");
        }
    }

    #[test]
    fn a_new_container_is_known_by_its_temporary_name_and_is_not_held() {
        let mut containers = held();
        containers.made(NEW, "0123456789ab_shop-web-1");
        for container in [NEW, "0123456789ab_shop-web-1", &NEW[..12]] {
            assert_eq!((containers.id(container), containers.held(container)), (Some(NEW), None), "{container}");
        }
        assert_eq!(containers.replaced_by("aaaaaaaaaaaa_shop-web-1"), None);
    }

    #[test]
    fn once_the_old_one_is_gone_its_name_means_the_new_one() {
        let mut containers = held();
        containers.made(NEW, "0123456789ab_shop-web-1");
        assert_eq!(containers.held("shop-web-1"), Some(OLD));
        containers.removed(OLD);
        containers.removed(OLD);
        containers.renamed(NEW, "/shop-web-1");
        assert_eq!((containers.held("shop-web-1"), containers.held(OLD)), (None, None));
        assert_eq!((containers.id("shop-web-1"), containers.id(OLD)), (Some(NEW), None));
        containers.renamed(OLD, "shop-web-1");
        assert_eq!(containers.id("shop-web-1"), Some(NEW));
    }

    #[test]
    fn a_hidden_container_is_not_listed_and_neither_held_nor_known() {
        let mut containers = held();
        let list = format!(r#"[{{"Id":"{OTHER}","Size":1.50}},{{"Id":"{OLD}","State":"exited"}}]"#);
        assert!(!containers.hide_any());
        containers.hide(OLD);
        containers.made(NEW, "shop-web-1");
        let left = format!(r#"[{{"Id":"{OTHER}","Size":1.50}}]"#);
        assert_eq!(containers.without_hidden(list.as_bytes()), Some(left.into_bytes()));
        assert_eq!(containers.without_hidden(b"no list"), None);
        assert_eq!((containers.held(OLD), containers.id("shop-web-1")), (None, Some(NEW)));
        assert!(containers.hide_any() && containers.is_hidden(OLD) && containers.is_hidden(&OLD[..12]));
        assert!(!containers.is_hidden("shop-web-1") && !containers.is_hidden(OTHER) && !containers.is_hidden(""));
        assert_eq!((containers.made_here(NEW), containers.made_here(OTHER)), (Some(NEW), None));
    }

    #[test]
    fn a_held_container_is_held_under_its_new_name() {
        let mut containers = held();
        containers.renamed(OLD, "/aside");
        assert_eq!((containers.held("shop-web-1"), containers.held("aside")), (None, Some(OLD)));
    }

    #[test]
    fn one_that_is_kept_is_named_after_the_one_that_has_replaced_it() {
        let aside = name_aside("aaaaaaaaaaaa00000000", "shop-web-1");
        assert_eq!(aside, "aaaaaaaaaaaa_shop-web-1");
        assert_eq!(temporary_name(&aside), Some(("aaaaaaaaaaaa", "shop-web-1")));
    }

    #[test]
    fn a_name_of_its_own_that_looks_like_a_temporary_one_is_none() {
        let config = r#"{"name":"deadbeefcafe","services":{"web":{"image":"i"},"db":{"image":"i","container_name":"0123456789ab_db"}}}"#;
        let project = Project::parse(config, "", '_').expect("a project");
        let container = |service: &str, name: &str| Container {
            project: "deadbeefcafe".to_owned(),
            service: service.to_owned(),
            number: 1,
            name: name.to_owned(),
            ..Container::default()
        };
        assert!(!is_half_replaced(&project, &container("web", "deadbeefcafe_web_1")));
        assert!(!is_half_replaced(&project, &container("db", "0123456789ab_db")));
        assert!(is_half_replaced(&project, &container("web", "0123456789ab_deadbeefcafe_web_1")));
    }

    #[test]
    fn temporary_names_are_those_of_compose() {
        assert_eq!(temporary_name("0123456789ab_shop_web_1"), Some(("0123456789ab", "shop_web_1")));
        assert_eq!(temporary_name("shop_web_1"), None);
        assert_eq!(temporary_name("0123456789ab_"), None);
        assert_eq!(temporary_name("projectxyzab_web"), None);
    }
}
