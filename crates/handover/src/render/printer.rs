//! Standard output, written by a thread of its own: a reader that stops reading (`| less`, Ctrl-S) stops that thread, and not
//! the deploy, which may be in the middle of moving traffic.

use std::io::Write;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use tokio::sync::oneshot;

/// How long a deploy that is done waits for somebody to read what it has said, before its exit code counts for more.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Printer {
    lines: Sender<Vec<String>>,
    /// Resolves, with an error, when the thread has ended.
    ended: oneshot::Receiver<()>,
}

impl Printer {
    pub(super) fn start(mut write: impl FnMut(&[String]) + Send + 'static) -> Self {
        let (lines, receiver) = channel::<Vec<String>>();
        let (ending, ended) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let _ending = ending;
            receiver.iter().for_each(|lines| write(&lines));
        });
        Self { lines, ended }
    }

    /// Takes lines to print. Never waits.
    pub(super) fn print(&self, lines: Vec<String>) {
        // The thread ends only after this.
        let _ = self.lines.send(lines);
    }

    /// Waits until all is printed, but not for ever.
    pub(super) async fn finish(self) {
        drop(self.lines);
        let _ = tokio::time::timeout(PATIENCE, self.ended).await;
    }
}

/// Prints the last line of all, and waits for its reader no longer than for that of the others.
pub(super) fn print_last(line: String) {
    let (printed, is_printed) = channel();
    std::thread::spawn(move || {
        print_lines(&[line]);
        let _ = printed.send(());
    });
    let _ = is_printed.recv_timeout(PATIENCE);
}

/// Prints lines to standard output. That nobody reads them any more (`| head`) must not end a deploy.
pub(crate) fn print_lines(lines: &[String]) {
    let mut output = std::io::stdout().lock();
    for line in lines {
        let _ = writeln!(output, "{line}");
    }
    let _ = output.flush();
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    #[tokio::test]
    async fn a_reader_that_does_not_read_stops_nobody_and_in_the_end_all_is_printed() {
        let printed = Arc::new(Mutex::new(Vec::new()));
        let (read, reading) = mpsc::channel::<()>();
        let into = printed.clone();
        let printer = Printer::start(move |lines| {
            reading.recv().unwrap();
            into.lock().unwrap().extend(lines.to_vec());
        });
        printer.print(vec!["one".to_owned()]);
        printer.print(vec!["two".to_owned()]);
        assert!(printed.lock().unwrap().is_empty());
        read.send(()).unwrap();
        read.send(()).unwrap();
        printer.finish().await;
        assert_eq!(*printed.lock().unwrap(), ["one", "two"]);
    }
}
