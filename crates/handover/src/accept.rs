//! Accepting who comes by a way in of ours, for as long as somebody may come.

use std::io::{Error, Result};
use std::time::Duration;

use crate::event::{Event, Events};
use crate::outside::{Callers, Connection};

/// Until open files or memory may be there again.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections. An error tells of what the process lacks at this moment, open files above all, and nothing of the
/// listener: whoever knocked still waits in its queue, so that it is noted once, and tried again after a pause.
pub(crate) struct Accepting {
    callers: Box<dyn Callers>,
    events: Events,
    /// Whether the user has heard of it.
    noted: bool,
}

impl Accepting {
    pub(crate) fn new(callers: Box<dyn Callers>, events: Events) -> Self {
        Self { callers, events, noted: false }
    }

    /// The next connection. May be given up at any time.
    pub(crate) async fn next(&mut self) -> Connection {
        let Self { callers, events, noted } = self;
        let callers = &*callers;
        let accepting = until_accepted(
            || callers.accept(),
            |error| {
                if !std::mem::replace(noted, true) {
                    let text = format!("a connection to the engine waits, because it cannot be taken on yet: {error}");
                    events.emit(Event::Note(text));
                }
            },
        );
        accepting.await
    }
}

async fn until_accepted<T, F>(mut accept: impl FnMut() -> F, mut failed: impl FnMut(Error)) -> T
where
    F: Future<Output = Result<T>>,
{
    loop {
        match accept().await {
            Ok(accepted) => return accepted,
            Err(error) => failed(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn who_knocks_while_open_files_are_short_is_served_once_they_are_there_again() {
        const EMFILE: i32 = 24;
        let answers = RefCell::new(vec![Ok("served"), Err(Error::from_raw_os_error(EMFILE))]);
        let mut told = Vec::new();
        let accepted =
            until_accepted(|| ready(answers.borrow_mut().pop().unwrap()), |error| told.push(error.raw_os_error()));
        assert_eq!(accepted.await, "served");
        assert_eq!(told, [Some(EMFILE)]);
    }
}
