//! The byte stream that a connection runs over.

#[cfg(feature = "testing")]
use crate::pipe::Pipe;
use crate::{reactor::Io, tcp};
use futures_lite::future::poll_fn;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::{
    cell::Cell,
    io,
    net::{Shutdown, TcpStream},
    task::{Context, Poll},
    time::Duration,
};

/// A connected byte stream of any kind. Both directions work through a shared reference.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    heard: Cell<bool>,
    written: Cell<u64>,
    /// The peer has said its last, and so little was written that all of it was sent at once.
    parted: Cell<bool>,
    /// For what is still to be sent when this is dropped.
    patience: Duration,
}

#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(Io<TcpStream>),
    #[cfg(unix)]
    Unix(Io<UnixStream>),
    #[cfg(feature = "testing")]
    Pipe(Pipe),
}

impl Socket {
    pub(crate) fn new(stream: Stream, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            heard: Cell::default(),
            written: Cell::default(),
            parted: Cell::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn tcp(stream: TcpStream, patience: Duration) -> io::Result<Self> {
        crate::reactor::register(stream).map(|io| Self::new(Stream::Tcp(io), patience))
    }

    #[cfg(all(fuzzing, feature = "testing"))]
    pub(crate) fn pipe(pipe: Pipe) -> Self {
        Self::new(Stream::Pipe(pipe), Duration::ZERO)
    }

    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let result = match &self.stream {
            Stream::Tcp(io) => io.poll_read(cx, buf),
            #[cfg(unix)]
            Stream::Unix(io) => io.poll_read(cx, buf),
            #[cfg(feature = "testing")]
            Stream::Pipe(pipe) => pipe.poll_read(cx, buf),
        };
        self.hear(&result);
        result
    }

    /// Reads into the room that `buf` has beyond its end.
    pub(crate) fn poll_read_more(
        &self,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        let result = match &self.stream {
            Stream::Tcp(io) => io.poll_read_more(cx, buf),
            #[cfg(unix)]
            Stream::Unix(io) => io.poll_read_more(cx, buf),
            #[cfg(feature = "testing")]
            Stream::Pipe(pipe) => pipe.poll_read_more(cx, buf),
        };
        self.hear(&result);
        result
    }

    fn hear(&self, read: &Poll<io::Result<usize>>) {
        if matches!(read, Poll::Ready(Ok(1..))) {
            self.heard.set(true);
        }
    }

    /// Ready unless it is known already that there is nothing to read.
    pub(crate) fn poll_may_read(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.stream {
            Stream::Tcp(io) => io.poll_may_read(cx),
            #[cfg(unix)]
            Stream::Unix(io) => io.poll_may_read(cx),
            #[cfg(feature = "testing")]
            Stream::Pipe(_) => Poll::Ready(()),
        }
    }

    /// Writes as much of `buf`, and what follows it, as is taken.
    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        buf: &[u8],
        more: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = match &self.stream {
            Stream::Tcp(io) => io.poll_write(cx, buf, more),
            #[cfg(unix)]
            Stream::Unix(io) => io.poll_write(cx, buf, more),
            #[cfg(feature = "testing")]
            Stream::Pipe(pipe) => pipe.poll_write(cx, if buf.is_empty() { more } else { buf }),
        };
        if let Poll::Ready(Ok(count)) = result {
            self.written.set(self.written.get() + count as u64);
        }
        result
    }

    /// Reads what is there, at most `buf.len()` bytes; 0 at the end of the stream.
    pub(crate) async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Writes as much of `buf` as is taken, at least one byte.
    pub(crate) async fn write(&self, buf: &[u8]) -> io::Result<usize> {
        match poll_fn(|cx| self.poll_write(cx, buf, &[])).await? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            count => Ok(count),
        }
    }

    /// Tells the peer that nothing more will come, and leaves the other direction open.
    pub(crate) fn shutdown_write(&self) {
        match &self.stream {
            // Fails only where the connection is gone already.
            Stream::Tcp(io) => drop(io.get_ref().shutdown(Shutdown::Write)),
            #[cfg(unix)]
            Stream::Unix(io) => drop(io.get_ref().shutdown(Shutdown::Write)),
            #[cfg(feature = "testing")]
            Stream::Pipe(pipe) => pipe.shutdown_write(),
        }
    }

    /// Whether the stream can just be dropped now that the peer has said its last, such as a Close. It has to be [ended](Self::end)
    /// where bytes lie unread, and where more than a little was written: a peer that has still to read that may answer a ping
    /// in it, and what is on its way would be lost to a reset.
    ///
    /// That the peer was there a moment ago also means that nothing has to be done about what is still on its way.
    pub(crate) fn part(&self) -> bool {
        /// No more than a connection may have on its way from its first moment on (RFC 6928).
        const LITTLE_BYTES: u64 = 4 * 1024;

        let drained = match &self.stream {
            Stream::Tcp(io) => io.is_drained(),
            #[cfg(unix)]
            Stream::Unix(io) => io.is_drained(),
            #[cfg(feature = "testing")]
            Stream::Pipe(pipe) => pipe.is_drained(),
        };
        let parted = drained && self.written.get() <= LITTLE_BYTES;
        self.parted.set(parted);
        parted
    }

    /// Ends the stream so that the peer gets all that was written: a socket that is closed with bytes unread
    /// resets the connection, and the reset can overtake them. Waits for the peer's end of the stream.
    pub(crate) async fn end(&self) {
        self.shutdown_write();
        // Allocated, or every connection's future would be so much larger all its life.
        let mut rest = vec![0; 512];
        while matches!(self.read(&mut rest).await, Ok(1..)) {}
    }

    /// Whether a byte came since this was last asked.
    pub(crate) fn take_heard(&self) -> bool {
        self.heard.take()
    }

    /// See [`tcp::keep_little_unsent`]. Others keep little as they are.
    pub(crate) fn keep_little_unsent(&self) {
        if let Stream::Tcp(io) = &self.stream {
            tcp::keep_little_unsent(io.get_ref());
        }
    }

    /// Whether the peer's system is this one: it needs no proof that it lives.
    pub(crate) fn is_local(&self) -> bool {
        #[cfg(unix)]
        return matches!(self.stream, Stream::Unix(_));
        #[cfg(not(unix))]
        false
    }

    /// How many of the bytes written are on their way, and how many have arrived at the peer's system, or at the peer where that is
    /// this one. Where that cannot be told all have.
    pub(crate) fn sending(&self) -> (u64, u64) {
        let underway = match &self.stream {
            Stream::Tcp(io) => tcp::unacknowledged(io.get_ref()).unwrap_or(0),
            #[cfg(unix)]
            Stream::Unix(io) => tcp::unacknowledged(io.get_ref()).unwrap_or(0),
            #[cfg(feature = "testing")]
            Stream::Pipe(pipe) => pipe.unread(),
        } as u64;
        (underway, self.written.get().saturating_sub(underway))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        match &self.stream {
            Stream::Tcp(io) if !self.parted.get() => tcp::limit_rest(io.get_ref(), self.patience),
            _ => {}
        }
    }
}
