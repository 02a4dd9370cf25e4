//! The settings under the top-level key `x-handover` of a Compose file.
//!
//! Service-level `x-*` keys do not survive `docker compose config`, top-level ones do; so all settings stand in one block.

pub mod nearest;
mod router;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::settings::nearest::nearest;
pub use router::{CaddyRouter, HaproxyRouter, NginxRouter, RouterSettings};

/// All settings of a project; the default is what a project without a block gets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// How long connections under way may last after traffic has moved, in seconds.
    pub drain_seconds: Option<f64>,
    /// How long a gate may wait, in seconds.
    pub gate_seconds: Option<f64>,
    /// Settings of single services.
    pub services: BTreeMap<String, ServiceSettings>,
}

/// Settings of one service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceSettings {
    /// Strategy that the user asks for.
    pub strategy: Option<Strategy>,
    /// What may be done with its mounts: one word for all, or one a volume key or path.
    pub volumes: Volumes,
    /// Services that this one passes requests to, where `depends_on` does not say it.
    pub fronts: Vec<String>,
    /// The proxy of the user's own that is told where its containers are.
    pub router: Option<RouterSettings>,
}

/// A strategy that can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// A second copy takes over while Compose recreates the real one.
    StandIn,
    /// Compose recreates it through us: the new container starts first, and the kernel leads the traffic.
    Rolling,
    /// Compose recreates it; its restart is an interruption.
    InPlace,
}

/// The user's word on the mounts of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Volumes {
    /// No word.
    #[default]
    Undeclared,
    /// One word for all mounts.
    All(VolumeUse),
    /// A word for each volume (by key) or path (in the container).
    Each(BTreeMap<String, VolumeUse>),
}

/// What may be done with a mount while two copies of a service run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeUse {
    /// Two copies may use it for some seconds.
    Share,
    /// Never two at once: the service is restarted in place.
    Own,
    /// It is made anew from the image at each deploy (code carriers); only for anonymous volumes.
    Renew,
}

impl Volumes {
    /// The word on a mount, by volume key first, then by path.
    pub fn word_on(&self, source: Option<&str>, target: &str) -> Option<VolumeUse> {
        match self {
            Self::Undeclared => None,
            Self::All(word) => Some(*word),
            Self::Each(words) => source.and_then(|source| words.get(source)).or_else(|| words.get(target)).copied(),
        }
    }
}

/// What is wrong with the settings, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct SettingsError {
    /// Path of the key, from `x-handover` down.
    pub place: String,
    /// What is wrong there.
    pub problem: String,
    /// What would be right.
    pub hint: String,
}

impl Settings {
    /// Reads the block; `services` are the names that exist.
    pub fn parse(block: Option<&Value>, services: &[String]) -> Result<Self, SettingsError> {
        let Some(block) = block else {
            return Ok(Self::default());
        };
        let map = mapping("x-handover", block)?;
        let mut settings = Self::default();
        for (key, value) in map {
            let place = format!("x-handover.{key}");
            match key.as_str() {
                "drain" => settings.drain_seconds = Some(duration(&place, value)?),
                "gate" => settings.gate_seconds = Some(duration(&place, value)?),
                "services" => {
                    for (name, value) in mapping(&place, value)? {
                        let place = format!("{place}.{name}");
                        if !services.contains(name) {
                            return Err(unknown(&place, "service", name, services.iter().map(String::as_str)));
                        }
                        settings.services.insert(name.clone(), ServiceSettings::parse(&place, value, services)?);
                    }
                }
                _ => return Err(unknown(&place, "key", key, ["drain", "gate", "services"])),
            }
        }
        Ok(settings)
    }

    /// Services whose router is this one.
    pub fn routed_by<'a>(&'a self, router: &'a str) -> impl Iterator<Item = &'a str> {
        let routed =
            move |settings: &ServiceSettings| settings.router.as_ref().map(RouterSettings::service) == Some(router);
        self.services.iter().filter(move |(_, settings)| routed(settings)).map(|(name, _)| name.as_str())
    }

    /// The settings of a service; the default where there are none.
    pub fn service(&self, name: &str) -> ServiceSettings {
        self.services.get(name).cloned().unwrap_or_default()
    }
}

impl ServiceSettings {
    fn parse(place: &str, value: &Value, services: &[String]) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        for (key, value) in mapping(place, value)? {
            let place = format!("{place}.{key}");
            match key.as_str() {
                "strategy" => settings.strategy = Some(word(&place, value, &["stand-in", "rolling", "in-place"])?),
                "volumes" => settings.volumes = volumes(&place, value)?,
                "fronts" => {
                    let names =
                        value.as_array().ok_or_else(|| wrong(&place, "is not a list", "write a list of services"))?;
                    for name in names {
                        let name = name.as_str().unwrap_or_default();
                        if !services.iter().any(|service| service == name) {
                            return Err(unknown(&place, "service", name, services.iter().map(String::as_str)));
                        }
                        settings.fronts.push(name.to_owned());
                    }
                }
                "router" => settings.router = Some(RouterSettings::parse(&place, value, services)?),
                _ => {
                    return Err(unknown(&place, "key", key, ["strategy", "volumes", "fronts", "router"]));
                }
            }
        }
        if settings.router.is_some() && !matches!(settings.strategy, None | Some(Strategy::Rolling)) {
            let place = format!("{place}.router");
            return Err(wrong(&place, "is for a service that is rolled", "leave one of `strategy` and `router` out"));
        }
        Ok(settings)
    }

    /// Whether the user says that it is rolled, by strategy or by a router.
    pub fn says_rolling(&self) -> bool {
        self.strategy == Some(Strategy::Rolling) || self.router.is_some()
    }
}

const VOLUME_WORDS: [&str; 3] = ["share", "own", "renew"];

fn volumes(place: &str, value: &Value) -> Result<Volumes, SettingsError> {
    if let Value::Object(map) = value {
        let mut words = BTreeMap::new();
        for (key, value) in map {
            words.insert(key.clone(), word(&format!("{place}.{key}"), value, &VOLUME_WORDS)?);
        }
        return Ok(Volumes::Each(words));
    }
    Ok(Volumes::All(word(place, value, &VOLUME_WORDS)?))
}

fn word<T: for<'a> Deserialize<'a>>(place: &str, value: &Value, words: &[&str]) -> Result<T, SettingsError> {
    let text = value.as_str().unwrap_or_default();
    serde_json::from_value(value.clone()).map_err(|_| unknown(place, "word", text, words.iter().copied()))
}

pub(crate) fn mapping<'a>(place: &str, value: &'a Value) -> Result<&'a serde_json::Map<String, Value>, SettingsError> {
    value.as_object().ok_or_else(|| wrong(place, "is not a mapping", "write `key: value` lines below it"))
}

fn duration(place: &str, value: &Value) -> Result<f64, SettingsError> {
    value
        .as_str()
        .and_then(go_duration_seconds)
        .ok_or_else(|| wrong(place, &format!("{value} is not a duration"), "write it like 30s, 1m30s or 500ms"))
}

pub(crate) fn wrong(place: &str, problem: &str, hint: &str) -> SettingsError {
    SettingsError { place: place.to_owned(), problem: problem.to_owned(), hint: hint.to_owned() }
}

pub(crate) fn unknown<'a>(
    place: &str,
    kind: &str,
    found: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> SettingsError {
    let known: Vec<&str> = known.into_iter().collect();
    let hint = match nearest(found, known.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("known here: {}", known.join(", ")),
    };
    wrong(place, &format!("there is no {kind} `{found}`"), &hint)
}

/// Seconds of a duration as Go and Compose write it (`1m30s`, `500ms`, `1.5h`, `0`); `None` if it is not one.
pub fn go_duration_seconds(text: &str) -> Option<f64> {
    if text == "0" {
        return Some(0.0);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..number_end].parse().ok()?;
        rest = &rest[number_end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number * unit;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(block: Value) -> Result<Settings, SettingsError> {
        Settings::parse(Some(&block), &["web".to_owned(), "applications".to_owned()])
    }

    #[test]
    fn a_block_is_read_whole() {
        let settings = parse(json!({
            "drain": "30s",
            "services": {
                "applications": {"volumes": "renew"},
                "web": {"strategy": "in-place", "volumes": {"data": "share", "/tmp/x": "own"}, "fronts": ["applications"]},
            }
        }))
        .unwrap();
        assert_eq!(settings.drain_seconds, Some(30.0));
        assert_eq!(settings.service("applications").volumes.word_on(None, "/any"), Some(VolumeUse::Renew));
        let web = settings.service("web");
        assert_eq!(web.strategy, Some(Strategy::InPlace));
        assert_eq!(web.volumes.word_on(Some("data"), "/x"), Some(VolumeUse::Share));
        assert_eq!(web.volumes.word_on(None, "/tmp/x"), Some(VolumeUse::Own));
        assert_eq!(web.volumes.word_on(Some("other"), "/y"), None);
    }

    #[test]
    fn mistyped_names_are_answered_with_the_nearest_right_one() {
        let error = parse(json!({"drian": "1s"})).unwrap_err();
        assert_eq!(error.hint, "did you mean `drain`?");
        let error = parse(json!({"services": {"application": {}}})).unwrap_err();
        assert_eq!(error.to_string(), "x-handover.services.application: there is no service `application`");
        assert_eq!(error.hint, "did you mean `applications`?");
        let error = parse(json!({"services": {"web": {"volumes": "shared"}}})).unwrap_err();
        assert_eq!(error.hint, "did you mean `share`?");
    }

    #[test]
    fn a_router_belongs_to_a_service_that_is_rolled() {
        let router = json!({"nginx": {"service": "web", "upstream": "backend"}});
        let settings = parse(json!({"services": {"applications": {"router": router}}})).unwrap();
        assert!(settings.service("applications").says_rolling());
        let error =
            parse(json!({"services": {"applications": {"strategy": "in-place", "router": router}}})).unwrap_err();
        assert_eq!(error.to_string(), "x-handover.services.applications.router: is for a service that is rolled");
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, seconds) in
            [("30s", 30.0), ("1m30s", 90.0), ("500ms", 0.5), ("1.5h", 5400.0), ("0", 0.0), (".5s", 0.5)]
        {
            assert_eq!(go_duration_seconds(text), Some(seconds), "{text}");
        }
        for text in ["", "30", "s", "1x", "-1s"] {
            assert_eq!(go_duration_seconds(text), None, "{text}");
        }
    }
}
