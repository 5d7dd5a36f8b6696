//! Descriptors that are waited for with all else.

use crate::reactor::{Io, register};
use event_listener::Event;
use futures_lite::future::poll_fn;
use std::{
    cell::Cell,
    io,
    os::fd::AsFd,
    task::{Context, Poll},
};

/// A descriptor that the server's thread waits for with all else that it waits for: of a pipe, a serial port, a line of GPIO, an
/// inotify. That takes no thread of its own, as waiting in smol's reactor would.
///
/// It is waited for in the server, or the [`block_on`](crate::block_on), that it was made in, for as long as that runs. Any number of tasks
/// may share it: one after the other has its operation done. One that takes several, as to write what does not fit at once, is best left to one
/// task, behind a channel.
///
/// # Examples
///
/// What is written to a named pipe goes to all clients:
///
/// ```no_run
/// use futures_lite::future;
/// use std::{error::Error, fs::File, io::Read};
/// use whit::{AsyncFd, Closed, Connection, Listener, Policy, Server, Topic};
///
/// async fn publish(sensors: Topic) -> Result<(), Box<dyn Error>> {
///     // Open for writing, too: otherwise it ends with the first who writes to it.
///     let pipe = File::options().read(true).write(true).open("/run/sensors")?;
///     let pipe = AsyncFd::new(pipe)?;
///     let mut bytes = [0; 4096];
///     loop {
///         let count = pipe.read_with(|mut pipe| pipe.read(&mut bytes)).await?;
///         sensors.publish(bytes[..count].to_vec());
///     }
/// }
///
/// async fn watch(conn: Connection, sensors: Topic) -> Result<(), Closed> {
///     let _subscription = sensors.subscribe(&conn, Policy::Latest);
///     Err(conn.closed().await)
/// }
///
/// fn main() -> Result<(), Box<dyn Error>> {
///     let server = Server::new();
///     let sensors = server.hub().topic("sensors");
///     let publishing = publish(sensors.clone());
///     let server = server.route("/ws", move |conn| watch(conn, sensors.clone()));
///     let listener = Listener::bind("127.0.0.1:7777")?;
///     let serving = async { Ok(server.serve(listener).await?) };
///     whit::block_on(future::or(serving, publishing))?
/// }
/// ```
#[derive(Debug)]
pub struct AsyncFd<T: AsFd> {
    io: Io<T>,
    readers: Line,
    writers: Line,
}

impl<T: AsFd> Drop for AsyncFd<T> {
    fn drop(&mut self) {
        self.io.forget();
    }
}

/// Those who wait in one direction: the first for the descriptor, which has room for one, and the others for the first.
#[derive(Debug, Default)]
struct Line {
    is_taken: Cell<bool>,
    left: Event,
}

impl Line {
    async fn be_first(&self) -> First<'_> {
        while self.is_taken.get() {
            self.left.listen().await;
        }
        self.is_taken.set(true);
        First(self)
    }
}

struct First<'a>(&'a Line);

impl Drop for First<'_> {
    fn drop(&mut self) {
        self.0.is_taken.set(false);
        self.0.left.notify(1);
    }
}

impl<T: AsFd> AsyncFd<T> {
    /// Takes a descriptor, which does not block any more from then on (`O_NONBLOCK`), wherever else it is open.
    ///
    /// # Errors
    ///
    /// If the system does not let it wait for such: regular files and folders are always ready. Also where this is called neither in a
    /// handler, nor in a future that [`block_on`](crate::block_on) runs, and in a `Simulation`, which has no system.
    pub fn new(fd: T) -> io::Result<Self> {
        let io = register(fd).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                let reason =
                    "regular files and folders are always ready: there is nothing to wait for";
                io::Error::new(error.kind(), reason)
            }
            _ => error,
        })?;
        Ok(Self {
            io,
            readers: Line::default(),
            writers: Line::default(),
        })
    }

    /// What it was made of.
    pub fn get_ref(&self) -> &T {
        self.io.get_ref()
    }

    /// Runs `operation`, again each time that there may be something to read, until it gives anything else than
    /// [`WouldBlock`](io::ErrorKind::WouldBlock). One that was interrupted by a signal is run again.
    ///
    /// # Errors
    ///
    /// Those of `operation`.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped before it is ready `operation` has done nothing.
    pub async fn read_with<R>(
        &self,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        let _first = self.readers.be_first().await;
        poll_fn(|cx| self.poll_read_with(cx, &mut operation)).await
    }

    /// The same when there may be room to write.
    ///
    /// # Errors
    ///
    /// Those of `operation`, and the system's where it does not let it wait for room.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped before it is ready `operation` has done nothing.
    pub async fn write_with<R>(
        &self,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        let _first = self.writers.be_first().await;
        poll_fn(|cx| self.poll_write_with(cx, &mut operation)).await
    }

    /// What [`read_with`](Self::read_with) does each time that it is polled, for one task: the last that polled is woken.
    ///
    /// # Errors
    ///
    /// Those of `operation`.
    pub fn poll_read_with<R>(
        &self,
        cx: &mut Context<'_>,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.io.poll_read_with(cx, operation)
    }

    /// What [`write_with`](Self::write_with) does each time that it is polled, for one task: the last that polled is woken.
    ///
    /// # Errors
    ///
    /// Those of `operation`, and the system's where it does not let it wait for room.
    pub fn poll_write_with<R>(
        &self,
        cx: &mut Context<'_>,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.io.poll_write_with(cx, operation)
    }
}
