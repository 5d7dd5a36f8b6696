//! The turns of a task, and what wakes it.
//!
//! A connection is one task. What its own parts do for each other is seen in the same turn; its handler, which may wait for
//! anything, is polled only when something woke it. A server as a whole is the same: its tasks, and beside them one future that
//! accepts and beats.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// Where a task is woken, and the one part of it that may wait for anything: its guest.
#[derive(Debug)]
pub(crate) struct Gate {
    knocks: Arc<Knocks>,
    guest: Waker,
    /// Something was done that another part has to see.
    again: Cell<bool>,
    /// The same as on all threads.
    in_turn: Cell<bool>,
    /// The guest was woken while it was polled.
    yields: Cell<bool>,
    /// The task's, as far as it is known here without a lock.
    task: RefCell<Option<Waker>>,
}

/// What is known of the guest on all threads.
#[derive(Debug)]
struct Knocks {
    /// It was woken, or never polled.
    woken: AtomicBool,
    /// The task has its turn: it sees by itself what happens.
    in_turn: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Knocks {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.in_turn.load(Ordering::SeqCst) {
            if let Some(waker) = &*self.task() {
                waker.wake_by_ref();
            }
        }
    }
}

impl Knocks {
    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Gate {
    fn default() -> Self {
        let knocks = Arc::new(Knocks {
            woken: AtomicBool::new(true),
            in_turn: AtomicBool::new(false),
            task: Mutex::default(),
        });
        Self {
            guest: knocks.clone().into(),
            knocks,
            again: Cell::new(false),
            in_turn: Cell::new(false),
            yields: Cell::new(false),
            task: RefCell::default(),
        }
    }
}

impl Gate {
    /// So often the parts may go on in one turn, before other tasks have theirs.
    const ROUNDS: usize = 4;

    /// Whether the task has its turn.
    pub(crate) fn is_in_turn(&self) -> bool {
        self.in_turn.get()
    }

    /// Has the task look again, from the same thread.
    pub(crate) fn wake(&self) {
        self.again.set(true);
        if !self.is_in_turn() {
            if let Some(waker) = &*self.task.borrow() {
                waker.wake_by_ref();
            }
        }
    }

    /// Polls the task: `round` after round, until nothing is to be done any more.
    pub(crate) fn poll_turn<T>(
        &self,
        cx: &mut Context<'_>,
        mut round: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.be_woken_by(cx.waker());
        self.in_turn.set(true);
        self.knocks.in_turn.store(true, Ordering::Relaxed);
        let mut poll = Poll::Pending;
        for _ in 0..Self::ROUNDS {
            self.again.set(false);
            poll = round(cx);
            // A guest that woke itself lets others go first.
            if poll.is_ready() || self.yields.take() || !self.is_more_to_do() {
                break;
            }
        }
        self.in_turn.set(false);
        self.knocks.in_turn.store(false, Ordering::SeqCst);
        if poll.is_pending() && self.is_more_to_do() {
            cx.waker().wake_by_ref();
        }
        poll
    }

    fn is_more_to_do(&self) -> bool {
        self.again.get() || self.knocks.woken.load(Ordering::SeqCst)
    }

    /// Polls the guest, if it was woken.
    pub(crate) fn poll_woken<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let woken = &self.knocks.woken;
        // Mostly it was not, and reading costs less than taking.
        if !woken.load(Ordering::Relaxed) || !woken.swap(false, Ordering::SeqCst) {
            return Poll::Pending;
        }
        let poll = poll(&mut Context::from_waker(&self.guest));
        self.yields.set(woken.load(Ordering::Relaxed));
        poll
    }

    /// The guest has left: what woke it is nothing to be done.
    pub(crate) fn dismiss(&self) {
        self.knocks.woken.store(false, Ordering::SeqCst);
    }

    /// Wakes nobody any more: who keeps the guest's waker would keep the task's memory.
    pub(crate) fn shut(&self) {
        self.task.take();
        self.knocks.task().take();
    }

    #[inline(always)]
    fn be_woken_by(&self, waker: &Waker) {
        let knows = |known: &Waker| known.will_wake(waker);
        if !self.task.borrow().as_ref().is_some_and(knows) {
            self.learn(waker);
        }
    }

    #[cold]
    fn learn(&self, waker: &Waker) {
        self.task.replace(Some(waker.clone()));
        *self.knocks.task() = Some(waker.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Count {
        fn get(&self) -> u32 {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives the task a turn in which its guest is polled if it was woken. Tells how often.
    fn turn(gate: &Gate, task: &Arc<Count>, mut guest: impl FnMut(&Waker)) -> u32 {
        let mut polls = 0;
        let waker = task.clone().into();
        let poll = gate.poll_turn(&mut Context::from_waker(&waker), |_| {
            gate.poll_woken(|cx| {
                polls += 1;
                guest(cx.waker());
                Poll::<()>::Pending
            })
        });
        assert!(poll.is_pending());
        polls
    }

    #[test]
    fn a_guest_is_polled_only_when_it_was_woken() {
        let (gate, task) = (Gate::default(), Arc::default());
        let mut waker = None;
        assert_eq!(turn(&gate, &task, |own| waker = Some(own.clone())), 1);
        assert_eq!(turn(&gate, &task, |_| {}), 0);
        assert_eq!(task.get(), 0);
        std::thread::spawn(move || waker.unwrap().wake())
            .join()
            .unwrap();
        assert_eq!(task.get(), 1);
        assert_eq!(turn(&gate, &task, |_| {}), 1);
    }

    #[test]
    fn what_is_done_within_a_turn_is_seen_in_it_and_a_yield_ends_it() {
        let (gate, task) = (Gate::default(), Arc::default());
        let mut once = true;
        let polls = turn(&gate, &task, |own| {
            if std::mem::take(&mut once) {
                own.wake_by_ref();
            }
        });
        assert_eq!((polls, task.get()), (1, 1));
        assert_eq!(turn(&gate, &task, |_| gate.wake()), 1);
        assert_eq!(task.get(), 1);
        gate.wake();
        assert_eq!(task.get(), 2);
    }

    #[test]
    fn a_guest_that_always_wakes_itself_leaves_the_others_their_turn() {
        let (gate, task) = (Gate::default(), Arc::default());
        assert_eq!(turn(&gate, &task, Waker::wake_by_ref), 1);
        assert_eq!(task.get(), 1);
    }

    #[test]
    fn a_shut_gate_keeps_no_task() {
        let (gate, task) = (Gate::default(), Arc::<Count>::default());
        let mut waker = None;
        turn(&gate, &task, |own| waker = Some(own.clone()));
        gate.shut();
        assert_eq!(Arc::strong_count(&task), 1);
        drop(waker);
    }
}
