//! A network namespace of our own, servers in it, and helpers as child processes.

use std::error::Error;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
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
        Self::of(Self::spawn(arguments)?)
    }

    /// The same with this network in the place of the host's.
    pub(crate) fn start_in(host: &Namespace, arguments: &[&str]) -> Outcome<Self> {
        Self::of(host.inside(|| Self::spawn(arguments))?)
    }

    fn spawn(arguments: &[&str]) -> Outcome<Child> {
        let mut command = Command::new(example("host")?);
        Ok(command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
    }

    fn of(mut child: Child) -> Outcome<Self> {
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

/// A server as a process of its own, in a namespace; killed when dropped.
pub(crate) struct Server(Child);

impl Server {
    /// The network namespace that its process is in.
    pub(crate) fn sandbox(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// Listens when this returns.
    pub(crate) fn start(namespace: &Namespace, address: &str, name: &str) -> Outcome<Self> {
        Self::start_from(namespace, namespace, address, name)
    }

    /// The same with a process that belongs to another namespace than its socket.
    pub(crate) fn start_from(process: &Namespace, namespace: &Namespace, address: &str, name: &str) -> Outcome<Self> {
        let listener = namespace.inside(|| Ok(TcpListener::bind(address)?))?;
        let mut child = process.inside(|| {
            let mut command = Command::new(example("server")?);
            Ok(command.arg(name).stdin(OwnedFd::from(listener)).stdout(Stdio::piped()).spawn()?)
        })?;
        let output = child.stdout.take().ok_or("no output")?;
        let server = Server(child);
        BufReader::new(output).read_line(&mut String::new())?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client that keeps its connection and writes a POST without ever looking whether the connection is still there: none is
/// less careful. Ends with the connection; how many requests were answered, or none if one was lost.
pub(crate) fn post_until_closed(
    mut stream: TcpStream,
    pauses: impl Iterator<Item = Duration>,
    bytes: usize,
) -> Option<usize> {
    let body = vec![b'x'; bytes];
    let head = format!("POST /{bytes} HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n");
    let mut input = BufReader::new(stream.try_clone().ok()?);
    for (answered, pause) in pauses.enumerate() {
        std::thread::sleep(pause);
        let mut sent = head.clone().into_bytes();
        sent.extend_from_slice(&body);
        stream.write_all(&sent).ok()?;
        let (mut length, mut close, mut line) = (0, false, String::new());
        loop {
            line.clear();
            match input.read_line(&mut line).ok()? {
                0 => return None,
                1..=2 => break,
                _ => {}
            }
            close |= line.trim() == "Connection: close";
            length = line.strip_prefix("Content-Length: ").map_or(length, |value| value.trim().parse().unwrap_or(0));
        }
        let mut answer = vec![0; length];
        input.read_exact(&mut answer).ok()?;
        assert!(String::from_utf8_lossy(&answer).contains(&format!(" {bytes}")));
        if close {
            // And then the end of the connection, nothing else.
            return (input.read(&mut [0]).ok()? == 0).then_some(answered + 1);
        }
    }
    None
}

/// Pauses of a mean length, at random (exponential) or all the same; without end.
pub(crate) fn pauses(mean: Duration, random: bool, seed: u64) -> impl Iterator<Item = Duration> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        // xorshift64*: clients need no better randomness.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let uniform = (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64;
        if random { mean.mul_f64(-uniform.max(1e-9).ln()) } else { mean }
    })
}

/// target/…/debug/deps/<test> → target/…/debug/examples/<name>
fn example(name: &str) -> Outcome<PathBuf> {
    let here = std::env::current_exe()?;
    let directory = here.parent().and_then(|deps| deps.parent()).ok_or("no target directory")?;
    Ok(directory.join("examples").join(name))
}
