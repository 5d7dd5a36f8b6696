//! The whole server's memory account: what clients cause is charged to it, by what is allocated.

use crate::{
    reactor,
    slot::{Slot, Waiting},
};
use event_listener::Event;
use futures_lite::future::poll_fn;
use slab::Slab;
use std::{
    cell::{Cell, OnceCell, RefCell},
    fmt,
    ops::RangeInclusive,
    rc::{Rc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// The account of a server, and its bound.
///
/// Most connections are idle or pass short messages on at once: they may always go on while there is any room. When it gets
/// tight those that hold much wait, and at the limit the one that holds the most is shed.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    /// None until the server starts.
    limit: Cell<usize>,
    used: Cell<usize>,
    peak: Cell<usize>,
    /// The most since the last relief.
    load: Cell<usize>,
    relieved_at: Cell<Option<Instant>>,
    /// Tells of the end of a load.
    load_ended: Event,
    shed: Cell<u64>,
    /// When one was last shed for newcomers.
    made_room: Cell<Option<Instant>>,
    /// What accounts that are shed still hold: it is on its way back.
    returning: Cell<usize>,
    accounts: RefCell<Slab<Weak<Account>>>,
    /// Tells those who wait that something was given back.
    returned: Event,
    /// How many wait for one of the two.
    waiting: Cell<usize>,
    /// Buffers for the messages to come. They count as used, and are nobody's.
    spare: RefCell<Vec<Spare>>,
    spare_bytes: Cell<usize>,
    /// What of it topics have.
    shared: Cell<usize>,
    /// What of that they keep for those who come.
    kept: Cell<usize>,
    /// Has topics let go of what there is no room for.
    let_go_shared: LetGo,
    keeps_spare: Cell<bool>,
    /// Tells of one.
    spared: Slot,
}

#[derive(Default)]
struct LetGo(OnceCell<Box<dyn Fn()>>);

impl fmt::Debug for LetGo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LetGo")
    }
}

/// A buffer that nobody has, since then.
#[derive(Debug)]
struct Spare {
    buffer: Vec<u8>,
    since: Instant,
}

impl Budget {
    /// What is too much from now on goes at once, and who waits has a look whether there is room now.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.set(limit);
        // First: nobody can be shed for it.
        if let Some(let_go) = self.let_go_shared.0.get() {
            let_go();
        }
        self.make_room();
        self.returned.notify(usize::MAX);
    }

    /// Opens an account for a connection that costs `bytes` as it stands, or none if the last quarter of the budget has
    /// begun: that is for the messages of those who are there. But a few of them shall not lock the door with what they
    /// hoard: then the one that holds the most goes, one a second, so that there is room for who tries again.
    pub(crate) fn open(self: &Rc<Self>, bytes: usize) -> Option<Rc<Account>> {
        const PACE: Duration = Duration::from_secs(1);

        if self.used.get() + bytes > self.limit.get() / 4 * 3 {
            let now = reactor::now();
            let paced = self.made_room.get().is_none_or(|last| now >= last + PACE);
            let hoard = self.fair_share() / 8;
            let largest = paced.then(|| self.largest()).flatten();
            if let Some(account) = largest.filter(|account| account.held.get() > hoard) {
                self.made_room.set(Some(now));
                self.let_go(&account);
            }
            return None;
        }
        let account = Rc::new(Account {
            key: Cell::new(None),
            budget: self.clone(),
            base: bytes,
            held: Cell::new(0),
            shed: Cell::new(false),
            shedding: Slot::default(),
            waiting: Cell::new(false),
        });
        let key = self.accounts.borrow_mut().insert(Rc::downgrade(&account));
        account.key.set(Some(key));
        self.add(bytes);
        Some(account)
    }

    /// What a smaller limit has topics do.
    pub(crate) fn on_limit(&self, let_go_shared: impl Fn() + 'static) {
        let _ = self.let_go_shared.0.set(Box::new(let_go_shared));
    }

    pub(crate) fn used(&self) -> usize {
        self.used.get()
    }

    pub(crate) fn peak(&self) -> usize {
        self.peak.get()
    }

    pub(crate) fn shed(&self) -> u64 {
        self.shed.get()
    }

    /// Waits until a load has passed, and stays away for a moment: what fell is all given back by then, and what goes up
    /// and down is not taken for the end of it.
    pub(crate) async fn relieved(&self) {
        const MOMENT: Duration = Duration::from_millis(100);
        const PACE: Duration = Duration::from_secs(1);

        loop {
            while !self.load_has_passed() {
                self.told(&self.load_ended).await;
            }
            let paced = self.relieved_at.get().map(|last| last + PACE);
            let settled = reactor::now() + MOMENT;
            reactor::sleep_until_anywhere(paced.map_or(settled, |paced| paced.max(settled))).await;
            if self.load_has_passed() {
                self.load.set(self.used.get());
                self.relieved_at.set(Some(reactor::now()));
                return;
            }
        }
    }

    /// Waits for an event that is not told where no one waits: it costs something with each message.
    async fn told(&self, event: &Event) {
        let _waiting = Waiting::among(&self.waiting);
        event.listen().await;
    }

    fn load_has_passed(&self) -> bool {
        /// Less is not worth the trouble.
        const LOAD_BYTES: usize = 256 * 1024;

        let load = self.load.get();
        load - self.used.get() >= LOAD_BYTES.max(load / 4)
    }

    /// Takes a spare buffer of such a capacity: the last that came, of which most may still be in the processor's cache.
    pub(crate) fn take_spare(&self, capacity: RangeInclusive<usize>) -> Option<Vec<u8>> {
        let mut spare = self.spare.borrow_mut();
        let at = spare
            .iter()
            .rposition(|spare| capacity.contains(&spare.buffer.capacity()))?;
        let buffer = spare.remove(at).buffer;
        // Nothing is given back: it is charged to whom it is for.
        self.used.set(self.used.get() - buffer.capacity());
        self.spare_bytes
            .set(self.spare_bytes.get() - buffer.capacity());
        Some(buffer)
    }

    /// Keeps a buffer for the messages to come: an eighth of the budget is for such, as long as half of it is not in use.
    pub(crate) fn keep_spare(&self, buffer: Vec<u8>) {
        let (bytes, limit) = (buffer.capacity(), self.limit.get());
        let spare_bytes = self.spare_bytes.get() + bytes;
        let is_much = spare_bytes > limit / 8 || self.used.get() + bytes > limit / 2;
        if is_much || !self.keeps_spare.get() {
            return;
        }
        self.add(bytes);
        self.spare_bytes.set(spare_bytes);
        let since = reactor::now();
        self.spare.borrow_mut().push(Spare { buffer, since });
        self.spared.wake();
    }

    /// Frees what has been spare for a second, before it is two. There are spare buffers only while this runs.
    pub(crate) async fn free_spare_in_time(&self) {
        const TIME: Duration = Duration::from_secs(1);

        struct Leave<'a>(&'a Budget);

        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.keeps_spare.set(false);
                self.0.free_spare(|_| true);
            }
        }

        self.keeps_spare.set(true);
        let _leave = Leave(self);
        loop {
            poll_fn(|cx| {
                if self.spare_bytes.get() > 0 {
                    return Poll::Ready(());
                }
                self.spared.sleep(cx);
                Poll::Pending
            })
            .await;
            reactor::sleep(TIME).await;
            let now = reactor::now();
            self.free_spare(|spare| now >= spare.since + TIME);
        }
    }

    fn free_spare(&self, which: impl Fn(&Spare) -> bool) {
        let mut freed = 0;
        self.spare.borrow_mut().retain(|spare| {
            let goes = which(spare);
            freed += if goes { spare.buffer.capacity() } else { 0 };
            !goes
        });
        self.spare_bytes.set(self.spare_bytes.get() - freed);
        self.give_back(freed);
    }

    /// What a connection may hold however tight it is.
    fn fair_share(&self) -> usize {
        self.limit.get() / 64
    }

    /// Whether those who hold much shall wait.
    fn is_tight(&self) -> bool {
        self.used.get() - self.returning.get() >= self.limit.get() / 8 * 7
    }

    fn is_over(&self) -> bool {
        self.used.get() > self.limit.get()
    }

    /// Charges what no connection holds alone: messages of topics, that wait or are kept.
    pub(crate) fn add_shared(&self, bytes: usize) {
        self.shared.set(self.shared.get() + bytes);
        self.add(bytes);
    }

    pub(crate) fn give_back_shared(&self, bytes: usize) {
        self.shared.set(self.shared.get() - bytes);
        self.give_back(bytes);
    }

    /// Whether topics may have so much more. Nobody can be shed for it, so it is a quarter of the budget at most.
    pub(crate) fn has_room_to_share(&self, bytes: usize) -> bool {
        let limit = self.limit.get();
        limit == 0 || self.shared.get() + bytes <= limit / 4
    }

    /// Whether topics may have so much more when nothing waits for anyone.
    pub(crate) fn can_share(&self, bytes: usize) -> bool {
        let limit = self.limit.get();
        limit == 0 || self.kept.get() + bytes <= limit / 4
    }

    /// Whether topics may keep so much more: what waits shall have some room whatever is kept.
    pub(crate) fn has_room_to_keep(&self, bytes: usize) -> bool {
        let limit = self.limit.get();
        limit == 0 || self.kept.get() + bytes <= limit / 16 * 3
    }

    pub(crate) fn add_kept(&self, bytes: usize) {
        self.kept.set(self.kept.get() + bytes);
    }

    pub(crate) fn give_back_kept(&self, bytes: usize) {
        self.kept.set(self.kept.get() - bytes);
    }

    fn add(&self, bytes: usize) {
        self.used.set(self.used.get() + bytes);
        self.peak.set(self.peak.get().max(self.used.get()));
        self.load.set(self.load.get().max(self.used.get()));
        if self.used.get() > self.limit.get() / 2 {
            self.make_room();
        }
    }

    /// More than half is in use: that is for those who need it, and at the limit someone has to go.
    #[cold]
    fn make_room(&self) {
        if self.spare_bytes.get() > 0 {
            self.free_spare(|_| true);
        }
        while self.used.get() - self.returning.get() > self.limit.get() {
            if !self.shed_the_largest() {
                break;
            }
        }
    }

    fn give_back(&self, bytes: usize) {
        let was_over = self.is_over();
        self.used.set(self.used.get() - bytes);
        if self.waiting.get() == 0 {
            return;
        }
        if was_over || !self.is_tight() {
            self.returned.notify(usize::MAX);
        }
        if self.load_has_passed() {
            self.load_ended.notify(usize::MAX);
        }
    }

    /// The account that holds the most, if any holds anything.
    fn largest(&self) -> Option<Rc<Account>> {
        self.accounts
            .borrow()
            .iter()
            .filter_map(|(_, account)| account.upgrade())
            .filter(|account| !account.shed.get() && account.held.get() > 0)
            .max_by_key(|account| account.held.get())
    }

    fn shed_the_largest(&self) -> bool {
        let largest = self.largest();
        largest.is_some_and(|account| {
            self.let_go(&account);
            true
        })
    }

    fn let_go(&self, account: &Account) {
        account.shed.set(true);
        self.shed.set(self.shed.get() + 1);
        self.returning
            .set(self.returning.get() + account.held.get());
        account.shedding.wake();
    }
}

/// What one connection holds. Dropping it gives all of it back.
#[derive(Debug)]
pub(crate) struct Account {
    /// Its place among the others, until it leaves them.
    key: Cell<Option<usize>>,
    budget: Rc<Budget>,
    base: usize,
    held: Cell<usize>,
    shed: Cell<bool>,
    /// Tells the connection's task.
    shedding: Slot,
    waiting: Cell<bool>,
}

impl Account {
    pub(crate) fn budget(&self) -> &Rc<Budget> {
        &self.budget
    }

    /// Charges what was allocated. It always succeeds: at the limit someone is shed.
    pub(crate) fn add(&self, bytes: usize) {
        self.held.set(self.held.get() + bytes);
        if self.shed.get() {
            self.budget
                .returning
                .set(self.budget.returning.get() + bytes);
        }
        self.budget.add(bytes);
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        self.held.set(self.held.get() - bytes);
        if self.shed.get() {
            self.budget
                .returning
                .set(self.budget.returning.get() - bytes);
        }
        self.budget.give_back(bytes);
    }

    /// What may still be charged to all.
    pub(crate) fn room(&self) -> usize {
        self.budget
            .limit
            .get()
            .saturating_sub(self.budget.used.get())
    }

    /// Nothing can be got back by shedding this one any more: its connection has ended, and what it holds is kept by the
    /// handler's own handles.
    pub(crate) fn retire(&self) {
        self.leave();
        // It would keep the task's memory.
        self.shedding.clear();
        if self.shed.take() {
            let returning = &self.budget.returning;
            returning.set(returning.get() - self.held.get());
        }
    }

    fn leave(&self) {
        if let Some(key) = self.key.take() {
            let mut accounts = self.budget.accounts.borrow_mut();
            accounts.remove(key);
            if accounts.is_empty() {
                *accounts = Slab::new();
            }
        }
    }

    /// Whether this one holds much while it is tight, or those that are shed have much to give back before anyone may
    /// take more.
    pub(crate) fn must_wait(&self) -> bool {
        let (budget, share) = (&self.budget, self.budget.fair_share());
        budget.is_over() && budget.returning.get() > share
            || budget.is_tight() && self.held.get() > share
    }

    /// Waits until something was given back.
    pub(crate) async fn returned(&self) {
        self.waiting.set(true);
        self.budget.told(&self.budget.returned).await;
        self.waiting.set(false);
    }

    /// Whether this one waits, so that nothing can be heard from its peer.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.get()
    }

    /// Has the largest go: this one has waited too long.
    pub(crate) fn press(&self) {
        self.waiting.set(false);
        if self.must_wait() {
            self.budget.shed_the_largest();
            self.budget.returned.notify(usize::MAX);
        }
    }

    pub(crate) fn is_shed(&self) -> bool {
        self.shed.get()
    }

    /// Ready once this one is shed. One task may ask.
    #[inline]
    pub(crate) fn poll_shed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_shed() {
            return Poll::Ready(());
        }
        self.shedding.sleep(cx);
        Poll::Pending
    }

    /// Waits until this one is shed.
    pub(crate) async fn shed(&self) {
        poll_fn(|cx| self.poll_shed(cx)).await;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let held = self.held.get();
        if self.shed.get() {
            self.budget
                .returning
                .set(self.budget.returning.get() - held);
        }
        self.leave();
        self.budget.give_back(self.base + held);
    }
}

/// A part of an account that grows and shrinks, such as a buffer.
#[derive(Debug)]
pub(crate) struct Charge {
    account: Rc<Account>,
    bytes: usize,
}

impl Charge {
    pub(crate) fn new(account: Rc<Account>) -> Self {
        Self { account, bytes: 0 }
    }

    /// Another part of the same account.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.account.clone())
    }

    #[inline]
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes == self.bytes {
            return;
        }
        if bytes > self.bytes {
            self.account.add(bytes - self.bytes);
        } else {
            self.account.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        task::{Context, Wake, Waker},
    };

    #[derive(Default)]
    struct Told(AtomicBool);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_is_shed_is_told_where_it_waits_now() {
        let budget = Rc::new(Budget::default());
        budget.set_limit(1000);
        let account = budget.open(100).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut before = pin!(account.shed());
        assert!(before.as_mut().poll(&mut cx).is_pending());
        let told = Arc::new(Told::default());
        let waker = Waker::from(told.clone());
        let mut now = pin!(account.shed());
        let mut cx = Context::from_waker(&waker);
        assert!(now.as_mut().poll(&mut cx).is_pending());
        account.add(1000);
        assert!(account.is_shed() && told.0.load(Ordering::Relaxed));
    }

    #[test]
    fn what_a_smaller_budget_has_no_room_for_is_shed_at_once() {
        let budget = Rc::new(Budget::default());
        budget.set_limit(1000);
        let account = budget.open(100).unwrap();
        account.add(500);
        budget.set_limit(600);
        assert!(!account.is_shed());
        budget.set_limit(599);
        assert!(account.is_shed());
    }

    #[test]
    fn who_waits_goes_on_with_a_larger_budget() {
        let budget = Rc::new(Budget::default());
        budget.set_limit(1000);
        let account = budget.open(100).unwrap();
        account.add(800);
        assert!(account.must_wait());
        let told = Arc::new(Told::default());
        let waker = Waker::from(told.clone());
        let mut waiting = pin!(account.returned());
        let mut cx = Context::from_waker(&waker);
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        budget.set_limit(10_000);
        assert!(told.0.load(Ordering::Relaxed) && !account.must_wait());
    }

    #[test]
    fn an_account_that_retires_keeps_nobody_awake() {
        let budget = Rc::new(Budget::default());
        budget.set_limit(1000);
        let account = budget.open(100).unwrap();
        let told = Arc::new(Told::default());
        let waker = Waker::from(told.clone());
        let mut shed = pin!(account.shed());
        let mut cx = Context::from_waker(&waker);
        assert!(shed.as_mut().poll(&mut cx).is_pending());
        assert_eq!(Arc::strong_count(&told), 3);
        account.retire();
        assert_eq!(Arc::strong_count(&told), 2);
    }
}
