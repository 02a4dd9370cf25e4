//! The rules of a deploy, and what breaks one.

use std::fmt;

/// A rule of a deploy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// What clients reach is not stopped before its traffic goes elsewhere, unless the user agreed to the interruption.
    RedirectedBeforeStop,
    /// A service that keeps state has no second copy without the user's word.
    SecondCopyNeedsConsent,
    /// Only what the plan shows is stopped, made anew or removed.
    OnlyWhatIsNamed,
    /// All that the plan shows is done, by one operation.
    AllThatIsNamed,
    /// A service is replaced in one way.
    OneStrategy,
    /// Traffic goes only to containers that have passed their gate.
    GatedBeforeRedirect,
    /// A port is redirected once, and as it is published.
    RedirectedOnce,
    /// What is redirected is given back.
    GivenBack,
    /// A second copy that is brought up is removed, after its traffic has gone.
    StandInRemoved,
    /// What is in flight comes to its end before what serves it ends.
    DrainedBeforeEnd,
    /// A service is not stopped before those that use it.
    UsersFirst,
}

/// An operation that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// How, in words.
    pub what: String,
}

impl Rule {
    /// The rule in words, as what must be.
    pub fn words(self) -> &'static str {
        match self {
            Self::RedirectedBeforeStop => "nothing that clients reach is stopped before its traffic goes elsewhere",
            Self::SecondCopyNeedsConsent => "no service that keeps state runs twice without the user's word",
            Self::OnlyWhatIsNamed => "only what the plan shows is touched",
            Self::AllThatIsNamed => "all that the plan shows is done",
            Self::OneStrategy => "a service is replaced in one way",
            Self::GatedBeforeRedirect => "traffic goes only to what has passed its gate",
            Self::RedirectedOnce => "a port is redirected once, as it is published",
            Self::GivenBack => "what is redirected is given back",
            Self::StandInRemoved => "a stand-in is removed in the end",
            Self::DrainedBeforeEnd => "what is in flight ends before what serves it",
            Self::UsersFirst => "what is used is not stopped before its users",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (rule: {})", self.what, self.rule.words())
    }
}
