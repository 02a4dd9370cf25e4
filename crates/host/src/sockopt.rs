//! The few system calls on sockets that no library of ours has a name for.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `setsockopt` with a value as the kernel reads it.
#[allow(unsafe_code)]
pub(crate) fn set(socket: BorrowedFd<'_>, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open while it is borrowed, and the kernel reads at most `length` bytes of `value`. Options whose
    // value holds an address are not set in this way.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.as_ptr().cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `getsockopt`; the length that the kernel says.
#[allow(unsafe_code)]
pub(crate) fn get(socket: BorrowedFd<'_>, level: i32, option: i32, value: &mut [u8]) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: as above; the kernel writes at most `length` bytes.
    let done =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut length) };
    if done == 0 { Ok(length as usize) } else { Err(io::Error::last_os_error()) }
}

/// Bytes that were written and that the other side has not acknowledged.
#[allow(unsafe_code)]
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes one c_int.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done == 0 { Ok(usize::try_from(bytes).unwrap_or_default()) } else { Err(io::Error::last_os_error()) }
}

/// Reads without taking anything, and without waiting.
#[allow(unsafe_code)]
pub(crate) fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the descriptor is open while it is borrowed, and the kernel writes at most the buffer's length.
    let length = unsafe {
        libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_PEEK | libc::MSG_DONTWAIT)
    };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// Dissolves the association of a connected socket (`connect` to `AF_UNSPEC`).
#[allow(unsafe_code)]
pub(crate) fn disconnect(socket: BorrowedFd<'_>) -> io::Result<()> {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = std::mem::size_of_val(&nobody) as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed; the address lives through the call and has this length.
    let done = unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
