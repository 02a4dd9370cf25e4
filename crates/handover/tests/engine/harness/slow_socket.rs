//! The engine's socket as a client has it for whom a look at one container takes long: behind a proxy of sockets, or on a machine with
//! much else to do.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use super::net::engine_socket;

/// A socket in front of the engine's. It ends with the test's process.
pub(crate) struct SlowSocket {
    slow: Arc<OnceLock<String>>,
}

impl SlowSocket {
    /// Listens at this path. Nothing is slow yet.
    pub(crate) fn at(path: &Path) -> Self {
        let slow = Arc::new(OnceLock::new());
        let listener = UnixListener::bind(path).expect("the stack's directory takes a socket");
        let found = slow.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let slow = found.clone();
                thread::spawn(move || pass_on(client, &slow));
            }
        });
        Self { slow }
    }

    /// From now on the look at one container takes so long, if its id is this.
    pub(crate) fn slow_down(&self, id: &str) {
        self.slow.set(format!("/containers/{id}/json ")).expect("one container is slow");
    }
}

/// How long a look at the slow container takes: longer than a new one needs to become ready, be given the traffic and stand beside
/// the old one for the shortest time.
const TAKES: Duration = Duration::from_secs(3);

fn pass_on(client: UnixStream, slow: &OnceLock<String>) {
    let Ok(engine) = UnixStream::connect(engine_socket()) else { return };
    let (Ok(back_from), Ok(back_to)) = (engine.try_clone(), client.try_clone()) else { return };
    thread::spawn(move || copy(back_from, back_to, |_| false));
    // A client of the engine writes the head of a request at once.
    copy(client, engine, |head| slow.get().is_some_and(|path| head.contains(path.as_str())));
}

fn copy(mut from: UnixStream, mut to: UnixStream, is_slow: impl Fn(&str) -> bool) {
    let mut buffer = [0; 16384];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if is_slow(&String::from_utf8_lossy(&buffer[..length])) {
            thread::sleep(TAKES);
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
