//! A bounded queue of messages of a connection.

use crate::{
    budget::{Account, Charge},
    message::Message,
    pool,
    slot::{Slot, Waiting},
};
use async_channel::{Receiver, Sender, bounded};
use event_listener::Event;
use futures_lite::ready;
use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

/// A bounded queue. Once closed it takes nothing more, and what it holds can still be taken out. What it holds is
/// charged to its connection's account when it is [settled](Self::settle).
///
/// The first to wait for a message has a slot of its own: nearly always there is no other, and a wait at a channel, with what
/// tells of its end, is a tenth of what a small echo takes. Those behind wait at a channel, which carries a token for all that came
/// since the last one was taken; it is made for the first of them.
#[derive(Debug)]
pub(crate) struct Queue {
    messages: RefCell<Messages>,
    len: Cell<usize>,
    /// What the messages take, and what of it is charged.
    bytes: Cell<usize>,
    charge: RefCell<Charge>,
    capacity: usize,
    closed: Cell<bool>,
    /// Tells of messages.
    first: Slot,
    is_first_taken: Cell<bool>,
    behind: OnceCell<Box<Behind>>,
    /// Tells of room.
    room: Event,
    writers: Cell<usize>,
}

/// One that comes alone lies here: mostly there is no other, and so no buffer for them.
#[derive(Debug, Default)]
struct Messages {
    first: Option<Message>,
    rest: VecDeque<Message>,
}

/// Where those wait that are not the first.
#[derive(Debug)]
struct Behind {
    count: Cell<usize>,
    ring: Sender<()>,
    bell: Receiver<()>,
}

/// Why a message was not taken, with the message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    Full(Message),
    Closed(Message),
}

impl Queue {
    pub(crate) fn bounded(capacity: usize, account: Rc<Account>) -> Self {
        Self {
            messages: RefCell::default(),
            len: Cell::new(0),
            bytes: Cell::new(0),
            charge: RefCell::new(Charge::new(account)),
            capacity,
            closed: Cell::new(false),
            first: Slot::default(),
            is_first_taken: Cell::new(false),
            behind: OnceCell::new(),
            room: Event::new(),
            writers: Cell::new(0),
        }
    }

    #[inline(always)]
    pub(crate) fn try_push(&self, message: Message) -> Result<(), Rejected> {
        if self.is_closed() {
            return Err(Rejected::Closed(message));
        }
        let before = self.len.get();
        if before >= self.capacity {
            return Err(Rejected::Full(message));
        }
        self.bytes.set(self.bytes.get() + pool::allocated(&message));
        self.len.set(before + 1);
        let mut messages = self.messages.borrow_mut();
        if before == 0 {
            messages.first = Some(message);
        } else {
            messages.rest.push_back(message);
        }
        drop(messages);
        self.first.wake();
        // The first may have been given up and not dropped, as a stream can be.
        self.tell_behind();
        Ok(())
    }

    /// Waits for room. Gives the message back if the queue is closed, before or meanwhile.
    pub(crate) async fn push(&self, mut message: Message) -> Result<(), Message> {
        loop {
            message = match self.try_push(message) {
                Ok(()) => break,
                Err(Rejected::Closed(message)) => return Err(message),
                Err(Rejected::Full(message)) => message,
            };
            // Charged while it waits, too.
            let mut charge = self.charge.borrow().another();
            charge.set(pool::allocated(&message));
            let _waiting = Waiting::among(&self.writers);
            self.room.listen().await;
        }
        self.tell_of_room();
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn try_pop(&self) -> Option<Message> {
        if self.is_empty() {
            return None;
        }
        self.pop_next()
    }

    #[inline(always)]
    fn pop_next(&self) -> Option<Message> {
        /// Room for so many is kept.
        const KEPT: usize = 8;

        let mut messages = self.messages.borrow_mut();
        let first = messages.first.take();
        let message = first.or_else(|| messages.rest.pop_front())?;
        self.len.set(self.len.get() - 1);
        if self.is_empty() && messages.rest.capacity() > KEPT {
            messages.rest = VecDeque::new();
        }
        drop(messages);
        self.bytes.set(self.bytes.get() - pool::allocated(&message));
        self.tell_of_room();
        Some(message)
    }

    /// Waits for a message; `None` once the queue is closed and empty.
    pub(crate) fn pop(&self) -> Pop<'_> {
        Pop {
            queue: self,
            place: Place::None,
        }
    }

    /// Charges what the queue holds. What passes it within one turn never is.
    #[inline]
    pub(crate) fn settle(&self) {
        self.charge.borrow_mut().set(self.bytes.get());
    }

    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.first.wake();
        if let Some(behind) = self.behind.get() {
            behind.ring.close();
        }
        if self.writers.get() > 0 {
            self.room.notify(usize::MAX);
        }
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len.get() == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len.get() >= self.capacity
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn len(&self) -> usize {
        self.len.get()
    }

    /// Waits behind the first until there may be a message, or it is closed.
    async fn wait_behind(&self) {
        let behind = self.behind.get_or_init(Box::default);
        let _waiting = Waiting::among(&behind.count);
        // Fails only where it is closed, which is seen then.
        let _ = behind.bell.recv().await;
    }

    /// Has one of those who wait behind the first look for messages.
    #[inline]
    fn tell_behind(&self) {
        if let Some(behind) = self.behind.get() {
            if behind.count.get() > 0 && !self.is_empty() {
                // Where there is a token already it does as well.
                let _ = behind.ring.try_send(());
            }
        }
    }

    #[inline]
    fn tell_of_room(&self) {
        if self.writers.get() > 0 && !self.is_full() {
            self.room.notify(1);
        }
    }
}

impl Default for Behind {
    fn default() -> Self {
        let (ring, bell) = bounded(1);
        Self {
            count: Cell::new(0),
            ring,
            bell,
        }
    }
}

/// See [`Queue::pop`].
pub(crate) struct Pop<'a> {
    queue: &'a Queue,
    place: Place<'a>,
}

/// Where someone waits.
enum Place<'a> {
    None,
    First,
    Behind(Pin<Box<dyn Future<Output = ()> + 'a>>),
}

impl Future for Pop<'_> {
    type Output = Option<Message>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { queue, place } = &mut *self;
        loop {
            if let Some(message) = queue.try_pop() {
                return Poll::Ready(Some(message));
            }
            if queue.is_closed() {
                return Poll::Ready(None);
            }
            match place {
                Place::None if queue.is_first_taken.get() => {
                    *place = Place::Behind(Box::pin(queue.wait_behind()));
                }
                Place::None | Place::First => {
                    queue.is_first_taken.set(true);
                    *place = Place::First;
                    queue.first.sleep(cx);
                    return Poll::Pending;
                }
                Place::Behind(waiting) => {
                    ready!(waiting.as_mut().poll(cx));
                    *place = Place::None;
                }
            }
        }
    }
}

impl Drop for Pop<'_> {
    fn drop(&mut self) {
        match self.place {
            Place::None => return,
            Place::First => self.queue.is_first_taken.set(false),
            Place::Behind(_) => {}
        }
        // They do not know what becomes of this one.
        self.queue.tell_behind();
    }
}
