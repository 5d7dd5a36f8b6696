//! Unix sockets to listen on: a file with a mode, that is nobody else's, and is removed at the end.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixListener,
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

/// Keeps clients from passing descriptors, where the kernel knows how to (Linux 6.16). What is passed is closed when the bytes
/// that it came with are read, and whoever passes it chooses how long that takes: a socket may linger.
#[cfg(target_os = "linux")]
pub(crate) fn tune(listener: &UnixListener) -> io::Result<()> {
    /// As most architectures have it.
    const SO_PASSRIGHTS: libc::c_int = 83;
    crate::sockopt::set(listener, libc::SOL_SOCKET, SO_PASSRIGHTS, 0)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn tune(_: &UnixListener) -> io::Result<()> {
    Ok(())
}

/// Whether there is a socket on which nobody listens.
fn is_left_over(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
        && connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Does not wait where somebody listens who does not accept.
#[cfg(target_os = "linux")]
fn connect(path: &Path) -> io::Result<()> {
    use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(net::connect(&socket, &SocketAddrUnix::new(path)?)?)
}

#[cfg(not(target_os = "linux"))]
fn connect(path: &Path) -> io::Result<()> {
    std::os::unix::net::UnixStream::connect(path).map(drop)
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::{
        io::Errno,
        net::{self, SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
    };
    use std::{
        env,
        io::IoSlice,
        mem::MaybeUninit,
        os::{fd::AsFd, unix::net::UnixStream},
        process,
    };

    /// A path for a socket, whose file is removed at the end.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            Self(env::temp_dir().join(format!("whit-{}-{name}", process::id())))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn who_listens_and_does_not_accept_is_not_waited_for() {
        let place = Place::new("full");
        let listener = UnixListener::bind(&place.0).unwrap();
        net::listen(&listener, 0).unwrap();
        let _waiting = UnixStream::connect(&place.0).unwrap();
        let error = bind(&place.0, 0o600).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn a_client_cannot_pass_descriptors() {
        let place = Place::new("rights");
        let listener = UnixListener::bind(&place.0).unwrap();
        if tune(&listener).is_err() {
            eprintln!("not tested: the kernel is older than 6.16");
            return;
        }
        let client = UnixStream::connect(&place.0).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let passed = [listener.as_fd()];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        let sent = net::sendmsg(
            &client,
            &[IoSlice::new(b"x")],
            &mut control,
            SendFlags::empty(),
        );
        assert_eq!(sent, Err(Errno::PERM));
    }
}
