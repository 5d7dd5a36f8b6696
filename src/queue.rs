//! A bounded queue of messages between two futures of a connection, on async-channel.

use crate::{
    budget::{Account, Charge},
    message::Message,
    slot::{Slot, Waiting},
};
use async_channel::{Receiver, Sender, bounded};
use event_listener::Event;
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

/// A bounded queue. Once closed it takes nothing more, and what it holds can still be taken out. What it holds is
/// charged to its connection's account.
///
/// The messages lie beside the channel, and the first to wait for one has a slot of its own: nearly always there is no other,
/// and a wait at a channel, with what tells of its end, is a tenth of what a small echo takes. Those behind wait at the channel, which
/// carries a token for all that came since the last one was taken.
#[derive(Debug)]
pub(crate) struct Queue {
    messages: RefCell<VecDeque<Message>>,
    capacity: usize,
    /// Tells of messages.
    first: Slot,
    others: Cell<usize>,
    ring: Sender<()>,
    bell: Receiver<()>,
    /// Tells of room: the reader of a connection, and those who write to it.
    reader: Slot,
    room: Event,
    writers: Cell<usize>,
    account: Rc<Account>,
}

/// Why a message was not taken, with the message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    Full(Message),
    Closed(Message),
}

impl Queue {
    pub(crate) fn bounded(capacity: usize, account: Rc<Account>) -> Self {
        let (ring, bell) = bounded(1);
        Self {
            messages: RefCell::default(),
            capacity,
            first: Slot::default(),
            others: Cell::new(0),
            ring,
            bell,
            reader: Slot::default(),
            room: Event::new(),
            writers: Cell::new(0),
            account,
        }
    }

    pub(crate) fn try_push(&self, message: Message) -> Result<(), Rejected> {
        if self.is_closed() {
            return Err(Rejected::Closed(message));
        }
        if self.is_full() {
            return Err(Rejected::Full(message));
        }
        self.account.add(allocated(&message));
        self.messages.borrow_mut().push_back(message);
        if self.first.is_taken() {
            self.first.wake();
        } else {
            self.tell_others();
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

    /// Waits until there is room, or the queue is closed. Only one may.
    pub(crate) async fn has_room(&self) {
        self.reader
            .until(|| (!self.is_full() || self.is_closed()).then_some(()))
            .await;
    }

    pub(crate) fn try_pop(&self) -> Option<Message> {
        /// So much room is kept while it is empty.
        const KEPT: usize = 16;

        let mut messages = self.messages.borrow_mut();
        let message = messages.pop_front()?;
        if messages.is_empty() && messages.capacity() > KEPT {
            messages.shrink_to(KEPT);
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
            let _telling = TellOthers(self);
            if self.first.is_taken() {
                let _waiting = Waiting::among(&self.others);
                // Fails only where it is closed, which is seen above.
                let _ = self.bell.recv().await;
            } else {
                self.first
                    .until(|| (!self.is_empty() || self.is_closed()).then_some(()))
                    .await;
            }
        }
    }

    pub(crate) fn close(&self) {
        self.ring.close();
        self.first.wake();
        self.reader.wake();
        if self.writers.get() > 0 {
            self.room.notify(usize::MAX);
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.ring.is_closed()
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
    fn tell_others(&self) {
        if self.others.get() > 0 && !self.is_empty() {
            // Where there is a token already it does as well.
            let _ = self.ring.try_send(());
        }
    }

    fn tell_of_room(&self) {
        self.reader.wake();
        if self.writers.get() > 0 && !self.is_full() {
            self.room.notify(1);
        }
    }
}

struct TellOthers<'a>(&'a Queue);

impl Drop for TellOthers<'_> {
    fn drop(&mut self) {
        self.0.tell_others();
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
