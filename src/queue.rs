//! A bounded queue of messages between two futures of a connection, on async-channel.

use crate::{
    budget::{Account, Charge},
    message::Message,
};
use async_channel::{Receiver, Sender, TrySendError, bounded};
use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

/// A bounded queue. Once closed it takes nothing more, and what it holds can still be taken out. What it holds is
/// charged to its connection's account.
#[derive(Debug)]
pub(crate) struct Queue {
    sender: Sender<Message>,
    receiver: Receiver<Message>,
    account: Rc<Account>,
}

/// Why a message was not taken, with the message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    Full(Message),
    Closed(Message),
}

impl Queue {
    /// The slots are allocated at once, each of these bytes.
    pub(crate) const SLOT_BYTES: usize = 48;

    pub(crate) fn bounded(capacity: usize, account: Rc<Account>) -> Self {
        let (sender, receiver) = bounded(capacity);
        Self {
            sender,
            receiver,
            account,
        }
    }

    pub(crate) fn try_push(&self, message: Message) -> Result<(), Rejected> {
        let bytes = allocated(&message);
        self.sender.try_send(message).map_err(|error| match error {
            TrySendError::Full(message) => Rejected::Full(message),
            TrySendError::Closed(message) => Rejected::Closed(message),
        })?;
        self.account.add(bytes);
        Ok(())
    }

    /// Waits for room. Gives the message back if the queue is closed, before or meanwhile.
    pub(crate) async fn push(&self, message: Message) -> Result<(), Message> {
        // Charged while it waits, too.
        let mut charge = Charge::new(self.account.clone());
        charge.set(allocated(&message));
        self.sender.send(message).await.map_err(|error| error.0)?;
        charge.hand_over();
        Ok(())
    }

    pub(crate) fn try_pop(&self) -> Option<Message> {
        self.taken(self.receiver.try_recv().ok())
    }

    /// Waits for a message; `None` once the queue is closed and empty.
    pub(crate) async fn pop(&self) -> Option<Message> {
        self.taken(self.receiver.recv().await.ok())
    }

    /// A place among those who take messages, for [`poll_pop`](Self::poll_pop).
    pub(crate) fn taker(&self) -> Taker {
        Taker(Box::pin(self.receiver.clone()))
    }

    pub(crate) fn poll_pop(
        &self,
        taker: &mut Taker,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Message>> {
        use futures_lite::Stream;
        taker
            .0
            .as_mut()
            .poll_next(cx)
            .map(|message| self.taken(message))
    }

    pub(crate) fn close(&self) {
        self.sender.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.receiver.len()
    }

    fn taken(&self, message: Option<Message>) -> Option<Message> {
        if let Some(message) = &message {
            self.account.give_back(allocated(message));
        }
        message
    }
}

/// See [`Queue::taker`].
#[derive(Debug)]
pub(crate) struct Taker(Pin<Box<Receiver<Message>>>);

/// What a queued message takes beside its slot: the payload, and what the allocator and its counter add.
fn allocated(message: &Message) -> usize {
    const OVERHEAD_BYTES: usize = 64;
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
