//! Failures as the user sees them: what, where, why, and a hint that leads out. And the exit codes.

use std::fmt;

use handover_core::plan::{Refusal, RefusalKind};

/// Exit codes; they are documented in the README and never change their meaning. 2 is clap's, for a wrong
/// command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// The new version did not pass its gate or failed while it was watched; the old one serves on.
    DeployFailed = 1,
    /// There is no project, Compose refuses it, or it does not have what was asked for.
    Project = 3,
    /// Docker, Compose or the engine is missing, too old or out of reach.
    Engine = 4,
    /// An image could not be pulled or built, or cannot run here.
    Image = 5,
    /// Refused before anything moved: the user must say something first.
    Consent = 6,
    /// Refused before anything moved: something on the host is in the way or not possible.
    Host = 7,
    /// Another deploy of the project holds the lock.
    Locked = 8,
    /// Stopped half-way; traffic flows through the stand-in, and the next `handover up` finishes.
    Unfinished = 9,
    /// Interrupted by the user before traffic moved; the old version serves on.
    Interrupted = 130,
}

/// One failure.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What happened, to what.
    pub(crate) what: String,
    /// Why, in the words of whoever knows: Compose, the engine, the kernel.
    pub(crate) why: Option<String>,
    /// What leads out.
    pub(crate) hint: Option<String>,
    /// Log lines that tell more, with the container that they come from.
    pub(crate) logs: Option<(String, Vec<String>)>,
}

/// What happened, with the reason, for the middle of a sentence.
impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Some(why) => write!(formatter, "{} ({why})", self.what),
            None => formatter.write_str(&self.what),
        }
    }
}

/// Result of everything that can fail.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), why: None, hint: None, logs: None }
    }

    pub(crate) fn because(mut self, why: impl fmt::Display) -> Self {
        self.why = Some(why.to_string());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// All refusals of a plan as one failure each; the first decides the exit code.
    pub(crate) fn refused(refusals: &[Refusal]) -> Vec<Self> {
        refusals.iter().map(Self::from).collect()
    }
}

impl From<&Refusal> for Failure {
    fn from(refusal: &Refusal) -> Self {
        let exit = match refusal.kind {
            RefusalKind::Project => Exit::Project,
            RefusalKind::Image => Exit::Image,
            RefusalKind::Consent => Exit::Consent,
            RefusalKind::Host | RefusalKind::Fault => Exit::Host,
        };
        let what = match &refusal.service {
            Some(service) => format!("service {service}: {}", refusal.what),
            None => refusal.what.clone(),
        };
        Self::new(exit, what).because(&refusal.why).hint(&refusal.hint)
    }
}

impl From<bollard::errors::Error> for Failure {
    fn from(error: bollard::errors::Error) -> Self {
        let text = engine_words(&error);
        Self::new(Exit::Engine, "the engine refused a call").because(text)
    }
}

/// What the engine says, without the wrapping of the library.
pub(crate) fn engine_words(error: &bollard::errors::Error) -> String {
    match error {
        bollard::errors::Error::DockerResponseServerError { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

/// HTTP status of an engine's answer, if it was one.
pub(crate) fn engine_status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}
