//! Counters of a server, and a snapshot of them.

use crate::{
    budget::Budget,
    close::{Closed, ClosedBy},
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

/// What a server has done since it started, and what it holds: a snapshot, for a page or a log of your own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// WebSocket connections that are open.
    pub open: u64,
    /// WebSocket connections that were ever opened.
    pub opened: u64,
    /// Those of them that ended, by whom and with which code.
    pub closed: BTreeMap<(ClosedBy, u16), u64>,
    /// Requests that were refused, by the status of the answer. Those dropped without one count, too.
    pub refused: BTreeMap<u16, u64>,
    /// Messages that clients sent, of the connections that ended.
    pub messages_received: u64,
    /// Their payloads, in bytes.
    pub bytes_received: u64,
    /// Messages that were sent to clients, of the connections that ended.
    pub messages_sent: u64,
    /// Their payloads, in bytes.
    pub bytes_sent: u64,
    /// Connections that were shed for want of memory.
    pub shed: u64,
    /// What is charged to [`memory_budget_bytes`](field@crate::Config::memory_budget_bytes) now.
    pub memory_used_bytes: usize,
    /// The most that ever was.
    pub memory_peak_bytes: usize,
}

/// Takes snapshots of a server's [`Stats`]: see [`Server::stats_handle`](crate::Server::stats_handle).
#[derive(Clone, Debug, Default)]
pub struct StatsHandle(Rc<Counters>);

impl StatsHandle {
    /// The counters as they stand.
    pub fn snapshot(&self) -> Stats {
        let mut stats = self.0.stats.borrow().clone();
        stats.open = self.0.open.get();
        stats.shed = self.0.budget.shed();
        stats.memory_used_bytes = self.0.budget.used();
        stats.memory_peak_bytes = self.0.budget.peak();
        stats
    }

    /// Waits until a load has passed: what is charged to
    /// [`memory_budget_bytes`](field@crate::Config::memory_budget_bytes) has fallen below a quarter of the most since the last
    /// time, which was at least 256 KiB, and has stayed there for a second.
    ///
    /// An allocator keeps some of what was freed for the next time. This is the moment to ask for it, at most once a second
    /// and never while nothing happens: with glibc by `malloc_trim(0)`, in a loop beside the server, as the command does.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when this is dropped before it is ready. When several wait for the same load, one of them is told.
    pub async fn relieved(&self) {
        self.0.budget.relieved().await;
    }

    pub(crate) fn budget(&self) -> &Rc<Budget> {
        &self.0.budget
    }

    pub(crate) fn count_opened(&self) {
        self.0.open.set(self.0.open.get() + 1);
        self.0.stats.borrow_mut().opened += 1;
    }

    pub(crate) fn count_closed(&self, closed: &Closed, received: (u64, u64), sent: (u64, u64)) {
        self.0.open.set(self.0.open.get() - 1);
        let mut stats = self.0.stats.borrow_mut();
        *stats
            .closed
            .entry((closed.by(), closed.code().into()))
            .or_default() += 1;
        stats.messages_received += received.0;
        stats.bytes_received += received.1;
        stats.messages_sent += sent.0;
        stats.bytes_sent += sent.1;
    }

    pub(crate) fn count_refused(&self, status: u16) {
        *self.0.stats.borrow_mut().refused.entry(status).or_default() += 1;
    }
}

#[derive(Debug, Default)]
struct Counters {
    open: Cell<u64>,
    stats: RefCell<Stats>,
    budget: Rc<Budget>,
}
