//! Readiness of sockets, from an edge-triggered epoll of the server's own.
//!
//! The kernel tells of each change once, and what it told is remembered: a socket is read, or written, until it has nothing
//! more, and then costs no system call until it has.

use crate::{slot::Slot, turn::Turn};
use futures_lite::ready;
use rustix::{
    buffer::spare_capacity,
    event::{
        EventfdFlags, Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
        eventfd,
    },
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};
use slab::Slab;
use smol::Async;
use std::{
    cell::{Cell, RefCell},
    fmt,
    io::{self, IoSlice, Read, Write},
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake},
    time::Duration,
};

/// Sockets, and who waits for them.
pub(crate) struct Sockets {
    fd: OwnedFd,
    sources: RefCell<Slab<Rc<Source>>>,
    events: RefCell<Vec<Event>>,
}

impl Sockets {
    /// What the bell has in a source's place.
    const BELL: u64 = u64::MAX;

    pub(crate) fn new() -> io::Result<Rc<Self>> {
        /// So many events are taken at once.
        const EVENTS: usize = 256;

        Ok(Rc::new(Self {
            fd: epoll::create(CreateFlags::CLOEXEC)?,
            sources: RefCell::default(),
            events: RefCell::new(Vec::with_capacity(EVENTS)),
        }))
    }

    /// To be waited for in async-io: an epoll is ready when one of its sockets is.
    pub(crate) fn nested(self: &Rc<Self>) -> io::Result<Nested> {
        Async::new(self.clone()).map(Nested)
    }

    /// A bell that ends a [`wait`](Self::wait).
    pub(crate) fn bell(&self) -> io::Result<Arc<Bell>> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let data = EventData::new_u64(Self::BELL);
        // By its edges: nobody has to read what was written to it.
        epoll::add(&self.fd, &fd, data, EventFlags::IN | EventFlags::ET)?;
        Ok(Arc::new(Bell {
            fd,
            rung: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
        }))
    }

    /// Waits until a socket is ready, `bell` is rung, or `timeout` is over, and wakes those whose sockets are ready.
    pub(crate) fn wait(&self, bell: &Bell, timeout: Option<Duration>) {
        bell.awaited.store(true, Ordering::SeqCst);
        let timeout = match bell.rung.load(Ordering::SeqCst) {
            true => Some(Duration::ZERO),
            false => timeout,
        };
        self.take_events(timeout);
        bell.awaited.store(false, Ordering::SeqCst);
        self.tell();
    }

    /// Wakes those whose sockets are ready, without waiting.
    pub(crate) fn look(&self) {
        self.take_events(Some(Duration::ZERO));
        self.tell();
    }

    fn take_events(&self, timeout: Option<Duration>) {
        // More than fits into an int of milliseconds takes a system call that old kernels do not have.
        const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout.min(LONGEST)).ok());
        let mut events = self.events.borrow_mut();
        events.clear();
        match epoll::wait(&self.fd, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => log::error!("cannot wait for sockets: {error}"),
        }
    }

    fn tell(&self) {
        let sources = self.sources.borrow();
        for event in &*self.events.borrow() {
            let key = usize::try_from(event.data.u64()).ok();
            if let Some(source) = key.and_then(|key| sources.get(key)) {
                source.tell(event.flags);
            }
        }
    }
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets")
            .field("fd", &self.fd)
            .finish_non_exhaustive()
    }
}

impl AsFd for Sockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// See [`Sockets::nested`].
#[derive(Debug)]
pub(crate) struct Nested(Async<Rc<Sockets>>);

impl Nested {
    /// Whether a socket is ready. Wakes when one is.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> bool {
        matches!(self.0.poll_readable(cx), Poll::Ready(Ok(())))
    }
}

/// A waker that ends the wait of a thread, from any other or from itself.
#[derive(Debug)]
pub(crate) struct Bell {
    fd: OwnedFd,
    rung: AtomicBool,
    awaited: AtomicBool,
}

impl Bell {
    /// What was rung before is being done now.
    pub(crate) fn reset(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::SeqCst) && self.awaited.load(Ordering::SeqCst) {
            // Fails only where it was written to 2^64 times.
            let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
        }
    }
}

/// A socket, as far as it is known.
#[derive(Debug)]
struct Source {
    reading: Direction,
    writing: Direction,
    telling: Cell<Telling>,
}

/// Whether the kernel tells of room to write. Of a unix socket it tells each time that the peer has read something, and
/// would wake the thread for nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Telling {
    Off,
    On,
    /// It told of room that was known.
    InVain,
}

impl Source {
    fn tell(&self, flags: EventFlags) {
        if flags == EventFlags::OUT && !self.writing.spent.get() {
            self.telling.set(Telling::InVain);
        }
        let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        if gone || flags.intersects(EventFlags::IN | EventFlags::RDHUP) {
            let last = gone || flags.contains(EventFlags::RDHUP);
            self.reading.tell(last);
        }
        if gone || flags.contains(EventFlags::OUT) {
            self.writing.tell(gone);
        }
    }
}

#[derive(Debug)]
struct Direction {
    /// There was no more at the last attempt, and nothing was told since.
    spent: Cell<bool>,
    /// Nothing is told any more: it stays ready.
    last: Cell<bool>,
    waiting: Slot,
    turn: Turn,
}

impl Direction {
    /// Ready until it is found that it is not.
    fn new() -> Self {
        Self {
            spent: Cell::new(false),
            last: Cell::new(false),
            waiting: Slot::default(),
            turn: Turn::default(),
        }
    }

    #[inline]
    fn tell(&self, last: bool) {
        self.last.set(self.last.get() || last);
        self.spent.set(false);
        self.waiting.wake();
    }

    fn is_ready(&self) -> bool {
        !self.spent.get() || self.last.get()
    }

    /// Runs `operation` when it may succeed.
    fn poll<R>(
        &self,
        cx: &mut Context<'_>,
        mut operation: impl FnMut() -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        while self.is_ready() {
            match operation() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.spent.set(true);
                    self.last.set(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
        self.waiting.sleep(cx);
        Poll::Pending
    }

    /// The same for bytes, of which there is room or supply for `len`.
    fn poll_bytes(
        &self,
        cx: &mut Context<'_>,
        len: usize,
        operation: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let result = self.poll(cx, operation);
        // It took all there was: the next one would block, unless nothing more will be told.
        if matches!(result, Poll::Ready(Ok(count)) if count < len) {
            self.spent.set(true);
        }
        result
    }

    /// The same where it is a turn that it takes.
    fn poll_turn(
        &self,
        cx: &mut Context<'_>,
        len: usize,
        operation: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.turn.poll(cx));
        let result = self.poll_bytes(cx, len, operation);
        self.turn
            .count(result, |count| *count.as_ref().unwrap_or(&0))
    }
}

/// A socket that does not block.
#[derive(Debug)]
pub(crate) struct Io<T> {
    socket: T,
    sockets: Rc<Sockets>,
    source: Rc<Source>,
    key: usize,
}

impl<T> Io<T> {
    pub(crate) fn get_ref(&self) -> &T {
        &self.socket
    }
}

impl<T: AsFd> Io<T> {
    /// To be waited for with `sockets`.
    pub(crate) fn new(socket: T, sockets: Rc<Sockets>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Self::register(socket, sockets)
    }

    /// Has the kernel tell no more of what may stay open elsewhere.
    pub(crate) fn forget(&self) {
        // Fails only where it is forgotten.
        let _ = epoll::delete(&self.sockets.fd, &self.socket);
    }

    /// What the kernel always tells.
    const FLAGS: EventFlags = EventFlags::IN
        .union(EventFlags::RDHUP)
        .union(EventFlags::ET);

    /// Takes a socket that was made not to block.
    fn register(socket: T, sockets: Rc<Sockets>) -> io::Result<Self> {
        let source = Rc::new(Source {
            reading: Direction::new(),
            writing: Direction::new(),
            telling: Cell::new(Telling::Off),
        });
        let key = sockets.sources.borrow_mut().insert(source.clone());
        let io = Self {
            socket,
            sockets,
            source,
            key,
        };
        epoll::add(&io.sockets.fd, &io.socket, io.data(), Self::FLAGS)?;
        Ok(io)
    }

    /// Runs `operation` when there may be something to read.
    pub(crate) fn poll_read_with<R>(
        &self,
        cx: &mut Context<'_>,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        let reading = &self.source.reading;
        ready!(reading.turn.poll(cx));
        self.poll_in_turn(reading, cx, operation)
    }

    /// Runs `operation` when there may be room to write.
    pub(crate) fn poll_write_with<R>(
        &self,
        cx: &mut Context<'_>,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        let writing = &self.source.writing;
        ready!(writing.turn.poll(cx));
        let poll = self.poll_in_turn(writing, cx, operation);
        self.wait_for_room(poll.is_pending())?;
        poll
    }

    fn poll_in_turn<R>(
        &self,
        direction: &Direction,
        cx: &mut Context<'_>,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        let result = direction.poll(cx, || operation(&self.socket));
        direction.turn.count(result, |_| 0)
    }

    /// Has the kernel tell of room to write where somebody `waits` for it.
    #[inline]
    fn wait_for_room(&self, waits: bool) -> io::Result<()> {
        match (self.source.telling.get(), waits) {
            (Telling::Off, true) => self.tell_of_room(Telling::On),
            (Telling::InVain, false) => self.tell_of_room(Telling::Off),
            _ => Ok(()),
        }
    }

    /// Has the kernel tell of room to write, or not any more. If there is room it does so at once.
    #[cold]
    fn tell_of_room(&self, telling: Telling) -> io::Result<()> {
        let flags = match telling {
            Telling::Off => Self::FLAGS,
            Telling::On | Telling::InVain => Self::FLAGS | EventFlags::OUT,
        };
        epoll::modify(&self.sockets.fd, &self.socket, self.data(), flags)?;
        self.source.telling.set(telling);
        Ok(())
    }

    fn data(&self) -> EventData {
        EventData::new_u64(self.key as u64)
    }
}

impl<T> Drop for Io<T> {
    fn drop(&mut self) {
        // The kernel forgets a socket when it is closed. Should it be open elsewhere and tell on, another's wait may end
        // early.
        self.sockets.sources.borrow_mut().remove(self.key);
    }
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
        let reading = &self.source.reading;
        reading.poll_turn(cx, buf.len(), || (&self.socket).read(buf))
    }

    pub(crate) fn poll_read_more(
        &self,
        cx: &mut Context<'_>,
        buf: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>>
    where
        T: AsFd,
    {
        let room = buf.capacity() - buf.len();
        self.source.reading.poll_turn(cx, room, || {
            Ok(rustix::io::read(&self.socket, spare_capacity(buf))?)
        })
    }

    /// Ready unless it is known that there is nothing to read.
    pub(crate) fn poll_may_read(&self, cx: &mut Context<'_>) -> Poll<()> {
        let reading = &self.source.reading;
        if reading.is_ready() {
            return Poll::Ready(());
        }
        reading.waiting.sleep(cx);
        Poll::Pending
    }

    /// Whether all that came was read, as far as it was told.
    pub(crate) fn is_drained(&self) -> bool {
        self.source.reading.spent.get()
    }

    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        buf: &[u8],
        more: &[u8],
    ) -> Poll<io::Result<usize>>
    where
        T: AsFd,
    {
        let source = &self.source;
        let poll = source.writing.poll_bytes(cx, buf.len() + more.len(), || {
            if more.is_empty() {
                return (&self.socket).write(buf);
            }
            (&self.socket).write_vectored(&[IoSlice::new(buf), IoSlice::new(more)])
        });
        self.wait_for_room(poll.is_pending())?;
        poll
    }
}

impl<T: AsFd> Io<T> {
    pub(crate) fn poll_accept<S: AsFd + From<OwnedFd>>(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Io<S>, Option<SocketAddr>)>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        self.poll_read_with(cx, |socket| {
            let (stream, peer) = acceptfrom_with(socket, flags)?;
            let peer = peer.and_then(|peer| peer.try_into().ok());
            Ok((Io::register(stream.into(), self.sockets.clone())?, peer))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::{block_on, register, sleep};
    use futures_lite::future::{poll_fn, poll_once};
    use std::os::unix::net::UnixStream;

    #[test]
    fn room_in_a_unix_socket_is_told_of_only_to_those_who_wait() {
        block_on(async {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let ours = register(ours).unwrap();
            let write = || poll_fn(|cx| ours.poll_write(cx, &[0; 4096], &[]));
            let told = || ours.source.telling.get();
            let mut read = || theirs.read(&mut [0; 4096]).unwrap();

            write().await.unwrap();
            assert_eq!(told(), Telling::Off);
            while poll_once(write()).await.is_some() {}
            assert_eq!(told(), Telling::On);
            let mut waiting = Box::pin(write());
            while poll_once(&mut waiting).await.is_none() {
                read();
                sleep(Duration::from_millis(1)).await;
            }
            while told() == Telling::On {
                read();
                sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(told(), Telling::InVain);
            write().await.unwrap();
            assert_eq!(told(), Telling::Off);
        })
        .unwrap();
    }
}
