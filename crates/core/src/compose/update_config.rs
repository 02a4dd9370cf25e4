//! `deploy.update_config` and `deploy.rollback_config` of the Compose specification: how the containers of a service are
//! replaced, and how they are taken back.

use serde::Deserialize;

use crate::settings::go_duration_seconds;

/// How the containers of a service are replaced; the default is the Compose specification's own.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateConfig {
    /// Containers replaced side by side; `None` is all of them at once (`parallelism: 0`).
    pub parallelism: Option<usize>,
    /// Pause between one batch and the next, in seconds.
    pub delay: f64,
    /// How long a new container is watched for failure before the old one goes, in seconds.
    pub monitor: f64,
    /// `order`, if written.
    pub order: Option<Order>,
    /// What happens when a new container fails.
    pub failure_action: FailureAction,
    /// Share of the containers that may fail before `failure_action` counts.
    pub max_failure_ratio: f64,
}

/// Which of the two comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The old container is stopped before the new one starts: never two at once.
    StopFirst,
    /// The new container starts first.
    StartFirst,
}

/// What happens when a new container fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureAction {
    /// No further container is replaced.
    #[default]
    Pause,
    /// The others are replaced.
    Continue,
    /// No further container is replaced, and those that were go back to the old version.
    Rollback,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: Some(1),
            delay: 0.0,
            monitor: 0.0,
            order: None,
            failure_action: FailureAction::default(),
            max_failure_ratio: 0.0,
        }
    }
}

impl UpdateConfig {
    /// How many of `containers` are replaced side by side.
    pub fn batch(&self, containers: usize) -> usize {
        self.parallelism.unwrap_or(containers).clamp(1, containers.max(1))
    }

    /// Whether the others go on being replaced after `failed` of `all` have failed.
    pub fn goes_on(&self, failed: usize, all: usize) -> bool {
        let within = f64::from(u32::try_from(failed).unwrap_or(u32::MAX))
            <= self.max_failure_ratio * f64::from(u32::try_from(all).unwrap_or(u32::MAX));
        failed == 0 || within || self.failure_action == FailureAction::Continue
    }

    /// Whether those that were replaced go back to the old version when too many fail.
    pub fn rolls_back(&self) -> bool {
        self.failure_action == FailureAction::Rollback
    }
}

/// The mapping as Compose prints it.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct WireUpdateConfig {
    parallelism: Option<usize>,
    delay: Option<String>,
    monitor: Option<String>,
    order: Option<Order>,
    failure_action: Option<FailureAction>,
    max_failure_ratio: Option<f64>,
}

impl From<WireUpdateConfig> for UpdateConfig {
    fn from(wire: WireUpdateConfig) -> Self {
        let seconds = |text: Option<String>| text.as_deref().and_then(go_duration_seconds).unwrap_or_default();
        Self {
            parallelism: match wire.parallelism {
                Some(0) => None,
                parallelism => Some(parallelism.unwrap_or(1)),
            },
            delay: seconds(wire.delay),
            monitor: seconds(wire.monitor),
            order: wire.order,
            failure_action: wire.failure_action.unwrap_or_default(),
            max_failure_ratio: wire.max_failure_ratio.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> UpdateConfig {
        serde_json::from_str::<WireUpdateConfig>(json).unwrap().into()
    }

    #[test]
    fn what_is_not_written_is_as_the_specification_says() {
        assert_eq!(read("{}"), UpdateConfig::default());
    }

    #[test]
    fn batches_are_as_large_as_parallelism_says() {
        assert_eq!(read(r#"{"parallelism":2}"#).batch(5), 2);
        assert_eq!(read(r#"{"parallelism":0}"#).batch(5), 5);
        assert_eq!(read(r#"{"parallelism":9}"#).batch(5), 5);
        assert_eq!(read("{}").batch(5), 1);
    }

    #[test]
    fn failures_within_the_ratio_and_those_to_be_passed_over_stop_nothing() {
        let some = read(r#"{"max_failure_ratio":0.25,"failure_action":"rollback"}"#);
        assert!(some.goes_on(1, 4));
        assert!(!some.goes_on(2, 4));
        assert!(!read("{}").goes_on(1, 4));
        assert!(read(r#"{"failure_action":"continue"}"#).goes_on(4, 4));
    }
}
