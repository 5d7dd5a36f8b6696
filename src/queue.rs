//! A bounded queue between two futures of a connection, on async-channel.

use async_channel::{Receiver, Sender, TrySendError, bounded};
use std::pin::Pin;

/// A bounded queue. Once closed it takes nothing more, and what it holds can still be taken out.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    sender: Sender<T>,
    receiver: Receiver<T>,
}

/// Why an item was not taken, with the item.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rejected<T> {
    Full(T),
    Closed(T),
}

impl<T> Queue<T> {
    pub(crate) fn bounded(capacity: usize) -> Self {
        let (sender, receiver) = bounded(capacity);
        Self { sender, receiver }
    }

    pub(crate) fn try_push(&self, item: T) -> Result<(), Rejected<T>> {
        self.sender.try_send(item).map_err(|error| match error {
            TrySendError::Full(item) => Rejected::Full(item),
            TrySendError::Closed(item) => Rejected::Closed(item),
        })
    }

    /// Waits for room. Gives the item back if the queue is closed, before or meanwhile.
    pub(crate) async fn push(&self, item: T) -> Result<(), T> {
        self.sender.send(item).await.map_err(|error| error.0)
    }

    pub(crate) fn try_pop(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// Waits for an item; `None` once the queue is closed and empty.
    pub(crate) async fn pop(&self) -> Option<T> {
        self.receiver.recv().await.ok()
    }

    /// The items as a stream, each to one taker only.
    pub(crate) fn stream(&self) -> Pin<Box<Receiver<T>>> {
        Box::pin(self.receiver.clone())
    }

    pub(crate) fn close(&self) {
        self.sender.close();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}
