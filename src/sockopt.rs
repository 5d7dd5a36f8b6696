//! A setting of a socket that there is no safe way to make.

use libc::c_int;
use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Sets an option whose value is an int (setsockopt(2)).
#[allow(unsafe_code, reason = "there is no safe way to set it")]
pub(crate) fn set(socket: impl AsFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    #[expect(clippy::cast_possible_truncation, reason = "an int is short")]
    const INT_BYTES: libc::socklen_t = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: it reads an int, whose size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            INT_BYTES,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
