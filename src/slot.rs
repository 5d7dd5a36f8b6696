//! A place to wait at, on one thread.

use futures_lite::future;
use std::{
    cell::{Cell, RefCell},
    task::{Context, Poll, Waker},
};

/// Who waits for something that another future of the same thread does. There is room for one: an event has room for any
/// number, and costs an allocation and a lock for each wait.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    taken: Cell<bool>,
    asleep: Cell<bool>,
    /// Kept from one wait to the next, which nearly always has the same.
    waker: RefCell<Option<Waker>>,
}

impl Slot {
    /// Whether someone waits here.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken.get()
    }

    /// Has the one that waits look again.
    pub(crate) fn wake(&self) {
        if self.asleep.take() {
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }

    /// To be woken as `cx` says, once.
    pub(crate) fn sleep(&self, cx: &mut Context<'_>) {
        match &mut *self.waker.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            waker => *waker = Some(cx.waker().clone()),
        }
        self.asleep.set(true);
    }

    /// Waits until `done` gives something. It looks when this is polled, which it is after each [`wake`](Self::wake).
    pub(crate) async fn until<T>(&self, mut done: impl FnMut() -> Option<T>) -> T {
        struct Leave<'a>(&'a Slot);

        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.taken.set(false);
                self.0.asleep.set(false);
            }
        }

        debug_assert!(!self.is_taken(), "one waits here already");
        self.taken.set(true);
        let _leave = Leave(self);
        future::poll_fn(|cx| match done() {
            Some(value) => Poll::Ready(value),
            None => {
                self.sleep(cx);
                Poll::Pending
            }
        })
        .await
    }
}

/// One of several who wait, as long as it does.
pub(crate) struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    pub(crate) fn among(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
