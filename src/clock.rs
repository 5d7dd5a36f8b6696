//! A clock that stands still until it is moved, in real time's place for one thread.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

thread_local! {
    static CLOCK: RefCell<Option<Clock>> = const { RefCell::new(None) };
}

struct Clock {
    now: Instant,
    sleepers: BTreeMap<(Instant, u64), Waker>,
    last_id: u64,
}

/// Stops the time of this thread for as long as it lives.
#[derive(Debug)]
pub(crate) struct Stopped(());

impl Stopped {
    /// `None` if it stands still already.
    pub(crate) fn new() -> Option<Self> {
        CLOCK.with_borrow_mut(|clock| {
            if clock.is_some() {
                return None;
            }
            *clock = Some(Clock {
                now: Instant::now(),
                sleepers: BTreeMap::new(),
                last_id: 0,
            });
            Some(Self(()))
        })
    }

    /// When the first of those who sleep is to be woken.
    pub(crate) fn next(&self) -> Option<Instant> {
        with(|clock| clock.sleepers.keys().next().map(|(deadline, _)| *deadline)).flatten()
    }

    /// Moves time on and wakes those whose time has come.
    pub(crate) fn set(&self, now: Instant) {
        let woken = with(|clock| {
            clock.now = clock.now.max(now);
            let later = clock.sleepers.split_off(&(clock.now, u64::MAX));
            std::mem::replace(&mut clock.sleepers, later)
        });
        woken
            .into_iter()
            .flatten()
            .for_each(|(_, waker)| waker.wake());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        CLOCK.set(None);
    }
}

fn with<T>(what: impl FnOnce(&mut Clock) -> T) -> Option<T> {
    CLOCK.with_borrow_mut(|clock| clock.as_mut().map(what))
}

/// The time, where it stands still.
pub(crate) fn now() -> Option<Instant> {
    with(|clock| clock.now)
}

/// Waits until the clock was moved to `deadline`.
pub(crate) fn sleep_until(deadline: Instant) -> Sleep {
    let id = with(|clock| {
        clock.last_id += 1;
        clock.last_id
    });
    Sleep {
        deadline,
        id: id.unwrap_or_default(),
    }
}

pub(crate) struct Sleep {
    deadline: Instant,
    id: u64,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let is_over = with(|clock| {
            let is_over = clock.now >= self.deadline;
            if !is_over {
                let waker = cx.waker().clone();
                clock.sleepers.insert((self.deadline, self.id), waker);
            }
            is_over
        });
        match is_over {
            Some(false) => Poll::Pending,
            Some(true) | None => Poll::Ready(()),
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        with(|clock| clock.sleepers.remove(&(self.deadline, self.id)));
    }
}
