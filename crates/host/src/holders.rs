//! Which processes of a network namespace hold which sockets, and duplicates of those.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Descriptors are looked for at most this often.
const SEARCH_EVERY: Duration = Duration::from_millis(20);

/// The processes of this thread's network namespace, and the sockets that they hold. They must be visible in `/proc`.
#[derive(Debug)]
pub(crate) struct Holders {
    /// Number of the namespace.
    namespace: u64,
    /// By inode of the socket.
    sockets: HashMap<u32, (Pid, i32)>,
    processes: HashMap<Pid, OwnedFd>,
    searched: Option<Instant>,
}

impl Holders {
    /// Those of the namespace that this thread is in.
    pub(crate) fn of_this_namespace() -> io::Result<Self> {
        let namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
        Ok(Holders { namespace, sockets: HashMap::new(), processes: HashMap::new(), searched: None })
    }

    /// Looks for whoever holds a socket, if that is not known. Not for the moment when every microsecond counts.
    pub(crate) fn find(&mut self, inode: u32) -> bool {
        let searched = |at: Instant| at.elapsed() < SEARCH_EVERY;
        if !self.sockets.contains_key(&inode) && !self.searched.is_some_and(searched) {
            self.search();
        }
        self.sockets.contains_key(&inode)
    }

    /// A duplicate of a socket that [`Holders::find`] has found; none if it is not there any more. Needs SYS_PTRACE.
    ///
    /// While there is a duplicate, closing the socket does not end its connection: it must not be kept.
    pub(crate) fn duplicate(&mut self, inode: u32) -> io::Result<Option<OwnedFd>> {
        let Some((pid, descriptor)) = self.sockets.get(&inode).copied() else { return Ok(None) };
        let Some(process) = self.processes.get(&pid) else { return Ok(None) };
        let gone = |error: &rustix::io::Errno| matches!(*error, rustix::io::Errno::BADF | rustix::io::Errno::SRCH);
        let duplicate = match pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty()) {
            Ok(duplicate) => duplicate,
            Err(error) if gone(&error) => {
                self.sockets.remove(&inode);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let file = fs::File::from(duplicate);
        if file.metadata()?.ino() != u64::from(inode) {
            // The number is another file's meanwhile.
            self.sockets.remove(&inode);
            return Ok(None);
        }
        Ok(Some(file.into()))
    }

    /// What cannot be read belongs to a process that has just ended, or is none of ours to read.
    fn search(&mut self) {
        self.searched = Some(Instant::now());
        self.sockets.clear();
        let mut processes = std::mem::take(&mut self.processes);
        for pid in names("/proc".as_ref()).filter_map(Pid::from_raw) {
            let directory = format!("/proc/{}", pid.as_raw_nonzero());
            let namespace = fs::metadata(format!("{directory}/ns/net"));
            if !namespace.is_ok_and(|namespace| namespace.ino() == self.namespace) {
                continue;
            }
            let known = processes.remove(&pid).filter(|process| !has_ended(process));
            let Some(process) = known.or_else(|| pidfd_open(pid, PidfdFlags::empty()).ok()) else { continue };
            self.processes.insert(pid, process);
            let descriptors = format!("{directory}/fd");
            for descriptor in names(descriptors.as_ref()) {
                if let Ok(file) = fs::read_link(format!("{descriptors}/{descriptor}"))
                    && let Some(inode) = socket_inode(&file)
                {
                    self.sockets.insert(inode, (pid, descriptor));
                }
            }
        }
    }
}

/// The names in a directory that are numbers.
fn names(directory: &Path) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn socket_inode(link: &Path) -> Option<u32> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Whether the process that a descriptor stands for has ended: its number may be another's by now.
fn has_ended(process: &OwnedFd) -> bool {
    let none = PidfdGetfdFlags::empty();
    // No process has so many; whether there is a process is looked at first.
    pidfd_getfd(process, i32::MAX, none).is_err_and(|error| error == rustix::io::Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_socket_of_our_own_is_found_and_duplicated_as_long_as_it_is_open() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let inode = fs::metadata(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&listener)))?.ino();
        let inode = u32::try_from(inode).map_err(io::Error::other)?;
        let mut holders = Holders::of_this_namespace()?;
        assert!(holders.find(inode));
        holders.search();
        assert!(holders.find(inode), "a second search finds it, too");
        let duplicate = holders.duplicate(inode)?.map(TcpListener::from).ok_or(io::ErrorKind::NotFound)?;
        assert_eq!(duplicate.local_addr()?, listener.local_addr()?);
        drop((listener, duplicate));
        assert!(holders.duplicate(inode)?.is_none());
        Ok(())
    }
}
