//! Files and servers of a container, as its own processes see them, reached through `/proc/<pid>/root`: nothing is needed in
//! its image, and a file that is bound from the host stays the file that it is.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

use crate::error::HostError;
use crate::namespace::run_in;
use crate::protocol::{Door, FileRead, Process, Processes, Said};

/// The longest file that is read: configuration is not longer.
const LONGEST: u64 = 4 << 20;

/// How long a server may take between two pieces of its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads a file. Nothing at that path is no error.
pub(crate) async fn read(process: u32, path: PathBuf) -> Result<FileRead, HostError> {
    run_in("files", None, move || {
        let doing = || format!("reading {}", path.display());
        let file = match open_inside(process, &path, OFlags::RDONLY) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(FileRead { text: None, read_only: None });
            }
            Err(error) => return Err(HostError::kernel(doing())(error)),
        };
        let mut bytes = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(HostError::kernel(doing()))?;
        if bytes.len() as u64 > LONGEST {
            return Err(HostError::Request(format!("{} is longer than {LONGEST} bytes", path.display())));
        }
        let text =
            String::from_utf8(bytes).map_err(|_| HostError::Request(format!("{} is not text", path.display())))?;
        let read_only = open_inside(process, &path, OFlags::WRONLY).err().map(|error| error.to_string());
        Ok(FileRead { text: Some(text), read_only })
    })
    .await
}

/// Writes a file that is there in place: inode, owner and mode stay. The new text is in one write, so that somebody who reads it
/// at that instant finds it whole or the old one.
pub(crate) async fn write(process: u32, path: PathBuf, text: String) -> Result<(), HostError> {
    run_in("files", None, move || {
        let written = || -> io::Result<()> {
            let file = open_inside(process, &path, OFlags::WRONLY)?;
            file.write_all_at(text.as_bytes(), 0)?;
            file.set_len(text.len() as u64)?;
            file.sync_all()
        };
        written().map_err(HostError::kernel(format!("writing {}", path.display())))
    })
    .await
}

/// A process and all below it.
pub(crate) async fn processes(process: u32) -> Result<Processes, HostError> {
    run_in("processes", None, move || {
        let all = procfs::process::all_processes()
            .map_err(|error| HostError::Request(format!("reading the processes: {error}")))?;
        // One that ends meanwhile is none.
        let all: Vec<Process> = all
            .filter_map(|one| {
                let one = one.ok()?;
                let stat = one.stat().ok()?;
                let title = one.cmdline().unwrap_or_default().join(" ").trim().to_owned();
                Some(Process { pid: u32::try_from(stat.pid).ok()?, parent: u32::try_from(stat.ppid).ok()?, title })
            })
            .collect();
        let mut below = vec![process];
        let mut next = 0;
        while let Some(parent) = below.get(next).copied() {
            below.extend(all.iter().filter(|one| one.parent == parent).map(|one| one.pid));
            next += 1;
        }
        Ok(Processes { processes: all.into_iter().filter(|one| below.contains(&one.pid)).collect() })
    })
    .await
}

/// Says something to a server and hears it out until it closes the connection.
pub(crate) async fn converse(process: u32, door: Door, text: String) -> Result<Said, HostError> {
    let namespace = matches!(door, Door::Address(_)).then(|| PathBuf::from(format!("/proc/{process}/ns/net")));
    run_in("conversation", namespace, move || {
        let (doing, said) = match &door {
            Door::Socket(path) => (format!("speaking to {}", path.display()), through_socket(process, path, &text)),
            Door::Address(address) => {
                let said = TcpStream::connect_timeout(address, PATIENCE).and_then(|stream| {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    speak(stream, &text)
                });
                (format!("speaking to {address}"), said)
            }
        };
        said.map(|text| Said { text }).map_err(HostError::kernel(doing))
    })
    .await
}

fn through_socket(process: u32, path: &Path, text: &str) -> io::Result<String> {
    let socket = open_inside(process, path, OFlags::PATH)?;
    let stream = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    speak(stream, text)
}

fn speak(mut stream: impl Read + Write, text: &str) -> io::Result<String> {
    stream.write_all(text.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Opens what the process finds at this path; links lead where they lead for it.
fn open_inside(process: u32, path: &Path, how: OFlags) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // That the process has ended must not look as if the file were not there.
    let root = open(format!("/proc/{process}/root"), flags, Mode::empty())
        .map_err(|error| io::Error::other(format!("process {process}: {}", io::Error::from(error))))?;
    let inside = path.strip_prefix("/").unwrap_or(path);
    Ok(openat2(root, inside, how | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)?.into())
}
