//! Turns: a peer that always has more shall not keep the thread.

use std::{
    cell::Cell,
    task::{Context, Poll},
};

/// So many tasks have their turn before the sockets, the timers and the server's own future have theirs: a task that always wakes
/// itself is always there to be run.
pub(crate) const TASKS: usize = 64;

/// What a socket has had since it last had to wait.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    bytes: Cell<usize>,
}

impl Turn {
    /// After so many all others have their turn.
    const BYTES: usize = 64 * 1024;
    /// An operation counts as so many at least.
    const OPERATION_BYTES: usize = 4 * 1024;

    /// Ready while its turn goes on.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.bytes.get() < Self::BYTES {
            return Poll::Ready(());
        }
        self.bytes.set(0);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Counts an operation, of so many bytes if it was done.
    pub(crate) fn count<R>(&self, result: Poll<R>, bytes: impl FnOnce(&R) -> usize) -> Poll<R> {
        self.bytes.set(match &result {
            Poll::Ready(done) => self.bytes.get() + bytes(done).max(Self::OPERATION_BYTES),
            Poll::Pending => 0,
        });
        result
    }
}
