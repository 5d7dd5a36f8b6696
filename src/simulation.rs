//! A server that is run step by step, on a clock of its own.

use crate::{
    error::Result,
    listener::Listener,
    pipe::Pipe,
    reactor::Reactor,
    server::{Server, ShutdownHandle},
};
use async_channel::{Sender, unbounded};
use std::{
    fmt,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

/// A server that runs only when it is told to, on a clock that stands still until it is moved: what happens depends on
/// the test alone, and hours take no time.
///
/// It is polled only when something woke it, so that a wait without a wake shows as one that never ends. All of the
/// server's times are those of the clock; a handler that is to have them too waits with [`sleep`](crate::sleep). Timers of smol's go by
/// real time.
///
/// # Examples
///
/// ```
/// use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
/// use std::time::Duration;
/// use whit::{Config, Server, testing::Simulation};
///
/// let config = Config::new().handshake_timeout(Duration::from_secs(5));
/// let mut simulation = Simulation::new(Server::new().config(config));
/// let mut client = simulation.connect(1000);
/// simulation.step();
/// simulation.advance(Duration::from_secs(5));
/// simulation.step();
///
/// let mut answer = [0; 12];
/// future::block_on(client.read_exact(&mut answer))?;
/// assert_eq!(&answer, b"HTTP/1.1 408");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Simulation {
    serving: Option<Pin<Box<dyn Future<Output = Result<()>>>>>,
    woken: Arc<Woken>,
    pipes: Sender<Pipe>,
    shutdown: ShutdownHandle,
    reactor: Rc<Reactor>,
    started: Instant,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Simulation {
    /// A server that was not run yet.
    pub fn new(server: Server) -> Self {
        let reactor = Reactor::stopped();
        let (pipes, incoming) = unbounded();
        let mut listener = Listener::default();
        listener.join_pipes(incoming);
        let shutdown = server.shutdown_handle();
        Self {
            started: reactor.now(),
            serving: Some(Box::pin(server.serve(listener))),
            woken: Arc::new(Woken(AtomicBool::new(true))),
            pipes,
            shutdown,
            reactor,
        }
    }

    /// A new connection that holds up to `capacity` bytes in each direction, with nothing sent on it yet.
    pub fn connect(&self, capacity: usize) -> Pipe {
        let (client, server) = Pipe::pair(capacity);
        // After the server's end there is no one to take it: the client finds the pipe broken.
        let _ = self.pipes.try_send(server);
        client
    }

    /// Polls the server once, if something woke it. Tells whether something had.
    ///
    /// # Panics
    ///
    /// If the server cannot start.
    #[allow(clippy::panic, reason = "a test fails by a panic")]
    pub fn step(&mut self) -> bool {
        let Some(serving) = &mut self.serving else {
            return false;
        };
        if !self.woken.0.swap(false, Ordering::Relaxed) {
            return false;
        }
        let waker = Waker::from(self.woken.clone());
        let mut cx = Context::from_waker(&waker);
        match self.reactor.enter(|| serving.as_mut().poll(&mut cx)) {
            Poll::Ready(Ok(())) => self.serving = None,
            Poll::Ready(Err(error)) => panic!("the server did not start: {error}"),
            Poll::Pending => {}
        }
        true
    }

    /// How far the clock was moved.
    pub fn elapsed(&self) -> Duration {
        self.reactor.now() - self.started
    }

    /// How far it is to the next time that anyone waits for, or `None` if no one waits.
    pub fn next_timer(&self) -> Option<Duration> {
        let next = self.reactor.next_timer()?;
        Some(next.saturating_duration_since(self.reactor.now()))
    }

    /// Moves the clock on. Those whose time has come run with the next [`step`](Self::step).
    pub fn advance(&mut self, by: Duration) {
        self.reactor.set_now(self.reactor.now() + by);
    }

    /// Shuts the server down, as [`ShutdownHandle::shut_down`] does.
    pub fn shut_down(&self) {
        self.shutdown.shut_down();
    }

    /// Drops the server as it stands.
    pub fn drop_server(&mut self) {
        self.reactor.enter(|| self.serving = None);
    }

    /// Whether the server has ended.
    pub fn has_ended(&self) -> bool {
        self.serving.is_none()
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("elapsed", &self.elapsed())
            .field("has_ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}
