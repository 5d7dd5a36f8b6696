//! What the kernel is told, and asked, about TCP connections.
//!
//! Keepalive probes stay off: pings do their work, and prove that the peer's program lives and not just its kernel.

use std::{
    net::{TcpListener, TcpStream},
    time::Duration,
};

/// Settings that each accepted connection inherits. They only tune, so it is no harm if the system knows none of them.
#[cfg(target_os = "linux")]
pub(crate) fn tune(listener: &TcpListener) {
    // Messages are batched by the writer: what it hands over shall leave at once.
    let _ = rustix::net::sockopt::set_tcp_nodelay(listener, true);
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn tune(_: &TcpListener) {}

/// Has the kernel give up after `patience` what a stream, soon to be dropped, has still to send and its peer does not
/// take: by itself it would try for some two minutes.
///
/// Not before: it counts from when the peer's window was first too small for what is next, whatever arrived since, and
/// so ends an open connection whose peer is only slow to read.
#[cfg(target_os = "linux")]
pub(crate) fn limit_rest(stream: &TcpStream, patience: Duration) {
    let millis = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, millis);
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn limit_rest(_: &TcpStream, _: Duration) {}

/// Has the kernel take little that it cannot send yet: what waits shall wait where newer messages can take its place, and not in up to 4 MB of the
/// kernel's.
#[cfg(target_os = "linux")]
pub(crate) fn keep_little_unsent(stream: &TcpStream) {
    const UNSENT_BYTES: libc::c_int = 64 * 1024;
    let option = libc::TCP_NOTSENT_LOWAT;
    let _ = crate::sockopt::set(stream, libc::IPPROTO_TCP, option, UNSENT_BYTES);
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn keep_little_unsent(_: &TcpStream) {}

/// How many bytes the kernel holds that the peer's has not acknowledged, where that can be told; of a unix socket, that the peer
/// has not read, with what they take in memory.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "there is no safe way to ask")]
pub(crate) fn unacknowledged(stream: impl std::os::fd::AsFd) -> Option<usize> {
    use rustix::ioctl::{Getter, Opcode, ioctl};

    #[allow(
        clippy::cast_possible_truncation,
        reason = "the C libraries differ in its type, not in its value"
    )]
    const SIOCOUTQ: Opcode = libc::TIOCOUTQ as Opcode;
    // SAFETY: it stores an int (tcp(7), unix(7)).
    let bytes = unsafe { ioctl(stream, Getter::<SIOCOUTQ, libc::c_int>::new()) };
    bytes.ok().and_then(|bytes| usize::try_from(bytes).ok())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn unacknowledged<S>(_: S) -> Option<usize> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::{block_on, socket::Socket};
    use rustix::net::sockopt;
    use std::io::{Read, Write};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        tune(&listener);
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn a_connection_inherits_the_settings() {
        let (_client, server) = pair();
        assert!(server.nodelay().unwrap());
    }

    #[test]
    fn only_a_dropped_connection_has_a_limit_to_what_is_left() {
        let (_client, server) = pair();
        let same = server.try_clone().unwrap();
        block_on(async {
            let socket = Socket::tcp(server, Duration::from_secs(7)).unwrap();
            assert_eq!(sockopt::tcp_user_timeout(&same).unwrap(), 0);
            drop(socket);
        })
        .unwrap();
        assert_eq!(sockopt::tcp_user_timeout(&same).unwrap(), 7000);
    }

    /// Whether a peer that said `bye` has parted when so many bytes were read and written, and the limit to what is left
    /// in milliseconds.
    fn part(read: usize, written: usize) -> (bool, u32) {
        let (mut client, server) = pair();
        let same = server.try_clone().unwrap();
        client.write_all(b"bye").unwrap();
        let parted = block_on(async {
            let socket = Socket::tcp(server, Duration::from_secs(7)).unwrap();
            socket.read(&mut vec![0; read]).await.unwrap();
            let mut rest = &vec![0; written][..];
            while !rest.is_empty() {
                rest = &rest[socket.write(rest).await.unwrap()..];
            }
            socket.part()
        });
        (parted.unwrap(), sockopt::tcp_user_timeout(&same).unwrap())
    }

    #[test]
    fn only_a_peer_that_was_sent_little_has_parted() {
        assert_eq!(part(100, 4096), (true, 0));
        assert_eq!(part(100, 4097), (false, 7000));
    }

    #[test]
    fn what_may_be_unread_keeps_a_peer_from_parting() {
        assert_eq!(part(2, 1), (false, 7000));
    }

    #[test]
    fn what_the_peer_has_no_room_for_is_unacknowledged() {
        let (mut client, mut server) = pair();
        assert_eq!(unacknowledged(&server), Some(0));
        server.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(count) = server.write(&[0; 65536]) {
            written += count;
        }
        let held = unacknowledged(&server).unwrap();
        assert!(held > 0 && held < written, "{held} of {written}");
        client.read_exact(&mut vec![0; written]).unwrap();
        while unacknowledged(&server) != Some(0) {
            std::thread::yield_now();
        }
    }
}
