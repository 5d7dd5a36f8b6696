//! A pair of connected byte streams in memory, in a socket's place.

use futures_lite::{AsyncRead, AsyncWrite};
use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// One end of a byte stream in memory that behaves like a TCP socket: bounded in what it holds, each
/// direction to be closed by itself, broken when the other end is dropped.
#[derive(Debug)]
pub struct Pipe {
    incoming: Rc<RefCell<Channel>>,
    outgoing: Rc<RefCell<Channel>>,
}

#[derive(Debug)]
struct Channel {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// The writing end was closed: after `bytes` comes the end of the stream.
    ended: bool,
    /// The reading end is gone: nothing can be written any more.
    broken: bool,
    /// The stream was reset: what was not read is lost.
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    /// Two connected ends. Each direction holds up to `capacity` bytes that were written and not yet read.
    pub fn pair(capacity: usize) -> (Self, Self) {
        let channel = || {
            Rc::new(RefCell::new(Channel {
                bytes: VecDeque::new(),
                capacity,
                ended: false,
                broken: false,
                reset: false,
                reader: None,
                writer: None,
            }))
        };
        let (one, other) = (channel(), channel());
        (
            Self {
                incoming: one.clone(),
                outgoing: other.clone(),
            },
            Self {
                incoming: other,
                outgoing: one,
            },
        )
    }

    /// Ends both directions at once, as a peer does that is killed or has unread bytes when it closes.
    pub fn reset(self) {
        for channel in [&self.incoming, &self.outgoing] {
            let mut channel = channel.borrow_mut();
            channel.bytes.clear();
            (channel.reset, channel.broken) = (true, true);
            wake(&mut channel.reader);
            wake(&mut channel.writer);
        }
    }

    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut channel = self.incoming.borrow_mut();
        if channel.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if channel.bytes.is_empty() && !channel.ended && !buf.is_empty() {
            channel.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = buf.len().min(channel.bytes.len());
        for (to, from) in buf.iter_mut().zip(channel.bytes.drain(..count)) {
            *to = from;
        }
        wake(&mut channel.writer);
        Poll::Ready(Ok(count))
    }

    pub(crate) fn poll_read_more(
        &self,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        let mut bytes = vec![0; buf.capacity() - buf.len()];
        let result = self.poll_read(cx, &mut bytes);
        if let Poll::Ready(Ok(count)) = result {
            buf.extend(&bytes[..count]);
        }
        result
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut channel = self.outgoing.borrow_mut();
        if channel.broken || channel.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = buf.len().min(channel.capacity - channel.bytes.len());
        if count == 0 && !buf.is_empty() {
            channel.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        channel.bytes.extend(&buf[..count]);
        wake(&mut channel.reader);
        Poll::Ready(Ok(count))
    }

    /// Whether all that came was read.
    pub(crate) fn is_drained(&self) -> bool {
        self.incoming.borrow().bytes.is_empty()
    }

    /// How many bytes were written that the other end has not read.
    pub(crate) fn unread(&self) -> usize {
        self.outgoing.borrow().bytes.len()
    }

    pub(crate) fn shutdown_write(&self) {
        let mut channel = self.outgoing.borrow_mut();
        channel.ended = true;
        wake(&mut channel.reader);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.shutdown_write();
        let mut channel = self.incoming.borrow_mut();
        channel.broken = true;
        wake(&mut channel.writer);
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Self::poll_read(&self, cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Self::poll_write(&self, cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shutdown_write();
        Poll::Ready(Ok(()))
    }
}
