//! Readiness of sockets, and time: the one place that knows who waits for what.

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
    Instant::now()
}

pub(crate) async fn sleep(duration: Duration) {
    Timer::after(duration).await;
}

pub(crate) async fn sleep_until(deadline: Instant) {
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
    unreadable: Cell<bool>,
    unwritable: Cell<bool>,
}

impl<T> Io<T> {
    pub(crate) fn get_ref(&self) -> &T {
        self.source.get_ref()
    }

    fn from_async(source: Async<T>) -> Self {
        Self {
            source,
            unreadable: Cell::new(false),
            unwritable: Cell::new(false),
        }
    }

    fn poll_when_readable<R>(
        &self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            if self.unreadable.get() {
                ready!(self.source.poll_readable(cx))?;
                self.unreadable.set(false);
            }
            match read(self.source.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unreadable.set(true)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_when_writable<R>(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            if self.unwritable.get() {
                ready!(self.source.poll_writable(cx))?;
                self.unwritable.set(false);
            }
            match write(self.source.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unwritable.set(true)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
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
