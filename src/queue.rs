//! A bounded queue of messages of a connection.

use crate::{
    budget::{Account, Charge},
    message::Message,
    scratch::Scratch,
    slot::{Slot, Waiting},
};
use async_channel::{Receiver, Sender, bounded};
use event_listener::Event;
use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

/// A bounded queue. Once closed it takes nothing more, and what it holds can still be taken out. What it holds is
/// charged to its connection's account.
///
/// The first to wait for a message has a slot of its own: nearly always there is no other, and a wait at a channel, with what
/// tells of its end, is a tenth of what a small echo takes. Those behind wait at a channel, which carries a token for all that came
/// since the last one was taken; it is made for the first of them.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Has a buffer only while there are some.
    messages: RefCell<VecDeque<Message>>,
    capacity: usize,
    closed: Cell<bool>,
    /// Tells of messages.
    first: Slot,
    behind: OnceCell<Box<Behind>>,
    /// Tells of room.
    room: Event,
    writers: Cell<usize>,
    account: Rc<Account>,
    scratch: Rc<Scratch>,
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
    pub(crate) fn bounded(capacity: usize, account: Rc<Account>, scratch: Rc<Scratch>) -> Self {
        Self {
            messages: RefCell::default(),
            capacity,
            closed: Cell::new(false),
            first: Slot::default(),
            behind: OnceCell::new(),
            room: Event::new(),
            writers: Cell::new(0),
            account,
            scratch,
        }
    }

    pub(crate) fn try_push(&self, message: Message) -> Result<(), Rejected> {
        if self.is_closed() {
            return Err(Rejected::Closed(message));
        }
        let mut messages = self.messages.borrow_mut();
        if messages.len() >= self.capacity {
            return Err(Rejected::Full(message));
        }
        if messages.capacity() == 0 {
            *messages = self.scratch.take_queue();
        }
        let bytes = allocated(&message);
        messages.push_back(message);
        drop(messages);
        self.account.add(bytes);
        if self.first.is_taken() {
            self.first.wake();
        } else {
            self.tell_behind();
        }
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
            let mut charge = Charge::new(self.account.clone());
            charge.set(allocated(&message));
            let _waiting = Waiting::among(&self.writers);
            self.room.listen().await;
        }
        self.tell_of_room();
        Ok(())
    }

    pub(crate) fn try_pop(&self) -> Option<Message> {
        let mut messages = self.messages.borrow_mut();
        let message = messages.pop_front()?;
        if messages.is_empty() {
            self.scratch.give_queue(std::mem::take(&mut *messages));
        }
        drop(messages);
        self.account.give_back(allocated(&message));
        self.tell_of_room();
        Some(message)
    }

    /// Waits for a message; `None` once the queue is closed and empty.
    pub(crate) async fn pop(&self) -> Option<Message> {
        loop {
            if let Some(message) = self.try_pop() {
                return Some(message);
            }
            if self.is_closed() {
                return None;
            }
            // Those behind do not know what becomes of this one.
            let _telling = TellBehind(self);
            if self.first.is_taken() {
                let behind = self.behind.get_or_init(Box::default);
                let _waiting = Waiting::among(&behind.count);
                // Fails only where it is closed, which is seen above.
                let _ = Box::pin(behind.bell.recv()).await;
            } else {
                self.first
                    .until(|| (!self.is_empty() || self.is_closed()).then_some(()))
                    .await;
            }
        }
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

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.borrow().len()
    }

    /// Has one of those who wait behind the first look for messages.
    fn tell_behind(&self) {
        if let Some(behind) = self.behind.get() {
            if behind.count.get() > 0 && !self.is_empty() {
                // Where there is a token already it does as well.
                let _ = behind.ring.try_send(());
            }
        }
    }

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

struct TellBehind<'a>(&'a Queue);

impl Drop for TellBehind<'_> {
    fn drop(&mut self) {
        self.0.tell_behind();
    }
}

/// What a queued message takes: the payload, its place in the queue, and what the allocator and its counter add.
fn allocated(message: &Message) -> usize {
    const OVERHEAD_BYTES: usize = 112;
    const PAGE_BYTES: usize = 4096;
    /// Allocators give whole pages to what is longer, and so does the command's.
    const LONG_BYTES: usize = 4 * PAGE_BYTES;

    let bytes = message.len() + OVERHEAD_BYTES;
    if bytes > LONG_BYTES {
        bytes.next_multiple_of(PAGE_BYTES)
    } else {
        bytes
    }
}
