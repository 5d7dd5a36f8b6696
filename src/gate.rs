//! The parts of a task, each polled only when something woke it.
//!
//! A connection is one task of several futures. Without this each wake-up would poll all of them, and what one does for
//! another, as with every message, would have the executor run the whole task once more.

use futures_lite::future;
use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// The gates of one task: before each of some of its futures there is one.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    shared: Arc<Shared>,
    /// Those with a future behind them.
    used: Cell<u8>,
    /// The task's, as far as it is known here without a lock.
    waker: RefCell<Option<Waker>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Those whose futures were woken.
    open: AtomicU8,
    /// The task is being polled: it sees by itself which gates open.
    polled: AtomicBool,
    task: Mutex<Option<Waker>>,
}

/// Wakes the future behind a gate.
struct Knock {
    shared: Arc<Shared>,
    gate: u8,
}

impl Wake for Knock {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.shared.open.fetch_or(self.gate, Ordering::SeqCst);
        if !self.shared.polled.load(Ordering::SeqCst) {
            if let Some(waker) = &*self.shared.task() {
                waker.wake_by_ref();
            }
        }
    }
}

impl Shared {
    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gates {
    /// So often the parts may wake each other before other tasks have their turn: reader, handler, writer is two.
    const ROUNDS: usize = 4;

    /// Whether the task is being polled.
    pub(crate) fn is_polled(&self) -> bool {
        self.shared.polled.load(Ordering::Relaxed)
    }

    /// Runs the task whose futures have these gates.
    pub(crate) async fn run<F: Future>(&self, mut task: Pin<&mut F>) -> F::Output {
        let shared = &*self.shared;
        let output = future::poll_fn(|cx| {
            self.be_woken_by(cx.waker());
            shared.polled.store(true, Ordering::Relaxed);
            let mut poll = Poll::Pending;
            for _ in 0..Self::ROUNDS {
                poll = task.as_mut().poll(cx);
                if poll.is_ready() || !self.is_any_open() {
                    break;
                }
            }
            shared.polled.store(false, Ordering::SeqCst);
            if poll.is_pending() && self.is_any_open() {
                cx.waker().wake_by_ref();
            }
            poll
        })
        .await;
        // It would keep the task's memory.
        self.waker.take();
        shared.task().take();
        output
    }

    fn be_woken_by(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
            *self.shared.task() = Some(waker.clone());
        }
    }

    fn is_any_open(&self) -> bool {
        self.shared.open.load(Ordering::SeqCst) & self.used.get() != 0
    }

    /// Runs a part of the task behind the gate of this number, which no other has at the time.
    pub(crate) async fn pass<F: Future>(&self, number: u8, mut part: Pin<&mut F>) -> F::Output {
        struct Leave<'a>(&'a Cell<u8>, u8);

        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() & !self.1);
            }
        }

        let gate = 1 << number;
        self.used.set(self.used.get() | gate);
        let _leave = Leave(&self.used, gate);
        self.shared.open.fetch_or(gate, Ordering::SeqCst);
        let waker = Waker::from(Arc::new(Knock {
            shared: self.shared.clone(),
            gate,
        }));
        future::poll_fn(|_| {
            let open = &self.shared.open;
            // Mostly it is closed, and reading costs less than taking.
            if open.load(Ordering::SeqCst) & gate == 0 {
                return Poll::Pending;
            }
            open.fetch_and(!gate, Ordering::SeqCst);
            part.as_mut().poll(&mut Context::from_waker(&waker))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{pin::pin, rc::Rc};

    #[test]
    fn only_what_was_woken_is_polled() {
        let gates = Gates::default();
        let wakers: [Rc<RefCell<Option<Waker>>>; 2] = Default::default();
        let polls: [Cell<u32>; 2] = Default::default();
        let part = |i: usize| {
            let (wakers, polls) = (&wakers, &polls);
            future::poll_fn(move |cx| {
                polls[i].set(polls[i].get() + 1);
                wakers[i].replace(Some(cx.waker().clone()));
                Poll::<()>::Pending
            })
        };
        let (mut one, mut other) = (pin!(part(0)), pin!(part(1)));
        let both = future::zip(gates.pass(0, one.as_mut()), gates.pass(1, other.as_mut()));
        let mut both = pin!(both);
        let mut running = pin!(gates.run(both.as_mut()));
        let mut poll = || future::block_on(future::poll_once(&mut running));
        let seen = || (polls[0].get(), polls[1].get());

        assert!(poll().is_none());
        assert_eq!(seen(), (1, 1));
        assert!(poll().is_none());
        assert_eq!(seen(), (1, 1));
        let waker = wakers[1].borrow().clone();
        waker.unwrap().wake();
        assert!(poll().is_none());
        assert_eq!(seen(), (1, 2));
    }

    #[test]
    fn a_part_that_always_wakes_itself_leaves_the_others_their_turn() {
        let gates = Gates::default();
        let mut greedy = pin!(future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        let mut passing = pin!(gates.pass(0, greedy.as_mut()));
        let mut running = pin!(gates.run(passing.as_mut()));
        let woken = Arc::new(Flag::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(running.as_mut().poll(&mut cx).is_pending());
        assert!(woken.0.load(Ordering::Relaxed));
    }

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
