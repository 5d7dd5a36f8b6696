//! Buffers of long messages, used again: memory that is new to the process comes page by page, and that takes longer than to
//! fill it.

use crate::{budget::Budget, message::Message};
use bytes::Bytes;
use std::{
    cell::RefCell,
    rc::{Rc, Weak},
};

/// Messages from this length on have such buffers: the command's allocator takes what is longer from the system and gives it back
/// each time. An echo of 24 KiB took 26 us of CPU time without, 7.6 us with them, one of 64 KiB 57 and 17, of 1 MiB 710 and 318.
/// At 16 KiB, which comes from the allocator's own, they gain nothing.
const LONG_BYTES: usize = 20 * 1024;

thread_local! {
    /// Where buffers go that are dropped on this thread: to the server on it that took one last. Where there are several, that
    /// may be another one's, which does as well.
    static HOME: RefCell<Weak<Budget>> = const { RefCell::new(Weak::new()) };
}

/// Whether a message of this length has such a buffer.
pub(crate) fn is_long(len: usize) -> bool {
    len >= LONG_BYTES
}

/// The largest buffer that is taken for a message of this length.
pub(crate) fn most_bytes_for(len: usize) -> usize {
    if is_long(len) { len + len / 16 } else { len }
}

/// What a message takes that waits: the payload, or the largest buffer that a long one may lie in, its place in the queue, and what the
/// allocator and its counter add.
pub(crate) fn allocated(message: &Message) -> usize {
    const OVERHEAD_BYTES: usize = 112;
    const PAGE_BYTES: usize = 4096;
    /// Allocators give whole pages to what is longer, and so does the command's.
    const WHOLE_PAGES_FROM: usize = 4 * PAGE_BYTES;

    let bytes = message.len() + OVERHEAD_BYTES;
    if bytes > WHOLE_PAGES_FROM {
        most_bytes_for(bytes).next_multiple_of(PAGE_BYTES)
    } else {
        bytes
    }
}

/// Gives a buffer for a message of this length: one that was used before, or an empty one. There is room for the message behind
/// what is in it, and no more.
///
/// That is room for what has not arrived. But someone has filled it once, and it is charged to whom it is for.
pub(crate) fn take(len: usize, budget: &Rc<Budget>) -> Vec<u8> {
    if !is_long(len) {
        return Vec::new();
    }
    HOME.set(Rc::downgrade(budget));
    let mut buffer = budget
        .take_spare(len..=most_bytes_for(len))
        .unwrap_or_default();
    buffer.truncate(buffer.capacity() - len.min(buffer.capacity()));
    buffer
}

/// Copies a message, into such a buffer if it is long.
pub(crate) fn copy(message: &[u8], budget: &Rc<Budget>) -> Bytes {
    if !is_long(message.len()) {
        return Bytes::from(Box::<[u8]>::from(message));
    }
    copy_long(message, budget)
}

/// Apart: within the other it costs each short message 8 instructions.
#[cold]
fn copy_long(message: &[u8], budget: &Rc<Budget>) -> Bytes {
    let mut buffer = take(message.len(), budget);
    let start = buffer.len();
    buffer.reserve_exact(message.len());
    buffer.extend_from_slice(message);
    lend(buffer, start)
}

/// The message that begins at `start` of a buffer, which can be used again when nobody has the message any more.
pub(crate) fn lend(buffer: Vec<u8>, start: usize) -> Bytes {
    if !is_long(buffer.len() - start) {
        return buffer.into();
    }
    Bytes::from_owner(Lent { buffer, start })
}

struct Lent {
    buffer: Vec<u8>,
    start: usize,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // The thread may be at its end.
        let home = HOME.try_with(|home| home.borrow().upgrade());
        // Only of one that is full the next message can have the end.
        if let (Ok(Some(home)), true) = (home, self.buffer.len() == self.buffer.capacity()) {
            home.keep_spare(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::Reactor;
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Waker},
        thread,
        time::Duration,
    };

    const LEN: usize = 100_000;
    const LIMIT: usize = 16 * LEN;

    /// Runs `test` beside the one who frees what is spare, on a clock that stands still.
    fn with_pool(test: impl FnOnce(&Rc<Budget>, &mut dyn FnMut(Duration))) -> Rc<Budget> {
        let budget = Rc::new(Budget::default());
        budget.set_limit(LIMIT);
        let reactor = Reactor::stopped();
        {
            let mut freeing = pin!(budget.free_spare_in_time());
            let mut run = |time| {
                reactor.set_now(reactor.now() + time);
                let mut cx = Context::from_waker(Waker::noop());
                reactor.enter(|| assert!(freeing.as_mut().poll(&mut cx).is_pending()));
                assert_eq!(reactor.next_timer().is_some(), budget.used() > 0);
            };
            run(Duration::ZERO);
            reactor.enter(|| test(&budget, &mut run));
        }
        budget
    }

    fn message(len: usize, byte: u8, budget: &Rc<Budget>) -> Bytes {
        copy(&vec![byte; len], budget)
    }

    #[test]
    fn a_buffer_is_used_again_when_nobody_has_its_message() {
        with_pool(|budget, _| {
            let held = message(LEN, 1, budget);
            let first = held.as_ptr();
            drop(held.clone());
            assert_eq!(budget.used(), 0);
            assert_eq!(take(LEN, budget).capacity(), 0);

            drop(held.slice(10..));
            drop(held);
            assert_eq!(budget.used(), LEN);
            let again = message(LEN, 2, budget);
            assert_eq!((again.as_ptr(), &again[..]), (first, &[2; LEN][..]));
            assert_eq!(budget.used(), 0);
        });
    }

    #[test]
    fn a_message_has_the_end_of_a_larger_buffer_if_it_is_little_larger() {
        with_pool(|budget, _| {
            drop(message(LEN, 1, budget));
            assert_eq!(take(LEN + 1, budget).capacity(), 0);
            assert_eq!(take(LEN / 17 * 16 - 16, budget).capacity(), 0);
            let len = LEN / 17 * 16 + 16;
            let buffer = take(len, budget);
            assert_eq!((buffer.capacity(), buffer.len()), (LEN, LEN - len));
            assert!(buffer.capacity() <= most_bytes_for(len));
            drop(lend(buffer, LEN - len));
            // It was not filled.
            assert_eq!(budget.used(), 0);

            drop(message(LEN, 1, budget));
            let shorter = message(len, 2, budget);
            assert_eq!(budget.used(), 0);
            assert_eq!(shorter, [2; LEN][..len]);
            drop(shorter);
            assert_eq!(message(LEN, 3, budget), [3; LEN][..]);
            assert_eq!(budget.used(), LEN);
        });
    }

    #[test]
    fn an_eighth_of_the_budget_is_spare_at_most_and_nothing_once_half_is_in_use() {
        with_pool(|budget, _| {
            let account = budget.open(0).unwrap();
            let hold = |count| {
                (0..count)
                    .map(|_| message(LEN, 1, budget))
                    .collect::<Vec<_>>()
            };
            drop(hold(5));
            assert_eq!(budget.used(), LIMIT / 8);
            account.add(LIMIT / 2 - LIMIT / 8);
            assert_eq!(budget.used(), LIMIT / 2);
            account.add(1);
            assert_eq!(budget.used(), LIMIT / 2 - LIMIT / 8 + 1);
            account.add(LIMIT / 8 - 1);
            drop(hold(1));
            assert_eq!(budget.used(), LIMIT / 2);
        });
    }

    #[test]
    fn what_is_spare_is_freed_within_two_seconds() {
        with_pool(|budget, run| {
            let second = Duration::from_secs(1);
            let both = [message(LEN, 1, budget), message(LEN, 2, budget)];
            drop(both);
            run(Duration::ZERO);
            run(second * 9 / 10);
            assert_eq!(budget.used(), 2 * LEN);
            // Only one is in use.
            drop(message(LEN, 3, budget));
            run(second / 10);
            assert_eq!(budget.used(), LEN);
            run(second);
            assert_eq!(budget.used(), 0);
            run(second);

            drop(message(LEN, 4, budget));
            run(Duration::ZERO);
            run(second);
            assert_eq!(budget.used(), 0);
        });
    }

    #[test]
    fn nothing_is_kept_where_nobody_would_free_it() {
        let mut held = None;
        let budget = with_pool(|budget, _| {
            let message = message(LEN, 1, budget);
            held = Some(message.clone());
            thread::spawn(|| drop(message)).join().unwrap();
            let message = self::message(LEN, 2, budget);
            thread::spawn(|| drop(message)).join().unwrap();
            assert_eq!(budget.used(), 0);
            drop(self::message(LEN, 3, budget));
            assert_eq!(budget.used(), LEN);
        });
        assert_eq!(budget.used(), 0);
        drop(held);
        assert_eq!(budget.used(), 0);
    }
}
