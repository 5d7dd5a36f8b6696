//! Readiness of sockets, and time: the one place that knows who waits for what.

#[cfg(feature = "testing")]
use crate::clock;
use futures_lite::{future, ready};
use smol::{Async, Timer};
use std::{
    cell::Cell,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    task::{Context, Poll},
    time::{Duration, Instant},
};

pub(crate) fn now() -> Instant {
    #[cfg(feature = "testing")]
    if let Some(now) = clock::now() {
        return now;
    }
    Instant::now()
}

pub(crate) async fn sleep(duration: Duration) {
    sleep_until(now() + duration).await;
}

pub(crate) async fn sleep_until(deadline: Instant) {
    #[cfg(feature = "testing")]
    if clock::now().is_some() {
        return clock::sleep_until(deadline).await;
    }
    Timer::at(deadline).await;
}

/// Runs `future` until `deadline`; `None` if it was not done by then.
///
/// No timer is made when the future is ready at once.
pub(crate) async fn timeout_at<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    future::or(async { Some(future.await) }, async {
        sleep_until(deadline).await;
        None
    })
    .await
}

/// Runs `future` for at most `duration`; `None` if it was not done by then.
pub(crate) async fn timeout<T>(duration: Duration, future: impl Future<Output = T>) -> Option<T> {
    future::or(async { Some(future.await) }, async {
        sleep(duration).await;
        None
    })
    .await
}

/// A socket that remembers that it would block, so that being polled without cause costs no system call.
#[derive(Debug)]
pub(crate) struct Io<T> {
    source: Async<T>,
    reading: Direction,
    writing: Direction,
}

#[derive(Debug, Default)]
struct Direction {
    blocked: Cell<bool>,
    /// How many operations went through since the reactor was last asked.
    in_a_row: Cell<u32>,
}

impl Direction {
    /// A peer that always has something ready shall not keep the thread: after so many operations in a row the
    /// reactor is asked, as if the socket had blocked, and all others have their turn.
    const MOST_IN_A_ROW: u32 = 16;

    /// Runs `operation` when it may succeed; `poll_ready` asks the reactor.
    fn poll<R>(
        &self,
        mut poll_ready: impl FnMut() -> Poll<io::Result<()>>,
        mut operation: impl FnMut() -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            if self.blocked.get() || self.in_a_row.get() == Self::MOST_IN_A_ROW {
                self.blocked.set(true);
                self.in_a_row.set(0);
                ready!(poll_ready())?;
                self.blocked.set(false);
            }
            match operation() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.blocked.set(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    self.in_a_row.set(self.in_a_row.get() + 1);
                    return Poll::Ready(result);
                }
            }
        }
    }
}

impl<T> Io<T> {
    pub(crate) fn get_ref(&self) -> &T {
        self.source.get_ref()
    }

    fn from_async(source: Async<T>) -> Self {
        Self {
            source,
            reading: Direction::default(),
            writing: Direction::default(),
        }
    }

    fn poll_when_readable<R>(
        &self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.reading
            .poll(|| self.source.poll_readable(cx), || read(self.get_ref()))
    }

    fn poll_when_writable<R>(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.writing
            .poll(|| self.source.poll_writable(cx), || write(self.get_ref()))
    }
}

impl Io<TcpStream> {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        Async::new(stream).map(Self::from_async)
    }

    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_when_readable(cx, |mut stream| stream.read(buf))
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_when_writable(cx, |mut stream| stream.write(buf))
    }
}

impl Io<TcpListener> {
    pub(crate) fn listen(listener: TcpListener) -> io::Result<Self> {
        Async::new(listener).map(Self::from_async)
    }

    pub(crate) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        self.poll_when_readable(cx, TcpListener::accept)
    }
}
