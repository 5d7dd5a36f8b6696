//! Readiness of sockets, and time: the one place that knows who waits for what.
//!
//! [`block_on`] waits for all of it in one system call; [`nested`] leaves the waiting to somebody else's executor.

#[cfg(all(target_os = "linux", not(whit_portable)))]
pub(crate) use crate::epoll::{Io, Sockets};
#[cfg(not(all(target_os = "linux", not(whit_portable))))]
pub(crate) use crate::portable::{Io, Sockets, register};

use crate::error::{Error, Result};
use async_channel::Receiver;
use futures_lite::future;
use smol::Timer;
#[cfg(all(target_os = "linux", not(whit_portable)))]
use std::os::fd::AsFd;
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io, mem,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

thread_local! {
    /// The reactor of what is being polled.
    static CURRENT: RefCell<Option<Rc<Reactor>>> = const { RefCell::new(None) };
}

fn current() -> Option<Rc<Reactor>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Sockets and timers that are waited for together.
#[derive(Debug)]
pub(crate) struct Reactor {
    source: Source,
    /// Of each key one, in order. Most come at the end and leave at the front. A map is 6 KB more of the program.
    timers: RefCell<VecDeque<(TimerKey, Waker)>>,
    last_timer: Cell<usize>,
}

/// A deadline, and a number: several may have the same.
type TimerKey = (Instant, usize);

#[derive(Debug)]
enum Source {
    System(
        #[cfg_attr(
            not(all(target_os = "linux", not(whit_portable))),
            allow(dead_code, reason = "nothing registers there")
        )]
        Rc<Sockets>,
    ),
    /// No sockets, and a time that stands still until it is moved.
    #[cfg(feature = "testing")]
    Stopped(Cell<Instant>),
}

impl Reactor {
    fn from_source(source: Source) -> Rc<Self> {
        Rc::new(Self {
            source,
            timers: RefCell::default(),
            last_timer: Cell::new(0),
        })
    }

    /// Time stands still for all that is polled within it.
    #[cfg(feature = "testing")]
    pub(crate) fn stopped() -> Rc<Self> {
        Self::from_source(Source::Stopped(Cell::new(Instant::now())))
    }

    /// Runs `what` as a part of this reactor.
    pub(crate) fn enter<T>(self: &Rc<Self>, what: impl FnOnce() -> T) -> T {
        struct Leave(Option<Rc<Reactor>>);

        impl Drop for Leave {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }

        let _leave = Leave(CURRENT.replace(Some(self.clone())));
        what()
    }

    pub(crate) fn now(&self) -> Instant {
        match &self.source {
            Source::System(_) => Instant::now(),
            #[cfg(feature = "testing")]
            Source::Stopped(now) => now.get(),
        }
    }

    /// Moves a time that stands still, and wakes those whose time has come.
    #[cfg(feature = "testing")]
    pub(crate) fn set_now(&self, to: Instant) {
        if let Source::Stopped(now) = &self.source {
            now.set(to.max(now.get()));
        }
        self.wake_sleepers();
    }

    /// When the first of those who sleep is to be woken.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let timers = self.timers.borrow();
        timers.front().map(|((deadline, _), _)| *deadline)
    }

    fn wake_sleepers(&self) {
        if self.timers.borrow().is_empty() {
            return;
        }
        let now = self.now();
        loop {
            let mut timers = self.timers.borrow_mut();
            match timers.front() {
                Some(((deadline, _), _)) if *deadline <= now => {
                    let first = timers.pop_front();
                    drop(timers);
                    if let Some((_, waker)) = first {
                        waker.wake();
                    }
                }
                _ => return,
            }
        }
    }
}

/// Runs a future on this thread until it is ready, as [`smol::block_on`] does. A server that is
/// [served](crate::Server::serve) within it waits as lean as one that is [run](crate::Server::run): in one system call for
/// all sockets and timers, with no thread beside this one.
///
/// Timers and sockets of smol's work, too; they have a thread of their own as soon as there are any.
///
/// # Errors
///
/// [`Error::Reactor`] if the system gives no means to wait.
///
/// # Examples
///
/// Two servers on one thread:
///
/// ```
/// use futures_lite::future;
/// use whit::{Listener, Server};
///
/// let (one, other) = (Server::new(), Server::new());
/// # one.shutdown_handle().shut_down();
/// # other.shutdown_handle().shut_down();
/// let both = future::zip(
///     one.serve(Listener::bind("127.0.0.1:0")?),
///     other.serve(Listener::bind("127.0.0.1:0")?),
/// );
/// let (one, other) = whit::block_on(both)?;
/// one.and(other)?;
/// # Ok::<(), whit::Error>(())
/// ```
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    #[cfg(all(target_os = "linux", not(whit_portable)))]
    return wait_for(future);
    #[cfg(not(all(target_os = "linux", not(whit_portable))))]
    return smol::block_on(nested(future));
}

/// Runs a future on a thread that waits for nothing else.
#[cfg(all(target_os = "linux", not(whit_portable)))]
fn wait_for<T>(future: impl Future<Output = T>) -> Result<T> {
    let sockets = Sockets::new().map_err(no_reactor)?;
    let bell = sockets.bell().map_err(no_reactor)?;
    let reactor = Reactor::from_source(Source::System(sockets.clone()));
    let waker = Waker::from(bell.clone());
    let mut future = pin!(future);
    loop {
        bell.reset();
        let poll = reactor.enter(|| future.as_mut().poll(&mut Context::from_waker(&waker)));
        if let Poll::Ready(value) = poll {
            return Ok(value);
        }
        let next = reactor.next_timer();
        let timeout = next.map(|next| next.saturating_duration_since(reactor.now()));
        sockets.wait(&bell, timeout);
        reactor.wake_sleepers();
    }
}

/// Runs a future with a reactor of its own, which waits in async-io. Where there is a reactor already it is a part of that.
pub(crate) async fn nested<T>(future: impl Future<Output = T>) -> Result<T> {
    if current().is_some() {
        return Ok(future.await);
    }
    let sockets = Sockets::new().map_err(no_reactor)?;
    let readiness = sockets.nested().map_err(no_reactor)?;
    let reactor = Reactor::from_source(Source::System(sockets.clone()));
    let mut timer = Timer::never();
    let mut timer_at = None;
    let mut future = pin!(future);
    let polling = future::poll_fn(|cx| {
        loop {
            sockets.look();
            reactor.wake_sleepers();
            if let Poll::Ready(value) = reactor.enter(|| future.as_mut().poll(cx)) {
                return Poll::Ready(value);
            }
            let next = reactor.next_timer();
            if next != timer_at {
                timer = next.map_or_else(Timer::never, Timer::at);
                timer_at = next;
            }
            let time_is_up = Pin::new(&mut timer).poll(cx).is_ready();
            if !time_is_up && !readiness.poll_ready(cx) {
                return Poll::Pending;
            }
            if time_is_up {
                timer_at = None;
            }
        }
    });
    Ok(polling.await)
}

fn no_reactor(source: io::Error) -> Error {
    Error::Reactor { source }
}

/// Fails where what is being polled is no part of a reactor.
pub(crate) fn check() -> Result<()> {
    current().map(drop).ok_or_else(|| no_reactor(nobody()))
}

fn nobody() -> io::Error {
    io::Error::other("nobody waits here: that takes a server, or whit::block_on")
}

/// Takes a socket, to be waited for with those of what is being polled.
#[cfg(all(target_os = "linux", not(whit_portable)))]
pub(crate) fn register<T: AsFd>(socket: T) -> io::Result<Io<T>> {
    match current().as_deref().map(|reactor| &reactor.source) {
        Some(Source::System(sockets)) => Io::new(socket, sockets.clone()),
        _ => Err(nobody()),
    }
}

pub(crate) fn now() -> Instant {
    #[cfg(feature = "testing")]
    if let Some(reactor) = current() {
        return reactor.now();
    }
    Instant::now()
}

pub(crate) async fn sleep(duration: Duration) {
    sleep_until(now() + duration).await;
}

/// For what is polled within a reactor, as all is that a server does.
pub(crate) async fn sleep_until(deadline: Instant) {
    let Some(reactor) = current() else {
        unreachable!("it is polled within no reactor");
    };
    Sleep::new(reactor, deadline).await;
}

/// Waits for so long, among all that the server's thread waits for: in handlers, and wherever else [`block_on`] or a server polls it. It
/// has no thread of its own there, as timers of smol's have, and in a `Simulation` it goes by that
/// clock.
///
/// Elsewhere a thread waits for that time, or until the future is dropped. Where it was first polled it stays: it is not to be moved from one server or
/// `block_on` to another.
///
/// # Cancel safety
///
/// Nothing depends on it.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use whit::{Closed, Connection, sleep};
///
/// async fn count(conn: Connection) -> Result<(), Closed> {
///     for second in 1.. {
///         sleep(Duration::from_secs(1)).await;
///         conn.write(format!("{second}")).await?;
///     }
///     Ok(())
/// }
/// ```
pub async fn sleep_anywhere(duration: Duration) {
    match now().checked_add(duration) {
        Some(deadline) => sleep_until_anywhere(deadline).await,
        None => future::pending().await,
    }
}

/// For what may be polled by anyone.
pub(crate) async fn sleep_until_anywhere(deadline: Instant) {
    if current().is_some() {
        return sleep_until(deadline).await;
    }
    // Not a timer of smol's: with its reactor that is 40 KB of the program.
    let left = move || deadline.saturating_duration_since(Instant::now());
    let (over, waited) = async_channel::bounded::<()>(1);
    let waiting = move || {
        // Closed, too, when nobody waits any more.
        while !left().is_zero() && !over.is_closed() {
            thread::park_timeout(left());
        }
    };
    match thread::Builder::new().spawn(waiting) {
        Ok(thread) => Waiter { waited, thread }.wait().await,
        Err(_) => thread::sleep(left()),
    }
}

/// A thread that waits in place of a reactor, for as long as this lives.
struct Waiter {
    /// Closed when the time is over.
    waited: Receiver<()>,
    thread: JoinHandle<()>,
}

impl Waiter {
    async fn wait(self) {
        let _ = self.waited.recv().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waited.close();
        self.thread.thread().unpark();
    }
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

struct Sleep {
    reactor: Rc<Reactor>,
    key: TimerKey,
}

impl Sleep {
    fn new(reactor: Rc<Reactor>, deadline: Instant) -> Self {
        let id = reactor.last_timer.get().wrapping_add(1);
        reactor.last_timer.set(id);
        Self {
            reactor,
            key: (deadline, id),
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.reactor.now() >= self.key.0 {
            return Poll::Ready(());
        }
        let mut timers = self.reactor.timers.borrow_mut();
        match place_of(&timers, self.key) {
            Ok(place) if timers[place].1.will_wake(cx.waker()) => {}
            Ok(place) => {
                let waker = mem::replace(&mut timers[place].1, cx.waker().clone());
                drop(timers);
                // It may be the last that keeps a task, with timers of its own.
                drop(waker);
            }
            Err(place) => timers.insert(place, (self.key, cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let mut timers = self.reactor.timers.borrow_mut();
        let removed = place_of(&timers, self.key).ok();
        let removed = removed.and_then(|place| timers.remove(place));
        drop(timers);
        // As above.
        drop(removed);
    }
}

/// Where the timer is, or would be.
fn place_of(
    timers: &VecDeque<(TimerKey, Waker)>,
    key: TimerKey,
) -> std::result::Result<usize, usize> {
    timers.binary_search_by_key(&key, |(key, _)| *key)
}
