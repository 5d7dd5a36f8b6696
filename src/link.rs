//! What the futures of one connection share, and the set of all that are open.

use crate::{
    budget::{Account, Charge},
    close::{CloseCode, Closed, ClosedBy},
    config::{Config, HEARTBEAT},
    feed::{Fed, Feed, Items, Publishing, Subscriber},
    gate::Gate,
    latch::Latch,
    message::Message,
    queue::{Queue, Rejected},
    reactor,
    socket::Socket,
    stats::{Count, StatsHandle},
    wire::{Frame, FrameWriter},
};
use bytes::Bytes;
use event_listener::Event;
use slab::Slab;
use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::VecDeque,
    rc::{Rc, Weak},
    time::{Duration, Instant},
};

/// The middle of a connection: the two queues, the close cell, and what goes past the queues.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) account: Rc<Account>,
    pub(crate) inbound: Queue,
    pub(crate) outbound: Queue,
    /// Made for the first message of a topic that it does not take at once.
    feed: OnceCell<Box<dyn Feed>>,
    /// The first reason to end wins.
    pub(crate) closing: Latch<Closed>,
    /// The peer's Close was read: nothing comes after it.
    pub(crate) peer_closed: Cell<bool>,
    /// No handle of the connection is left.
    abandoned: Cell<bool>,
    due: RefCell<Due>,
    pub(crate) received: Count,
    pub(crate) sent: Count,
    /// Those of the sent messages that nobody asked for.
    heartbeats: Cell<u64>,
    /// Messages that were queued and not sent.
    dropped: Cell<u64>,
    /// How many messages had passed, and since when it is so many.
    idle: Cell<(u64, Instant)>,
    stats: StatsHandle,
    /// The handler took a message and has not come back for the next one: it may be about to answer.
    pub(crate) answering: Cell<bool>,
    /// The reader waits for the handler, so that nothing can be heard from the peer.
    pub(crate) reader_waits: Cell<bool>,
    pinged: Cell<bool>,
    /// What was on its way to the peer, and what had arrived, when it was last looked at.
    seen: Cell<(u64, u64)>,
    pub(crate) gate: Gate,
    /// The server's turn in which a message was last written at once.
    sent_at: Cell<u64>,
    /// How many messages were sent that are not written yet.
    unwritten: Cell<usize>,
    /// How often so many were written in this turn that it was no time to wait for its end.
    written_early: Cell<usize>,
    /// Not kept: a handle of the connection may be kept for ever.
    frames: Weak<FrameWriter>,
}

impl Link {
    /// After so many in one turn what is sent goes to the queue: a handler that always has more shall not keep the thread, however
    /// fast its peer takes it.
    const MOST_EARLY_WRITES: usize = 4;

    pub(crate) fn new(
        links: &Links,
        frames: &Rc<FrameWriter>,
        account: Rc<Account>,
        config: &Config,
    ) -> Self {
        let queue = |capacity| Queue::bounded(capacity, account.clone());
        Self {
            id: links.next_id(),
            inbound: queue(config.inbound_capacity),
            outbound: queue(config.outbound_capacity),
            feed: OnceCell::new(),
            account,
            closing: Latch::default(),
            peer_closed: Cell::default(),
            abandoned: Cell::default(),
            due: RefCell::default(),
            received: Count::default(),
            sent: Count::default(),
            heartbeats: Cell::default(),
            dropped: Cell::default(),
            idle: Cell::new((0, reactor::now())),
            stats: links.stats.clone(),
            answering: Cell::new(false),
            reader_waits: Cell::new(false),
            pinged: Cell::new(false),
            seen: Cell::default(),
            gate: Gate::default(),
            sent_at: Cell::new(0),
            unwritten: Cell::new(0),
            written_early: Cell::new(0),
            frames: Rc::downgrade(frames),
        }
    }

    /// Ends the connection, unless it is ending already: nothing more is taken in either direction, and what
    /// was taken is still delivered.
    pub(crate) fn close(&self, closed: Closed) {
        self.closing.set(closed);
        self.inbound.close();
        self.outbound.close();
        self.gate.wake();
    }

    /// Whether the peer has closed and has nothing left to say, such as a pong.
    pub(crate) fn has_peer_parted(&self) -> bool {
        self.peer_closed.get() && !self.pinged.get()
    }

    /// Ends the direction to the peer: what is not answered by now will not be.
    pub(crate) fn close_output(&self) {
        self.outbound.close();
        self.gate.wake();
    }

    /// The last handle of the connection is gone: it is closed when its handler, which may be just about to tell how, has had its
    /// turn.
    pub(crate) fn abandon(&self) {
        self.abandoned.set(true);
        self.gate.wake();
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.get()
    }

    /// Ends the direction from the peer only: the handler may still answer what came before.
    pub(crate) fn close_input(&self, closed: Closed) {
        self.closing.set(closed);
        self.inbound.close();
        if self.inbound.is_empty() && !self.answering.get() {
            self.outbound.close();
        }
    }

    pub(crate) fn count_received(&self, message_bytes: usize) {
        self.received.add(message_bytes);
        self.stats.count_received(message_bytes);
    }

    pub(crate) fn count_sent(&self, message_bytes: usize) {
        self.sent.add(message_bytes);
        self.stats.count_sent(message_bytes);
    }

    pub(crate) fn count_heartbeat(&self) {
        self.heartbeats.set(self.heartbeats.get() + 1);
        self.count_sent(HEARTBEAT.len());
    }

    /// The handler has come for the next message.
    pub(crate) fn begin_receive(&self) {
        self.answering.set(false);
    }

    /// The handler has one.
    pub(crate) fn end_receive(&self) {
        self.answering.set(true);
        if !self.gate.is_in_turn() {
            self.inbound.settle();
        }
        if self.reader_waits.get() {
            self.gate.wake();
        }
    }

    /// Queues a message for the writer; waits while there is no room. Gives it back if the queue is closed.
    pub(crate) async fn queue(&self, message: Message) -> Result<(), Message> {
        self.outbound.push(message).await?;
        self.outbound.settle();
        self.gate.wake();
        Ok(())
    }

    /// The same without waiting.
    pub(crate) fn try_queue(&self, message: Message) -> Result<(), Rejected> {
        self.outbound.try_push(message)?;
        self.outbound.settle();
        self.gate.wake();
        Ok(())
    }

    /// Sends a message past the queue and the writer, where nothing stands before it. What the connection's own task has to say
    /// is written when its turn ends, all of it in one call; what others say, at once.
    #[inline]
    pub(crate) fn send(&self, mut message: Message) -> Result<(), Message> {
        if !self.gate.is_in_turn() {
            let is_sent = |frames| self.write_frame(frames, &Frame::new(&message));
            return match self.free_for_others().as_deref().is_some_and(is_sent) {
                true => Ok(()),
                false => Err(message),
            };
        }
        if !self.is_free() || self.written_early.get() >= Self::MOST_EARLY_WRITES {
            return Err(message);
        }
        let Some(frames) = self.frames.upgrade() else {
            return Err(message);
        };
        let message_bytes = message.len();
        let Some(is_full) = frames.try_push(&mut message) else {
            return Err(message);
        };
        self.count_sent(message_bytes);
        self.unwritten.set(self.unwritten.get() + 1);
        if is_full || self.unwritten.get() >= self.outbound.capacity() {
            self.written_early.set(self.written_early.get() + 1);
            self.write(&frames);
        }
        Ok(())
    }

    /// Whether nothing stands before what goes past the queue.
    #[inline]
    fn is_free(&self) -> bool {
        !self.outbound.is_closed() && self.outbound.is_empty() && self.due.borrow().is_empty()
    }

    /// Where others than the connection's task may write at once. That costs a system call and nothing else, but only once in a turn of the
    /// server's, so that a second message is not alone.
    #[inline]
    fn free_for_others(&self) -> Option<Rc<FrameWriter>> {
        let is_first = self.sent_at.get() != self.stats.wakeups();
        let is_free = is_first && self.is_free();
        is_free.then(|| self.frames.upgrade()).flatten()
    }

    fn write_frame(&self, frames: &FrameWriter, frame: &Frame) -> bool {
        let Some(is_taken) = frames.try_write_frame(frame) else {
            return false;
        };
        self.count_sent(frame.message_bytes());
        self.sent_at.set(self.stats.wakeups());
        if !is_taken {
            // The writer goes on with it.
            self.gate.wake();
        }
        true
    }

    /// Begins to take what topics have.
    pub(crate) fn subscribe(&self) {
        if let Some(frames) = self.frames.upgrade() {
            frames.socket().keep_little_unsent();
        }
    }

    /// Sends what a topic has, or has it wait as `subscriber` demands.
    pub(crate) fn take_published(
        &self,
        publishing: &mut Publishing<'_>,
        subscriber: &Rc<Subscriber>,
    ) {
        if self.outbound.is_closed() {
            return;
        }
        let is_next = self.fed() == 0 && !subscriber.is_owed_a_notice();
        if is_next && self.send_published(publishing, subscriber) {
            return;
        }
        let feed = self.feed.get_or_init(|| {
            let charge = Charge::new(self.account.clone());
            Box::new(Items::new(charge))
        });
        match publishing.share() {
            Some(published) if publishing.is_greeting => {
                feed.push_greeting(published, subscriber);
                self.gate.wake();
            }
            Some(published) => match feed.push(published, subscriber) {
                Fed::Waits => self.gate.wake(),
                Fed::Missed => self.stats.count_missed(1),
                Fed::TooSlow => self.close_slow(1),
            },
            None if subscriber.may_miss() => {
                subscriber.miss(1);
                self.stats.count_missed(1);
            }
            None => self.close_slow(1),
        }
    }

    fn send_published(&self, publishing: &mut Publishing<'_>, subscriber: &Subscriber) -> bool {
        if self.gate.is_in_turn() {
            return self.send(publishing.message(subscriber)).is_ok();
        }
        let frames = self.free_for_others();
        frames.is_some_and(|frames| self.write_frame(&frames, publishing.frame(subscriber)))
    }

    /// Lets go of what topics have for it: others need the memory.
    pub(crate) fn starve(&self) {
        let Some(feed) = self.feed.get() else { return };
        if feed.may_miss_nothing() {
            self.close_slow(0);
        }
        self.stats.count_missed(feed.starve());
    }

    /// It does not get what topics have for it, nor the message that it has no room for: the Close is not to wait behind them.
    fn close_slow(&self, untaken: u64) {
        let code = CloseCode::TRY_AGAIN_LATER;
        let reason = "too slow for what it subscribed to";
        self.close(Closed::new(ClosedBy::Local, code, reason));
        let waiting = self.feed.get().map_or(0, |feed| feed.clear());
        self.dropped.set(self.dropped.get() + waiting + untaken);
    }

    /// How many messages of topics wait.
    pub(crate) fn fed(&self) -> usize {
        self.feed.get().map_or(0, |feed| feed.len())
    }

    /// What these take, as if they were not shared.
    pub(crate) fn fed_bytes(&self) -> usize {
        self.feed.get().map_or(0, |feed| feed.bytes())
    }

    /// The next message for the writer: what a handler wrote goes first.
    pub(crate) fn next_outbound(&self) -> Option<Message> {
        let queued = self.outbound.try_pop();
        queued.or_else(|| self.feed.get()?.pop())
    }

    /// Whether there is one.
    pub(crate) fn has_outbound(&self) -> bool {
        !self.outbound.is_empty() || self.fed() > 0
    }

    /// Writes what the connection's task has sent in its turn, and charges what it has left.
    #[inline]
    pub(crate) fn end_turn(&self) {
        self.inbound.settle();
        self.outbound.settle();
        self.written_early.set(0);
        if self.unwritten.get() > 0 {
            if let Some(frames) = self.frames.upgrade() {
                self.write(&frames);
            }
        }
    }

    fn write(&self, frames: &FrameWriter) {
        self.unwritten.set(0);
        if !frames.try_write() {
            // The writer goes on with it.
            self.gate.wake();
        }
    }

    /// Sends the heartbeat, as soon as it can be.
    pub(crate) fn heartbeat(&self, frame: &Frame) {
        if self.closing.is_set() {
            return;
        }
        let frames = self.free_for_others();
        match frames.is_some_and(|frames| self.write_frame(&frames, frame)) {
            true => self.heartbeats.set(self.heartbeats.get() + 1),
            false => self.ask(|due| due.heartbeat = true),
        }
    }

    /// How many messages were sent, and of how many bytes.
    pub(crate) fn sent_but_heartbeats(&self) -> (u64, u64) {
        let ((messages, bytes), heartbeats) = (self.sent.totals(), self.heartbeats.get());
        let heartbeat_bytes = heartbeats * HEARTBEAT.len() as u64;
        (messages - heartbeats, bytes - heartbeat_bytes)
    }

    /// How long no message has passed in either direction, as far as it was looked at: not before the last call.
    pub(crate) fn idle_for(&self, now: Instant) -> Duration {
        let passed = self.received.totals().0 + self.sent_but_heartbeats().0;
        let (before, since) = self.idle.get();
        if passed == before {
            now.saturating_duration_since(since)
        } else {
            self.idle.set((passed, now));
            Duration::ZERO
        }
    }

    /// Asks the writer for a Ping. The next [`life`](Self::life) tells of it.
    pub(crate) fn ping(&self) {
        let Some(frames) = self.frames.upgrade().filter(|_| !self.closing.is_set()) else {
            return;
        };
        frames.socket().take_heard();
        self.look(frames.socket());
        self.pinged.set(true);
        self.ask(|due| due.ping = true);
    }

    /// How the peer has shown that it lives, since it was pinged or last looked at.
    pub(crate) fn life(&self) -> Life {
        let Some(frames) = self.frames.upgrade().filter(|_| self.pinged.take()) else {
            return Life::Answered;
        };
        if frames.socket().take_heard() {
            return Life::Answered;
        }
        // No pong is read then: what the peer's system acknowledges, the Ping included, is all there is to know.
        let deaf = self.reader_waits.get() || self.account.is_waiting();
        let (was_underway, had_arrived) = self.seen.get();
        let (underway, arrived) = self.look(frames.socket());
        if deaf && (underway == 0 || frames.socket().is_local()) {
            Life::Answered
        } else if (deaf || was_underway > 0) && arrived > had_arrived {
            self.pinged.set(true);
            Life::Receiving
        } else {
            Life::Silent
        }
    }

    fn look(&self, socket: &Socket) -> (u64, u64) {
        let seen = socket.sending();
        self.seen.set(seen);
        seen
    }

    /// Ends the connection for want of memory.
    pub(crate) fn close_shed(&self) {
        self.close(
            Closed::new(
                ClosedBy::Local,
                CloseCode::TRY_AGAIN_LATER,
                "the server is short of memory",
            )
            .at_limit("memory_budget_bytes"),
        );
    }

    /// Throws away what is queued: nobody will take it.
    pub(crate) fn clear(&self) {
        while self.outbound.try_pop().is_some() {
            self.dropped.set(self.dropped.get() + 1);
        }
        if let Some(feed) = self.feed.get() {
            self.dropped.set(self.dropped.get() + feed.clear());
        }
        if self.account.is_shed() {
            while self.inbound.try_pop().is_some() {}
        }
        self.inbound.settle();
        self.outbound.settle();
    }

    /// Has the writer send something before any queued message.
    pub(crate) fn ask(&self, what: impl FnOnce(&mut Due)) {
        what(&mut self.due.borrow_mut());
        self.gate.wake();
    }

    /// Whether so many pongs are due that no more is read.
    pub(crate) fn owes_pongs(&self) -> bool {
        self.due.borrow().pongs.len() >= Due::MAX_PONGS
    }

    /// What the writer is to send before any queued message, if there is something.
    pub(crate) fn take_due(&self) -> Option<Due> {
        if self.due.borrow().is_empty() {
            return None;
        }
        // There is room for pongs again.
        self.gate.wake();
        Some(self.due.take())
    }
}

/// See [`Link::life`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Something was heard, or all that was sent has arrived where nothing could be.
    Answered,
    /// What was on its way to it is still arriving.
    Receiving,
    Silent,
}

/// See [`Link::take_due`].
#[derive(Debug, Default)]
pub(crate) struct Due {
    pub(crate) ping: bool,
    pub(crate) heartbeat: bool,
    pub(crate) pongs: VecDeque<Bytes>,
}

impl Due {
    /// A peer may have sent this many pings that are not answered yet; then no more is read from it.
    const MAX_PONGS: usize = 16;

    fn is_empty(&self) -> bool {
        !self.ping && !self.heartbeat && self.pongs.is_empty()
    }
}

/// All connections that are open, by their number.
#[derive(Debug, Default)]
pub(crate) struct Links {
    open: RefCell<Slab<Rc<Link>>>,
    last_id: Cell<u64>,
    opened: Event,
    stats: StatsHandle,
}

impl Links {
    /// What counts them.
    pub(crate) fn stats(&self) -> &StatsHandle {
        &self.stats
    }

    fn next_id(&self) -> u64 {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }

    /// Makes `link` one of the open ones for as long as the answer lives.
    pub(crate) fn enter(self: &Rc<Self>, link: Rc<Link>) -> Open {
        let key = self.open.borrow_mut().insert(link.clone());
        self.opened.notify(1);
        self.stats.count_opened();
        Open {
            links: self.clone(),
            key: Cell::new(Some(key)),
            link,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// Waits until there is one.
    pub(crate) async fn wait(&self) {
        while self.is_empty() {
            self.opened.listen().await;
        }
    }

    /// Those for which something of topics waits.
    pub(crate) fn fed(&self) -> Vec<Rc<Link>> {
        let open = self.open.borrow();
        let links = open.iter().map(|(_, link)| link);
        links.filter(|link| link.fed() > 0).cloned().collect()
    }

    pub(crate) fn for_each(&self, mut what: impl FnMut(&Link)) {
        self.open.borrow().iter().for_each(|(_, link)| what(link));
    }
}

/// An open connection's place among the others. Dropping it is the one end that every connection comes to.
#[derive(Debug)]
pub(crate) struct Open {
    links: Rc<Links>,
    /// Its place, until it has ended.
    key: Cell<Option<usize>>,
    link: Rc<Link>,
}

impl Open {
    pub(crate) fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// Ends it now, if it has not ended.
    pub(crate) fn end(&self) -> &Link {
        // Nobody closed: the server was dropped, or has not waited any longer.
        self.link
            .close(Closed::lost(ClosedBy::Local, "dropped with the server"));
        let link = &self.link;
        let Some(key) = self.key.take() else {
            return link;
        };
        let mut open = self.links.open.borrow_mut();
        open.remove(key);
        if open.is_empty() {
            *open = Slab::new();
        }
        drop(open);
        if let Some(closed) = link.closing.get() {
            let left = link.outbound.len() + link.fed();
            let dropped = link.dropped.get() + left as u64;
            self.links.stats.count_closed(closed, dropped);
        }
        link
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.end();
    }
}
