//! Unix sockets to listen on: a file with a mode, that is nobody else's, and is removed at the end.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

/// The file of a socket that is listened on, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Its device and inode: by the time it is to be removed another may have its name.
    id: (u64, u64),
}

/// Listens on a socket at `path`. One that was left there, and on which nobody listens any more, is replaced; whatever else is
/// there stays.
pub(crate) fn bind(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    // The process may change its folder before the file is removed.
    let path = std::path::absolute(path)?;
    let listener = match listen(&path, mode) {
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_left_over(&path) => {
            fs::remove_file(&path)?;
            listen(&path, mode)?
        }
        result => result?,
    };
    let metadata = fs::symlink_metadata(&path)?;
    let id = (metadata.dev(), metadata.ino());
    let file = SocketFile { path, id };
    // The umask had its say before.
    fs::set_permissions(&file.path, fs::Permissions::from_mode(mode))?;
    Ok((listener, file))
}

#[cfg(target_os = "linux")]
fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    use rustix::{
        fs::{Mode, fchmod},
        net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
    };

    /// As the standard library has it; no more than the system allows.
    const BACKLOG: i32 = 4096;
    let addr = SocketAddrUnix::new(path)?;
    let socket = net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // The file gets what the socket has, less the umask: at no moment can more connect than shall.
    fchmod(&socket, Mode::from_raw_mode(mode))?;
    net::bind(&socket, &addr)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

#[cfg(not(target_os = "linux"))]
fn listen(path: &Path, _: u32) -> io::Result<UnixListener> {
    UnixListener::bind(path)
}

/// Whether there is a socket on which nobody listens.
fn is_left_over(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.id);
        if is_ours {
            // Left there, it is replaced the next time.
            let _ = fs::remove_file(&self.path);
        }
    }
}
