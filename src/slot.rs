//! A place to wait at, on one thread.

use std::{
    cell::{Cell, RefCell},
    task::{Context, Waker},
};

/// Who waits for something that another future of the same thread does. There is room for one: an event has room for any
/// number, and costs an allocation and a lock for each wait.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    asleep: Cell<bool>,
    /// Kept from one wait to the next, which nearly always has the same.
    waker: RefCell<Option<Waker>>,
}

impl Slot {
    /// Has the one that waits look again.
    #[inline(always)]
    pub(crate) fn wake(&self) {
        if self.asleep.get() {
            self.asleep.set(false);
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }

    /// To be woken as `cx` says, once.
    #[inline]
    pub(crate) fn sleep(&self, cx: &mut Context<'_>) {
        let knows = |known: &Waker| known.will_wake(cx.waker());
        if !self.waker.borrow().as_ref().is_some_and(knows) {
            self.learn(cx.waker());
        }
        self.asleep.set(true);
    }

    #[cold]
    fn learn(&self, waker: &Waker) {
        self.waker.replace(Some(waker.clone()));
    }

    /// Lets go of the one that waits, and of what its waker keeps.
    pub(crate) fn clear(&self) {
        self.asleep.set(false);
        self.waker.take();
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
