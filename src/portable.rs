//! Readiness of sockets where there is no epoll: async-io's, with a thread of its own.

use crate::turn::Turn;
use futures_lite::ready;
use smol::Async;
#[cfg(windows)]
use std::os::windows::io::AsSocket as AsSource;
#[cfg(unix)]
use std::os::{
    fd::AsFd as AsSource,
    unix::net::{UnixListener, UnixStream},
};
use std::{
    cell::Cell,
    io::{self, IoSlice, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    task::{Context, Poll},
};

/// What waits for the sockets: nothing of ours.
#[derive(Debug)]
pub(crate) struct Sockets(());

impl Sockets {
    pub(crate) fn new() -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self(())))
    }

    pub(crate) fn look(&self) {}

    pub(crate) fn nested(self: &Rc<Self>) -> io::Result<Nested> {
        Ok(Nested(()))
    }
}

#[derive(Debug)]
pub(crate) struct Nested(());

impl Nested {
    pub(crate) fn poll_ready(&self, _: &mut Context<'_>) -> bool {
        false
    }
}

/// A socket that does not block.
#[derive(Debug)]
pub(crate) struct Io<T> {
    source: Async<T>,
    reading: Turn,
    #[cfg(unix)]
    writing: Turn,
    /// Its turn is over, until the reactor had a look at all.
    waits: Cell<bool>,
}

impl<T> Io<T> {
    fn from_async(source: Async<T>) -> Self {
        Self {
            source,
            reading: Turn::default(),
            #[cfg(unix)]
            writing: Turn::default(),
            waits: Cell::new(false),
        }
    }

    pub(crate) fn get_ref(&self) -> &T {
        self.source.get_ref()
    }

    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reading.poll(cx).is_pending() {
            self.waits.set(true);
        }
        if self.waits.get() {
            ready!(self.source.poll_readable(cx))?;
            self.waits.set(false);
        }
        Poll::Ready(Ok(()))
    }
}

/// Tries once, then when it may succeed.
fn poll<R>(
    mut operation: impl FnMut() -> io::Result<R>,
    mut poll_ready: impl FnMut() -> Poll<io::Result<()>>,
) -> Poll<io::Result<R>> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => match poll_ready() {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return Poll::Ready(result),
        }
    }
}

/// Takes a socket.
pub(crate) fn register<T: AsSource>(socket: T) -> io::Result<Io<T>> {
    Async::new(socket).map(Io::from_async)
}

impl<T> Io<T>
where
    for<'a> &'a T: Read + Write,
{
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(cx))?;
        let result = poll(
            || self.get_ref().read(buf),
            || self.source.poll_readable(cx),
        );
        self.reading
            .count(result, |read| *read.as_ref().unwrap_or(&0))
    }

    pub(crate) fn poll_read_more(
        &self,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        let filled = buf.len();
        buf.resize(buf.capacity(), 0);
        let result = self.poll_read(cx, &mut buf[filled..]);
        let count = match result {
            Poll::Ready(Ok(count)) => count,
            _ => 0,
        };
        buf.truncate(filled + count);
        result
    }

    /// Nothing is known before it is tried.
    #[expect(clippy::unused_self, reason = "elsewhere more is known")]
    pub(crate) fn poll_may_read(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Whether all that came was read, as far as it was told: nobody tells here.
    pub(crate) fn is_drained(&self) -> bool {
        false
    }

    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        buf: &[u8],
        more: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bufs = [IoSlice::new(buf), IoSlice::new(more)];
        poll(
            || self.get_ref().write_vectored(&bufs),
            || self.source.poll_writable(cx),
        )
    }
}

impl<T> Io<T> {
    /// Nothing is told any more once it is dropped.
    #[cfg(unix)]
    #[expect(clippy::unused_self, reason = "elsewhere something has to be done")]
    pub(crate) fn forget(&self) {}

    /// Runs `operation` when there may be something to read.
    pub(crate) fn poll_read_with<R>(
        &self,
        cx: &mut Context<'_>,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        ready!(self.poll_turn(cx))?;
        let result = poll(
            || operation(self.get_ref()),
            || self.source.poll_readable(cx),
        );
        self.reading.count(result, |_| 0)
    }

    /// Runs `operation` when there may be room to write.
    #[cfg(unix)]
    pub(crate) fn poll_write_with<R>(
        &self,
        cx: &mut Context<'_>,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        ready!(self.writing.poll(cx));
        let result = poll(
            || operation(self.get_ref()),
            || self.source.poll_writable(cx),
        );
        self.writing.count(result, |_| 0)
    }

    fn poll_accepted<S: AsSource>(
        &self,
        cx: &mut Context<'_>,
        accept: impl Fn(&T) -> io::Result<(S, Option<SocketAddr>)>,
    ) -> Poll<io::Result<(Io<S>, Option<SocketAddr>)>> {
        self.poll_read_with(cx, |listener| {
            let (stream, peer) = accept(listener)?;
            Ok((register(stream)?, peer))
        })
    }
}

impl Io<TcpListener> {
    pub(crate) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Io<TcpStream>, Option<SocketAddr>)>> {
        self.poll_accepted(cx, |listener| {
            listener.accept().map(|(stream, peer)| (stream, Some(peer)))
        })
    }
}

#[cfg(unix)]
impl Io<UnixListener> {
    pub(crate) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Io<UnixStream>, Option<SocketAddr>)>> {
        self.poll_accepted(cx, |listener| {
            listener.accept().map(|(stream, _)| (stream, None))
        })
    }
}
