//! A call that waits for the deploy's word.

use handover_core::compose::calls::Wants;
use tokio::sync::oneshot;

/// A call of Compose that waits for the deploy's word. Dropped without one, it is refused.
#[derive(Debug)]
pub(crate) struct HeldCall {
    /// What would happen to the container.
    pub(crate) wants: Wants,
    /// Its full id.
    pub(crate) container: String,
    word: oneshot::Sender<Word>,
}

/// What becomes of a held call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    Pass,
    Done,
    Refuse(String),
}

/// The other end of a [`HeldCall`]. Dropped with the client's connection.
pub(super) struct Waiting(oneshot::Receiver<Word>);

impl HeldCall {
    pub(super) fn new(wants: Wants, container: String) -> (Self, Waiting) {
        let (word, waiting) = oneshot::channel();
        (Self { wants, container, word }, Waiting(waiting))
    }

    /// Passes the call on to the engine. Does nothing if Compose has given up.
    pub(crate) fn pass(self) {
        self.say(Word::Pass);
    }

    /// Answers Compose as if the engine had done it; the engine hears nothing. A container that was to be removed is no longer told
    /// of to Compose. Does nothing if Compose has given up.
    pub(crate) fn done(self) {
        self.say(Word::Done);
    }

    /// Answers Compose with a conflict, so that it gives up and tells why. The engine hears nothing.
    pub(crate) fn refuse(self, why: impl Into<String>) {
        self.say(Word::Refuse(why.into()));
    }

    /// Waits until Compose gives up: it has ended, or its connection broke. Nothing reaches the engine then. May be cancelled.
    pub(crate) async fn abandoned(&mut self) {
        self.word.closed().await;
    }

    fn say(self, word: Word) {
        // Nobody waits for the word of a call that was given up.
        let _ = self.word.send(word);
    }
}

impl Waiting {
    /// The deploy's word; a refusal if it has none any more.
    pub(super) async fn word(self) -> Word {
        self.0
            .await
            .unwrap_or_else(|_| Word::Refuse("the deploy has ended, and the container is left alone".to_owned()))
    }
}
