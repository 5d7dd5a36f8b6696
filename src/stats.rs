//! Counters of a server, and a snapshot of them.

use crate::{
    budget::Budget,
    close::{Closed, ClosedBy},
};
use std::{
    cell::{Cell, OnceCell, RefCell},
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
        if let Some(budget) = self.0.budget.get() {
            stats.shed = budget.shed();
            stats.memory_used_bytes = budget.used();
            stats.memory_peak_bytes = budget.peak();
        }
        stats
    }

    pub(crate) fn watch(&self, budget: Rc<Budget>) {
        // A server starts once, so this is the first.
        let _ = self.0.budget.set(budget);
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
    budget: OnceCell<Rc<Budget>>,
}
