//! A network namespace of our own, servers in it, and helpers as child processes.

use std::error::Error;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nlink::netlink::namespace::execute_in_path;
use serde_json::{Value, json};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// A network namespace with loopback, deleted when dropped.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new() -> Outcome<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("hostdev-{}-{number}", std::process::id());
        nlink::netlink::namespace::create(&name)?;
        let namespace = Namespace { name };
        namespace.inside(|| {
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
            up.success().then_some(()).ok_or("loopback does not come up")?;
            Ok(())
        })?;
        Ok(namespace)
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/var/run/netns").join(&self.name)
    }

    /// Does something inside, on a thread of its own.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
        let path = self.path();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || -> Outcome<T> { execute_in_path(path, work)? });
            thread.join().map_err(|_| "panicked inside the namespace")?
        })
    }

    /// A server that answers every `GET` with its name; `/hold` is answered when the client sends one byte more.
    pub(crate) fn serve(&self, address: &str, name: &'static str) -> Outcome {
        let listener = self.inside(|| Ok(TcpListener::bind(address)?))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream, name));
            }
        });
        Ok(())
    }

    pub(crate) fn connect(&self, address: &str) -> Outcome<TcpStream> {
        let address: SocketAddr = address.parse()?;
        self.inside(|| {
            let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            Ok(stream)
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = nlink::netlink::namespace::delete(&self.name);
    }
}

fn answer(mut stream: TcpStream, name: &str) {
    let mut request = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut request) {
        if request[..length].starts_with(b"GET /hold") {
            // One byte more releases the answer.
            let _ = stream.read(&mut request);
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Asks on an open connection; the name of the server.
pub(crate) fn ask(stream: &mut TcpStream) -> Outcome<String> {
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    read_answer(stream)
}

pub(crate) fn read_answer(stream: &mut TcpStream) -> Outcome<String> {
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer)?;
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    Ok(text.lines().last().ok_or("closed without an answer")?.to_owned())
}

/// A helper as a child process; killed when dropped.
pub(crate) struct Helper {
    pub(crate) child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    last_id: u64,
}

impl Helper {
    pub(crate) fn start(arguments: &[&str]) -> Outcome<Self> {
        // target/…/debug/deps/<test> → target/…/debug/examples/host
        let here = std::env::current_exe()?;
        let program = here.parent().and_then(|deps| deps.parent()).ok_or("no target directory")?.join("examples/host");
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let mut helper = Helper { child, input, lines, last_id: 0 };
        let hello = helper.line()?;
        assert!(hello.get("hello").is_some(), "{hello}");
        Ok(helper)
    }

    pub(crate) fn line(&mut self) -> Outcome<Value> {
        Ok(serde_json::from_str(&self.lines.next().ok_or("the helper ended")??)?)
    }

    pub(crate) fn send(&mut self, op: Value) -> Outcome<u64> {
        self.last_id += 1;
        let request = json!({"id": self.last_id, "op": op});
        writeln!(self.input.as_mut().ok_or("input is closed")?, "{request}")?;
        Ok(self.last_id)
    }

    /// The line that ends request `id`.
    pub(crate) fn end_of(&mut self, id: u64) -> Outcome<Value> {
        loop {
            let line = self.line()?;
            if line.get("id") == Some(&json!(id)) && line.get("progress").is_none() {
                return Ok(line);
            }
        }
    }

    pub(crate) fn ask(&mut self, op: Value) -> Outcome<Value> {
        let id = self.send(op)?;
        let mut line = self.end_of(id)?;
        match line.get_mut("ok") {
            Some(answer) => Ok(answer.take()),
            None => Err(line.to_string().into()),
        }
    }

    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
