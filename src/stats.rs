//! Counters of a server, and a snapshot of them.

use crate::{
    budget::Budget,
    close::{Closed, ClosedBy},
    error::Refusal,
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};
#[cfg(all(feature = "systemd", target_os = "linux"))]
use {crate::slot::Slot, futures_lite::future::poll_fn, std::task::Poll};

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
    /// How often a limit of [`Config`](crate::Config) was reached, by its field: refusals, and connections that it ended.
    pub limits: BTreeMap<&'static str, u64>,
    /// Messages that clients sent.
    pub messages_received: u64,
    /// Their payloads, in bytes.
    pub bytes_received: u64,
    /// Messages that were sent to clients.
    pub messages_sent: u64,
    /// Their payloads, in bytes.
    pub bytes_sent: u64,
    /// Messages that were queued for a client and not sent, because its connection broke before, or was closed as too slow.
    pub messages_dropped: u64,
    /// Messages of topics that slow subscribers missed, as their [`Policy`](crate::Policy) says.
    pub messages_missed: u64,
    /// Connections that were shed for want of memory.
    pub shed: u64,
    /// What is charged to [`memory_budget_bytes`](field@crate::Config::memory_budget_bytes) now.
    pub memory_used_bytes: usize,
    /// The most that ever was.
    pub memory_peak_bytes: usize,
    /// How often the server's thread was woken: not at all while nothing happens.
    pub wakeups: u64,
}

/// Takes snapshots of a server's [`Stats`]: see [`Server::stats_handle`](crate::Server::stats_handle).
#[derive(Clone, Debug, Default)]
pub struct StatsHandle(Rc<Counters>);

impl StatsHandle {
    /// The counters as they stand.
    pub fn snapshot(&self) -> Stats {
        let counters = &*self.0;
        let mut stats = Stats {
            open: counters.open.get(),
            opened: counters.opened.get(),
            closed: counters.closed.totals(),
            refused: counters.refused.totals(),
            limits: counters.limits.totals(),
            messages_dropped: counters.messages_dropped.get(),
            messages_missed: counters.messages_missed.get(),
            ..Stats::default()
        };
        (stats.messages_received, stats.bytes_received) = counters.received.totals();
        (stats.messages_sent, stats.bytes_sent) = counters.sent.totals();
        stats.wakeups = counters.wakeups.get();
        stats.shed = counters.budget.shed();
        stats.memory_used_bytes = counters.budget.used();
        stats.memory_peak_bytes = counters.budget.peak();
        stats
    }

    /// Waits until a load has passed: what is charged to
    /// [`memory_budget_bytes`](field@crate::Config::memory_budget_bytes) has fallen by a quarter of the most since the last
    /// time, and by 256 KiB at least, and has stayed there for a tenth of a second.
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

    pub(crate) fn count_wakeup(&self) {
        self.0.wakeups.set(self.0.wakeups.get() + 1);
    }

    pub(crate) fn wakeups(&self) -> u64 {
        self.0.wakeups.get()
    }

    pub(crate) fn count_opened(&self) {
        let counters = &*self.0;
        counters.open.set(counters.open.get() + 1);
        counters.opened.set(counters.opened.get() + 1);
        #[cfg(all(feature = "systemd", target_os = "linux"))]
        self.0.changed.wake();
    }

    /// How many are open, and how many ever were.
    #[cfg(all(feature = "systemd", target_os = "linux"))]
    pub(crate) fn connections(&self) -> (u64, u64) {
        (self.0.open.get(), self.0.opened.get())
    }

    /// Waits until [`connections`](Self::connections) gives something else than that. For one at a time.
    #[cfg(all(feature = "systemd", target_os = "linux"))]
    pub(crate) async fn changed_from(&self, seen: (u64, u64)) {
        poll_fn(|cx| {
            if self.connections() != seen {
                return Poll::Ready(());
            }
            self.0.changed.sleep(cx);
            Poll::Pending
        })
        .await;
    }

    pub(crate) fn count_received(&self, message_bytes: usize) {
        self.0.received.add(message_bytes);
    }

    pub(crate) fn count_sent(&self, message_bytes: usize) {
        self.0.sent.add(message_bytes);
    }

    pub(crate) fn count_missed(&self, messages: u64) {
        let missed = &self.0.messages_missed;
        missed.set(missed.get() + messages);
    }

    pub(crate) fn count_closed(&self, closed: &Closed, messages_dropped: u64) {
        let counters = &*self.0;
        counters.open.set(counters.open.get() - 1);
        let dropped = counters.messages_dropped.get() + messages_dropped;
        counters.messages_dropped.set(dropped);
        counters.closed.add((closed.by(), closed.code().into()));
        self.count_limit(closed.limit());
        #[cfg(all(feature = "systemd", target_os = "linux"))]
        self.0.changed.wake();
    }

    pub(crate) fn count_refused(&self, refusal: &Refusal) {
        self.0.refused.add(refusal.status());
        self.count_limit(refusal.limit());
    }

    pub(crate) fn count_guarded(&self, status: u16) {
        self.0.refused.add(status);
    }

    fn count_limit(&self, field: Option<&'static str>) {
        if let Some(field) = field {
            self.0.limits.add(field);
        }
    }
}

/// How often there was what, in order. A map takes 5 KB more of the program for each kind.
#[derive(Debug)]
struct Tally<T>(RefCell<Vec<(T, u64)>>);

impl<T: Copy + Ord> Tally<T> {
    fn add(&self, what: T) {
        let mut counts = self.0.borrow_mut();
        match counts.binary_search_by_key(&what, |(what, _)| *what) {
            Ok(place) => counts[place].1 += 1,
            Err(place) => counts.insert(place, (what, 1)),
        }
    }

    fn totals(&self) -> BTreeMap<T, u64> {
        let mut totals = BTreeMap::new();
        // Not collected, which would sort them once more, with code for it.
        totals.extend(self.0.borrow().iter().copied());
        totals
    }
}

impl<T> Default for Tally<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

/// Messages that passed, and the bytes of their payloads.
#[derive(Debug, Default)]
pub(crate) struct Count {
    messages: Cell<u64>,
    bytes: Cell<u64>,
}

impl Count {
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.messages.get(), self.bytes.get())
    }

    pub(crate) fn add(&self, message_bytes: usize) {
        self.messages.set(self.messages.get() + 1);
        self.bytes.set(self.bytes.get() + message_bytes as u64);
    }
}

#[derive(Debug, Default)]
struct Counters {
    open: Cell<u64>,
    opened: Cell<u64>,
    closed: Tally<(ClosedBy, u16)>,
    refused: Tally<u16>,
    limits: Tally<&'static str>,
    messages_dropped: Cell<u64>,
    messages_missed: Cell<u64>,
    received: Count,
    sent: Count,
    wakeups: Cell<u64>,
    /// For the one that tells of the connections.
    #[cfg(all(feature = "systemd", target_os = "linux"))]
    changed: Slot,
    budget: Rc<Budget>,
}
