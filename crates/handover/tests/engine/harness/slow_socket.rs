//! The engine's socket as a client has it for whom a look at one container takes long: behind a proxy of sockets, or on a machine with
//! much else to do.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use super::net::{engine_socket, pump};

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
    let (Ok(client_read), Ok(engine_read)) = (client.try_clone(), engine.try_clone()) else { return };
    thread::spawn(move || {
        pump(engine_read, &client);
        let _ = client.shutdown(Shutdown::Both);
    });
    pump(client_read, Requests { engine: &engine, slow });
    let _ = engine.shutdown(Shutdown::Both);
}

/// Requests on their way to the engine. A client of it writes the head of one at once.
struct Requests<'a> {
    engine: &'a UnixStream,
    slow: &'a OnceLock<String>,
}

impl Write for Requests<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.slow.get().is_some_and(|path| String::from_utf8_lossy(bytes).contains(path.as_str())) {
            thread::sleep(TAKES);
        }
        self.engine.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.engine.flush()
    }
}
